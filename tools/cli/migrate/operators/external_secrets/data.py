"""Convert the values of an ExternalSecret: each entry of `data` is one key, one of `dataFrom` several. Pure."""

import re
from collections.abc import Mapping, Sequence

import msgspec

from tools.cli.migrate.objects import Manifest
from tools.cli.migrate.operators.external_secrets.kinds import (
    Anything,
    DataFrom,
    ExternalSecretData,
    ExternalSecretSpec,
    ObjectFinder,
    RemoteRef,
    SourceRef,
    StoreRef,
)
from tools.cli.migrate.operators.external_secrets.stores import StoreIndex
from tools.cli.migrate.operators.wanted_secrets import (
    OBJECT_NAME,
    VERSION_ID,
    InexpressibleSecret,
    SecretEntry,
    VaultIdentity,
)

GENERATOR = "generators have no counterpart: generate the value once, store it in the vault, and sync it from there"
TAGS = "tags cannot become values: store their contents in a secret of the vault"
MAX_REGEXP = 120
_NAME = r"(?:[0-9A-Za-z-]|\\-)"
_REGEXP = re.compile(rf"\^?(?:{_NAME}|\.[*+]?)*\$?")
_PREFIX = re.compile(rf"\^({_NAME}+)")
_PREFIX_AND_REST = re.compile(rf"\^({_NAME}+)\(\.[*+]\)\$?")
_SECRET = re.compile(rf"(secret/)?({OBJECT_NAME.pattern})")
# A path with the same meaning for GJSON and this controller: no modifier, wildcard or query. \. is a dot in a name.
_PROPERTY = re.compile(r"(?=.{1,128}$)[A-Za-z0-9_-]+(\\?\.[A-Za-z0-9_-]+)*")


class ConvertedEntries(msgspec.Struct, frozen=True):
    """The entries of dataFrom that are converted, each with its reader. `problems` has the reasons for the others."""

    found: Sequence[tuple[Manifest, VaultIdentity]]
    problems: Mapping[str, str]


def read_data_from(spec: ExternalSecretSpec, where: str, stores: StoreIndex) -> ConvertedEntries:
    """Return the AKVSync's object for each entry of dataFrom."""
    found: list[tuple[Manifest, VaultIdentity]] = []
    problems: dict[str, str] = {}
    for number, each in enumerate(spec.data_from):
        try:
            ref = (each.source_ref and each.source_ref.store_ref) or spec.secret_store_ref
            converted = _convert_data_from(each)
            found.append((converted, stores.reader(ref, where)))
        except InexpressibleSecret as problem:
            problems[f"dataFrom[{number}]"] = str(problem)
    made = spec.target.template
    if found and made and (made.data or made.template_from):
        raise InexpressibleSecret("its template uses what dataFrom finds: map the properties one by one")
    return ConvertedEntries(found, problems)


def _reject_generator(ref: SourceRef | None) -> bool:
    return ref is not None and ref.generator_ref is not None


class ConvertedValues(msgspec.Struct):
    """The values of `data` by secretKey, and their reader. `problems` has the reasons for other keys."""

    values: dict[str, SecretEntry] = {}
    reader: VaultIdentity | None = None
    problems: dict[str, str] = {}


def read_values(
    data: Sequence[ExternalSecretData], default: StoreRef | None, where: str, stores: StoreIndex
) -> ConvertedValues:
    """Return the values that are converted. All of them come from the vault of the first one."""
    result = ConvertedValues()
    first = ""
    for each in data:
        key = each.secret_key
        # The last of several entries with one secretKey counts.
        result.values.pop(key, None)
        result.problems.pop(key, None)
        try:
            if _reject_generator(each.source_ref):
                raise InexpressibleSecret(GENERATOR)
            entry = _convert_entry(key, each.remote_ref)
            ref = (each.source_ref and each.source_ref.store_ref) or default
            reader = stores.reader(ref, where)
            if result.reader not in (None, reader):
                raise InexpressibleSecret(
                    f"it comes from another vault or identity than the key {first!r}: use a separate Secret for it"
                )
            result.reader, first = reader, first or key
            result.values[key] = entry
        except InexpressibleSecret as problem:
            result.problems[key] = str(problem)
    return result


def _convert_entry(key: str, ref: RemoteRef) -> SecretEntry:
    kind, _, rest = ref.key.rpartition("/") if ref.key.count("/") == 1 else ("", "", ref.key)
    if ref.metadata_policy != "None":
        raise InexpressibleSecret(TAGS)
    if kind == "key":
        raise InexpressibleSecret(
            f"{ref.key} is a JSON Web Key there, and a PEM here: map it in a SecretProviderClass with objectType key,"
            " in a separate Secret, and let the workload read that"
        )
    if kind == "cert":
        raise InexpressibleSecret(
            f"{ref.key} is DER there, and a PEM here: map it in a SecretProviderClass with objectType cert, in a"
            " separate Secret, and let the workload read that"
        )
    if kind not in ("", "secret") or not OBJECT_NAME.fullmatch(rest):
        raise InexpressibleSecret(f"{ref.key!r} is not the name of an object in Key Vault")
    if ref.property and not _PROPERTY.fullmatch(ref.property):
        raise InexpressibleSecret(
            f"property {ref.property!r} is more than names with dots between them: store its result as a separate"
            " secret in the vault"
        )
    if ref.version and not VERSION_ID.fullmatch(ref.version):
        raise InexpressibleSecret(f"version {ref.version!r} is not a version's id, which has 32 hexadecimal digits")
    if ref.decoding_strategy not in ("None", "Base64"):
        raise InexpressibleSecret(
            f"decodingStrategy {ref.decoding_strategy} has no counterpart: store the value as base64, or as it is"
        )
    encoding = "base64" if ref.decoding_strategy == "Base64" else ""
    return SecretEntry(key=key, object=rest, version=ref.version, property=ref.property, encoding=encoding)


def _convert_data_from(given: DataFrom) -> Manifest:
    """Return the fields of an AKVSync's object with the same keys. Raise `InexpressibleSecret`."""
    if given.source_ref and given.source_ref.generator_ref is not None:
        raise InexpressibleSecret(GENERATOR)
    if given.find is not None:
        return _convert_find(given.find, given.rewrite)
    ref = given.extract or given
    if given.rewrite:
        raise InexpressibleSecret(f"it changes the names of the properties of {ref.key!r}: map them one by one")
    return {"secretInAKV": _convert_object(ref), "expand": True}


def _convert_find(find: ObjectFinder, rewrite: Sequence[Anything]) -> Manifest:
    if find.decoding_strategy != "None":
        raise InexpressibleSecret(
            f"decodingStrategy {find.decoding_strategy} has no counterpart where objects are selected"
        )
    select: Manifest = {}
    if find.name and find.name.regexp:
        select |= _name_conditions(find.name.regexp)
    if find.tags:
        select["tags"] = find.tags
    fields: Manifest = {"select": select}
    if rewrite:
        fields["stripPrefix"] = _stripped_prefix(rewrite)
    return fields


def _name_conditions(regexp: str) -> Manifest:
    """Return the conditions that match the same names as a regular expression, which is not anchored.

    Raise `InexpressibleSecret` for a regular expression that is too long or not simple enough.
    """
    if len(regexp) > MAX_REGEXP or not _REGEXP.fullmatch(regexp):
        raise InexpressibleSecret(
            f"the regular expression {regexp[:MAX_REGEXP]!r} is more than letters, digits, -, ^, $, . and .*: select by"
            " namePrefix, namePattern or tags, or name the objects"
        )
    body = regexp.removeprefix("^").removesuffix("$").replace("\\-", "-")
    pattern = body.replace(".*", "*").replace(".+", "?*").replace(".", "?")
    pattern = ("" if regexp.startswith("^") else "*") + pattern + ("" if regexp.endswith("$") else "*")
    pattern = re.sub(r"\*+", "*", pattern)
    prefix = pattern.removesuffix("*")
    if pattern.endswith("*") and not set(prefix) & set("*?"):
        return {"namePrefix": prefix} if prefix else {}
    return {"namePattern": pattern}


def _stripped_prefix(rewrite: Sequence[Anything]) -> str:
    """Return the prefix that a rewrite removes from the names. Raise `InexpressibleSecret` for another rewrite."""
    regexp = rewrite[0].get("regexp") if len(rewrite) == 1 else None
    if isinstance(regexp, dict) and isinstance(source := regexp.get("source"), str) and len(source) <= MAX_REGEXP:
        for form, target in ((_PREFIX, ""), (_PREFIX_AND_REST, "$1")):
            if (match := form.fullmatch(source)) and regexp.get("target") in (target, target.replace("$1", "${1}")):
                return match[1].replace("\\-", "-")
    raise InexpressibleSecret(
        "its rewrite does more than remove a prefix from the names: name the objects in an AKVSync"
    )


def _convert_object(ref: RemoteRef) -> str:
    if ref.metadata_policy == "Fetch":
        raise InexpressibleSecret(TAGS)
    if not (match := _SECRET.fullmatch(ref.key)):
        raise InexpressibleSecret(f"{ref.key!r} is not the name of a secret in Key Vault")
    if ref.property or ref.version or ref.decoding_strategy != "None":
        raise InexpressibleSecret(
            f"it reads the properties of a part, a version or a decoded form of {ref.key!r}: map them one by one"
        )
    if ref.conversion_strategy != "Default":
        raise InexpressibleSecret(
            f"conversionStrategy {ref.conversion_strategy} has no counterpart: map the properties of {ref.key!r} one by"
            " one"
        )
    return match[2]
