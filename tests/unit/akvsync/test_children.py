"""Test the step for each object of an AKVSync. No event loop is needed."""

from typing import Any, TypeVar

import msgspec
import pytest

from controller.akvsync.children import (
    BlockedObject,
    CreateObject,
    GeneratedObject,
    KeepObject,
    PatchObject,
    decide_step,
)
from controller.api.akvsync import AKVSync
from controller.api.conditions import Reason
from controller.api.meta import Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from tests.support.builders import make_owner, make_provider_class, make_sync

OWNER = make_owner("uid-of-the-akvsync", "shop", AKVSync.kind, AKVSync.group)
EARLIER = msgspec.structs.replace(OWNER, uid="uid-of-an-earlier-one")
OTHER = msgspec.structs.replace(OWNER, uid="uid-of-another", name="other")

Generated = TypeVar("Generated", bound=SecretSync | SecretProviderClass)


def replace_metadata(item: Generated, **fields: Any) -> Generated:
    return msgspec.structs.replace(item, metadata=msgspec.structs.replace(item.metadata, **fields))


def replace_spec(item: Generated, **fields: Any) -> Generated:
    return msgspec.structs.replace(item, spec=msgspec.structs.replace(item.spec, **fields))


WANTED = replace_metadata(make_sync(["user"], name="a"), owner_references=[OWNER])
WANTED_CLASS = replace_metadata(make_provider_class(name="shop"), owner_references=[OWNER])
SPEC = {
    "secretProviderClassName": "class",
    "serviceAccountName": "robot",
    "secretObject": {"data": [{"sourcePath": "user", "targetKey": "user"}], "type": "Opaque"},
}
CLASS_SPEC = {"provider": "azure"}


@pytest.mark.parametrize(
    ("wanted", "api_version", "kind", "spec"),
    [
        (WANTED, "secret-sync.x-k8s.io/v1alpha1", "SecretSync", SPEC),
        (WANTED_CLASS, "secrets-store.csi.x-k8s.io/v1", "SecretProviderClass", CLASS_SPEC),
    ],
    ids=["SecretSync", "class"],
)
def test_missing_object_is_created_in_full(
    wanted: GeneratedObject, api_version: str, kind: str, spec: dict[str, Any]
) -> None:
    metadata = msgspec.to_builtins(wanted.metadata)
    assert metadata["ownerReferences"] == [msgspec.to_builtins(OWNER)]
    body = {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
    assert decide_step(wanted, None) == CreateObject(body)


@pytest.mark.parametrize(("wanted", "spec"), [(WANTED, SPEC), (WANTED_CLASS, CLASS_SPEC)], ids=["SecretSync", "class"])
def test_unreadable_object_gets_the_whole_spec(wanted: GeneratedObject, spec: dict[str, Any]) -> None:
    current = Unreadable(wanted.metadata, "Expected `array`")
    assert decide_step(wanted, current) == PatchObject(current.metadata, {"spec": spec})


def make_class(**parameters: str) -> SecretProviderClass:
    return replace_spec(WANTED_CLASS, parameters=parameters)


def replace_secret_object(sync: SecretSync, **fields: Any) -> SecretSync:
    return replace_spec(sync, secret_object=msgspec.structs.replace(sync.spec.secret_object, **fields))


FORCED = replace_spec(WANTED, force_synchronization="now")


@pytest.mark.parametrize(
    ("wanted", "current", "patch"),
    [
        (WANTED, WANTED, None),
        (WANTED, FORCED, None),
        (WANTED, msgspec.convert(msgspec.to_builtins(WANTED), SecretSync), None),
        (WANTED_CLASS, WANTED_CLASS, None),
        (WANTED, replace_spec(WANTED, service_account_name="x"), {"serviceAccountName": "robot"}),
        (WANTED, replace_spec(FORCED, service_account_name="x"), {"serviceAccountName": "robot"}),
        (WANTED, replace_secret_object(WANTED, labels={"a": "b"}), {"secretObject": {"labels": None}}),
        (replace_secret_object(WANTED, labels={"a": "b"}), WANTED, {"secretObject": {"labels": {"a": "b"}}}),
        (make_class(a="1", b="2"), make_class(a="1", b="3", c="4"), {"parameters": {"b": "2", "c": None}}),
        (make_class(a="1"), WANTED_CLASS, {"parameters": {"a": "1"}}),
        (WANTED_CLASS, make_class(a="1"), {"parameters": None}),
        (WANTED_CLASS, replace_spec(WANTED_CLASS, provider="aws"), {"provider": "azure"}),
    ],
)
def test_patch_has_only_the_difference(
    wanted: GeneratedObject, current: GeneratedObject, patch: dict[str, Any] | None
) -> None:
    expected = PatchObject(current.metadata, {"spec": patch}) if patch else KeepObject()
    assert decide_step(wanted, current) == expected


EARLIER_STILL_EXISTS = (
    " of an earlier AKVSync of this name still exists; if it remains, check its finalizers and the cluster's garbage"
    " collector (kube-controller-manager), or delete it"
)
NOT_TOUCHED = " exists that does not belong to this AKVSync, so it was not touched; "


@pytest.mark.parametrize(
    ("wanted", "owners", "reason", "message"),
    [
        (WANTED, [EARLIER], Reason.IN_PROGRESS, f"the SecretSync a{EARLIER_STILL_EXISTS}"),
        (WANTED_CLASS, [EARLIER], Reason.IN_PROGRESS, f"the SecretProviderClass shop{EARLIER_STILL_EXISTS}"),
        *(
            (
                WANTED, owners, Reason.NAME_TAKEN,
                f"a SecretSync a{NOT_TOUCHED}set another kubernetesSecretName, or delete that SecretSync: the"
                " controller then creates its own",
            )
            for owners in ([], [OTHER], [OWNER, OTHER])
        ),
        (
            WANTED_CLASS, [OTHER], Reason.NAME_TAKEN,
            f"a SecretProviderClass shop{NOT_TOUCHED}rename the AKVSync, or delete that SecretProviderClass: the"
            " controller then creates its own",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_readable", [True, False])
def test_object_of_another_owner_blocks_the_step(
    is_readable: bool, wanted: GeneratedObject, owners: list[Any], reason: Reason, message: str
) -> None:
    current = replace_metadata(wanted, owner_references=owners)
    step = decide_step(wanted, current if is_readable else Unreadable(current.metadata, "odd"))
    assert step == BlockedObject(reason, message)


@pytest.mark.parametrize(
    ("wanted", "name"), [(WANTED, "SecretSync a"), (WANTED_CLASS, "SecretProviderClass shop")], ids=["sync", "class"]
)
def test_object_in_deletion_blocks_the_step(wanted: GeneratedObject, name: str) -> None:
    step = decide_step(wanted, replace_metadata(wanted, deletion_timestamp="2030-01-01T12:00:00Z"))
    assert step == BlockedObject(
        Reason.IN_PROGRESS,
        f"the {name} is being deleted; the controller recreates it when it is gone; if it remains, check its"
        " finalizers",
    )


def test_changed_type_of_the_secret_blocks_the_step() -> None:
    step = decide_step(replace_secret_object(WANTED, type="kubernetes.io/tls"), WANTED)
    assert step == BlockedObject(
        Reason.TYPE_CHANGE_WAITS,
        "the SecretSync a has type Opaque, which cannot change: delete it, and with it its Secret; the controller"
        " recreates both with type kubernetes.io/tls",
    )
