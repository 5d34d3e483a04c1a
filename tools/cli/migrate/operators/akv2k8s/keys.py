"""Convert the keys of an AzureKeyVaultSecret: those of its Secret, and those of injected values. Pure.

A part without a counterpart raises `InexpressibleSecret`, which names the best alternative.
"""

from collections.abc import Iterator

from controller.api.secretsync import DEFAULT_TYPE, TLS_TYPE
from tools.cli.migrate.objects import Manifest
from tools.cli.migrate.operators.akv2k8s.kinds import AzureKeyVaultSecret, VaultObject
from tools.cli.migrate.operators.wanted_secrets import (
    OBJECT_NAME,
    PEM_PARTS,
    VERSION_ID,
    InexpressibleSecret,
    SecretEntry,
)

# The key of a new Secret that takes the place of an injected value without a query.
VALUE_KEY = "value"
# The key of each type of Secret that has only one key.
_ONE_KEY = {
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
    "kubernetes.io/dockercfg": ".dockercfg",
    "kubernetes.io/ssh-auth": "ssh-privatekey",
}
_SEVERAL = "multi-key-value-secret"
_BASIC_AUTH = "kubernetes.io/basic-auth"
_SPLIT = "store the user and the password as two secrets in the vault"


def convert_whole(source: AzureKeyVaultSecret) -> Manifest | None:
    """Return the AKVSync's object for a value that becomes several keys, or None if it becomes one key."""
    found, kind = source.spec.vault.object, source.spec.output.secret.type or DEFAULT_TYPE
    is_expanded = found.type == _SEVERAL
    if not is_expanded and (found.type, kind) != ("secret", _BASIC_AUTH):
        return None
    if is_expanded and kind != DEFAULT_TYPE:
        raise InexpressibleSecret(f"a key for each property needs type {DEFAULT_TYPE}: map the properties one by one")
    if _version_of(found) or (not is_expanded and _encoding_of(source)):
        raise InexpressibleSecret(
            "it splits an old or encoded version of the value: store the parts as secrets of their own"
        )
    return {"secretInAKV": _object_name(found)} | ({"expand": True} if is_expanded else {})


def convert_entries(source: AzureKeyVaultSecret) -> Iterator[SecretEntry]:
    """Yield the keys that the controller of akv2k8s writes. Raise `InexpressibleSecret`."""
    found, output = source.spec.vault.object, source.spec.output.secret
    version, encoding = _version_of(found), ""
    kind = output.type or DEFAULT_TYPE
    name = _object_name(found)
    match found.type:
        case "secret" | "certificate" if kind == TLS_TYPE:
            # akv2k8s transforms no certificates.
            encoding = _encoding_of(source) if found.type == "secret" else ""
            for part in PEM_PARTS:
                yield SecretEntry(key=part, object=name, version=version, part=part, encoding=encoding)
            return
        case "secret":
            encoding = _encoding_of(source)
        case "certificate" if output.type == DEFAULT_TYPE:
            raise InexpressibleSecret(
                "akv2k8s writes a whole certificate as it was imported, a PFX as bytes: map it in a SecretProviderClass"
                " with objectFormat pfx and objectEncoding base64, or read tls.crt and tls.key of a second Secret"
            )
        case "certificate":
            yield SecretEntry(key=output.data_key, object=name, version=version, type="cert")
            return
        case other:
            raise InexpressibleSecret(_why_not(other))
    key = _ONE_KEY.get(kind, output.data_key)
    if not key:
        raise InexpressibleSecret("it has no dataKey, and its Secret's type has no usual key")
    yield SecretEntry(key=key, object=name, version=version, encoding=encoding)


def convert_injected(source: AzureKeyVaultSecret, query: str) -> SecretEntry:
    """Return the key of a Secret for the value that the env-injector injects. Raise `InexpressibleSecret`."""
    found = source.spec.vault.object
    name, version = _object_name(found), _version_of(found)
    match found.type, query:
        case "secret", "":
            return SecretEntry(key=VALUE_KEY, object=name, version=version, encoding=_encoding_of(source))
        case "secret", "username" | "password":
            raise InexpressibleSecret(f"it takes a half of user:password: {_SPLIT}")
        case "secret", _:
            raise InexpressibleSecret(f"a secret has no {query!r}")
        case "certificate", "tls.key":
            return SecretEntry(key="tls.key", object=name, version=version, part="tls.key")
        case "certificate", "raw":
            raise InexpressibleSecret("the bytes of a whole certificate are not a text: mount them as a file")
        case "certificate", _:
            return SecretEntry(key="tls.crt", object=name, version=version, type="cert")
        case "multi-key-value-secret", "":
            raise InexpressibleSecret("it names no property of the value: write NAME@azurekeyvault?PROPERTY")
        case "multi-key-value-secret", _:
            # A dot in the name of a property does not separate parts of a path.
            return SecretEntry(key=query, object=name, version=version, property=query.replace(".", "\\."))
    raise InexpressibleSecret(_why_not(found.type))


def _why_not(kind: str) -> str:
    if kind == "key":
        return (
            "akv2k8s writes the modulus of a key as bytes, and this controller writes PEM: map the key in a"
            " SecretProviderClass with objectType key, in a second Secret, and let the workload read that"
        )
    return f"the object type {kind!r} is none of secret, certificate, key and multi-key-value-secret"


def _object_name(found: VaultObject) -> str:
    if not OBJECT_NAME.fullmatch(found.name):
        raise InexpressibleSecret(f"{found.name!r} is not the name of an object in Key Vault")
    return found.name


def _version_of(found: VaultObject) -> str:
    if found.version and not VERSION_ID.fullmatch(found.version):
        raise InexpressibleSecret(f"version {found.version!r} is not a version's id, which has 32 hexadecimal digits")
    return found.version


def _encoding_of(source: AzureKeyVaultSecret) -> str:
    """Return the encoding to decode. Spaces around base64 have no effect, but around other values they do."""
    transforms = [*source.spec.output.transform, *source.spec.output.transforms]
    if not transforms:
        return ""
    if transforms in (["base64decode"], ["trim", "base64decode"]):
        return "base64"
    raise InexpressibleSecret(
        f"the transforms {', '.join(transforms)} have no counterpart: store the transformed value in the vault"
    )
