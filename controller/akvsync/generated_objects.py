"""Build the SecretProviderClass and the SecretSyncs of an AKVSync from its items and Secrets. Pure."""

import hashlib
from collections.abc import Mapping

import msgspec

from controller.api.akvsync import AKVObject, AKVSync
from controller.api.meta import MAX_SPEC, ObjectMeta, OwnerReference
from controller.api.secretproviderclass import SecretProviderClass, SecretProviderClassSpec
from controller.api.secretsync import SecretObject, SecretObjectData, SecretSync, SecretSyncSpec
from controller.domain.generated import ClassItem, as_objects
from controller.domain.vault_objects import write_name
from controller.errors import InputError


class WantedItem(msgspec.Struct, frozen=True):
    """One item of the class to generate: an object of the vault, and the conversion of its value."""

    object: str
    property_path: str = ""
    encoding: str = "utf-8"
    expand: bool = False
    keep: bool = False

    @property
    def served_as(self) -> str:
        """Return the item's name in sourcePaths: its alias, or the name of an object without a conversion."""
        return self._alias or self.object

    @property
    def _alias(self) -> str:
        """Return the alias of an item with a conversion, or an empty text.

        It depends only on the item. So an edit of other entries renames nothing, and the value at a SecretSync's
        sourcePath does not change before the controller edits that SecretSync.
        """
        conversion = [self.property_path, self.encoding, self.expand]
        if conversion == ["", "utf-8", False]:
            return ""
        # Names of objects in a vault do not contain _.
        return f"{self.object}_{hashlib.sha256(msgspec.json.encode(conversion)).hexdigest()[:16]}"

    def to_class_item(self, history: int) -> ClassItem:
        """Return the item as the parameter `objects` has it. `history` is its objectVersionHistory."""
        fields = {
            "objectName": write_name(self.object),
            "objectType": "secret",
            "objectAlias": self._alias,
            "objectVersionHistory": str(history) if history > 1 else "",
            "objectProperty": self.property_path and _quote_yaml(self.property_path),
            "objectEncoding": self.encoding if self.encoding != "utf-8" else "",
            "objectExpand": "true" if self.expand else "",
            "objectKeep": "true" if self.keep else "",
        }
        lines = "".join(f"    {name}: {text}\n" for name, text in fields.items() if text)
        return ClassItem(self.object, self.served_as, lines)


class SecretKey(msgspec.Struct, frozen=True):
    """One key of a Secret: an item, the age of its version (0 is the newest), and a part of its value."""

    key: str
    item: WantedItem
    version: int = 0
    part: str = ""


class WantedSecret(msgspec.Struct, frozen=True):
    """One Secret to generate, with the entry of the AKVSync that defines it."""

    name: str
    entry: AKVObject
    keys: list[SecretKey]


def child_metadata(akv: AKVSync, name: str) -> ObjectMeta:
    """Return the metadata of an object that the AKVSync owns."""
    owner = OwnerReference(
        api_version=AKVSync.api_version(),
        kind=AKVSync.kind,
        name=akv.metadata.name,
        uid=akv.metadata.uid,
        controller=True,
    )
    return ObjectMeta(name=name, namespace=akv.metadata.namespace, owner_references=[owner])


def build_class(akv: AKVSync, items: Mapping[str, ClassItem]) -> SecretProviderClass | None:
    """Return the class with these items, or None without items. Raise `InputError` if it is too large."""
    if not items:
        return None
    if (size := class_size(akv, items)) > MAX_SPEC:
        raise InputError(
            f"the SecretProviderClass that this makes has {size} bytes as JSON, and {MAX_SPEC} are read: split the"
            " AKVSync, or shorten the paths of its properties"
        )
    return SecretProviderClass(
        metadata=child_metadata(akv, akv.metadata.name),
        spec=SecretProviderClassSpec(provider="azure", parameters=_class_parameters(akv, items)),
    )


def class_size(akv: AKVSync, items: Mapping[str, ClassItem]) -> int:
    """Return the bytes of the spec of a class with these items, as JSON."""
    return len(msgspec.json.encode({"provider": "azure", "parameters": _class_parameters(akv, items)}))


def _class_parameters(akv: AKVSync, items: Mapping[str, ClassItem]) -> dict[str, str]:
    return {
        "clientID": akv.spec.client_id,
        "tenantID": akv.spec.tenant_id,
        "keyvaultName": akv.spec.keyvault_name,
        "objects": as_objects(items),
    }


def build_sync(akv: AKVSync, secret: WantedSecret, histories: Mapping[str, int]) -> SecretSync:
    """Return the SecretSync of a Secret. `histories` has the objectVersionHistory of each object, if it is above 1."""

    def path(key: SecretKey) -> str:
        version = str(key.version) if histories.get(key.item.object, 1) > 1 else ""
        return "/".join(filter(None, (key.item.served_as, version, key.part)))

    return SecretSync(
        metadata=child_metadata(akv, secret.name),
        spec=SecretSyncSpec(
            secret_provider_class_name=akv.metadata.name,
            service_account_name=akv.spec.service_account_name,
            secret_object=SecretObject(
                type=secret.entry.kubernetes_secret_type,
                data=[SecretObjectData(source_path=path(key), target_key=key.key) for key in secret.keys],
                labels=secret.entry.labels,
                annotations=secret.entry.annotations,
            ),
        ),
    )


def _quote_yaml(text: str) -> str:
    """Return a text as YAML in ASCII, so that no character in it ends the line."""
    return '"' + "".join(map(_escape_letter, text)) + '"'


def _escape_letter(letter: str) -> str:
    if " " < letter <= "~" and letter not in '"\\':
        return letter
    return f"\\U{ord(letter):08X}"
