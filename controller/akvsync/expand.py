"""Expand an AKVSync into one SecretProviderClass, and a SecretSync for each Secret. Pure.

One class has all objects, because both a class and an AKVSync name one vault and one identity. The value of a
certificate is the secret with its name: `secretInAKV: web` and `certInAKV: web` are the same object in the vault and
the same item of the class. Only conversions of a value, such as the extraction of a property, have an item and an alias
of their own.

Entries without select define their Secrets alone (`explicit_secrets`). The Secrets of entries with select
(`selected_secrets`) also depend on the vault's objects.
"""

from collections.abc import Container, Iterable, Mapping, Sequence

import msgspec

from controller.akvsync.explicit_secrets import describe_entry, secrets_of
from controller.akvsync.generated_objects import (
    SecretKey,
    WantedItem,
    WantedSecret,
    build_class,
    build_sync,
    child_metadata,
    class_size,
)
from controller.akvsync.selected_secrets import RemainingLimits, check_select, expand_choices
from controller.api.akvsync import MAX_GENERATED, MAX_PARTS, AKVObject, AKVSync
from controller.api.meta import MAX_SPEC
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.api.select import SkippedObject
from controller.domain.generated import ClassItem, class_items
from controller.domain.selection import ObjectChoice
from controller.domain.vault_objects import MAX_ITEMS
from controller.errors import InputError


class GeneratedObjects(msgspec.Struct, frozen=True, kw_only=True):
    """The objects that an AKVSync owns, with the SecretSyncs by name. `source` is None if the class would be empty.

    `retained` are the names of SecretSyncs that remain unchanged, because the vault has not been listed yet. `skipped`
    are selected objects without a Secret. `kept` are the objects of each SecretSync that are no longer selected.
    `selects` means that the AKVSync has entries with select.
    """

    source: SecretProviderClass | None
    syncs: dict[str, SecretSync]
    retained: frozenset[str] = frozenset()
    skipped: tuple[SkippedObject, ...] = ()
    kept: Mapping[str, tuple[str, ...]] = {}
    selects: bool = False


class _ExplicitObjects(msgspec.Struct, frozen=True):
    """What the entries without select generate.

    `syncs` is by name, and `size` are their bytes together, as JSON. `items` are the items of the class by their names
    in sourcePaths. `histories` has the objectVersionHistory of each object of the vault. `objects_of` has the names of
    the objects of each Secret.
    """

    syncs: Mapping[str, SecretSync]
    size: int
    items: Mapping[str, ClassItem]
    histories: Mapping[str, int]
    objects_of: Mapping[str, frozenset[str]]


def expand_akvsync(
    akv: AKVSync,
    chosen: Sequence[Sequence[ObjectChoice]] | None = None,
    owned: Iterable[SecretSync] = (),
    source: SecretProviderClass | None = None,
) -> GeneratedObjects:
    """Return the objects to generate. Raise `InputError` for an AKVSync that is invalid as a whole.

    The CRD refuses most mistakes. These checks are for the others, and for objects that an older CRD accepted. `chosen`
    are the vault's objects for each entry with select. While it is None, the `owned` SecretSyncs remain, with their
    items of the existing class (`source`).
    """
    selecting = [entry for entry in akv.spec.objects if entry.select is not None]
    secrets = _collect_secrets(akv)
    _check_selecting(selecting, secrets)
    explicit = _expand_secrets(akv, secrets)
    if not selecting:
        return GeneratedObjects(source=build_class(akv, explicit.items), syncs=dict(explicit.syncs))
    if chosen is None:
        return _retain_selected(akv, explicit, owned, source)
    return _add_selected(akv, explicit, selecting, chosen)


def _collect_secrets(akv: AKVSync) -> dict[str, WantedSecret]:
    """Return the Secrets of the entries without select by name. Raise `InputError` if there are too many."""
    secrets: dict[str, WantedSecret] = {}
    for entry in akv.spec.objects:
        for secret in () if entry.select is not None else secrets_of(entry):
            if other := secrets.get(secret.name):
                raise _same_name_error(other.entry, entry, secret.name)
            secrets[secret.name] = secret
    if len(secrets) > MAX_PARTS:
        raise InputError(f"this makes {len(secrets)} Secrets, and an AKVSync may have {MAX_PARTS}: split it")
    return secrets


def _check_selecting(selecting: Iterable[AKVObject], secrets: Mapping[str, WantedSecret]) -> None:
    """Raise `InputError` for an invalid entry with select, or one that names the Secret of another entry."""
    named = {name: secret.entry for name, secret in secrets.items()}
    for entry in selecting:
        check_select(entry)
        if other := named.get(entry.kubernetes_secret_name):
            raise _same_name_error(other, entry, entry.kubernetes_secret_name)
        if entry.kubernetes_secret_name:
            named[entry.kubernetes_secret_name] = entry


def _same_name_error(one: AKVObject, other: AKVObject, name: str) -> InputError:
    return InputError(
        f"{describe_entry(one)} and {describe_entry(other)} both make a Secret {name}: give one another"
        " kubernetesSecretName"
    )


def _expand_secrets(akv: AKVSync, secrets: Mapping[str, WantedSecret]) -> _ExplicitObjects:
    """Return what these Secrets generate. Raise `InputError` if it exceeds a limit."""
    # The longest history of each object. All its items have it, so that the same requests serve all of them.
    histories: dict[str, int] = {}
    wanted_items: dict[WantedItem, None] = {}
    for secret in secrets.values():
        for key in secret.keys:
            wanted_items[key.item] = None
            histories[key.item.object] = max(histories.get(key.item.object, 0), key.version + 1)
    if len(wanted_items) > MAX_ITEMS:
        raise InputError(
            f"this names {len(wanted_items)} objects or properties of the vault, and an AKVSync may name {MAX_ITEMS}:"
            " split it"
        )
    syncs: dict[str, SecretSync] = {}
    size = 0
    for name, secret in secrets.items():
        syncs[name] = build_sync(akv, secret, histories)
        size += len(msgspec.json.encode(syncs[name].spec))
        if size > MAX_GENERATED:
            largest = describe_entry(_find_largest(secrets).entry)
            raise InputError(
                f"the {len(secrets)} SecretSyncs that this makes have more than {MAX_GENERATED} bytes together, the"
                f" limit of an AKVSync: shorten labels and annotations of {largest}, lower its versionHistory, or split"
                " the AKVSync"
            )
    return _ExplicitObjects(
        syncs=syncs,
        size=size,
        items={item.served_as: item.to_class_item(histories[item.object]) for item in wanted_items},
        histories=histories,
        objects_of={name: frozenset(key.item.object for key in secret.keys) for name, secret in secrets.items()},
    )


def _find_largest(secrets: Mapping[str, WantedSecret]) -> WantedSecret:
    """Return a Secret whose object has the longest labels and annotations."""
    return max(
        secrets.values(), key=lambda secret: len(msgspec.json.encode([secret.entry.labels, secret.entry.annotations]))
    )


def _retain_selected(
    akv: AKVSync, explicit: _ExplicitObjects, owned: Iterable[SecretSync], source: SecretProviderClass | None
) -> GeneratedObjects:
    """Return the objects while the vault is not listed yet: SecretSyncs of selected objects remain, with their items.

    If an entry without select changed the history of their object, they are edited to read the same version.
    """
    retained = [sync for sync in owned if sync.metadata.name not in explicit.syncs]
    histories = {name: explicit.histories[name] for name in explicit.items.keys() & explicit.histories}
    edited = {
        sync.metadata.name: followed for sync in retained if (followed := _follow_histories(akv, sync, histories))
    }
    items = {**explicit.items, **_retained_items(retained, source, explicit.items)}
    return GeneratedObjects(
        source=build_class(akv, items),
        syncs={**explicit.syncs, **edited},
        retained=frozenset(sync.metadata.name for sync in retained) - edited.keys(),
        kept={sync.metadata.name: gone for sync in retained if (gone := _kept_objects(sync, items))},
        selects=True,
    )


def _follow_histories(akv: AKVSync, sync: SecretSync, histories: Mapping[str, int]) -> SecretSync | None:
    """Return a selected object's SecretSync with sourcePaths for these histories, or None if it has them already."""

    def follow(path: str) -> str:
        name, *steps = path.split("/")
        history = histories.get(name)
        if history == 1 and steps[:1] == ["0"]:
            return "/".join([name, *steps[1:]])
        if history and history > 1 and not (steps and steps[0].isdigit()):
            return "/".join([name, "0", *steps])
        return path

    secret = sync.spec.secret_object
    data = [msgspec.structs.replace(pair, source_path=follow(pair.source_path)) for pair in secret.data]
    if data == secret.data:
        return None
    spec = msgspec.structs.replace(sync.spec, secret_object=msgspec.structs.replace(secret, data=data))
    return SecretSync(metadata=child_metadata(akv, sync.metadata.name), spec=spec)


def _retained_items(
    retained: Iterable[SecretSync], source: SecretProviderClass | None, made: Container[str]
) -> dict[str, ClassItem]:
    """Return the items that unchanged SecretSyncs need, as the existing class has them."""
    known = class_items(source) if source else {}
    names = {pair.source_path.partition("/")[0] for sync in retained for pair in sync.spec.secret_object.data}
    return {name: known.get(name) or WantedItem(name).to_class_item(1) for name in sorted(names) if name not in made}


def _kept_objects(sync: SecretSync, items: Mapping[str, ClassItem]) -> tuple[str, ...]:
    """Return the objects of a SecretSync that its class keeps and no longer reads."""
    names = {pair.source_path.partition("/")[0] for pair in sync.spec.secret_object.data}
    return tuple(name for name in sorted(names) if name in items and items[name].is_kept)


def _add_selected(
    akv: AKVSync,
    explicit: _ExplicitObjects,
    selecting: Sequence[AKVObject],
    chosen: Sequence[Sequence[ObjectChoice]],
) -> GeneratedObjects:
    """Return the objects with the Secrets of the objects that the vault's list chose."""
    limits = RemainingLimits(
        secrets=MAX_PARTS - len(explicit.syncs),
        bytes=MAX_GENERATED - explicit.size,
        items=MAX_ITEMS - len(explicit.items),
        class_bytes=MAX_SPEC - class_size(akv, explicit.items),
        named=explicit.items.keys(),
    )
    made = expand_choices(selecting, chosen, explicit.objects_of, limits)
    syncs = dict(explicit.syncs)
    for name, found in made.secrets.items():
        keys = [SecretKey(key, WantedItem(object_name), part=part) for key, object_name, part in found.keys]
        syncs[name] = build_sync(akv, WantedSecret(name, found.entry, keys), explicit.histories)
    # An object that an entry without select names has its item already, and is read for that entry.
    added = {
        name: WantedItem(name, keep=keep).to_class_item(explicit.histories.get(name, 1))
        for name, keep in sorted(made.objects.items())
        if name not in explicit.items
    }
    kept = {
        name: gone
        for name, names in made.kept.items()
        if (gone := tuple(each for each in names if each not in explicit.items))
    }
    return GeneratedObjects(
        source=build_class(akv, {**explicit.items, **added}), syncs=syncs, skipped=made.skipped, kept=kept, selects=True
    )
