"""Test the admission policies with a stolen controller token: it can change only objects that an AKVSync owns."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster.harness import SINCE_POLICIES
from tests.support.cluster.token_thief import (
    MERGE,
    TARGET_NAMESPACE,
    TargetNamespace,
    ThiefResponse,
    TokenThief,
    assert_denied_by_policy,
    grant_all_verbs,
    make_custom_resource,
    make_owner,
)

pytestmark = pytest.mark.since(*SINCE_POLICIES)
PATHS = {
    "SecretSync": f"/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{TARGET_NAMESPACE}/secretsyncs",
    "SecretProviderClass": f"/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{TARGET_NAMESPACE}/secretproviderclasses",
}
AKV_SYNCS = f"/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{TARGET_NAMESPACE}/akvsyncs"
OLD_CLASSES = f"/apis/secrets-store.csi.x-k8s.io/v1alpha1/namespaces/{TARGET_NAMESPACE}/secretproviderclasses"
NO_FINALIZERS = '{"metadata":{"finalizers":null}}'
UNKNOWN_UID = "44444444-4444-4444-4444-444444444444"
OWN_NAMES = {"SecretSync": "made-own", "SecretProviderClass": "maker"}
KINDS = (("secret-sync.x-k8s.io", "secretsyncs"), ("secrets-store.csi.x-k8s.io", "secretproviderclasses"))
both_kinds = pytest.mark.parametrize("kind", list(PATHS))


def akv_owner(uid: str, **changes: Any) -> dict[str, Any]:
    return make_owner(uid, "maker", kind="AKVSync", controller=True) | changes


@pytest.fixture(scope="module")
def akv_sync_uid(shop: TargetNamespace) -> str:
    """Create an AKVSync that no controller processes, and return its UID."""
    return shop.create_akv_sync("maker")


@pytest.fixture
def privileged_thief(shop: TargetNamespace) -> Iterator[TokenThief]:
    """Provide the controller's account with all verbs on these kinds, so that only the policies restrict it."""
    with grant_all_verbs(shop, *KINDS) as thief:
        yield thief


def send_patch(thief: TokenThief, kind: str, name: str, body: Any) -> ThiefResponse:
    return thief.send("PATCH", f"{PATHS[kind]}/{name}", body, MERGE)


def read_object(shop: TargetNamespace, kind: str, name: str) -> dict[str, Any]:
    return shop.plane.read_object(f"{PATHS[kind]}/{name}")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", f"{PATHS['SecretProviderClass']}/none"),
        ("DELETE", PATHS["SecretSync"]),
        ("PUT", f"{PATHS['SecretSync']}/none"),
        ("PATCH", f"{AKV_SYNCS}/maker"),
        ("DELETE", f"{AKV_SYNCS}/maker"),
        ("POST", AKV_SYNCS),
        ("GET", f"{AKV_SYNCS}/maker"),
    ],
)
def test_roles_grant_no_other_verb(method: str, path: str, thief: TokenThief) -> None:
    body: dict[str, Any] = {}
    assert thief.send(method, path, body, MERGE if method == "PATCH" else "application/json").status == 403


@both_kinds
def test_objects_of_an_akvsync_can_be_created_and_patched(kind: str, thief: TokenThief, akv_sync_uid: str) -> None:
    name = OWN_NAMES[kind]
    assert thief.send("POST", PATHS[kind], make_custom_resource(kind, name, [akv_owner(akv_sync_uid)])).status == 201
    change = {"forceSynchronization": "now"} if kind == "SecretSync" else {"parameters": {"a": "b"}}
    assert send_patch(thief, kind, name, {"spec": change}).status == 200


def test_secretsync_of_an_akvsync_can_be_deleted(thief: TokenThief, akv_sync_uid: str) -> None:
    assert (
        thief.send(
            "POST", PATHS["SecretSync"], make_custom_resource("SecretSync", "pruned", [akv_owner(akv_sync_uid)])
        ).status
        == 201
    )
    assert thief.send("DELETE", f"{PATHS['SecretSync']}/pruned").status == 200


@both_kinds
@pytest.mark.parametrize(
    "change",
    [None, {"kind": "ConfigMap"}, {"kind": "SecretSync"}, {"apiVersion": "secret-sync.x-k8s.io.evil.example/v1"}, {}],
    ids=["no owner", "another kind", "a SecretSync", "another group", "two"],
)
def test_object_without_an_akvsync_as_its_owner_is_refused(
    kind: str, change: dict[str, str] | None, thief: TokenThief, akv_sync_uid: str
) -> None:
    owners = [akv_owner(akv_sync_uid, **change)] if change is not None else []
    if change == {}:
        owners = [akv_owner(akv_sync_uid), akv_owner(UNKNOWN_UID, name="second", controller=False)]
    answer = thief.send("POST", PATHS[kind], make_custom_resource(kind, "disowned", owners))
    assert_denied_by_policy(answer, f"the only owner of a {kind} must be an AKVSync")


@both_kinds
@pytest.mark.parametrize("query", ["", "?dryRun=All"])
@pytest.mark.parametrize(
    "body", [{}, {"spec": {"provider": "x", "serviceAccountName": "x"}}, {"metadata": {"labels": {"a": "b"}}}]
)
def test_change_of_an_object_that_no_akvsync_owns_is_refused(
    kind: str, query: str, body: Any, thief: TokenThief, shop: TargetNamespace
) -> None:
    name = "written"
    if thief.send("PATCH", f"{PATHS[kind]}/{name}", {}, MERGE).status == 404:
        shop.create(make_custom_resource(kind, name, []))
    before = read_object(shop, kind, name)
    answer = thief.send("PATCH", f"{PATHS[kind]}/{name}{query}", body, MERGE)
    assert_denied_by_policy(answer, f"this {kind} does not belong to an AKVSync")
    assert read_object(shop, kind, name) == before


@both_kinds
def test_change_of_an_owner_reference_is_refused(
    kind: str, privileged_thief: TokenThief, shop: TargetNamespace, akv_sync_uid: str
) -> None:
    shop.create(make_custom_resource(kind, "made-adopted", []))
    adopting = {"metadata": {"ownerReferences": [akv_owner(akv_sync_uid)]}}
    assert_denied_by_policy(
        send_patch(privileged_thief, kind, "made-adopted", adopting), f"this {kind} does not belong to an AKVSync"
    )
    shop.create(make_custom_resource(kind, "made-lasting", [akv_owner(akv_sync_uid)]))
    for owners, why in (
        (None, f"the only owner of a {kind} must be an AKVSync"),
        (
            [akv_owner(akv_sync_uid), akv_owner(UNKNOWN_UID, name="second", controller=False)],
            f"the only owner of a {kind} must be an AKVSync",
        ),
        ([akv_owner(UNKNOWN_UID)], f"the owner of a {kind} must not change"),
    ):
        assert_denied_by_policy(
            send_patch(privileged_thief, kind, "made-lasting", {"metadata": {"ownerReferences": owners}}), why
        )
    [kept] = read_object(shop, kind, "made-lasting")["metadata"]["ownerReferences"]
    assert kept["uid"] == akv_sync_uid


@both_kinds
def test_deletion_of_an_object_that_no_akvsync_owns_is_refused(
    kind: str, privileged_thief: TokenThief, shop: TargetNamespace
) -> None:
    shop.create(make_custom_resource(kind, "kept", []))
    for path in (
        f"{PATHS[kind]}/kept",
        f"{PATHS[kind]}/kept?dryRun=All",
        f"{PATHS[kind]}?fieldSelector=metadata.name=kept",
    ):
        assert_denied_by_policy(privileged_thief.send("DELETE", path), f"this {kind} does not belong to an AKVSync")
    assert read_object(shop, kind, "kept")


@both_kinds
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"apiVersion": "secret-sync.x-k8s.io/v9"}, "must be a secret-sync.x-k8s.io/v1alpha1 that controls it"),
        ({"controller": False}, "that controls it"),
        ({"controller": None}, "that controls it"),
        ({"name": "another"}, "that controls it"),
        ({"metadata": {"finalizers": ["x.example/y"]}}, "the controller neither adds nor removes finalizers"),
        ({"metadata": {"labels": {"a": "b"}}}, "the controller sets no labels"),
        (
            {"metadata": {"annotations": {"argocd.argoproj.io/sync-options": "Delete=false"}}},
            "the controller sets no labels",
        ),
        ({"metadata": {"generateName": "x-"}}, "the controller sets no labels"),
    ],
    ids=str,
)
def test_stolen_token_creates_objects_only_as_the_controller_does(
    kind: str, change: dict[str, Any], why: str, thief: TokenThief
) -> None:
    own = akv_owner(UNKNOWN_UID, name="odd") | {key: value for key, value in change.items() if key != "metadata"}
    body = make_custom_resource(kind, "odd", [{key: value for key, value in own.items() if value is not None}])
    body["spec"] |= {"secretProviderClassName": "odd"} if kind == "SecretSync" else {}
    body["metadata"] |= change.get("metadata", {})
    assert_denied_by_policy(thief.send("POST", PATHS[kind] + "?dryRun=All", body), why)


@both_kinds
def test_stolen_token_cannot_change_metadata(
    kind: str, thief: TokenThief, shop: TargetNamespace, akv_sync_uid: str
) -> None:
    body = make_custom_resource(kind, "made-marked", [akv_owner(akv_sync_uid)])
    body["metadata"] |= {"labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["x.example/y"]}
    shop.create(body)
    try:
        for metadata, why in (
            ({"labels": {"a": None}}, "the controller sets no labels"),
            ({"labels": {"x": "y"}}, "the controller sets no labels"),
            ({"annotations": {"c": "e"}}, "the controller sets no labels"),
            ({"finalizers": None}, "the controller neither adds nor removes finalizers"),
            ({"finalizers": ["x.example/y", "x.example/z"]}, "the controller neither adds nor removes finalizers"),
        ):
            assert_denied_by_policy(send_patch(thief, kind, "made-marked", {"metadata": metadata}), why)
        assert send_patch(thief, kind, "made-marked", {}).status == 200
    finally:
        shop.plane.kubectl("patch", kind, "made-marked", "-n", TARGET_NAMESPACE, "--type=merge", "-p", NO_FINALIZERS)


def test_patch_of_the_status_subresource_changes_only_the_status(thief: TokenThief, shop: TargetNamespace) -> None:
    uid = shop.create_sync("status-only")
    before = read_object(shop, "SecretSync", "status-only")
    metadata: dict[str, Any] = {
        "finalizers": ["x.example/y"],
        "labels": {"a": "b"},
        "annotations": {"a": "b"},
        "generateName": "x",
    }
    metadata["ownerReferences"] = [make_owner(uid, "status-only")]
    path = f"{PATHS['SecretSync']}/status-only/status"
    body = {"metadata": metadata, "spec": {"serviceAccountName": "x"}, "status": {"syncHash": "h"}}
    assert thief.send("PATCH", path, body, MERGE).status == 200
    apply = {"apiVersion": before["apiVersion"], "kind": "SecretSync", **body}
    applied = thief.send("PATCH", f"{path}?fieldManager=x&force=true", apply, "application/apply-patch+yaml")
    assert applied.status == 200
    after = read_object(shop, "SecretSync", "status-only")
    assert after["spec"] == before["spec"]
    volatile = ("resourceVersion", "managedFields")
    assert {k: v for k, v in after["metadata"].items() if k not in volatile} == {
        k: v for k, v in before["metadata"].items() if k not in volatile
    }


def test_old_api_version_of_a_class_is_restricted_by_the_same_policies(
    privileged_thief: TokenThief, shop: TargetNamespace
) -> None:
    shop.create(make_custom_resource("SecretProviderClass", "aged", []))
    answer = privileged_thief.send("PATCH", f"{OLD_CLASSES}/aged", {"spec": {"provider": "x"}}, MERGE)
    assert_denied_by_policy(answer, "this SecretProviderClass does not belong to an AKVSync")
    body = make_custom_resource("SecretProviderClass", "older", []) | {
        "apiVersion": "secrets-store.csi.x-k8s.io/v1alpha1"
    }
    assert_denied_by_policy(
        privileged_thief.send("POST", OLD_CLASSES, body), "the only owner of a SecretProviderClass must be an AKVSync"
    )


def test_status_of_a_secretsync_that_no_akvsync_owns_can_be_written(thief: TokenThief, shop: TargetNamespace) -> None:
    shop.create_sync("reported")
    path = f"{PATHS['SecretSync']}/reported/status"
    assert thief.send("PATCH", path, {"status": {"syncHash": "h"}}, MERGE).status == 200
    # The status subresource changes nothing else.
    theft = {"metadata": {"ownerReferences": [akv_owner(UNKNOWN_UID)]}, "spec": {"serviceAccountName": "mine"}}
    assert thief.send("PATCH", path, theft, MERGE).status == 200
    found = read_object(shop, "SecretSync", "reported")
    assert found["spec"]["serviceAccountName"] == "none"
    assert "ownerReferences" not in found["metadata"]
