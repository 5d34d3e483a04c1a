"""Compute the Secrets of an AKVSync's entries without select. Pure."""

from collections.abc import Iterator

from controller.akvsync.generated_objects import SecretKey, WantedItem, WantedSecret
from controller.akvsync.selected_secrets import describe_select
from controller.akvsync.terms import in_akvsync_terms
from controller.api.akvsync import (
    BASIC_AUTH_TYPE,
    ENCODINGS,
    MAX_VERSIONS,
    PROPERTY_RULE,
    SECRET_TYPES,
    AKVObject,
    AKVSync,
    MappedKey,
)
from controller.api.meta import MAX_NAME, is_object_name
from controller.api.secretsync import DEFAULT_TYPE, TLS_TYPE
from controller.domain.decision import ALTERNATIVE_KEYS, REQUIRED_KEYS
from controller.domain.secret_limits import key_violation
from controller.domain.vault_objects import PROPERTY
from controller.errors import InputError


def explicit_names(akv: AKVSync) -> frozenset[str]:
    """Return the names of the Secrets of entries without select."""
    return frozenset(secret.name for entry in akv.spec.objects if entry.select is None for secret in secrets_of(entry))


def secrets_of(entry: AKVObject) -> Iterator[WantedSecret]:
    """Yield the Secrets of one entry without select. Raise `InputError` if the entry is invalid.

    An Opaque Secret has a key for each version. With another type, each version has a Secret of its own.
    """
    about, kind, versions = describe_entry(entry), entry.kubernetes_secret_type, range(entry.version_history)
    if kind not in SECRET_TYPES:
        raise InputError(f"{about}: kubernetesSecretType {kind} is none of {', '.join(SECRET_TYPES)}")
    if sum(map(bool, (entry.secret_in_akv, entry.cert_in_akv, entry.mapping))) != 1:
        raise InputError(f"{about}: write exactly one of secretInAKV, certInAKV, mapping and select")
    if not 1 <= entry.version_history <= MAX_VERSIONS:
        raise InputError(f"{about}: versionHistory is {entry.version_history}: expected 1 to {MAX_VERSIONS}")
    _check_options(entry)
    if entry.mapping:
        keys = [
            SecretKey(mapped_key.data_key, _mapped_item(entry, mapped_key), mapped_key.version)
            for mapped_key in entry.mapping
        ]
        yield WantedSecret(_secret_name(entry), entry, keys)
        return
    item = WantedItem(entry.secret_in_akv or entry.cert_in_akv, expand=entry.expand)
    if kind == DEFAULT_TYPE:
        yield WantedSecret(
            _secret_name(entry), entry, [SecretKey(f"v{version}", item, version) for version in versions]
        )
        return
    if entry.cert_in_akv and kind != TLS_TYPE:
        raise InputError(f"{about}: a certificate becomes a Secret of type {DEFAULT_TYPE} or {TLS_TYPE}")
    names = ALTERNATIVE_KEYS.get(kind) or REQUIRED_KEYS[kind]
    for version in versions:
        keys = [SecretKey(key, item, version, key if kind in (TLS_TYPE, BASIC_AUTH_TYPE) else "") for key in names]
        if entry.include_ca:
            keys.append(SecretKey("ca.crt", item, version, "ca.crt"))
        yield WantedSecret(_secret_name(entry, f"-v{version}" if len(versions) > 1 else ""), entry, keys)


def _check_options(entry: AKVObject) -> None:
    """Raise `InputError` for `expand` and `includeCA` that have no effect."""
    about, kind = describe_entry(entry), entry.kubernetes_secret_type
    if entry.expand and (not entry.secret_in_akv or kind != DEFAULT_TYPE or entry.version_history > 1):
        raise InputError(
            f"{about}: expand goes with secretInAKV and type {DEFAULT_TYPE}, without versionHistory; map"
            " single properties with mapping"
        )
    if entry.include_ca and (not entry.cert_in_akv or kind != TLS_TYPE):
        raise InputError(f"{about}: includeCA goes with certInAKV and kubernetesSecretType {TLS_TYPE}")


def _mapped_item(entry: AKVObject, mapped_key: MappedKey) -> WantedItem:
    """Return the class's item for one key of a mapping. Raise `InputError` if the key is invalid."""
    if violation := key_violation(mapped_key.data_key):
        raise InputError(f"{describe_entry(entry)}: {in_akvsync_terms(violation)}")
    if bool(mapped_key.secret_in_akv) == bool(mapped_key.cert_in_akv):
        raise InputError(
            f"{describe_entry(entry)}: dataKey {mapped_key.data_key} needs exactly one of secretInAKV and certInAKV"
        )
    if not 0 <= mapped_key.version < MAX_VERSIONS:
        raise InputError(
            f"{describe_entry(entry)}: version of dataKey {mapped_key.data_key} is {mapped_key.version}: expected 0 to"
            f" {MAX_VERSIONS - 1}"
        )
    if mapped_key.cert_in_akv and (mapped_key.property_path or mapped_key.encoding != "utf-8"):
        raise InputError(
            f"{describe_entry(entry)}: dataKey {mapped_key.data_key}: property and encoding go with secretInAKV"
        )
    if mapped_key.encoding not in ENCODINGS:
        raise InputError(
            f"{describe_entry(entry)}: encoding of dataKey {mapped_key.data_key} is none of {', '.join(ENCODINGS)}"
        )
    if mapped_key.property_path and not PROPERTY.fullmatch(mapped_key.property_path):
        raise InputError(f"{describe_entry(entry)}: property of dataKey {mapped_key.data_key} is not {PROPERTY_RULE}")
    if mapped_key.property_path != mapped_key.property_path.strip():
        # The fields of a class are read without it, so another property would be read, or the whole value.
        raise InputError(
            f"{describe_entry(entry)}: property of dataKey {mapped_key.data_key} begins or ends with white space:"
            " remove it"
        )
    return WantedItem(mapped_key.secret_in_akv or mapped_key.cert_in_akv, mapped_key.property_path, mapped_key.encoding)


def _secret_name(entry: AKVObject, suffix: str = "") -> str:
    """Return the Secret's name. By default it is the object's in lower case: Kubernetes' names have no capitals."""
    name = (entry.kubernetes_secret_name or (entry.secret_in_akv or entry.cert_in_akv).lower()) + suffix
    if not is_object_name(name):
        raise InputError(
            f"{describe_entry(entry)}: {name or 'nothing'} is no Secret's name: set kubernetesSecretName to small"
            f" letters, digits, - and ., at most {MAX_NAME} with -v0 and the like"
        )
    return name


def describe_entry(entry: AKVObject) -> str:
    """Return the description of an entry for a message, in its author's terms."""
    if entry.secret_in_akv:
        return f"secretInAKV {entry.secret_in_akv}"
    if entry.cert_in_akv:
        return f"certInAKV {entry.cert_in_akv}"
    if entry.select is not None:
        return describe_select(entry)
    return f"the mapping of {entry.kubernetes_secret_name or 'no name'}"
