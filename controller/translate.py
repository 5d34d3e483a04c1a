"""What an AKVSync stands for: one SecretProviderClass, and a SecretSync for each Secret. Pure.

One class has all objects: it names one vault and one identity, and so does an AKVSync. It needs no aliases, because the
value of a certificate is the secret of its name: `secretInAKV: web` and `certInAKV: web` are the same object in the
vault, served by the same line of the class.
"""

import re
from collections.abc import Iterator

import msgspec

from controller.api.akvsync import (
    BASIC_AUTH_TYPE,
    MAX_GENERATED,
    MOST_PARTS,
    MOST_VERSIONS,
    SECRET_TYPES,
    AKVObject,
    AKVSync,
    Mapping,
)
from controller.api.meta import DNS_SUBDOMAIN, ObjectMeta, OwnerReference
from controller.api.secretproviderclass import SecretProviderClass, SecretProviderClassSpec
from controller.api.secretsync import DEFAULT_TYPE, TLS_TYPE, SecretObject, SecretObjectData, SecretSync, SecretSyncSpec
from controller.errors import InputError
from controller.plan import REQUIRED_KEYS
from controller.vault_objects import MAX_ITEMS

_NAME = re.compile(DNS_SUBDOMAIN)
_LONGEST_NAME = 253


class Generated(msgspec.Struct, frozen=True):
    """The objects that an AKVSync owns; the SecretSyncs by name."""

    source: SecretProviderClass
    syncs: dict[str, SecretSync]


class _Key(msgspec.Struct, frozen=True):
    """One key of a Secret: which version of which object of the vault, and which part of it."""

    key: str
    object: str
    version: int = 0
    part: str = ""


class _Secret(msgspec.Struct, frozen=True):
    """One Secret, with the object that asks for it."""

    name: str
    wish: AKVObject
    keys: list[_Key]


def translate(akv: AKVSync) -> Generated:
    """The objects to make. `InputError` says what is wrong; then nothing is made, changed or pruned.

    The CRD refuses most of what is wrong; these checks are for what it cannot see, and for objects that an older CRD
    let in.
    """
    secrets: dict[str, _Secret] = {}
    for wish in akv.spec.objects:
        for secret in _secrets(wish):
            if twin := secrets.get(secret.name):
                raise InputError(
                    f"{_shown(twin.wish)} and {_shown(wish)} both make a Secret {secret.name}: give one another"
                    " kubernetesSecretName"
                )
            secrets[secret.name] = secret
    if len(secrets) > MOST_PARTS:
        raise InputError(f"this makes {len(secrets)} Secrets, and an AKVSync may have {MOST_PARTS}: split it")
    histories: dict[str, int] = {}
    for secret in secrets.values():
        for key in secret.keys:
            histories[key.object] = max(histories.get(key.object, 0), key.version + 1)
    if len(histories) > MAX_ITEMS:
        raise InputError(
            f"this names {len(histories)} objects of the vault, and an AKVSync may name {MAX_ITEMS}: split it"
        )
    syncs: dict[str, SecretSync] = {}
    size = 0
    for name, secret in secrets.items():
        syncs[name] = _sync(akv, secret, histories)
        size += len(msgspec.json.encode(syncs[name].spec))
        if size > MAX_GENERATED:
            raise InputError(
                f"the {len(secrets)} SecretSyncs that this makes have more than {MAX_GENERATED} bytes together, the"
                f" limit of an AKVSync: shorten labels and annotations of {_shown(_largest(secrets).wish)}, lower its"
                " versionHistory, or split the AKVSync"
            )
    return Generated(source=_source(akv, histories), syncs=syncs)


def _largest(secrets: dict[str, _Secret]) -> _Secret:
    """Return a Secret whose object has the longest labels and annotations."""
    return max(
        secrets.values(), key=lambda secret: len(msgspec.json.encode([secret.wish.labels, secret.wish.annotations]))
    )


def _secrets(wish: AKVObject) -> Iterator[_Secret]:
    """The Secrets that one object asks for."""
    kind, versions = wish.kubernetes_secret_type, range(wish.version_history)
    if kind not in SECRET_TYPES:
        raise InputError(f"{_shown(wish)}: kubernetesSecretType {kind} is none of {', '.join(SECRET_TYPES)}")
    if sum(map(bool, (wish.secret_in_akv, wish.cert_in_akv, wish.mapping))) != 1:
        raise InputError(f"{_shown(wish)}: write exactly one of secretInAKV, certInAKV and mapping")
    if not 1 <= wish.version_history <= MOST_VERSIONS:
        raise InputError(f"{_shown(wish)}: versionHistory is {wish.version_history}: expected 1 to {MOST_VERSIONS}")
    if wish.mapping:
        keys = [_Key(entry.data_key, _mapped(wish, entry), entry.version) for entry in wish.mapping]
        yield _Secret(_name(wish), wish, keys)
        return
    in_vault = wish.secret_in_akv or wish.cert_in_akv
    if kind == DEFAULT_TYPE:
        yield _Secret(_name(wish), wish, [_Key(f"v{version}", in_vault, version) for version in versions])
        return
    if kind == BASIC_AUTH_TYPE:
        raise InputError(f"{_shown(wish)}: {kind} needs a mapping with the dataKeys username and password")
    if wish.cert_in_akv and kind != TLS_TYPE:
        raise InputError(f"{_shown(wish)}: a certificate becomes a Secret of type {DEFAULT_TYPE} or {TLS_TYPE}")
    for version in versions:
        keys = [_Key(key, in_vault, version, key if kind == TLS_TYPE else "") for key in REQUIRED_KEYS[kind]]
        yield _Secret(_name(wish, f"-v{version}" if len(versions) > 1 else ""), wish, keys)


def _mapped(wish: AKVObject, entry: Mapping) -> str:
    """The vault's name of a mapping's entry."""
    if bool(entry.secret_in_akv) == bool(entry.cert_in_akv):
        raise InputError(f"{_shown(wish)}: dataKey {entry.data_key} needs exactly one of secretInAKV and certInAKV")
    if not 0 <= entry.version < MOST_VERSIONS:
        raise InputError(
            f"{_shown(wish)}: version of dataKey {entry.data_key} is {entry.version}: expected 0 to {MOST_VERSIONS - 1}"
        )
    return entry.secret_in_akv or entry.cert_in_akv


def _name(wish: AKVObject, suffix: str = "") -> str:
    """The Secret's name: Key Vault's names have capitals, Kubernetes' have not."""
    name = (wish.kubernetes_secret_name or (wish.secret_in_akv or wish.cert_in_akv).lower()) + suffix
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise InputError(
            f"{_shown(wish)}: {name or 'nothing'} is no Secret's name: set kubernetesSecretName to small letters,"
            f" digits, - and ., at most {_LONGEST_NAME} with -v0 and the like"
        )
    return name


def _shown(wish: AKVObject) -> str:
    """An object in a message, as its author knows it."""
    if wish.secret_in_akv:
        return f"secretInAKV {wish.secret_in_akv}"
    if wish.cert_in_akv:
        return f"certInAKV {wish.cert_in_akv}"
    return f"the mapping of {wish.kubernetes_secret_name or 'no name'}"


def _metadata(akv: AKVSync, name: str) -> ObjectMeta:
    owner = OwnerReference(
        api_version=AKVSync.api_version(),
        kind=AKVSync.kind,
        name=akv.metadata.name,
        uid=akv.metadata.uid,
        controller=True,
    )
    return ObjectMeta(name=name, namespace=akv.metadata.namespace, owner_references=[owner])


def _source(akv: AKVSync, histories: dict[str, int]) -> SecretProviderClass:
    lines = ["array:"]
    for name, history in histories.items():
        lines += ["  - |", f"    objectName: {name}", "    objectType: secret"]
        lines += [f"    objectVersionHistory: {history}"] if history > 1 else []
    return SecretProviderClass(
        metadata=_metadata(akv, akv.metadata.name),
        spec=SecretProviderClassSpec(
            provider="azure",
            parameters={
                "clientID": akv.spec.client_id,
                "tenantID": akv.spec.tenant_id,
                "keyvaultName": akv.spec.keyvault_name,
                "objects": "\n".join([*lines, ""]),
            },
        ),
    )


def _sync(akv: AKVSync, secret: _Secret, histories: dict[str, int]) -> SecretSync:
    def path(key: _Key) -> str:
        version = str(key.version) if histories[key.object] > 1 else ""
        return "/".join(filter(None, (key.object, version, key.part)))

    return SecretSync(
        metadata=_metadata(akv, secret.name),
        spec=SecretSyncSpec(
            secret_provider_class_name=akv.metadata.name,
            service_account_name=akv.spec.service_account_name,
            secret_object=SecretObject(
                type=secret.wish.kubernetes_secret_type,
                data=[SecretObjectData(source_path=path(key), target_key=key.key) for key in secret.keys],
                labels=secret.wish.labels,
                annotations=secret.wish.annotations,
            ),
        ),
    )
