"""List values of SSE's fields at their limits and beyond, with the API server's message for the refused ones."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Bound(NamedTuple):
    """Fields of a SecretSync's spec (dotted), with values at the limit that SSE accepts, and one step beyond."""

    row: str
    taken: Mapping[str, Any]
    refused: Mapping[str, Any]
    said: str


DATA = "secretObject.data"
LABELS, ANNOTATIONS = "secretObject.labels", "secretObject.annotations"
LONG = "a" * 253
LONG_KEY = f"{LONG}/{'b' * 63}"
RESERVED = "reserved for the controller: choose another key"


def pair(source: str = "a", key: str = "k") -> dict[str, str]:
    return {"sourcePath": source, "targetKey": key}


BOUNDS = (
    Bound("spec: secretProviderClassName", {"secretProviderClassName": LONG}, {"secretProviderClassName": LONG + "a"},
          "Too long"),
    Bound("spec: secretProviderClassName", {"secretProviderClassName": "a.b-c"}, {"secretProviderClassName": None},
          "Required value"),
    Bound("spec: serviceAccountName", {"serviceAccountName": LONG}, {"serviceAccountName": LONG + "a"}, "Too long"),
    Bound("spec: serviceAccountName", {"serviceAccountName": "a.b-c"}, {"serviceAccountName": "Shop"},
          "an object's name: small letters"),
    Bound("spec: type", {"secretObject.type": LONG}, {"secretObject.type": LONG + "a"}, "Too long"),
    Bound("spec: data", {DATA: [pair()]}, {DATA: []}, "should have at least 1 items"),
    Bound("spec: data", {DATA: [pair()]}, {DATA: None}, "Required value"),
    Bound("spec: data by targetKey", {DATA: [pair(key="a"), pair(key="b")]}, {DATA: [pair("a"), pair("b")]},
          "Duplicate value"),
    Bound("spec: sourcePath", {DATA: [pair(LONG)]}, {DATA: [pair(LONG + "a")]}, "Too long"),
    Bound("spec: sourcePath", {DATA: [pair(".a-b._c/0/12")]}, {DATA: [pair("-a")]}, "an object's name or alias"),
    Bound("spec: sourcePath", {DATA: [pair()]}, {DATA: [{"targetKey": "k"}]}, "Required value"),
    Bound("spec: targetKey", {DATA: [pair(key=LONG)]}, {DATA: [pair(key=LONG + "a")]}, "Too long"),
    Bound("spec: targetKey", {DATA: [pair(key=".a-b._c")]}, {DATA: [pair(key="k k")]}, "a key of a Secret holds"),
    Bound("spec: targetKey", {DATA: [pair()]}, {DATA: [{"sourcePath": "a"}]}, "Required value"),
    Bound("spec: labels", {LABELS: {LONG_KEY: "v" * 63}}, {LABELS: {LONG_KEY + "b": ""}}, "more than 317 characters"),
    Bound("spec: labels", {LABELS: {"a": "v" * 63}}, {LABELS: {"a": "v" * 64}}, "Too long"),
    Bound("spec: labels", {LABELS: {"b": ""}}, {LABELS: {"secrets-store.sync.x-k8s.io": ""}}, RESERVED),
    Bound("spec: annotations", {ANNOTATIONS: {LONG_KEY: ""}}, {ANNOTATIONS: {LONG_KEY + "b": ""}},
          "more than 317 characters"),
    Bound("spec: annotations", {ANNOTATIONS: {"a": "v" * 131_071}}, {ANNOTATIONS: {"a": "v" * 131_072}},
          "all annotations with their keys have more than 131072 characters together"),
    Bound("spec: annotations", {ANNOTATIONS: {"b": ""}}, {ANNOTATIONS: {"secrets-store.sync.x-k8s.io/a": ""}},
          RESERVED),
    Bound("spec: forceSynchronization", {"forceSynchronization": "2026-03.1_a"}, {"forceSynchronization": "now!"},
          "letters and digits, with - . _"),
    Bound("spec: forceSynchronization", {"forceSynchronization": LONG}, {"forceSynchronization": LONG + "a"},
          "Too long"),
)  # fmt: skip


class Mistake(NamedTuple):
    """A change to the manifest of the reference's AKVSync, in its spec or its first object, which is refused."""

    row: str
    said: str
    spec: Mapping[str, Any] = {}
    first: Mapping[str, Any] | None = None


ENTRY = {"dataKey": "k", "secretInAKV": "a"}
COMPOUND = {"kubernetesSecretName": "m", "mapping": [ENTRY]}
MISTAKES = (
    *(
        Mistake(f"AKVSync: {name}", f"spec.{name}: Required value", spec={name: None})
        for name in ("keyvaultName", "clientID", "tenantID", "serviceAccountName", "objects")
    ),
    Mistake("AKVSync: exactly one of these", "an object is exactly one of", first={}),
    Mistake("AKVSync: exactly one of these", "an object is exactly one of",
            first={"secretInAKV": "a", "certInAKV": "b"}),
    Mistake("AKVSync: exactly one of these", "mapping needs kubernetesSecretName", first={"mapping": [ENTRY]}),
    Mistake("AKVSync: kubernetesSecretType", "Unsupported value",
            first={"secretInAKV": "a", "kubernetesSecretType": "x"}),
    Mistake("AKVSync: no versionHistory on a compound", "versionHistory does not go with mapping",
            first={**COMPOUND, "versionHistory": 2}),
    Mistake("AKVSync: dataKey", "dataKey: Required value", first={**COMPOUND, "mapping": [{"secretInAKV": "a"}]}),
    Mistake("AKVSync: mapping's one of", "exactly one of secretInAKV and certInAKV",
            first={**COMPOUND, "mapping": [{**ENTRY, "certInAKV": "b"}]}),
    Mistake("AKVSync: mapping's one of", "exactly one of secretInAKV and certInAKV",
            first={**COMPOUND, "mapping": [{"dataKey": "k"}]}),
    Mistake("AKVSync: labels", RESERVED, first={"secretInAKV": "a", "labels": {"secrets-store.sync.x-k8s.io": ""}}),
    Mistake("AKVSync: annotations", RESERVED,
            first={"secretInAKV": "a", "annotations": {"secrets-store.sync.x-k8s.io": ""}}),
)  # fmt: skip
