"""Short ways to write the objects that the controller's unit tests speak of."""

from collections.abc import Iterable, Mapping
from typing import Any

from controller.api.meta import ManagedFieldsEntry, ObjectMeta, OwnerReference
from controller.api.secretproviderclass import SecretProviderClass, SecretProviderClassSpec
from controller.api.secretsync import SecretObject, SecretObjectData, SecretSync, SecretSyncSpec, SecretSyncStatus
from controller.fetched import Fetched, Hidden
from controller.plan import OUR_LABEL
from controller.settings import FIELD_MANAGER

UID = "uid-of-the-sync"


def sync(
    keys: Mapping[str, str] | Iterable[str] = ("user", "pass"),
    *,
    type: str = "Opaque",  # noqa: A002 -- as the field is called
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    status: SecretSyncStatus | None = None,
    uid: str = UID,
    generation: int = 1,
    name: str = "shop",
    source: str = "class",
) -> SecretSync:
    """A SecretSync `team/<name>`; `keys` maps targetKey to sourcePath, or names both alike."""
    pairs = keys.items() if isinstance(keys, Mapping) else [(key, key) for key in keys]
    return SecretSync(
        metadata=ObjectMeta(name=name, namespace="team", uid=uid, generation=generation, resource_version="7"),
        spec=SecretSyncSpec(
            secret_provider_class_name=source,
            service_account_name="robot",
            secret_object=SecretObject(
                data=[SecretObjectData(source_path=path, target_key=key) for key, path in pairs],
                type=type,
                labels=dict(labels or {}),
                annotations=dict(annotations or {}),
            ),
        ),
        status=status or SecretSyncStatus(),
    )


def provider_class(generation: int = 1, uid: str = "uid-of-the-class", name: str = "class") -> SecretProviderClass:
    """A SecretProviderClass `team/<name>`."""
    return SecretProviderClass(
        metadata=ObjectMeta(name=name, namespace="team", uid=uid, generation=generation),
        spec=SecretProviderClassSpec(provider="azure"),
    )


def owner(
    uid: str = UID, name: str = "shop", kind: str = "SecretSync", group: str = SecretSync.group
) -> OwnerReference:
    """An ownerReference to a SecretSync."""
    return OwnerReference(api_version=f"{group}/v1alpha1", kind=kind, name=name, uid=uid)


def hand(
    keys: Iterable[str] = (),
    *,
    labels: Iterable[str] = (),
    annotations: Iterable[str] = (),
    manager: str = FIELD_MANAGER,
    time: str | None = "2030-01-01T00:00:00Z",
    subresource: str = "",
) -> ManagedFieldsEntry:
    """What one manager set, as managedFields tells it."""

    def names(of: Iterable[str]) -> dict[str, Any]:
        return {".": {}} | {f"f:{name}": {} for name in of}

    return ManagedFieldsEntry(
        manager=manager,
        operation="Update",
        subresource=subresource,
        time=time,
        fields_v1={
            "f:data": names(keys),
            "f:metadata": {"f:labels": names(labels), "f:annotations": names(annotations)},
            "f:type": {},
        },
    )


def secret(
    keys: Iterable[str] = ("user", "pass"),
    *,
    owners: Iterable[OwnerReference] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    hands: Iterable[ManagedFieldsEntry] | None = None,
) -> ObjectMeta:
    """The metadata of the Secret `team/shop`; as we wrote it ourselves, where nothing else is said."""
    labels = {OUR_LABEL[0]: OUR_LABEL[1]} | dict(labels or {})
    return ObjectMeta(
        name="shop",
        namespace="team",
        uid="uid-of-the-secret",
        resource_version="42",
        labels=labels,
        annotations=dict(annotations or {}),
        owner_references=list([owner()] if owners is None else owners),
        managed_fields=list([hand(keys, labels=labels, annotations=annotations or {})] if hands is None else hands),
    )


def value(text: str | bytes = "value", version: str = "v1") -> Fetched:
    """What a vault gave."""
    return Fetched(value=Hidden(text.encode() if isinstance(text, str) else text), version=version)
