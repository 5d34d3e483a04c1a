"""Expand an AKVSync into one SecretProviderClass, and a SecretSync for each Secret. Pure.

One class has all objects, because both a class and an AKVSync name one vault and one identity. The value of a
certificate is the secret with its name: `secretInAKV: web` and `certInAKV: web` are the same object in the vault and
the same item of the class. Only conversions of a value, such as the extraction of a property, have an item and an alias
of their own.
"""

import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import msgspec

from controller.akvsync.selected_secrets import RemainingLimits, check_select, describe_select, expand_choices
from controller.akvsync.terms import in_akvsync_terms
from controller.api.akvsync import (
    BASIC_AUTH_TYPE,
    ENCODINGS,
    MAX_GENERATED,
    MAX_PARTS,
    MAX_VERSIONS,
    PROPERTY_RULE,
    SECRET_TYPES,
    AKVObject,
    AKVSync,
    MappedKey,
)
from controller.api.meta import MAX_NAME, MAX_SPEC, ObjectMeta, OwnerReference, is_object_name
from controller.api.secretproviderclass import SecretProviderClass, SecretProviderClassSpec
from controller.api.secretsync import DEFAULT_TYPE, TLS_TYPE, SecretObject, SecretObjectData, SecretSync, SecretSyncSpec
from controller.api.select import SkippedObject
from controller.domain.decision import ALTERNATIVE_KEYS, REQUIRED_KEYS
from controller.domain.generated import ClassItem, as_objects, class_items
from controller.domain.secret_limits import key_violation
from controller.domain.selection import ObjectChoice
from controller.domain.vault_objects import MAX_ITEMS, PROPERTY
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


class _ClassItem(msgspec.Struct, frozen=True):
    """One item of the class: an object of the vault, and the conversion of its value."""

    object: str
    property: str = ""
    encoding: str = "utf-8"
    expand: bool = False
    keep: bool = False

    def alias_of(self) -> str:
        """Return the item's name in sourcePaths, or an empty text for the object's own name.

        It depends only on the item. So an edit of other entries renames nothing, and the value at a SecretSync's
        sourcePath does not change before the controller edits that SecretSync.
        """
        made = [self.property, self.encoding, self.expand]
        if made == ["", "utf-8", False]:
            return ""
        # Names of objects in a vault do not contain _.
        return f"{self.object}_{hashlib.sha256(msgspec.json.encode(made)).hexdigest()[:16]}"

    def to_lines(self, history: int) -> str:
        """Return the item's YAML lines in the parameter `objects`. `history` is its objectVersionHistory."""
        fields = {
            "objectName": self.object,
            "objectType": "secret",
            "objectAlias": self.alias_of(),
            "objectVersionHistory": str(history) if history > 1 else "",
            "objectProperty": self.property and _quote_yaml(self.property),
            "objectEncoding": self.encoding if self.encoding != "utf-8" else "",
            "objectExpand": "true" if self.expand else "",
            "objectKeep": "true" if self.keep else "",
        }
        return "".join(f"    {name}: {text}\n" for name, text in fields.items() if text)


class _SecretKey(msgspec.Struct, frozen=True):
    """One key of a Secret: an item, the age of its version (0 is the newest), and a part of its value."""

    key: str
    item: "_ClassItem"
    version: int = 0
    part: str = ""


class _WantedSecret(msgspec.Struct, frozen=True):
    """One Secret, with the entry that defines it."""

    name: str
    entry: AKVObject
    keys: list[_SecretKey]


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
    secrets: dict[str, _WantedSecret] = {}
    selecting = [entry for entry in akv.spec.objects if entry.select is not None]
    for entry in akv.spec.objects:
        for secret in () if entry.select is not None else _secrets_of(entry):
            if other := secrets.get(secret.name):
                raise InputError(
                    f"{_describe(other.entry)} and {_describe(entry)} both make a Secret {secret.name}: give one"
                    " another kubernetesSecretName"
                )
            secrets[secret.name] = secret
    if len(secrets) > MAX_PARTS:
        raise InputError(f"this makes {len(secrets)} Secrets, and an AKVSync may have {MAX_PARTS}: split it")
    named: dict[str, AKVObject] = {name: secret.entry for name, secret in secrets.items()}
    for entry in selecting:
        check_select(entry)
        if other_entry := named.get(entry.kubernetes_secret_name):
            raise InputError(
                f"{_describe(other_entry)} and {_describe(entry)} both make a Secret {entry.kubernetes_secret_name}:"
                " give one another kubernetesSecretName"
            )
        if entry.kubernetes_secret_name:
            named[entry.kubernetes_secret_name] = entry
    # The longest history of each object. All its items have it, so that the same requests serve all of them.
    histories: dict[str, int] = {}
    items: dict[_ClassItem, None] = {}
    for secret in secrets.values():
        for key in secret.keys:
            items[key.item] = None
            histories[key.item.object] = max(histories.get(key.item.object, 0), key.version + 1)
    if len(items) > MAX_ITEMS:
        raise InputError(
            f"this names {len(items)} objects or properties of the vault, and an AKVSync may name {MAX_ITEMS}: split it"
        )
    syncs: dict[str, SecretSync] = {}
    size = 0
    for name, secret in secrets.items():
        syncs[name] = _build_sync(akv, secret, histories)
        size += len(msgspec.json.encode(syncs[name].spec))
        if size > MAX_GENERATED:
            raise InputError(
                f"the {len(secrets)} SecretSyncs that this makes have more than {MAX_GENERATED} bytes together, the"
                f" limit of an AKVSync: shorten labels and annotations of {_describe(_find_largest(secrets).entry)},"
                " lower its versionHistory, or split the AKVSync"
            )
    made_items = {
        item.alias_of() or item.object: ClassItem(
            item.object, item.alias_of() or item.object, item.to_lines(histories[item.object])
        )
        for item in items
    }
    if not selecting:
        return GeneratedObjects(source=_build_class(akv, made_items), syncs=syncs)
    if chosen is None:
        retained = [sync for sync in owned if sync.metadata.name not in syncs]
        paths = {name: histories[name] for name in made_items.keys() & histories}
        edited = {
            sync.metadata.name: followed for sync in retained if (followed := _follow_histories(akv, sync, paths))
        }
        made_items |= retained_items(retained, source, made_items)
        kept = {sync.metadata.name: gone for sync in retained if (gone := _kept_objects(sync, made_items))}
        names = frozenset(sync.metadata.name for sync in retained) - edited.keys()
        syncs |= edited
        return GeneratedObjects(
            source=_build_class(akv, made_items), syncs=syncs, retained=names, kept=kept, selects=True
        )
    explicit = {name: {key.item.object for key in secret.keys} for name, secret in secrets.items()}
    others = frozenset(made_items)
    limits = RemainingLimits(
        secrets=MAX_PARTS - len(secrets),
        bytes=MAX_GENERATED - size,
        items=MAX_ITEMS - len(items),
        class_bytes=MAX_SPEC - _class_size(_class_parameters(akv, made_items)),
        named=others,
    )
    made = expand_choices(selecting, chosen, explicit, limits)
    for name, found in made.secrets.items():
        secret = _WantedSecret(
            name, found.entry, [_SecretKey(key, _ClassItem(name), part=part) for key, name, part in found.keys]
        )
        syncs[name] = _build_sync(akv, secret, histories)
    made_items |= {
        name: _class_item(name, histories.get(name, 1), keep=keep)
        for name, keep in sorted(made.objects.items())
        if name not in others
    }
    # An object that another entry names is read for that entry.
    kept = {
        name: gone for name, names in made.kept.items() if (gone := tuple(each for each in names if each not in others))
    }
    return GeneratedObjects(
        source=_build_class(akv, made_items), syncs=syncs, skipped=made.skipped, kept=kept, selects=True
    )


def _find_largest(secrets: dict[str, _WantedSecret]) -> _WantedSecret:
    """Return a Secret whose object has the longest labels and annotations."""
    return max(
        secrets.values(), key=lambda secret: len(msgspec.json.encode([secret.entry.labels, secret.entry.annotations]))
    )


def _secrets_of(entry: AKVObject) -> Iterator[_WantedSecret]:
    """Yield the Secrets of one entry without select. Raise `InputError` if the entry is invalid."""
    kind, versions = entry.kubernetes_secret_type, range(entry.version_history)
    if kind not in SECRET_TYPES:
        raise InputError(f"{_describe(entry)}: kubernetesSecretType {kind} is none of {', '.join(SECRET_TYPES)}")
    if sum(map(bool, (entry.secret_in_akv, entry.cert_in_akv, entry.mapping))) != 1:
        raise InputError(f"{_describe(entry)}: write exactly one of secretInAKV, certInAKV, mapping and select")
    if not 1 <= entry.version_history <= MAX_VERSIONS:
        raise InputError(f"{_describe(entry)}: versionHistory is {entry.version_history}: expected 1 to {MAX_VERSIONS}")
    _check_options(entry)
    if entry.mapping:
        keys = [
            _SecretKey(mapped_key.data_key, _mapped_item(entry, mapped_key), mapped_key.version)
            for mapped_key in entry.mapping
        ]
        yield _WantedSecret(_secret_name(entry), entry, keys)
        return
    item = _ClassItem(entry.secret_in_akv or entry.cert_in_akv, expand=entry.expand)
    if kind == DEFAULT_TYPE:
        yield _WantedSecret(
            _secret_name(entry), entry, [_SecretKey(f"v{version}", item, version) for version in versions]
        )
        return
    if entry.cert_in_akv and kind != TLS_TYPE:
        raise InputError(f"{_describe(entry)}: a certificate becomes a Secret of type {DEFAULT_TYPE} or {TLS_TYPE}")
    names = ALTERNATIVE_KEYS.get(kind) or REQUIRED_KEYS[kind]
    for version in versions:
        keys = [_SecretKey(key, item, version, key if kind in (TLS_TYPE, BASIC_AUTH_TYPE) else "") for key in names]
        if entry.include_ca:
            keys.append(_SecretKey("ca.crt", item, version, "ca.crt"))
        yield _WantedSecret(_secret_name(entry, f"-v{version}" if len(versions) > 1 else ""), entry, keys)


def _check_options(entry: AKVObject) -> None:
    """Raise `InputError` for `expand` and `includeCA` that have no effect."""
    kind = entry.kubernetes_secret_type
    if entry.expand and (not entry.secret_in_akv or kind != DEFAULT_TYPE or entry.version_history > 1):
        raise InputError(
            f"{_describe(entry)}: expand goes with secretInAKV and type {DEFAULT_TYPE}, without versionHistory; map"
            " single properties with mapping"
        )
    if entry.include_ca and (not entry.cert_in_akv or kind != TLS_TYPE):
        raise InputError(f"{_describe(entry)}: includeCA goes with certInAKV and kubernetesSecretType {TLS_TYPE}")


def _mapped_item(entry: AKVObject, mapped_key: MappedKey) -> _ClassItem:
    """Return the class's item for an entry of a mapping."""
    if violation := key_violation(mapped_key.data_key):
        raise InputError(f"{_describe(entry)}: {in_akvsync_terms(violation)}")
    if bool(mapped_key.secret_in_akv) == bool(mapped_key.cert_in_akv):
        raise InputError(
            f"{_describe(entry)}: dataKey {mapped_key.data_key} needs exactly one of secretInAKV and certInAKV"
        )
    if not 0 <= mapped_key.version < MAX_VERSIONS:
        raise InputError(
            f"{_describe(entry)}: version of dataKey {mapped_key.data_key} is {mapped_key.version}: expected 0 to"
            f" {MAX_VERSIONS - 1}"
        )
    if mapped_key.cert_in_akv and (mapped_key.property_path or mapped_key.encoding != "utf-8"):
        raise InputError(
            f"{_describe(entry)}: dataKey {mapped_key.data_key}: property and encoding go with secretInAKV"
        )
    if mapped_key.encoding not in ENCODINGS:
        raise InputError(
            f"{_describe(entry)}: encoding of dataKey {mapped_key.data_key} is none of {', '.join(ENCODINGS)}"
        )
    if mapped_key.property_path and not PROPERTY.fullmatch(mapped_key.property_path):
        raise InputError(f"{_describe(entry)}: property of dataKey {mapped_key.data_key} is not {PROPERTY_RULE}")
    return _ClassItem(mapped_key.secret_in_akv or mapped_key.cert_in_akv, mapped_key.property_path, mapped_key.encoding)


def _quote_yaml(text: str) -> str:
    """Return a text as YAML in ASCII, so that no character in it ends the line."""
    return '"' + "".join(map(_escape_letter, text)) + '"'


def _escape_letter(letter: str) -> str:
    if " " < letter <= "~" and letter not in '"\\':
        return letter
    return f"\\U{ord(letter):08X}"


def _secret_name(entry: AKVObject, suffix: str = "") -> str:
    """Return the Secret's name in lower case, because Kubernetes' names have no capitals."""
    name = (entry.kubernetes_secret_name or (entry.secret_in_akv or entry.cert_in_akv).lower()) + suffix
    if not is_object_name(name):
        raise InputError(
            f"{_describe(entry)}: {name or 'nothing'} is no Secret's name: set kubernetesSecretName to small letters,"
            f" digits, - and ., at most {MAX_NAME} with -v0 and the like"
        )
    return name


def _describe(entry: AKVObject) -> str:
    """Return the description of an entry for a message, in its author's terms."""
    if entry.secret_in_akv:
        return f"secretInAKV {entry.secret_in_akv}"
    if entry.cert_in_akv:
        return f"certInAKV {entry.cert_in_akv}"
    if entry.select is not None:
        return describe_select(entry)
    return f"the mapping of {entry.kubernetes_secret_name or 'no name'}"


def _child_metadata(akv: AKVSync, name: str) -> ObjectMeta:
    owner = OwnerReference(
        api_version=AKVSync.api_version(),
        kind=AKVSync.kind,
        name=akv.metadata.name,
        uid=akv.metadata.uid,
        controller=True,
    )
    return ObjectMeta(name=name, namespace=akv.metadata.namespace, owner_references=[owner])


def _class_item(name: str, history: int, *, keep: bool = False) -> ClassItem:
    return ClassItem(name, name, _ClassItem(name, keep=keep).to_lines(history))


def explicit_names(akv: AKVSync) -> frozenset[str]:
    """Return the names of the Secrets of entries without select."""
    return frozenset(secret.name for entry in akv.spec.objects if entry.select is None for secret in _secrets_of(entry))


def retained_items(
    retained: Iterable[SecretSync], source: SecretProviderClass | None, made: Container[str]
) -> dict[str, ClassItem]:
    """Return the items that unchanged SecretSyncs need, as the existing class has them."""
    known = class_items(source) if source else {}
    names = {pair.source_path.partition("/")[0] for sync in retained for pair in sync.spec.secret_object.data}
    return {name: known.get(name) or _class_item(name, 1) for name in sorted(names) if name not in made}


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
    return SecretSync(metadata=_child_metadata(akv, sync.metadata.name), spec=spec)


def _kept_objects(sync: SecretSync, items: Mapping[str, ClassItem]) -> tuple[str, ...]:
    """Return the objects of a SecretSync that its class keeps and no longer reads."""
    names = {pair.source_path.partition("/")[0] for pair in sync.spec.secret_object.data}
    return tuple(name for name in sorted(names) if name in items and items[name].is_kept)


def _build_class(akv: AKVSync, items: dict[str, ClassItem]) -> SecretProviderClass | None:
    if not items:
        return None
    parameters = _class_parameters(akv, items)
    if (size := _class_size(parameters)) > MAX_SPEC:
        raise InputError(
            f"the SecretProviderClass that this makes has {size} bytes as JSON, and {MAX_SPEC} are read: split the"
            " AKVSync, or shorten the paths of its properties"
        )
    return SecretProviderClass(
        metadata=_child_metadata(akv, akv.metadata.name),
        spec=SecretProviderClassSpec(provider="azure", parameters=parameters),
    )


def _class_parameters(akv: AKVSync, items: Mapping[str, ClassItem]) -> dict[str, str]:
    return {
        "clientID": akv.spec.client_id,
        "tenantID": akv.spec.tenant_id,
        "keyvaultName": akv.spec.keyvault_name,
        "objects": as_objects(items),
    }


def _class_size(parameters: Mapping[str, str]) -> int:
    """Return the bytes of a generated class's spec as JSON."""
    return len(msgspec.json.encode({"provider": "azure", "parameters": parameters}))


def _build_sync(akv: AKVSync, secret: _WantedSecret, histories: dict[str, int]) -> SecretSync:
    def path(key: _SecretKey) -> str:
        version = str(key.version) if histories.get(key.item.object, 1) > 1 else ""
        return "/".join(filter(None, (key.item.alias_of() or key.item.object, version, key.part)))

    return SecretSync(
        metadata=_child_metadata(akv, secret.name),
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
