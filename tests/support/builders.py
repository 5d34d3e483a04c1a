"""Build the objects that unit tests of the controller need. Each argument has a usable default."""

from collections.abc import Iterable, Mapping
from typing import Any

from controller.api.meta import ManagedFieldsEntry, ObjectMeta, OwnerReference
from controller.api.secretproviderclass import SecretProviderClass, SecretProviderClassSpec
from controller.api.secretsync import SecretObject, SecretObjectData, SecretSync, SecretSyncSpec, SecretSyncStatus
from controller.config.settings import FIELD_MANAGER
from controller.domain.decision import SYNC_LABEL
from controller.domain.values import SecretBytes, VaultValue
from controller.domain.vault_objects import ListItem

UID = "uid-of-the-sync"


def make_sync(
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
    """Return a SecretSync `team/<name>`. `keys` maps targetKey to sourcePath, or lists names that serve as both."""
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


def make_provider_class(generation: int = 1, uid: str = "uid-of-the-class", name: str = "class") -> SecretProviderClass:
    """Return a SecretProviderClass `team/<name>` without parameters."""
    return SecretProviderClass(
        metadata=ObjectMeta(name=name, namespace="team", uid=uid, generation=generation),
        spec=SecretProviderClassSpec(provider="azure"),
    )


def make_owner(
    uid: str = UID, name: str = "shop", kind: str = "SecretSync", group: str = SecretSync.group
) -> OwnerReference:
    """Return an ownerReference to a SecretSync."""
    return OwnerReference(api_version=f"{group}/v1alpha1", kind=kind, name=name, uid=uid)


def make_managed_fields(
    keys: Iterable[str] = (),
    *,
    labels: Iterable[str] = (),
    annotations: Iterable[str] = (),
    manager: str = FIELD_MANAGER,
    time: str | None = "2030-01-01T00:00:00Z",
    subresource: str = "",
) -> ManagedFieldsEntry:
    """Return the managedFields entry of a manager that set these fields."""

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


def make_secret_meta(
    keys: Iterable[str] = ("user", "pass"),
    *,
    owners: Iterable[OwnerReference] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    managed_fields: Iterable[ManagedFieldsEntry] | None = None,
) -> ObjectMeta:
    """Return the metadata of the Secret `team/shop`. By default it has the form that the controller writes."""
    labels = {SYNC_LABEL[0]: SYNC_LABEL[1]} | dict(labels or {})
    return ObjectMeta(
        name="shop",
        namespace="team",
        uid="uid-of-the-secret",
        resource_version="42",
        labels=labels,
        annotations=dict(annotations or {}),
        owner_references=list([make_owner()] if owners is None else owners),
        managed_fields=list(
            [make_managed_fields(keys, labels=labels, annotations=annotations or {})]
            if managed_fields is None
            else managed_fields
        ),
    )


def make_value(text: str | bytes = "value", version: str = "v1") -> VaultValue:
    """Return a value as the vault returned it."""
    return VaultValue(value=SecretBytes(text.encode() if isinstance(text, str) else text), version=version)


def make_item(
    name: str, *, enabled: bool = True, managed: bool = False, tags: Mapping[str, str] | None = None
) -> ListItem:
    return ListItem(name, "", enabled, None, None, managed, tags or {})


ONE = "array:\n  - |\n    objectName: my-secret\n    objectType: secret\n"


def make_azure_class(objects: str = ONE, provider: str = "azure", **parameters: str) -> SecretProviderClass:
    base = {"clientID": "client", "tenantID": "tenant", "keyvaultName": "my-vault", "objects": objects}
    return SecretProviderClass(spec=SecretProviderClassSpec(provider=provider, parameters=base | parameters))
