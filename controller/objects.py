"""What a SecretProviderClass asks for, and what a sourcePath of a SecretSync means in it. Pure.

Source: SSE reference, "SecretProviderClass resources"; the CSI provider's "Using the Azure Key Vault Provider".
Every refusal is a `ClassError` that names the parameter, or the line and item of `objects`, and says what to write. An
item of `objects` that cannot be used concerns only the SecretSyncs that ask for it.
"""

import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import msgspec

from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import TLS_TYPE, SecretObject, SecretObjectData
from controller.errors import ClassError, InputError
from controller.vault_objects import VaultObject as VaultObject
from controller.vault_objects import brief, read_objects, shown

VAULT_NAME = re.compile(r"[A-Za-z](?:-?[A-Za-z0-9]){2,23}")
TENANT = re.compile(r"[A-Za-z0-9.-]{1,253}")
CLIENT = re.compile(r"[A-Za-z0-9-]{1,128}")
_CLIENT_ID = ("clientID", "clientId")
_IDENTITY_SWITCHES = ("usePodIdentity", "useVMManagedIdentity", "useAzureTokenProxy")
_OFF = ("false", "f", "0")


class Part(enum.StrEnum):
    """What of an object's content a key takes. The private key of a TLS Secret is PKCS#1 or SEC 1, as upstream's."""

    WHOLE = "all of it"
    CERTIFICATES = "its certificates"
    PRIVATE_KEY = "its private key"
    TLS_KEY = "its private key for TLS"


# How a sourcePath names a part of a certificate: as SSE does, and as the CSI provider's option does.
_PARTS = {
    "/tls.crt": Part.CERTIFICATES,
    "/tls.key": Part.PRIVATE_KEY,
    ".crt": Part.CERTIFICATES,
    ".key": Part.PRIVATE_KEY,
}
# Of a TLS Secret's keys, these take their part out of whatever stands at the sourcePath, as upstream does.
_TLS_PARTS = {"tls.crt": Part.CERTIFICATES, "tls.key": Part.TLS_KEY}


class VersionOf(msgspec.Struct, frozen=True):
    """One version of one object, the `index`-th newest counted from 0 at the object's own version; or a part of it."""

    object: VaultObject
    index: int = 0
    part: Part = Part.WHOLE

    @property
    def whole(self) -> "VersionOf":
        """The version, which is what a vault is asked for."""
        return VersionOf(self.object, self.index)

    def __str__(self) -> str:
        return f"{self.object.type}/{self.object.name}" + (f"/{self.index}" if self.object.history > 1 else "")


class VaultClass(msgspec.Struct, frozen=True, kw_only=True):
    """A SecretProviderClass, understood. `cloud` is empty for the administrator's default.

    `client_id` and `tenant_id` are empty where the ServiceAccount tells them. `faults` and `warnings` are sentences by
    the first part of the sourcePath: why no SecretSync can have that object, and what was ignored in it. An item that
    does not even say its name is in `unnamed_faults`.
    """

    vault: str
    client_id: str
    tenant_id: str
    cloud: str = ""
    objects: Mapping[str, VaultObject] = {}
    faults: Mapping[str, str] = {}
    unnamed_faults: Sequence[str] = ()
    warnings: Mapping[str, Sequence[str]] = {}

    @property
    def problems(self) -> list[str]:
        """Return everything that is wrong with single items, for a person who examines the class."""
        return [*self.faults.values(), *self.unnamed_faults, *chain.from_iterable(self.warnings.values())]

    def warnings_about(self, wanted: Iterable[VersionOf]) -> tuple[str, ...]:
        """Return what was ignored in the items of these objects, each sentence once."""
        names = dict.fromkeys(version.object.served_as for version in wanted)
        return tuple(chain.from_iterable(self.warnings.get(name, ()) for name in names))

    def wanted(self, secret: SecretObject) -> dict[str, VersionOf]:
        """What each key of a Secret is made from, by targetKey; `InputError` where there is no such thing."""
        return {pair.target_key: self._wanted(secret.type, pair) for pair in secret.data}

    def _wanted(self, secret_type: str, pair: SecretObjectData) -> VersionOf:
        found = self.find(pair.source_path)
        part = _TLS_PARTS.get(pair.target_key) if secret_type == TLS_TYPE else None
        if part is None:
            return found
        if found.part is not Part.WHOLE and (found.part is Part.CERTIFICATES) != (part is Part.CERTIFICATES):
            raise InputError(
                f"targetKey {pair.target_key} of a {TLS_TYPE} Secret takes {part.value}, and sourcePath"
                f" {pair.source_path} is {found.part.value}; exchange the two sourcePaths, or write the name alone"
            )
        if found.object.type != "secret" and (found.object.type, part) != ("cert", Part.CERTIFICATES):
            raise InputError(
                f"targetKey {pair.target_key} of a {TLS_TYPE} Secret takes {part.value}, which objectType"
                f" {found.object.type} does not have; give {found.object.served_as} objectType secret in the"
                " SecretProviderClass"
            )
        return msgspec.structs.replace(found, part=part)

    def find(self, source_path: str) -> VersionOf:
        """Return what a sourcePath means; an object of that very name comes first.

        Raise `InputError`, which says what can be written, or `ClassError` where that item of the class is at fault.
        """
        for stem, part in self._readings(source_path):
            name, _, number = stem.rpartition("/")
            if fault := self.faults.get(stem) or self.faults.get(name):
                raise ClassError(fault)
            if found := self.objects.get(stem):
                version = VersionOf(found, 0, part)
                fits = found.history <= 1
            elif (found := self.objects.get(name)) and number.isascii() and number.isdigit():
                version = VersionOf(found, int(number), part)
                # The CSI provider serves one version more than it is asked for; whoever mapped that one gets it.
                fits = 1 < found.history >= version.index
            else:
                continue
            if not fits or (part is not Part.WHOLE and found.type != "secret"):
                raise InputError(f"sourcePath {source_path}: {_offer(found)}")
            return version
        if found := self.objects.get(source_path.partition("/")[0]):
            raise InputError(f"sourcePath {source_path}: {_offer(found)}")
        if self.unnamed_faults:
            raise ClassError(f"sourcePath {source_path}: no such object, and {self.unnamed_faults[0]}")
        known = ", ".join(map(brief, sorted(self.objects)[:10])) or "none"
        raise InputError(f"sourcePath {source_path}: the SecretProviderClass has no such object; it has: {known}")

    def _readings(self, source_path: str) -> Iterator[tuple[str, Part]]:
        yield source_path, Part.WHOLE
        for suffix, part in _PARTS.items():
            if source_path.endswith(suffix):
                yield source_path.removesuffix(suffix), part


def _offer(found: VaultObject) -> str:
    """What may be written to have that object."""
    name = found.served_as
    if found.history > 1:
        text = f"{name} has objectVersionHistory {found.history}, so write {name}/0 to {name}/{found.history - 1}"
        first = f"{name}/0"
    else:
        text = f"{name} has no objectVersionHistory above 1 in the SecretProviderClass, so write {name} alone"
        first = name
    if found.type == "secret":
        return f"{text}; the parts of a certificate are {first}/tls.crt and {first}/tls.key"
    return f"{text}; objectType {found.type} has no parts, secret has"


def read_class(source: SecretProviderClass, *, without_identity: bool = False) -> VaultClass:
    """Understands a SecretProviderClass, or raises `ClassError`. `without_identity`: it may leave that out."""
    if source.spec.provider != "azure":
        raise ClassError(f"spec.provider is {source.spec.provider!r}: this controller serves azure alone")
    # An absent parameter and an empty one mean the same to the CSI provider.
    parameters = {key: value.strip() for key, value in source.spec.parameters.items() if value.strip()}
    for switch in _IDENTITY_SWITCHES:
        if parameters.get(switch, "false").lower() not in _OFF:
            raise ClassError(
                f"parameter {switch} is {parameters[switch]!r}: only workload identity is served;"
                " remove it and set clientID and tenantID"
            )
    # The CSI provider prefers clientID, and so ignores the other.
    if "userAssignedIdentityID" in parameters and not parameters.keys() & set(_CLIENT_ID):
        raise ClassError(
            "parameter userAssignedIdentityID belongs to another way to sign in: rename it to clientID, federate that"
            " identity with the ServiceAccount"
        )
    if "cloudEnvFileName" in parameters:
        raise ClassError(
            "parameter cloudEnvFileName names a file on the node: ask the administrator to add the cloud to the chart's"
            " `clouds` and name it in cloudName"
        )
    items = read_objects(source.spec.parameters.get("objects", ""))
    return VaultClass(
        vault=_parameter(parameters, ("keyvaultName",), VAULT_NAME, "a Key Vault's name, 3 to 24 letters, digits, -"),
        client_id=_parameter(parameters, _CLIENT_ID, CLIENT, "the managed identity's client id", without_identity),
        tenant_id=_parameter(
            parameters, ("tenantID", "tenantId"), TENANT, "the Key Vault's tenant id", without_identity
        ),
        cloud=parameters.get("cloudName", ""),
        objects=items.objects,
        faults=items.faults,
        unnamed_faults=items.unnamed_faults,
        warnings=items.warnings,
    )


def _parameter(
    parameters: Mapping[str, str],
    names: tuple[str, ...],
    pattern: re.Pattern[str],
    meaning: str,
    optional: bool = False,
) -> str:
    for name in names:
        if value := parameters.get(name):
            if not pattern.fullmatch(value):
                raise ClassError(f"parameter {name} is {shown(value)}: expected {meaning}")
            return value
    if optional:
        return ""
    raise ClassError(f"parameter {names[0]} is missing: set it to {meaning}")
