"""Test the managers of fields before and after tools/migrate from-sse and to-sse."""

from typing import Any

import msgspec
import pytest

from controller.api.meta import ObjectMeta, OwnerReference
from controller.api.secretsync import SecretSync
from tools.cli.migrate.sse_ownership import hand_back_fields, other_managers, takeover_blocker

FIELDS_V1 = {"apiVersion": "v1", "fieldsType": "FieldsV1"}
CONTROLLER_ENTRY = FIELDS_V1 | {
    "manager": "akv-secret-store",
    "operation": "Update",
    "time": "2030-01-02T00:00:00Z",
    "fieldsV1": {"f:data": {".": {}, "f:k": {}}, "f:type": {}},
}
SSE_ENTRY = FIELDS_V1 | {
    "manager": "secrets-store-sync-controller",
    "operation": "Apply",
    "time": "2030-01-01T00:00:00Z",
    "fieldsV1": {"f:data": {"f:old": {}}, "f:metadata": {"f:labels": {}}},
}
KUBECTL_ENTRY = {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {"f:x": {}}}}


def test_entry_of_the_controller_becomes_the_one_of_sse() -> None:
    assert hand_back_fields([CONTROLLER_ENTRY]) == [
        CONTROLLER_ENTRY | {"manager": "secrets-store-sync-controller", "operation": "Apply"}
    ]


def test_entry_of_the_controller_is_merged_into_an_existing_one_of_sse() -> None:
    entries = hand_back_fields([SSE_ENTRY, KUBECTL_ENTRY, CONTROLLER_ENTRY])
    assert entries == [
        KUBECTL_ENTRY,
        SSE_ENTRY
        | {
            "time": "2030-01-02T00:00:00Z",
            "fieldsV1": {
                "f:data": {".": {}, "f:k": {}, "f:old": {}},
                "f:metadata": {"f:labels": {}},
                "f:type": {},
            },
        },
    ]
    assert hand_back_fields(entries) is None


def test_entries_of_other_managers_are_unchanged() -> None:
    assert hand_back_fields([SSE_ENTRY, KUBECTL_ENTRY]) is None
    assert other_managers([SSE_ENTRY, KUBECTL_ENTRY, CONTROLLER_ENTRY]) == ["kubectl"]


def make_sync(**spec: Any) -> SecretSync:
    wanted = {"data": [{"sourcePath": "a", "targetKey": "k"}]}
    given = {"secretProviderClassName": "c", "serviceAccountName": "a", "secretObject": wanted, **spec}
    return msgspec.convert({"metadata": {"name": "s", "namespace": "n", "uid": "u"}, "spec": given}, SecretSync)


def make_secret(uid: str = "u", label: str = "") -> ObjectMeta:
    owner = OwnerReference(api_version="secret-sync.x-k8s.io/v1alpha1", kind="SecretSync", name="s", uid=uid)
    return ObjectMeta(name="s", labels={"secrets-store.sync.x-k8s.io": label}, owner_references=[owner])


@pytest.mark.parametrize(
    ("found", "spec", "words"),
    [
        (make_secret(), {}, ""),
        (None, {}, ""),
        (ObjectMeta(name="s"), {}, "does not belong to this SecretSync"),
        (make_secret(uid="old"), {}, "an earlier SecretSync"),
        (make_secret(label="x"), {}, "lacks the label"),
        (make_secret(), {"secretSyncControllerName": "sse"}, "controllerName"),
    ],
)
def test_reason_that_prevents_a_takeover_is_named(found: ObjectMeta | None, spec: dict[str, str], words: str) -> None:
    blocker = takeover_blocker(make_sync(**spec), found)
    assert words in blocker
    assert bool(blocker) == bool(words)
