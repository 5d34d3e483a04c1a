"""Parse a SecretProviderClass, and resolve the sourcePaths of a SecretSync in it. Pure.

Source: SSE reference, "SecretProviderClass resources"; the CSI provider's "Using the Azure Key Vault Provider". Each
refusal is a `ClassError` that names the parameter, or the line and item of `objects`, and the fix. An invalid item of
`objects` affects only the SecretSyncs that use it.
"""

import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import msgspec

from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import DEFAULT_TYPE, TLS_TYPE, SecretObject, SecretObjectData
from controller.domain.vault_objects import VaultObject as VaultObject
from controller.domain.vault_objects import quote_text, read_objects, shorten_name
from controller.errors import ClassError, InputError

VAULT_NAME = re.compile(r"(?=.{3,24}\Z)[A-Za-z](?:-?[A-Za-z0-9])+")
TENANT = re.compile(r"[A-Za-z0-9.-]{1,253}")
CLIENT = re.compile(r"[A-Za-z0-9-]{1,128}")
_CLIENT_ID = ("clientID", "clientId")
_IDENTITY_SWITCHES = ("usePodIdentity", "useVMManagedIdentity", "useAzureTokenProxy")
_OFF = ("false", "f", "0")


class ObjectPart(enum.StrEnum):
    """The part of an object's content for a key. The private key of a TLS Secret is PKCS#1 or SEC 1, as in upstream."""

    WHOLE = "all of it"
    CERTIFICATES = "its certificates"
    PRIVATE_KEY = "its private key"
    TLS_KEY = "its private key for TLS"
    ISSUERS = "its chain without the leaf"
    USERNAME = "its user name"
    PASSWORD = "its password"  # noqa: S105 - the word is not a password


# The names of a certificate's parts in a sourcePath: SSE's, and those of the CSI provider's option. The first reading
# that finds an object counts, so `web.ca.crt` can also mean the certificates of an object with the alias `web.ca`.
_PARTS = {
    "/tls.crt": ObjectPart.CERTIFICATES,
    "/tls.key": ObjectPart.PRIVATE_KEY,
    ".crt": ObjectPart.CERTIFICATES,
    ".key": ObjectPart.PRIVATE_KEY,
    "/ca.crt": ObjectPart.ISSUERS,
    ".ca.crt": ObjectPart.ISSUERS,
    "/username": ObjectPart.USERNAME,
    "/password": ObjectPart.PASSWORD,
}
# These keys of a TLS Secret extract their part from the object at the sourcePath, as in upstream.
_TLS_PARTS = {"tls.crt": ObjectPart.CERTIFICATES, "tls.key": ObjectPart.TLS_KEY}
# The number of a version in a sourcePath. The largest objectVersionHistory has ten digits, and `int` refuses 4,301.
_VERSION_INDEX = re.compile(r"[0-9]{1,10}")
# The suffix of an expanded item's targetKey in lists of keys. The item can have any number of keys in the Secret.
EXPANDED_SUFFIX = "/*"
# The parts that a sourcePath can name if a key of a TLS Secret extracts a part.
_FITTING = {
    ObjectPart.CERTIFICATES: (ObjectPart.WHOLE, ObjectPart.CERTIFICATES),
    ObjectPart.TLS_KEY: (ObjectPart.WHOLE, ObjectPart.PRIVATE_KEY),
}


class ObjectVersionRef(msgspec.Struct, frozen=True):
    """One version of one object, or a part of it. `index` counts from the object's own version, 0, to older ones."""

    object: VaultObject
    index: int = 0
    part: ObjectPart = ObjectPart.WHOLE

    @property
    def whole(self) -> "ObjectVersionRef":
        """Return the whole version. The vault is asked for it once for all parts and aliases."""
        return ObjectVersionRef(self.object.in_vault, self.index)

    def __str__(self) -> str:
        return f"{self.object.type}/{self.object.name}" + (f"/{self.index}" if self.object.history > 1 else "")


class ProviderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed SecretProviderClass. `cloud` is empty for the administrator's default.

    `client_id` and `tenant_id` are empty if the ServiceAccount has them. `faults` and `warnings` are sentences by the
    first part of the sourcePath: why no SecretSync can use that object, and which of its fields are ignored.
    `histories` are the objects with several versions. `objects` has one of them only if no other object has its name.
    `unnamed_faults` has the faults of items without a name.
    """

    vault: str
    client_id: str
    tenant_id: str
    cloud: str
    objects: Mapping[str, VaultObject] = {}
    histories: Mapping[str, VaultObject] = {}
    faults: Mapping[str, str] = {}
    unnamed_faults: Sequence[str] = ()
    warnings: Mapping[str, Sequence[str]] = {}

    @property
    def all_objects(self) -> list[VaultObject]:
        """Return every object once."""
        both = (found for name, found in self.histories.items() if self.objects[name] is not found)
        return [*self.objects.values(), *both]

    @property
    def item_problems(self) -> list[str]:
        """Return all faults of single items, for a person who examines the class."""
        return [*self.faults.values(), *self.unnamed_faults, *chain.from_iterable(self.warnings.values())]

    def warnings_about(self, wanted: Iterable[ObjectVersionRef]) -> tuple[str, ...]:
        """Return the warnings about the items of these objects, each sentence once."""
        names = dict.fromkeys(version.object.served_as for version in wanted)
        return tuple(chain.from_iterable(self.warnings.get(name, ()) for name in names))

    def wanted(self, secret: SecretObject) -> dict[str, ObjectVersionRef]:
        """Return the source of each key of a Secret by targetKey, or an `InputError` if there is none.

        An expanded item has the key `<targetKey>/*`, which cannot be the key of a Secret.
        """
        found = [(pair, self._resolve_key(secret.type, pair)) for pair in secret.data]
        return {pair.target_key + (EXPANDED_SUFFIX if item.object.expand else ""): item for pair, item in found}

    def _resolve_key(self, secret_type: str, pair: SecretObjectData) -> ObjectVersionRef:
        found = self.resolve_path(pair.source_path)
        if found.object.expand and (secret_type != DEFAULT_TYPE or found.part is not ObjectPart.WHOLE):
            raise InputError(
                f"sourcePath {pair.source_path} has objectExpand in the SecretProviderClass, which needs type"
                f" {DEFAULT_TYPE} and no part; give each key an item with objectProperty and objectAlias instead"
            )
        part = _TLS_PARTS.get(pair.target_key) if secret_type == TLS_TYPE else None
        if part is None:
            return found
        if found.part not in _FITTING[part]:
            raise InputError(
                f"targetKey {pair.target_key} of a {TLS_TYPE} Secret takes {part.value}, and sourcePath"
                f" {pair.source_path} is {found.part.value}; exchange the two sourcePaths, or write the name alone"
            )
        if found.object.type != "secret" and (found.object.type, part) != ("cert", ObjectPart.CERTIFICATES):
            raise InputError(
                f"targetKey {pair.target_key} of a {TLS_TYPE} Secret takes {part.value}, which objectType"
                f" {found.object.type} does not have; give {found.object.served_as} objectType secret in the"
                " SecretProviderClass"
            )
        return msgspec.structs.replace(found, part=part)

    def resolve_path(self, source_path: str) -> ObjectVersionRef:
        """Return the object that a sourcePath means. An object with exactly that name comes first.

        Raise `InputError` with the valid sourcePaths, or `ClassError` if that item of the class is invalid.
        """
        for stem, part in self._possible_objects(source_path):
            name, _, number = stem.rpartition("/")
            if fault := self.faults.get(stem) or self.faults.get(name):
                raise ClassError(fault)
            if found := self.objects.get(stem):
                version = ObjectVersionRef(found, 0, part)
                fits = found.history <= 1
            elif (found := self.histories.get(name) or self.objects.get(name)) and _VERSION_INDEX.fullmatch(number):
                version = ObjectVersionRef(found, int(number), part)
                # The CSI provider serves one version more than requested, so a mapping of that version is valid.
                fits = 1 < found.history >= version.index
            else:
                continue
            if not fits or (part is not ObjectPart.WHOLE and found.type != "secret"):
                raise InputError(f"sourcePath {source_path}: {_offer_paths(found)}")
            return version
        if found := self.objects.get(source_path.partition("/")[0]):
            raise InputError(f"sourcePath {source_path}: {_offer_paths(found)}")
        if self.unnamed_faults:
            raise ClassError(f"sourcePath {source_path}: no such object, and {self.unnamed_faults[0]}")
        known = ", ".join(map(shorten_name, sorted(self.objects)[:10])) or "none"
        raise InputError(f"sourcePath {source_path}: the SecretProviderClass has no such object; it has: {known}")

    def _possible_objects(self, source_path: str) -> Iterator[tuple[str, ObjectPart]]:
        yield source_path, ObjectPart.WHOLE
        for suffix, part in _PARTS.items():
            if source_path.endswith(suffix):
                yield source_path.removesuffix(suffix), part


def _offer_paths(vault_object: VaultObject) -> str:
    """Return the sourcePaths that find that object."""
    name = vault_object.served_as
    if vault_object.history > 1:
        count = vault_object.history
        text = f"{name} has objectVersionHistory {count}, so write {name}/0 to {name}/{count - 1}"
        first = f"{name}/0"
    else:
        text = f"{name} has no objectVersionHistory above 1 in the SecretProviderClass, so write only {name}"
        first = name
    if vault_object.type == "secret":
        return (
            f"{text}; the parts of a certificate are {first}/tls.crt, {first}/tls.key and {first}/ca.crt, those of a"
            f" login {first}/username and {first}/password"
        )
    return f"{text}; objectType {vault_object.type} has no parts, secret has"


def read_class(source: SecretProviderClass, *, without_identity: bool = False) -> ProviderConfig:
    """Parse a SecretProviderClass, or raise `ClassError`. `without_identity` makes the identity optional."""
    if source.spec.provider != "azure":
        raise ClassError(f"spec.provider is {source.spec.provider!r}: this controller serves only azure")
    # The CSI provider treats an absent and an empty parameter alike.
    parameters = {key: value.strip() for key, value in source.spec.parameters.items() if value.strip()}
    for switch in _IDENTITY_SWITCHES:
        if parameters.get(switch, "false").lower() not in _OFF:
            raise ClassError(
                f"parameter {switch} is {parameters[switch]!r}: only workload identity is supported;"
                " remove it and set clientID and tenantID"
            )
    # The CSI provider prefers clientID and ignores the other parameter.
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
    return ProviderConfig(
        vault=_read_parameter(
            parameters, ("keyvaultName",), VAULT_NAME, "a Key Vault's name, 3 to 24 letters, digits, -"
        ),
        client_id=_read_parameter(parameters, _CLIENT_ID, CLIENT, "the managed identity's client id", without_identity),
        tenant_id=_read_parameter(
            parameters, ("tenantID", "tenantId"), TENANT, "the Key Vault's tenant id", without_identity
        ),
        cloud=parameters.get("cloudName", ""),
        objects=items.objects,
        histories=items.histories,
        faults=items.faults,
        unnamed_faults=items.unnamed_faults,
        warnings=items.warnings,
    )


def _vault_in_address(value: str) -> str:
    """Return the hint if the invalid name of a vault is its address, else an empty text."""
    name = value.removeprefix("https://").partition(".")[0]
    return f"; write {name}" if VAULT_NAME.fullmatch(name) else ""


def _read_parameter(
    parameters: Mapping[str, str],
    names: tuple[str, ...],
    pattern: re.Pattern[str],
    meaning: str,
    optional: bool = False,
) -> str:
    for name in names:
        if value := parameters.get(name):
            if not pattern.fullmatch(value):
                hint = _vault_in_address(value) if name == "keyvaultName" else ""
                raise ClassError(f"parameter {name} is {quote_text(value)}: expected {meaning}{hint}")
            return value
    if optional:
        return ""
    raise ClassError(f"parameter {names[0]} is missing: set it to {meaning}")
