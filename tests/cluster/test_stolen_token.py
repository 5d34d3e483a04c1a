"""A stolen token of the controller makes no Secret and no event that other software obeys, or that stays for ever."""

import base64
import itertools
import json
from typing import Any

import pytest

from controller import reserved
from controller.settings import TOKEN_AUDIENCE, TOKEN_SECONDS
from tests.cluster.test_policies import LEASES, token_request
from tests.cluster.thief import HOME, MERGE, SECRETS, SHOP, VALUE, Shop, Thief, owner, refused, secret
from tests.cluster.world import LABEL, POLICIES

pytestmark = pytest.mark.since(*POLICIES)
APPLY = "application/apply-patch+yaml"
EVENTS = f"/apis/events.k8s.io/v1/namespaces/{SHOP}/events"
UID = "11111111-1111-1111-1111-111111111111"
NO_SUCH_LABEL = "are neither set, changed nor removed"
_numbers = itertools.count(1)

HELM_RECORD = {"owner": "helm", "name": "shop", "status": "deployed", "version": "1"}
RESERVED: list[tuple[str, dict[str, str]]] = [
    ("labels", HELM_RECORD),
    ("labels", {"owner": "helm"}),
    ("labels", {"helm.sh/chart": "x"}),
    ("labels", {"meta.helm.sh/release-name": "x"}),
    ("labels", {"a.b.helm.sh/x": "x"}),
    ("labels", {"argocd.argoproj.io/secret-type": "cluster"}),
    ("labels", {"argocd.argoproj.io/instance": "x"}),
    ("labels", {"app.kubernetes.io/managed-by": "Helm"}),
    ("labels", {"app.kubernetes.io/managed-by": ""}),
    ("labels", {"kustomize.toolkit.fluxcd.io/name": "x"}),
    ("labels", {"applyset.kubernetes.io/id": "x"}),
    ("labels", {"objectset.rio.cattle.io/hash": "x"}),
    ("labels", {"addonmanager.kubernetes.io/mode": "Reconcile"}),
    ("annotations", {"meta.helm.sh/release-name": "x", "meta.helm.sh/release-namespace": "x"}),
    ("annotations", {"helm.sh/resource-policy": "keep"}),
    ("annotations", {"HELM.SH/hook": "post-delete"}),
    ("annotations", {"argocd.argoproj.io/tracking-id": "a:b/c:d/e"}),
    ("annotations", {"app.kubernetes.io/managed-by": "x"}),
    ("annotations", {"kubectl.kubernetes.io/last-applied-configuration": "{}"}),
    ("annotations", {"kubernetes.io/service-account.name": "default"}),
    ("annotations", {"applyset.kubernetes.io/contains-group-kinds": "Secret"}),
]
HARMLESS = {
    "app.kubernetes.io/name": "x",
    "app": "helm",
    "owner": "team-a",
    "helm.sh.example.com/x": "y",
    "version": "1",
}


@pytest.fixture
def own(shop: Shop, thief: Thief) -> str:
    """The name of a Secret that a SecretSync owns."""
    name = f"stolen-{next(_numbers)}"
    assert thief.create(secret(name, [owner(shop.sync(name), name)])).status == 201
    return name


def orphan(**changes: Any) -> dict[str, Any]:
    """A Secret whose SecretSync does not exist."""
    return secret("orphan", [owner(UID, "orphan")], **changes)


def ways(thief: Thief, body: dict[str, Any], path: str = SECRETS) -> list[Any]:
    """Answers to each way to create an object, all of them without effect where they are allowed."""
    name = body["metadata"]["name"]
    return [
        thief.send("POST", f"{path}?dryRun=All", body),
        thief.send("PATCH", f"{path}/{name}?fieldManager=x&dryRun=All", body, APPLY),
        thief.send("PATCH", f"{path}/{name}?fieldManager=x&force=true&dryRun=All", body, APPLY),
    ]


@pytest.mark.parametrize(("field", "entries"), RESERVED, ids=str)
def test_no_label_or_annotation_that_other_tools_obey(
    field: str, entries: dict[str, str], thief: Thief, own: str, shop: Shop
) -> None:
    body = orphan(metadata={field: {**LABEL, **entries} if field == "labels" else entries})
    for answer in ways(thief, body):
        refused(answer, NO_SUCH_LABEL)
    for kind in (MERGE, "application/strategic-merge-patch+json"):
        refused(thief.patch(own, {"metadata": {field: entries}}, kind), NO_SUCH_LABEL)
    # What somebody else has set is neither changed nor taken away.
    shop.plane.kubectl(
        "patch", "secret", own, "-n", SHOP, "--type=merge", "-p", json.dumps({"metadata": {field: entries}})
    )
    assert thief.patch(own, {"data": {"more": VALUE}}).status == 200
    for value in (None, "other"):
        refused(thief.patch(own, {"metadata": {field: dict.fromkeys(entries, value)}}), NO_SUCH_LABEL)


def test_harmless_labels_and_annotations_are_written(thief: Thief, own: str) -> None:
    body = orphan(metadata={"labels": {**LABEL, **HARMLESS}, "annotations": {**HARMLESS, "owner": "helm"}})
    assert [answer.status for answer in ways(thief, body)] == [201] * 3
    assert thief.patch(own, {"metadata": {"labels": HARMLESS, "annotations": HARMLESS}}).status == 200


def test_no_finalizers_and_nothing_immutable(thief: Thief, own: str, shop: Shop) -> None:
    for answer in ways(thief, orphan(metadata={"finalizers": ["example.com/stay"]})):
        refused(answer, "finalizers are neither added nor removed")
    for answer in ways(thief, orphan(immutable=True)):
        refused(answer, "immutable is neither set nor unset")
    refused(thief.patch(own, {"metadata": {"finalizers": ["example.com/stay"]}}), "finalizers are neither")
    refused(thief.patch(own, {"immutable": True}), "immutable is neither set nor unset")
    theirs = {"metadata": {"finalizers": ["example.com/theirs"]}}
    shop.plane.kubectl("patch", "secret", own, "-n", SHOP, "--type=merge", "-p", json.dumps(theirs))
    assert thief.patch(own, {"data": {"more": VALUE}}).status == 200
    refused(thief.patch(own, {"metadata": {"finalizers": None}}), "finalizers are neither")
    shop.plane.kubectl("patch", "secret", own, "-n", SHOP, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')


def test_an_immutable_secret_is_still_seen(thief: Thief, own: str, shop: Shop) -> None:
    shop.plane.kubectl("patch", "secret", own, "-n", SHOP, "--type=merge", "-p", '{"immutable":true}')
    assert thief.patch(own, {}).status == 200


@pytest.mark.parametrize(
    "change",
    [
        {"apiVersion": "secret-sync.x-k8s.io/v9"},
        {"apiVersion": "secret-sync.x-k8s.io/v1"},
        {"apiVersion": "secret-sync.x-k8s.io/v1alpha1/x"},
        {"controller": True},
        {"controller": False},
        {"blockOwnerDeletion": False},
    ],
    ids=str,
)
def test_the_owner_is_written_as_the_controller_writes_it(change: dict[str, Any], thief: Thief, own: str) -> None:
    for answer in ways(thief, secret("orphan", [owner(UID, "orphan", **change)])):
        assert answer.status in {403, 422}, answer.text
        assert VALUE not in answer.text
    # blockOwnerDeletion is the API server's own to refuse, where it enforces that.
    changed = thief.patch(own, {"metadata": {"ownerReferences": [owner(UID, own, **change)]}})
    assert changed.status in {403, 422}


def test_the_owner_stays_as_a_whole(thief: Thief, own: str, shop: Shop) -> None:
    [before] = shop.secret(own)["metadata"]["ownerReferences"]
    for change in ({"apiVersion": "secret-sync.x-k8s.io/v9"}, {"controller": True}, {"name": "another"}, {"uid": UID}):
        answer = thief.patch(own, {"metadata": {"ownerReferences": [before | change]}})
        assert answer.status in {403, 422}, answer.text
    assert shop.secret(own)["metadata"]["ownerReferences"] == [before]


@pytest.mark.parametrize("name", ["sh.helm.release.v1.shop.v1", "bootstrap-token-abcdef"])
def test_no_name_that_other_tools_read(name: str, thief: Thief) -> None:
    for answer in ways(thief, secret(name, [owner(UID, name)])):
        refused(answer, "the name of a Secret must not begin with")


def test_no_generated_name(thief: Thief) -> None:
    body = secret("orphan", [owner(UID, "orphan")])
    body["metadata"]["generateName"] = "orphan-"
    refused(thief.create(body), "nor be generated")
    del body["metadata"]["name"]
    refused(thief.create(body), "the one owner of a Secret must be the SecretSync of its name")


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", "kube-node-lease"])
def test_nothing_in_the_clusters_own_namespaces(namespace: str, thief: Thief) -> None:
    path = SECRETS.replace(SHOP, namespace)
    for answer in ways(thief, orphan(), path):
        refused(answer, "excludedNamespaces")
    answer = token_request(thief, "default", namespace, audiences=[TOKEN_AUDIENCE], expirationSeconds=TOKEN_SECONDS)
    refused(answer, "excludedNamespaces")


def test_no_token_that_is_bound_to_an_object(thief: Thief) -> None:
    spec: dict[str, Any] = {"audiences": [TOKEN_AUDIENCE], "expirationSeconds": TOKEN_SECONDS}
    bound = {"kind": "Secret", "apiVersion": "v1", "name": "foreign"}
    refused(token_request(thief, **spec, boundObjectRef=bound), "bound to no other object")


@pytest.mark.parametrize(
    "metadata",
    [
        {"finalizers": ["example.com/stay"]},
        {"labels": {"a": "b"}},
        {"annotations": {"a": "b"}},
        {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": UID}]},
    ],
    ids=str,
)
def test_the_lease_keeps_its_metadata(metadata: dict[str, Any], thief: Thief, shop: Shop) -> None:
    answer = thief.send("PATCH", f"{LEASES}/scribe", {"metadata": metadata}, MERGE)
    if "ownerReferences" in metadata and answer.status == 403:
        return  # the API server itself refuses that, where it enforces who may set owners
    refused(answer, "labels, annotations, finalizers and owners of its Lease")


# --- Events --------------------------------------------------------------------------------------------------------


def event(**changes: Any) -> dict[str, Any]:
    """An event as the controller writes it."""
    regarding = {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "SecretSync", "namespace": SHOP, "name": "x"}
    body = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"x.{next(_numbers)}", "namespace": SHOP, **changes.pop("metadata", {})},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "secret-sync.x-k8s.io/akv-secret-store",
        "reportingInstance": "pod",
        "action": "Sync",
        "reason": "ProviderError",
        "type": "Warning",
        "note": "x" * 1024,
        "regarding": {**regarding, **changes.pop("regarding", {})},
    }
    return {key: value for key, value in (body | changes).items() if value is not None}


def test_an_event_about_a_secretsync_is_written(thief: Thief) -> None:
    assert thief.send("POST", EVENTS, event()).status == 201
    assert thief.send("POST", EVENTS, event(regarding={"kind": "AKVSync"})).status == 201
    assert thief.send("POST", EVENTS, event(type="Normal", reason="NeedsAttention", note=None)).status == 201


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"reportingController": "kubelet"}, "events are those of"),
        ({"reportingController": "kubernetes.io/kubelet"}, "events are those of"),
        ({"action": "Killing"}, "events are those of"),
        ({"reason": "FailedScheduling"}, "events are those of"),
        ({"regarding": {"kind": "Pod", "apiVersion": "v1"}}, "events are about a SecretSync"),
        ({"regarding": {"kind": "Node", "apiVersion": "v1"}}, "events are about a SecretSync"),
        ({"regarding": {"apiVersion": "secret-sync.x-k8s.io/v9"}}, "events are about a SecretSync"),
        ({"regarding": {"kind": "SecretProviderClass"}}, "events are about a SecretSync"),
        ({"related": {"kind": "Pod", "name": "x", "namespace": SHOP}}, "events are about a SecretSync"),
        ({"metadata": {"labels": {"a": "b"}}}, "events have no labels"),
        ({"metadata": {"annotations": {"a": "b"}}}, "events have no labels"),
        ({"metadata": {"finalizers": ["example.com/stay"]}}, "events have no labels"),
        (
            {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": UID}]}},
            "events have no labels",
        ),
        ({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}, "events have no labels"),
    ],
    ids=str,
)
def test_no_other_event(change: dict[str, Any], why: str, thief: Thief) -> None:
    refused(thief.send("POST", EVENTS, event(**change)), why)


def test_events_stay_in_the_namespace_of_what_they_are_about(thief: Thief) -> None:
    elsewhere = event(regarding={"namespace": HOME})
    assert thief.send("POST", EVENTS, elsewhere).status == 422
    assert thief.send("POST", EVENTS, event(type="Other")).status == 422
    assert thief.send("POST", EVENTS, event(note="x" * 1025)).status == 422
    core = EVENTS.replace("/apis/events.k8s.io/v1", "/api/v1")
    body = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "core", "namespace": SHOP}}
    assert thief.send("POST", core, body).status == 403
    assert thief.send("PATCH", f"{EVENTS}/x", {"note": "y"}, MERGE).status == 403


# --- What no policy can stop ---------------------------------------------------------------------------------------


def test_strict_validation_quotes_a_whole_secret(thief: Thief, shop: Shop) -> None:
    """The API server decodes a patched object before admission, and its error contains the object.

    SECURITY.md and the chart's README say so. Should a release of Kubernetes make this fail, these sentences can go.
    """
    values = {key: base64.b64encode(f"value of {key}".encode()).decode() for key in ("one", "two", "three")}
    shop.put(secret("strictly-foreign", [], data=values))
    path = f"{SECRETS}/strictly-foreign?fieldValidation=Strict"
    answer = thief.send("PATCH", path, {"nonsense": 1}, MERGE)
    assert answer.status in {400, 422}
    assert {key for key, text in values.items() if text in answer.text} == set(values)


def test_reserved_keys_are_one_table(thief: Thief) -> None:
    """The controller refuses a SecretSync that asks for what the policy refuses, and for nothing else."""
    for field, entries in RESERVED:
        labels, annotations = (entries, {}) if field == "labels" else ({}, entries)
        assert reserved.violation("orphan", labels, annotations), entries
    assert reserved.violation("orphan", HARMLESS, {**HARMLESS, "owner": "helm"}) is None
