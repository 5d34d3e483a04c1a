"""The objects that a SecretProviderClass lists, read as SSE and the CSI provider read them. Pure.

Source: SSE reference, "SecretProviderClass resources"; the CSI provider's "Using the Azure Key Vault Provider". An item
that cannot be used concerns only the SecretSyncs that ask for it: it becomes a sentence that names the line and item,
and says what to write. Only a text without any item is a `ClassError`.
"""

import re
from collections.abc import Iterator, Mapping

import msgspec
import yaml

from controller.errors import ClassError

OBJECT_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")
# The CSI provider writes an object to the file of that name. It accepts every relative path without two dots in a row.
ALIAS = re.compile(r"(?!/)(?!.*\.\.).+", re.DOTALL)
# Key Vault takes anything else for an operation. SSE and the CSI provider take "latest" for no version.
VERSION = re.compile(r"[0-9A-Fa-f]{32}|latest")

# Key Vault keeps at most 500 versions of an object that it can back up (Key Vault, "Backup limitations").
MOST_HISTORY = 500
# Items of one class: their parsing takes about 50 ms of CPU time.
MAX_ITEMS = 2_000
# The outer list, its items and their fields: three levels. More is a mistake, or an attack on the parser's stack.
_DEPTH = 4
# Lines such as `%TAG`. LibYAML compares each one with all before it.
_DIRECTIVES = 8
FIELDS = {
    "objectName",
    "objectType",
    "objectVersion",
    "objectVersionHistory",
    "objectAlias",
    "objectFormat",
    "objectEncoding",
    "filePermission",
}
# What YAML's core schema reads as null, where it is not quoted. Terraform's yamlencode writes it for a field left out.
_NULLS = ("", "~", "null", "Null", "NULL")
# In small letters, as the CSI provider asks; formats and encodings it takes in any.
TYPES = ("secret", "cert", "key")
FORMATS = ("pem", "pfx")
ENCODINGS = ("utf-8", "hex", "base64")


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


def shown(text: str) -> str:
    """Return a user's text for a message: quoted, on one line, at most 60 characters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


class Items(msgspec.Struct):
    """The items that were read so far. `VaultClass` says what each field means."""

    objects: dict[str, VaultObject] = {}
    faults: dict[str, str] = {}
    unnamed_faults: list[str] = []
    warnings: dict[str, list[str]] = {}

    def add(self, found: VaultObject, where: str, warnings: list[str]) -> None:
        """Add an object, unless another one is found at the same sourcePath: then neither can be asked for."""
        name = found.served_as
        twin = self.objects.get(name)
        if twin == found or name in self.faults:  # what stands there twice word for word is fetched once
            return
        if twin:
            types = f", as {twin.type} and as {found.type}" if twin.type != found.type else ""
            history = "" if types else ", or use objectVersionHistory"
            self.fail(name, f"{where}: {brief(name)} is named twice{types}; give one an objectAlias{history}")
        else:
            self.objects[name] = found
            if warnings:
                self.warnings[name] = warnings

    def fail(self, name: str, fault: str) -> None:
        """Keep why nothing is found at a name. The first fault stays."""
        self.objects.pop(name, None)
        self.warnings.pop(name, None)
        self.faults.setdefault(name, fault)


def brief(name: str) -> str:
    """Return a name for a message: as it is, or quoted and cut where it is long or has control characters."""
    return name if name.isprintable() and len(name) <= 60 else shown(name)


def read_objects(text: str) -> Items:
    """Read the parameter `objects`. Raise `ClassError` where it is not a list of items at all."""
    root = _compose(text, "parameter objects")
    entries = dict(_fields(root, "parameter objects", 0)) if isinstance(root, yaml.MappingNode) else {}
    array = entries.get("array")
    if not isinstance(array, yaml.SequenceNode) or not array.value:
        raise ClassError("parameter objects: expected `array:` with one `- |` item per object, see the guide's example")
    if len(array.value) > MAX_ITEMS:
        raise ClassError(
            f"parameter objects: it has {len(array.value)} items, and at most {MAX_ITEMS} are read; split the"
            " SecretProviderClass"
        )
    items = Items()
    for number, item in enumerate(array.value):
        where = f"objects item {number} (line {item.start_mark.line + 1})"
        given: dict[str, str] = {}
        try:
            if not isinstance(item, yaml.ScalarNode):
                raise ClassError(f"{where}: expected a text; write `- |` and the fields below it, indented")
            # A block text begins on the line after its `|`.
            first = item.start_mark.line + (1 if item.style in ("|", ">") else 0)
            warnings: list[str] = []
            node = _compose(item.value, where, first)
            if _is_null(item) or node is None or _is_null(node):
                continue
            _read_fields(node, where, first, given, warnings)
            items.add(_vault_object(given, where), where, warnings)
        except ClassError as error:
            if name := given.get("objectAlias") or given.get("objectName"):
                items.fail(name, error.message)
            else:
                items.unnamed_faults.append(error.message)
    return items


def _read_fields(node: yaml.Node, where: str, first_line: int, given: dict[str, str], warnings: list[str]) -> None:
    """Put into `given` the fields that an item gives; what comes before a fault is there when it is raised."""
    if not isinstance(node, yaml.MappingNode):
        raise ClassError(f"{where}: expected fields such as `objectName: my-secret`")
    for name, value in _fields(node, where, first_line):
        line = f"{where}, line {first_line + value.start_mark.line + 1}"
        if name not in FIELDS:
            meant = next((f"; write {known}" for known in sorted(FIELDS) if known.lower() == name.lower()), "")
            warnings.append(f"{line}: unknown field {shown(name)} is ignored{meant}")
        elif not isinstance(value, yaml.ScalarNode):
            raise ClassError(f"{line}: {name} must be one value")
        elif not _is_null(value):
            given[name] = value.value.strip()


def _vault_object(given: Mapping[str, str], where: str) -> VaultObject:
    """Return the object that the fields of an item mean."""

    def field(name: str, pattern: re.Pattern[str], meaning: str) -> str:
        if (value := given.get(name, "")) and not pattern.fullmatch(value):
            raise ClassError(f"{where}: {name} is {shown(value)}: expected {meaning}")
        return value

    if not given.get("objectName"):
        raise ClassError(f"{where}: objectName is missing")

    def choice(name: str, known: tuple[str, ...], value: str) -> str:
        if value and value not in known:
            raise ClassError(
                f"{where}: {name} is {shown(given[name])}: expected {', '.join(known[:-1])} or {known[-1]}"
            )
        return value or known[0]

    kind = choice("objectType", TYPES, given.get("objectType", ""))
    form = choice("objectFormat", FORMATS, given.get("objectFormat", "").lower())
    encoding = choice("objectEncoding", ENCODINGS, given.get("objectEncoding", "").lower())
    if kind != "secret" and form == "pfx" and given["objectFormat"] != "pfx":
        form = "pem"  # the CSI provider compares the letters here, so that PFX means nothing
    for name, differs in (("objectFormat", form != "pem"), ("objectEncoding", encoding != "utf-8")):
        if differs and kind != "secret":
            raise ClassError(f"{where}: {name} {given[name]} goes with objectType secret alone; {kind} is always PEM")
    history = _go_integer(given.get("objectVersionHistory") or "1")
    if history is None or history > MOST_HISTORY:
        number = shown(given["objectVersionHistory"])
        raise ClassError(f"{where}: objectVersionHistory is {number}: expected a number from 0 to {MOST_HISTORY}")
    version = field("objectVersion", VERSION, "a version's id, 32 hexadecimal digits, or nothing for the newest")
    return VaultObject(
        name=field("objectName", OBJECT_NAME, "1 to 127 letters, digits and -"),
        type=kind,
        version="" if version == "latest" else version,
        history=max(1, history),
        alias=field("objectAlias", ALIAS, "a relative path without two dots in a row"),
        format=form,
        encoding=encoding,
    )


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style and node.value in _NULLS


# How gopkg.in/yaml.v3, which the CSI provider uses, finds a number in a plain text.
_GO_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_GO_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
# An int32's digits and some more: no number that is longer can be meant.
_MOST_DIGITS = 40


def _go_integer(text: str) -> int | None:
    """Return the int32 that SSE reads in a text (010 is 8, 2.0 is 2), or None."""
    plain = text.replace("_", "")
    if len(plain) > _MOST_DIGITS:
        return None
    if match := _GO_INTEGER.fullmatch(plain):
        sign, *digits = match.groups()
        value = next(int(found, base) for found, base in zip(digits, (16, 2, 8, 10), strict=True) if found)
        number = float(-value if sign == "-" else value)
    elif _GO_FLOAT.fullmatch(plain):
        number = float(plain)
    else:
        return None
    return int(number) if abs(number) < 2**31 else None


def _fields(node: yaml.MappingNode, where: str, first_line: int) -> Iterator[tuple[str, yaml.Node]]:
    seen: set[str] = set()
    for key, value in node.value:
        line = first_line + key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ClassError(f"{where}, line {line}: a field's name must be one word")
        if key.value in seen:
            raise ClassError(f"{where}, line {line}: {shown(key.value)} is given twice")
        seen.add(key.value)
        yield key.value, value


def _compose(text: str, where: str, first_line: int = 0) -> yaml.Node | None:
    """The text's nodes. Every scalar stays the text it is: YAML's `no`, `1e3` or `0x10` are names here.

    Depth and aliases are checked on the event stream first: the C composer recurses, and a text of a million brackets
    would end the process.
    """
    directives = sum(line.startswith("%") for line in text.splitlines())
    if directives > _DIRECTIVES:
        raise ClassError(
            f"{where}: it has {directives} lines that begin with %, and at most {_DIRECTIVES} are read; remove them"
        )
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
