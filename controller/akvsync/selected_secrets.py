"""Compute the Secrets of an AKVSync's entries with select. Pure.

An object that cannot have a Secret is skipped with a reason and does not affect others. Existing Secrets come first, so
a new object never takes their name or uses up their limit.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from controller.api.akvsync import BASIC_AUTH_TYPE, MAX_PARTS, SECRET_TYPES, AKVObject
from controller.api.meta import is_object_name
from controller.api.secretsync import DEFAULT_TYPE, TLS_TYPE, SecretSync
from controller.api.select import Select, SkippedObject
from controller.domain.decision import REQUIRED_KEYS
from controller.domain.selection import ObjectChoice, ObjectSelector, SelectionSighting
from controller.domain.vault_objects import MAX_ITEMS
from controller.errors import InputError

# Larger than the JSON of a generated SecretSync without labels, annotations and keys: four names and field names.
_FRAME = 1536
# Larger than the JSON of one key without its name, object and part.
_PAIR = 64
# Larger than the JSON of one item of the class without the object's name, also if the object is kept later.
_ITEM = 72


class RemainingLimits(msgspec.Struct, kw_only=True):
    """The unused part of an AKVSync's limits: Secrets, bytes of their SecretSyncs, and items and bytes of the class.

    Bytes are those of JSON. `named` are the items that the class has already, by their names in sourcePaths.
    """

    secrets: int
    bytes: int
    items: int
    class_bytes: int
    named: Collection[str]


class SelectedSecret(msgspec.Struct, frozen=True):
    """One Secret: its entry, and for each key its name, its object, and the part of a certificate or an empty text."""

    entry: AKVObject
    keys: list[tuple[str, str, str]]


class SelectedSecrets(msgspec.Struct, frozen=True):
    """The Secrets by name, and what the class needs for them.

    `objects` are the vault's objects; True marks one that is kept and no longer read. `kept` are the kept objects of
    each Secret.
    """

    secrets: dict[str, SelectedSecret]
    objects: dict[str, bool]
    skipped: tuple[SkippedObject, ...]
    kept: dict[str, tuple[str, ...]]


def check_select(entry: AKVObject) -> None:
    """Raise `InputError` for mistakes in an entry with select that the CRD also refuses."""
    description, kind = describe_select(entry), entry.kubernetes_secret_type
    if entry.secret_in_akv or entry.cert_in_akv or entry.mapping:
        raise InputError(f"{description}: write exactly one of secretInAKV, certInAKV, mapping and select")
    if entry.expand or entry.include_ca:
        raise InputError(
            f"{description}: expand and includeCA do not go with select: name that object in an entry of its own"
        )
    if entry.version_history != 1:
        raise InputError(
            f"{description}: versionHistory does not go with select: name that object in an entry of its own"
        )
    if kind not in SECRET_TYPES or kind == BASIC_AUTH_TYPE:
        raise InputError(f"{description}: kubernetesSecretType {kind} is not a type that select can make")
    if entry.kubernetes_secret_name and kind != DEFAULT_TYPE:
        raise InputError(
            f"{description}: with kubernetesSecretName it makes a Secret of type {DEFAULT_TYPE}, not {kind}"
        )


def describe_select(entry: AKVObject) -> str:
    """Return a description of an entry with select for a message."""
    select = entry.select
    given = [text for text in (select.name_prefix, select.name_pattern, *select.tags) if text] if select else []
    return f"the select of {', '.join(given)[:60] or 'everything'}"


def stripped_name(entry: AKVObject, name: str) -> str:
    """Return an object's name without `stripPrefix`."""
    prefix = entry.strip_prefix.lower()
    return name[len(prefix) :] if name.lower().startswith(prefix) else name


def selected_before(
    entries: Sequence[AKVObject], owned: Iterable[SecretSync], explicit: Collection[str]
) -> tuple[dict[str, str], ...]:
    """Return for each entry the objects that already have a Secret, by lower-case name, according to the SecretSyncs.

    `explicit` are the names of the Secrets of entries without select. An object that no entry's name conditions match
    any more belongs to no entry.
    """
    selectors = [ObjectSelector(entry.select or Select()) for entry in entries]
    before: tuple[dict[str, str], ...] = tuple({} for _ in entries)
    for sync in owned:
        if sync.metadata.name in explicit:
            continue
        found = {
            index: names
            for index, entry in enumerate(entries)
            if (names := [name for name in _objects_of(entry, sync) if selectors[index].matches_name(name.lower())])
        }
        if found:
            index = max(found, key=lambda each: (_count_matches(entries[each], sync), -each))
            before[index].update({name.lower(): name for name in found[index]})
    return before


def _count_matches(entry: AKVObject, sync: SecretSync) -> tuple[bool, bool, int]:
    """Return how well a SecretSync matches this entry, compared with other entries that could have created it."""
    made = sync.spec.secret_object
    return (
        bool(entry.kubernetes_secret_name),
        entry.kubernetes_secret_type == made.type,
        (entry.labels == made.labels) + (entry.annotations == made.annotations),
    )


def _objects_of(entry: AKVObject, sync: SecretSync) -> list[str]:
    """Return the objects of a SecretSync that this entry could have created."""
    pairs = [(pair.target_key, pair.source_path.partition("/")[0]) for pair in sync.spec.secret_object.data]
    if entry.kubernetes_secret_name:
        if sync.metadata.name != entry.kubernetes_secret_name:
            return []
        return [name for key, name in pairs if key == stripped_name(entry, name)]
    names = {name for _, name in pairs}
    return [name for name in names if len(names) == 1 and sync.metadata.name == stripped_name(entry, name).lower()]


def expand_choices(
    entries: Sequence[AKVObject],
    chosen: Sequence[Sequence[ObjectChoice]],
    explicit: Mapping[str, Collection[str]],
    limits: RemainingLimits,
) -> SelectedSecrets:
    """Return the Secrets of the chosen objects. `explicit` has the objects of the Secrets of entries without select."""
    every = [(entry, choice) for entry, choices in zip(entries, chosen, strict=True) for choice in choices]
    selected = {_target_of(entry, choice) for entry, choice in every if not choice.kept}
    existing = {_target_of(entry, choice) for entry, choice in every if not choice.is_new}
    # An object that one entry keeps and another one selects counts as selected.
    every = [(entry, choice) for entry, choice in every if not choice.kept or _target_of(entry, choice) not in selected]
    builder = _SecretsBuilder(explicit, limits)
    for is_new in (False, True):
        for entry, choice in every:
            if (_target_of(entry, choice) not in existing) is is_new:
                builder.add(entry, msgspec.structs.replace(choice, is_new=is_new))
    return builder.build()


def _target_of(entry: AKVObject, choice: ObjectChoice) -> tuple[str, str, str]:
    """Return the Secret's name, the key if the Secret has several objects, and the object, in lower case."""
    short = stripped_name(entry, choice.name)
    if entry.kubernetes_secret_name:
        return entry.kubernetes_secret_name, short.lower(), choice.name.lower()
    return short.lower(), "", choice.name.lower()


def skipped_above_limit(sighting: SelectionSighting) -> tuple[SkippedObject, ...]:
    """Return one item that counts the matches above the limit of an AKVSync, or none."""
    more = sum(sighting.totals) - sum(map(len, sighting.matches))
    text = f"an AKVSync makes at most {MAX_PARTS} Secrets: split it by namePrefix or tags"
    return (SkippedObject(name=f"{more} more", message=text),) if more else ()


class _SecretsBuilder:
    """Collect Secrets one object at a time, within the limits."""

    def __init__(self, explicit: Mapping[str, Collection[str]], limits: RemainingLimits) -> None:
        self._taken = {name: {each.lower() for each in objects} for name, objects in explicit.items()}
        self._limits = limits
        self._secrets: dict[str, SelectedSecret] = {}
        self._objects: dict[str, tuple[str, bool]] = {}
        self._kept: dict[str, list[str]] = {}
        self._skipped: dict[str, str] = {}

    def add(self, entry: AKVObject, choice: ObjectChoice) -> None:
        """Add a Secret, or a key of one, for an object, or store why the object is skipped.

        Raise `InputError` for an object that already has a Secret, because skipping it would delete that.
        """
        short = stripped_name(entry, choice.name)
        name = entry.kubernetes_secret_name or short.lower()
        existing = self._secrets.get(name)
        if name in self._taken and not (existing and existing.entry is entry and entry.kubernetes_secret_name):
            if self._taken[name] != {choice.name.lower()}:
                self._skip_choice(
                    choice,
                    f"another object has the Secret {name} already: name this one in an entry with"
                    " kubernetesSecretName",
                )
            return
        if problem := _find_problem(entry, choice, name, short) or self._limit_problem(entry, choice, existing):
            if not choice.is_new:  # skipping it would delete its Secret
                raise InputError(f"{describe_select(entry)}: object {choice.name}: {problem}")
            self._skip_choice(choice, problem)
            return
        if existing is None:
            existing = self._secrets[name] = SelectedSecret(entry, [])
            self._taken[name] = set()
            self._limits.secrets -= 1
            self._limits.bytes -= _frame_size(entry)
        keys = _keys_of(entry, choice.name, short)
        self._limits.bytes -= _keys_size(keys)
        existing.keys.extend(keys)
        self._taken[name].add(choice.name.lower())
        lower = choice.name.lower()
        if self._adds_item(choice):
            self._limits.items -= 1
            self._limits.class_bytes -= _item_size(choice)
        spelling, only_kept = self._objects.get(lower, (choice.name, True))
        self._objects[lower] = spelling, only_kept and choice.kept
        if choice.kept:
            self._kept.setdefault(name, []).append(choice.name)

    def _limit_problem(self, entry: AKVObject, choice: ObjectChoice, existing: SelectedSecret | None) -> str:
        """Return the limit that this object would exceed, or an empty text."""
        short = stripped_name(entry, choice.name)
        if existing is None:
            if not self._limits.secrets:
                return f"an AKVSync makes at most {MAX_PARTS} Secrets: split it by namePrefix or tags"
        elif len(existing.keys) >= MAX_PARTS:
            return f"select makes at most {MAX_PARTS} keys of a Secret: split it by namePrefix or tags"
        elif any(key == short for key, *_ in existing.keys):
            return f"another object has the key {short} already: shorten stripPrefix"
        if (0 if existing else _frame_size(entry)) + _keys_size(
            _keys_of(entry, choice.name, short)
        ) > self._limits.bytes:
            return "the SecretSyncs of this AKVSync would be too large together: shorten labels and annotations"
        if self._adds_item(choice):
            if not self._limits.items:
                return f"an AKVSync reads at most {MAX_ITEMS} objects or properties of the vault: split it"
            # The size is an estimate, and the item of an object that already has a Secret can be smaller.
            if choice.is_new and _item_size(choice) > self._limits.class_bytes:
                return "the SecretProviderClass of this AKVSync would be too large: split the AKVSync"
        return ""

    def _adds_item(self, choice: ObjectChoice) -> bool:
        """Return whether the class has no item of this object yet."""
        return choice.name.lower() not in self._objects and choice.name not in self._limits.named

    def _skip_choice(self, choice: ObjectChoice, problem: str) -> None:
        self._skipped.setdefault(choice.name, problem)

    def build(self) -> SelectedSecrets:
        """Return the result. It does not depend on the order of `add` calls."""
        secrets = {name: self._secrets[name] for name in sorted(self._secrets)}
        for secret in secrets.values():
            secret.keys.sort()
        return SelectedSecrets(
            secrets=secrets,
            objects=dict(self._objects.values()),
            skipped=tuple(SkippedObject(name=name, message=text) for name, text in sorted(self._skipped.items())),
            kept={name: tuple(sorted(names)) for name, names in sorted(self._kept.items())},
        )


def _find_problem(entry: AKVObject, choice: ObjectChoice, name: str, short: str) -> str:
    """Return why a new object cannot have a Secret, or an empty text. Objects with a Secret are not checked again."""
    if not choice.is_new:
        return ""
    if choice.name.startswith("-"):
        return "its name begins with -, so no sourcePath can name it: give it another name in the vault"
    if not short:
        return "nothing remains of its name without stripPrefix: name it in an entry with kubernetesSecretName"
    if not is_object_name(name):
        return f"{name} is not a valid name in Kubernetes: name it in an entry with kubernetesSecretName"
    if choice.is_certificate and entry.kubernetes_secret_type not in (DEFAULT_TYPE, TLS_TYPE):
        return f"a certificate becomes a Secret of type {DEFAULT_TYPE} or {TLS_TYPE}: set types: [secret]"
    return ""


def _keys_of(entry: AKVObject, name: str, short: str) -> list[tuple[str, str, str]]:
    if entry.kubernetes_secret_name:
        return [(short, name, "")]
    kind = entry.kubernetes_secret_type
    if kind == DEFAULT_TYPE:
        return [("v0", name, "")]
    return [(key, name, key if kind == TLS_TYPE else "") for key in REQUIRED_KEYS[kind]]


def _frame_size(entry: AKVObject) -> int:
    return _FRAME + len(msgspec.json.encode([entry.labels, entry.annotations]))


def _item_size(choice: ObjectChoice) -> int:
    return _ITEM + len(choice.name)


def _keys_size(keys: Iterable[tuple[str, str, str]]) -> int:
    return sum(_PAIR + len(key) + len(name) + len(part) for key, name, part in keys)
