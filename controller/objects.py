"""What a SecretProviderClass asks for, and what a sourcePath of a SecretSync means in it. Pure.

Source: SSE reference, "SecretProviderClass resources"; the CSI provider's "Using the Azure Key Vault Provider".
Every refusal is a `ClassError` that names the parameter, or the line and item of `objects`, and says what to write.
"""

import enum
import re
from collections.abc import Iterator, Mapping

import msgspec
import yaml

from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import TLS_TYPE, SecretObject, SecretObjectData
from controller.errors import ClassError, InputError

VAULT_NAME = re.compile(r"[A-Za-z](?:-?[A-Za-z0-9]){2,23}")
TENANT = re.compile(r"[A-Za-z0-9.-]{1,253}")
CLIENT = re.compile(r"[A-Za-z0-9-]{1,128}")
OBJECT_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")
# The CSI provider writes an object to the file of that name, and takes folders too.
ALIAS = re.compile(r"(?=.{1,253}\Z)(?!.*\.\.)[A-Za-z0-9.][-._A-Za-z0-9]*(/[-._A-Za-z0-9]+)*")
# Key Vault takes anything else for an operation. SSE and the CSI provider take "latest" for no version.
VERSION = re.compile(r"[0-9A-Fa-f]{32}|latest")

# Key Vault keeps at most 500 versions of an object that it can back up (Key Vault, "Backup limitations").
MOST_HISTORY = 500
# The outer list, its items and their fields: three levels. More is a mistake, or an attack on the parser's stack.
_DEPTH = 4
_FIELDS = {
    "objectName",
    "objectType",
    "objectVersion",
    "objectVersionHistory",
    "objectAlias",
    "objectFormat",
    "objectEncoding",
    "filePermission",
}
_IDENTITY_SWITCHES = ("usePodIdentity", "useVMManagedIdentity", "useAzureTokenProxy")
_OFF = ("false", "f", "0")
# In small letters, as the CSI provider asks; formats and encodings it takes in any.
TYPES = ("secret", "cert", "key")
FORMATS = ("pem", "pfx")
ENCODINGS = ("utf-8", "hex", "base64")


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


class VaultObject(msgspec.Struct, frozen=True, kw_only=True):
    """One object of the vault. `version` is empty for the newest; `history` 1 means that version alone."""

    name: str
    type: str = "secret"
    version: str = ""
    history: int = 1
    alias: str = ""
    format: str = "pem"
    encoding: str = "utf-8"

    @property
    def served_as(self) -> str:
        """The first part of the sourcePath that finds it."""
        return self.alias or self.name

    @property
    def noun(self) -> str:
        """What a message calls it."""
        return f"{'certificate' if self.type == 'cert' else self.type} {self.name}"


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

    `client_id` and `tenant_id` are empty where the ServiceAccount tells them.
    """

    vault: str
    client_id: str
    tenant_id: str
    cloud: str = ""
    objects: Mapping[str, VaultObject] = {}

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
        """What stands at a sourcePath; `InputError` says what would. An object of that very name comes first."""
        for stem, part in self._readings(source_path):
            name, _, number = stem.rpartition("/")
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
        known = ", ".join(sorted(self.objects)[:10]) or "none"
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
    if "userAssignedIdentityID" in parameters:
        raise ClassError(
            "parameter userAssignedIdentityID belongs to another way to sign in: rename it to clientID, federate that"
            " identity with the ServiceAccount"
        )
    if "cloudEnvFileName" in parameters:
        raise ClassError(
            "parameter cloudEnvFileName names a file on the node: ask the administrator to add the cloud to the chart's"
            " `clouds` and name it in cloudName"
        )
    return VaultClass(
        vault=_parameter(parameters, ("keyvaultName",), VAULT_NAME, "a Key Vault's name, 3 to 24 letters, digits, -"),
        client_id=_parameter(
            parameters, ("clientID", "clientId"), CLIENT, "the managed identity's client id", without_identity
        ),
        tenant_id=_parameter(
            parameters, ("tenantID", "tenantId"), TENANT, "the Key Vault's tenant id", without_identity
        ),
        cloud=parameters.get("cloudName", ""),
        objects=_read_objects(source.spec.parameters.get("objects", "")),
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
                raise ClassError(f"parameter {name} is {_shown(value)}: expected {meaning}")
            return value
    if optional:
        return ""
    raise ClassError(f"parameter {names[0]} is missing: set it to {meaning}")


def _shown(text: str) -> str:
    """Somebody's text in a message: quoted, on one line, not endless."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _read_objects(text: str) -> dict[str, VaultObject]:
    root = _compose(text, "parameter objects")
    entries = dict(_fields(root, "parameter objects", 0)) if isinstance(root, yaml.MappingNode) else {}
    array = entries.get("array")
    if not isinstance(array, yaml.SequenceNode) or not array.value:
        raise ClassError("parameter objects: expected `array:` with one `- |` item per object, see the guide's example")
    objects: dict[str, VaultObject] = {}
    for number, item in enumerate(array.value):
        where = f"objects item {number} (line {item.start_mark.line + 1})"
        if not isinstance(item, yaml.ScalarNode):
            raise ClassError(f"{where}: expected a text; write `- |` and the fields below it, indented")
        # A block text begins on the line after its `|`.
        first = item.start_mark.line + (1 if item.style in ("|", ">") else 0)
        found = _read_object(item.value, where, first)
        if twin := objects.get(found.served_as):
            types = f", as {twin.type} and as {found.type}" if twin.type != found.type else ""
            history = "" if types else ", or use objectVersionHistory"
            raise ClassError(f"{where}: {found.served_as} is named twice{types}; give one an objectAlias{history}")
        objects[found.served_as] = found
    return objects


def _read_object(text: str, where: str, first_line: int) -> VaultObject:
    node = _compose(text, where, first_line)
    if not isinstance(node, yaml.MappingNode):
        raise ClassError(f"{where}: expected fields such as `objectName: my-secret`")
    given: dict[str, str] = {}
    for name, value in _fields(node, where, first_line):
        line = f"{where}, line {first_line + value.start_mark.line + 1}"
        if name not in _FIELDS:
            raise ClassError(f"{line}: unknown field {_shown(name)}; known are {', '.join(sorted(_FIELDS))}")
        if not isinstance(value, yaml.ScalarNode):
            raise ClassError(f"{line}: {name} must be one value")
        given[name] = value.value.strip()

    def field(name: str, pattern: re.Pattern[str], meaning: str) -> str:
        if (value := given.get(name, "")) and not pattern.fullmatch(value):
            raise ClassError(f"{where}: {name} is {_shown(value)}: expected {meaning}")
        return value

    if not given.get("objectName"):
        raise ClassError(f"{where}: objectName is missing")

    def choice(name: str, known: tuple[str, ...], value: str) -> str:
        if value and value not in known:
            raise ClassError(
                f"{where}: {name} is {_shown(given[name])}: expected {', '.join(known[:-1])} or {known[-1]}"
            )
        return value or known[0]

    kind = choice("objectType", TYPES, given.get("objectType", ""))
    form = choice("objectFormat", FORMATS, given.get("objectFormat", "").lower())
    encoding = choice("objectEncoding", ENCODINGS, given.get("objectEncoding", "").lower())
    for name, differs in (("objectFormat", form != "pem"), ("objectEncoding", encoding != "utf-8")):
        if differs and kind != "secret":
            raise ClassError(f"{where}: {name} {given[name]} goes with objectType secret alone; {kind} is always PEM")
    history = given.get("objectVersionHistory") or "1"
    if not re.fullmatch(r"[0-9]{1,4}", history) or int(history) > MOST_HISTORY:
        raise ClassError(
            f"{where}: objectVersionHistory is {_shown(history)}: expected a number from 0 to {MOST_HISTORY}"
        )
    version = field("objectVersion", VERSION, "a version's id, 32 hexadecimal digits, or nothing for the newest")
    return VaultObject(
        name=field("objectName", OBJECT_NAME, "1 to 127 letters, digits and -"),
        type=kind,
        version="" if version == "latest" else version,
        history=max(1, int(history)),
        alias=field("objectAlias", ALIAS, "letters, digits, - . _ and, between folders, /; never two dots in a row"),
        format=form,
        encoding=encoding,
    )


def _fields(node: yaml.MappingNode, where: str, first_line: int) -> Iterator[tuple[str, yaml.Node]]:
    seen: set[str] = set()
    for key, value in node.value:
        line = first_line + key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ClassError(f"{where}, line {line}: a field's name must be one word")
        if key.value in seen:
            raise ClassError(f"{where}, line {line}: {_shown(key.value)} is given twice")
        seen.add(key.value)
        yield key.value, value


def _compose(text: str, where: str, first_line: int = 0) -> yaml.Node | None:
    """The text's nodes. Every scalar stays the text it is: YAML's `no`, `1e3` or `0x10` are names here.

    Depth and aliases are checked on the event stream first: the C composer recurses, and a text of a million brackets
    would end the process.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CBaseLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH or isinstance(event, yaml.AliasEvent):
                number = first_line + (event.start_mark.line if event.start_mark else 0) + 1
                what = "an alias" if depth <= _DEPTH else f"more than {_DEPTH} levels"
                raise ClassError(f"{where}, line {number}: {what}; expected `array:` with one `- |` item per object")
        return yaml.compose(text, Loader=yaml.CBaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {first_line + mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise ClassError(f"{where}{line}: not YAML: {problem}") from error
