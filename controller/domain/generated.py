"""Read the objects that an AKVSync has generated: their owners, and the items of generated classes. Pure."""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from controller.api.akvsync import AKVSync
from controller.api.meta import ObjectMeta, OwnerReference
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync, SecretSyncSpec
from controller.domain.provider_class import EXPANDED_SUFFIX

_ITEM = "  - |\n"
_FIELDS = {
    name: re.compile(rf"^[^\S\n]*{name}: ([^\n]*)", re.MULTILINE)
    for name in ("objectName", "objectAlias", "objectKeep")
}


def akvsync_owner(meta: ObjectMeta) -> OwnerReference | None:
    """Return the AKVSync that is the only owner of an object, or None."""
    owners = meta.owner_references
    if len(owners) != 1 or owners[0].kind != AKVSync.kind or owners[0].api_version.partition("/")[0] != AKVSync.group:
        return None
    return owners[0]


class ClassItem(NamedTuple):
    """An item of a generated class: the object's name, its name in sourcePaths, and the item's YAML lines."""

    name: str
    served_as: str
    lines: str

    @property
    def is_kept(self) -> bool:
        """Return whether the controller no longer reads the object."""
        return _read_field(self.lines, "objectKeep") == "true"


def class_items(source: SecretProviderClass) -> Mapping[str, ClassItem]:
    """Return the items of a generated class by their names in sourcePaths.

    It reads only the form that `expand_akvsync` writes. A text of another form yields wrong items or none, so callers
    compare it with `as_objects`.
    """
    return _read_items(source.spec.parameters.get("objects", ""))


@functools.lru_cache(maxsize=4)
def _read_items(text: str) -> Mapping[str, ClassItem]:
    """Return the items of a text. It is cached: 2,000 items take 3 ms, and each SecretSync of a class needs them."""
    found = {}
    for lines in text.split(_ITEM)[1:]:
        if name := _read_field(lines, "objectName"):
            item = ClassItem(name, _read_field(lines, "objectAlias") or name, lines.rstrip("\n") + "\n")
            found[item.served_as] = item
    return found


def as_objects(items: Mapping[str, ClassItem]) -> str:
    """Return the parameter `objects` with these items."""
    return "array:\n" + "".join(_ITEM + item.lines for item in items.values())


def _read_field(lines: str, name: str) -> str:
    found = _FIELDS[name].search(lines)
    return found[1].strip().strip("'\"") if found else ""


def changed_items(before: SecretProviderClass, after: SecretProviderClass) -> frozenset[str] | None:
    """Return the names in sourcePaths of the items that differ between two states of a generated class.

    Return None if all items can differ.
    """
    if (
        not akvsync_owner(before.metadata)
        or not akvsync_owner(after.metadata)
        or before.metadata.uid != after.metadata.uid
    ):
        return None
    old, new = class_items(before), class_items(after)
    if _other_parameters(before) != _other_parameters(after) or _is_other(before, old) or _is_other(after, new):
        return None
    return frozenset(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def keys_from_items(sync: SecretSync, items: frozenset[str]) -> frozenset[str]:
    """Return the keys of a SecretSync that come from these items of its class."""
    return _keys_with_expanded(
        pair.target_key for pair in sync.spec.secret_object.data if _comes_from_items(pair.source_path, items)
    )


def _comes_from_items(path: str, items: frozenset[str]) -> bool:
    """Return whether a sourcePath is one of these items, or a version or part of one."""
    while path not in items:
        path, found, _ = path.rpartition("/")
        if not found:
            return False
    return True


def _keys_with_expanded(names: Iterable[str]) -> frozenset[str]:
    """Return these target keys, and their names if their items are expanded."""
    return frozenset(key for name in names for key in (name, name + EXPANDED_SUFFIX))


def changed_keys(before: object, after: object) -> frozenset[str] | None:
    """Return the keys that an edit of a generated SecretSync changed or added, or None if it can affect all."""
    if not isinstance(before, SecretSync) or not isinstance(after, SecretSync):
        return None
    if not akvsync_owner(before.metadata) or before.metadata.owner_references != after.metadata.owner_references:
        return None
    if before.metadata.uid != after.metadata.uid or before.metadata.annotations != after.metadata.annotations:
        return None
    old, new = (
        {pair.target_key: pair.source_path for pair in each.spec.secret_object.data} for each in (before, after)
    )
    if len(new) != len(after.spec.secret_object.data) or _without_data(before) != _without_data(after):
        return None
    return _keys_with_expanded(key for key, path in new.items() if old.get(key) != path)


def _without_data(sync: SecretSync) -> SecretSyncSpec:
    secret = msgspec.structs.replace(sync.spec.secret_object, data=[])
    return msgspec.structs.replace(sync.spec, secret_object=secret)


def _other_parameters(source: SecretProviderClass) -> tuple[str, dict[str, str]]:
    parameters = {name: text for name, text in source.spec.parameters.items() if name != "objects"}
    return source.spec.provider, parameters


def _is_other(source: SecretProviderClass, items: Mapping[str, ClassItem]) -> bool:
    """Return whether the text differs from what these items produce. A user may have edited it."""
    return source.spec.parameters.get("objects", "") != as_objects(items)


def identify_items(source: SecretProviderClass, names: frozenset[str]) -> list[object]:
    """Return the entries of a generated class for these objects, for a hash that changes with nothing else."""
    provider, parameters = _other_parameters(source)
    items = [item for item in class_items(source).values() if item.name in names]
    return [source.metadata.uid, provider, sorted(parameters.items()), sorted(items)]
