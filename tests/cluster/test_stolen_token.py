"""Test that a thief of the controller's token cannot write Secrets or events that affect other software.

The policies also refuse finalizers and immutable Secrets, which prevent deletion or repair.
"""

import base64
import itertools
import json
from typing import Any, NamedTuple

import pytest

from controller.config.settings import TOKEN_AUDIENCE, TOKEN_SECONDS
from controller.domain import reserved
from tests.support.cluster.harness import MANAGED_LABEL, SINCE_POLICIES
from tests.support.cluster.token_thief import (
    CONTROLLER_NAMESPACE,
    LEASES,
    MERGE,
    SECRETS,
    STRATEGIC,
    TARGET_NAMESPACE,
    VALUE,
    TargetNamespace,
    TokenThief,
    assert_denied_by_policy,
    make_event,
    make_owner,
    make_secret,
    request_token,
)

pytestmark = pytest.mark.since(*SINCE_POLICIES)
APPLY = "application/apply-patch+yaml"
EVENTS = f"/apis/events.k8s.io/v1/namespaces/{TARGET_NAMESPACE}/events"
UID = "11111111-1111-1111-1111-111111111111"
RESERVED_KEY_REFUSED = "does not set, change or remove labels and annotations"
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
def own(shop: TargetNamespace, thief: TokenThief) -> str:
    """Return the name of a Secret that a SecretSync owns."""
    name = f"stolen-{next(_numbers)}"
    assert thief.create(make_secret(name, [make_owner(shop.create_sync(name), name)])).status == 201
    return name


def make_orphan(**changes: Any) -> dict[str, Any]:
    """Return a Secret whose SecretSync does not exist."""
    return make_secret("orphan", [make_owner(UID, "orphan")], **changes)


def send_all_creations(thief: TokenThief, body: dict[str, Any], path: str = SECRETS) -> list[Any]:
    """Send each kind of request that creates an object, as a dry run. Return the responses."""
    name = body["metadata"]["name"]
    return [
        thief.send("POST", f"{path}?dryRun=All", body),
        thief.send("PATCH", f"{path}/{name}?fieldManager=x&dryRun=All", body, APPLY),
        thief.send("PATCH", f"{path}/{name}?fieldManager=x&force=true&dryRun=All", body, APPLY),
    ]


@pytest.mark.parametrize(("field", "entries"), RESERVED, ids=str)
def test_label_or_annotation_of_another_tool_is_refused(
    field: str, entries: dict[str, str], thief: TokenThief, own: str, shop: TargetNamespace
) -> None:
    body = make_orphan(metadata={field: {**MANAGED_LABEL, **entries} if field == "labels" else entries})
    for answer in send_all_creations(thief, body):
        assert_denied_by_policy(answer, RESERVED_KEY_REFUSED)
    for kind in (MERGE, STRATEGIC):
        assert_denied_by_policy(thief.patch(own, {"metadata": {field: entries}}, kind), RESERVED_KEY_REFUSED)
    # The policy also refuses to change or remove a label or annotation that another manager has set.
    shop.plane.kubectl(
        "patch", "secret", own, "-n", TARGET_NAMESPACE, "--type=merge", "-p", json.dumps({"metadata": {field: entries}})
    )
    assert thief.patch(own, {"data": {"more": VALUE}}).status == 200
    for value in (None, "other"):
        assert_denied_by_policy(
            thief.patch(own, {"metadata": {field: dict.fromkeys(entries, value)}}), RESERVED_KEY_REFUSED
        )


def test_harmless_labels_and_annotations_are_written(thief: TokenThief, own: str) -> None:
    body = make_orphan(metadata={"labels": {**MANAGED_LABEL, **HARMLESS}, "annotations": {**HARMLESS, "owner": "helm"}})
    assert [answer.status for answer in send_all_creations(thief, body)] == [201] * 3
    assert thief.patch(own, {"metadata": {"labels": HARMLESS, "annotations": HARMLESS}}).status == 200


def test_finalizers_and_immutable_are_refused(thief: TokenThief, own: str, shop: TargetNamespace) -> None:
    for answer in send_all_creations(thief, make_orphan(metadata={"finalizers": ["example.com/stay"]})):
        assert_denied_by_policy(answer, "the controller neither adds nor removes finalizers")
    for answer in send_all_creations(thief, make_orphan(immutable=True)):
        assert_denied_by_policy(answer, "neither sets nor removes immutable")
    assert_denied_by_policy(
        thief.patch(own, {"metadata": {"finalizers": ["example.com/stay"]}}), "neither adds nor removes finalizers"
    )
    assert_denied_by_policy(thief.patch(own, {"immutable": True}), "neither sets nor removes immutable")
    theirs = {"metadata": {"finalizers": ["example.com/theirs"]}}
    shop.plane.kubectl("patch", "secret", own, "-n", TARGET_NAMESPACE, "--type=merge", "-p", json.dumps(theirs))
    assert thief.patch(own, {"data": {"more": VALUE}}).status == 200
    assert_denied_by_policy(thief.patch(own, {"metadata": {"finalizers": None}}), "neither adds nor removes finalizers")
    shop.plane.kubectl(
        "patch", "secret", own, "-n", TARGET_NAMESPACE, "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
    )


def test_immutable_secret_can_still_be_probed(thief: TokenThief, own: str, shop: TargetNamespace) -> None:
    shop.plane.kubectl("patch", "secret", own, "-n", TARGET_NAMESPACE, "--type=merge", "-p", '{"immutable":true}')
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
def test_owner_must_have_the_form_that_the_controller_writes(
    change: dict[str, Any], thief: TokenThief, own: str
) -> None:
    for answer in send_all_creations(thief, make_secret("orphan", [make_owner(UID, "orphan", **change)])):
        assert answer.status in {403, 422}, answer.text
        assert VALUE not in answer.text
    # The API server itself refuses blockOwnerDeletion if OwnerReferencesPermissionEnforcement is enabled.
    changed = thief.patch(own, {"metadata": {"ownerReferences": [make_owner(UID, own, **change)]}})
    assert changed.status in {403, 422}


def test_owner_reference_cannot_change(thief: TokenThief, own: str, shop: TargetNamespace) -> None:
    [before] = shop.get_secret(own)["metadata"]["ownerReferences"]
    for change in ({"apiVersion": "secret-sync.x-k8s.io/v9"}, {"controller": True}, {"name": "another"}, {"uid": UID}):
        answer = thief.patch(own, {"metadata": {"ownerReferences": [before | change]}})
        assert answer.status in {403, 422}, answer.text
    assert shop.get_secret(own)["metadata"]["ownerReferences"] == [before]


@pytest.mark.parametrize("name", ["sh.helm.release.v1.shop.v1", "bootstrap-token-abcdef"])
def test_secret_name_of_another_tool_is_refused(name: str, thief: TokenThief) -> None:
    for answer in send_all_creations(thief, make_secret(name, [make_owner(UID, name)])):
        assert_denied_by_policy(answer, "the name of a Secret must not begin with")


def test_generated_name_is_refused(thief: TokenThief) -> None:
    body = make_secret("orphan", [make_owner(UID, "orphan")])
    body["metadata"]["generateName"] = "orphan-"
    assert_denied_by_policy(thief.create(body), "must not be generated")
    del body["metadata"]["name"]
    assert_denied_by_policy(thief.create(body), "the only owner of a Secret must be the SecretSync with its name")


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", "kube-node-lease"])
def test_requests_in_namespaces_of_kubernetes_are_refused(namespace: str, thief: TokenThief) -> None:
    path = SECRETS.replace(TARGET_NAMESPACE, namespace)
    for answer in send_all_creations(thief, make_orphan(), path):
        assert_denied_by_policy(answer, "excludedNamespaces")
    answer = request_token(thief, "default", namespace, audiences=[TOKEN_AUDIENCE], expirationSeconds=TOKEN_SECONDS)
    assert_denied_by_policy(answer, "excludedNamespaces")


def test_token_bound_to_an_object_is_refused(thief: TokenThief) -> None:
    spec: dict[str, Any] = {"audiences": [TOKEN_AUDIENCE], "expirationSeconds": TOKEN_SECONDS}
    bound = {"kind": "Secret", "apiVersion": "v1", "name": "foreign"}
    assert_denied_by_policy(request_token(thief, **spec, boundObjectRef=bound), "must not be bound to another object")


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
def test_change_of_the_leases_metadata_is_refused(
    metadata: dict[str, Any], thief: TokenThief, shop: TargetNamespace
) -> None:
    answer = thief.send("PATCH", f"{LEASES}/scribe", {"metadata": metadata}, MERGE)
    if "ownerReferences" in metadata and answer.status == 403:
        return  # the API server itself refuses owners if OwnerReferencesPermissionEnforcement is enabled
    assert_denied_by_policy(answer, "labels, annotations, finalizers and owners of its Lease")


# --- Events --------------------------------------------------------------------------------------------------------


def test_event_about_a_secretsync_is_allowed(thief: TokenThief) -> None:
    assert thief.send("POST", EVENTS, make_event()).status == 201
    assert thief.send("POST", EVENTS, make_event(regarding={"kind": "AKVSync"})).status == 201
    assert thief.send("POST", EVENTS, make_event(type="Normal", reason="NeedsAttention", note=None)).status == 201


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"reportingController": "kubelet"}, "an event must have the reportingController"),
        ({"reportingController": "kubernetes.io/kubelet"}, "an event must have the reportingController"),
        ({"action": "Killing"}, "an event must have the reportingController"),
        ({"reason": "FailedScheduling"}, "an event must have the reportingController"),
        ({"regarding": {"kind": "Pod", "apiVersion": "v1"}}, "an event must be about a SecretSync"),
        ({"regarding": {"kind": "Node", "apiVersion": "v1"}}, "an event must be about a SecretSync"),
        ({"regarding": {"apiVersion": "secret-sync.x-k8s.io/v9"}}, "an event must be about a SecretSync"),
        ({"regarding": {"kind": "SecretProviderClass"}}, "an event must be about a SecretSync"),
        (
            {"related": {"kind": "Pod", "name": "x", "namespace": TARGET_NAMESPACE}},
            "an event must be about a SecretSync",
        ),
        ({"metadata": {"labels": {"a": "b"}}}, "an event must not have labels"),
        ({"metadata": {"annotations": {"a": "b"}}}, "an event must not have labels"),
        ({"metadata": {"finalizers": ["example.com/stay"]}}, "an event must not have labels"),
        (
            {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": UID}]}},
            "an event must not have labels",
        ),
        ({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}, "an event must not have labels"),
    ],
    ids=str,
)
def test_event_of_another_component_is_refused(change: dict[str, Any], why: str, thief: TokenThief) -> None:
    assert_denied_by_policy(thief.send("POST", EVENTS, make_event(**change)), why)


def test_event_outside_the_namespace_of_its_object_is_refused(thief: TokenThief) -> None:
    elsewhere = make_event(regarding={"namespace": CONTROLLER_NAMESPACE})
    assert thief.send("POST", EVENTS, elsewhere).status == 422
    assert thief.send("POST", EVENTS, make_event(type="Other")).status == 422
    assert thief.send("POST", EVENTS, make_event(note="x" * 1025)).status == 422
    core = EVENTS.replace("/apis/events.k8s.io/v1", "/api/v1")
    body = {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "core", "namespace": TARGET_NAMESPACE}}
    assert thief.send("POST", core, body).status == 403
    assert thief.send("PATCH", f"{EVENTS}/x", {"note": "y"}, MERGE).status == 403


# --- Errors before admission ---------------------------------------------------------------------------------------


KEYS = ("one", "two", "three")
STRICT, WARN = "?fieldValidation=Strict", "?fieldValidation=Warn"
JSON_PATCH = "application/json-patch+json"
ONE_VALUE = base64.b64encode(b"value of one").decode()


class RefusedPatch(NamedTuple):
    """A refused PATCH of a foreign Secret. Its error quotes this number of the Secret's three values."""

    name: str
    quoted: int
    kind: str
    body: Any
    query: str = ""


REFUSED_PATCHES = [
    RefusedPatch("unknown field, merge, strict", 3, MERGE, {"nonsense": 1}, STRICT),
    RefusedPatch("unknown field, merge, warn", 0, MERGE, {"nonsense": 1}, WARN),
    RefusedPatch("unknown field, merge", 0, MERGE, {"nonsense": 1}),
    RefusedPatch("unknown field, strategic, strict", 0, STRATEGIC, {"nonsense": 1}, STRICT),
    RefusedPatch(
        "unknown field, JSON patch, strict", 3, JSON_PATCH, [{"op": "add", "path": "/nonsense", "value": 1}], STRICT
    ),
    RefusedPatch("wrong type of data, merge", 0, MERGE, {"data": []}),
    RefusedPatch("wrong type of a value, merge", 2, MERGE, {"data": {"one": 1}}),
    RefusedPatch("wrong type of type, merge", 3, MERGE, {"type": 1}),
    RefusedPatch("wrong type of immutable, merge", 3, MERGE, {"immutable": "yes"}),
    RefusedPatch("wrong type of labels, merge", 3, MERGE, {"metadata": {"labels": "x"}}),
    RefusedPatch("wrong type of immutable, merge, strict", 3, MERGE, {"immutable": "yes"}, STRICT),
    RefusedPatch("wrong type of immutable, strategic", 0, STRATEGIC, {"immutable": "yes"}),
    RefusedPatch(
        "wrong type of immutable, JSON patch", 3, JSON_PATCH, [{"op": "add", "path": "/immutable", "value": "yes"}]
    ),
    RefusedPatch("no base64, merge", 2, MERGE, {"data": {"one": "%"}}),
    RefusedPatch(
        "copy to the name, JSON patch", 1, JSON_PATCH, [{"op": "copy", "from": "/data/one", "path": "/metadata/name"}]
    ),
    RefusedPatch(
        "copy all to a label, JSON patch",
        3,
        JSON_PATCH,
        [{"op": "copy", "from": "/data", "path": "/metadata/labels/x"}],
    ),
    RefusedPatch(
        "copy to immutable, JSON patch", 3, JSON_PATCH, [{"op": "copy", "from": "/data/one", "path": "/immutable"}]
    ),
    RefusedPatch("test that fails, JSON patch", 0, JSON_PATCH, [{"op": "test", "path": "/data/one", "value": "x"}]),
    RefusedPatch(
        "test that holds, JSON patch", 0, JSON_PATCH, [{"op": "test", "path": "/data/one", "value": ONE_VALUE}]
    ),
    RefusedPatch("missing path, JSON patch", 0, JSON_PATCH, [{"op": "remove", "path": "/data/none"}]),
    RefusedPatch(
        "apply that conflicts",
        0,
        APPLY,
        {"apiVersion": "v1", "kind": "Secret", "data": {"one": VALUE}},
        "?fieldManager=x",
    ),
    RefusedPatch("apply of another kind", 0, APPLY, {"apiVersion": "v1", "kind": "ConfigMap"}, "?fieldManager=x"),
    RefusedPatch("resourceVersion that conflicts, merge", 0, MERGE, {"metadata": {"resourceVersion": "1"}}),
]


@pytest.mark.parametrize("refused", REFUSED_PATCHES, ids=lambda refused: refused.name)
def test_error_before_admission_quotes_the_documented_part_of_a_secret(
    refused: RefusedPatch, thief: TokenThief, shop: TargetNamespace
) -> None:
    """The API server decodes a patched object before admission, and some of its errors contain the object.

    If the result of a merge patch or JSON patch has a wrong type, the error contains every value that the patch did not
    change. SECURITY.md and the chart's README say so. If a release of Kubernetes changes this, change these pages, too.
    """
    name = f"quoted-{REFUSED_PATCHES.index(refused)}"
    values = {key: base64.b64encode(f"value of {key}".encode()).decode() for key in KEYS}
    shop.create(make_secret(name, [], data=values))
    answer = thief.send("PATCH", f"{SECRETS}/{name}{refused.query}", refused.body, refused.kind)
    assert answer.status >= 400
    assert sum(text in answer.text for text in values.values()) == refused.quoted
    assert shop.get_secret(name)["data"] == values


def test_guess_of_a_value_is_confirmed_by_a_json_patch(thief: TokenThief, shop: TargetNamespace) -> None:
    """A wrong guess fails before admission, and a right one fails at the policy. The responses therefore differ."""
    shop.create(make_secret("guessed", [], data={"one": ONE_VALUE}))
    answers = [
        thief.send("PATCH", f"{SECRETS}/guessed", [{"op": "test", "path": "/data/one", "value": guess}], JSON_PATCH)
        for guess in (VALUE, ONE_VALUE)
    ]
    assert ["ValidatingAdmissionPolicy" in answer.text for answer in answers] == [False, True]


def test_controller_refuses_the_same_reserved_keys_as_the_policy(thief: TokenThief) -> None:
    """Test that the controller refuses a SecretSync with reserved keys, and accepts one with the other keys."""
    for field, entries in RESERVED:
        labels, annotations = (entries, {}) if field == "labels" else ({}, entries)
        assert reserved.find_reserved("orphan", labels, annotations), entries
    assert reserved.find_reserved("orphan", HARMLESS, {**HARMLESS, "owner": "helm"}) is None
