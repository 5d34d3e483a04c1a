"""Read the objects that a SecretProviderClass lists, with the rules of SSE and the CSI provider. Pure.

Source: SSE reference, "SecretProviderClass resources"; the CSI provider's "Using the Azure Key Vault Provider". An
invalid item affects only the SecretSyncs that use it: it becomes a sentence that names the line, the item and the fix.
Only a text without any item is a `ClassError`.
"""

import base64
import contextlib
import posixpath
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import yaml

from controller.api.akvsync import PROPERTY_PATTERN, PROPERTY_RULE
from controller.errors import ClassError

OBJECT_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")
# The CSI provider writes an object to the file of that name. It accepts every relative path without two dots in a row.
ALIAS = re.compile(r"(?!/)(?!.*\.\.).+", re.DOTALL)
# Key Vault treats any other text as an operation. SSE and the CSI provider treat "latest" as no version.
VERSION = re.compile(r"[0-9A-Fa-f]{32}|latest")

# Key Vault keeps at most 500 versions of an object that it can back up (Key Vault, "Backup limitations").
MAX_HISTORY = 500
# Maximum number of items of one class. Parsing them takes about 50 ms of CPU time.
MAX_ITEMS = 2_000
# Maximum number of unknown fields of one item that are named. Each SecretSync that uses the item keeps the warnings.
MAX_WARNINGS = 5
# The outer list, its items and their fields are three levels. More is a mistake, or an attack on the parser's stack.
_DEPTH = 4
# Lines such as `%TAG`. LibYAML compares each one with all previous ones.
MAX_DIRECTIVES = 8
FIELDS = {
    "objectName",
    "objectType",
    "objectVersion",
    "objectVersionHistory",
    "objectAlias",
    "objectFormat",
    "objectEncoding",
    "objectProperty",
    "objectExpand",
    "objectKeep",
    "filePermission",
}
# The words without quotes that YAML's core schema reads as null. Terraform's yamlencode writes one for a missing field.
_NULLS = ("", "~", "null", "Null", "NULL")
# In lower case, as the CSI provider requires. It accepts formats and encodings in any case.
TYPES = ("secret", "cert", "key")
FORMATS = ("pem", "pfx")
ENCODINGS = ("utf-8", "hex", "base64")
SWITCH = ("false", "true")
PROPERTY = re.compile(PROPERTY_PATTERN)


class VaultObject(msgspec.Struct, frozen=True, kw_only=True):
    """One object of the vault. `version` is empty for the newest; `history` 1 means only that version.

    `property_path` selects a part of a JSON or YAML value; `expand` creates a key for each property there. A `keep`
    object is no longer read, and the Secret keeps its value.
    """

    name: str
    type: str = "secret"
    version: str = ""
    history: int = 1
    alias: str = ""
    format: str = "pem"
    encoding: str = "utf-8"
    property_path: str = ""
    expand: bool = False
    keep: bool = False

    @property
    def served_as(self) -> str:
        """Return the first part of the sourcePath that finds it.

        With a history, the CSI provider joins it with a number, and thereby cleans the path: `./a//b/` is `a/b`.
        """
        name = self.alias or self.name
        return posixpath.normpath(name) if self.history > 1 else name

    @property
    def in_vault(self) -> "VaultObject":
        """Return the object as the vault has it, independent of how its value is used."""
        return VaultObject(name=self.name, type=self.type, version=self.version, history=self.history)

    @property
    def noun(self) -> str:
        """Return its name for messages."""
        return f"{'certificate' if self.type == 'cert' else self.type} {self.name}"


class ListItem(NamedTuple):
    """The fields of an object, or of one of its versions, in a list. `version` is empty in a list of objects.

    `managed` means that a secret belongs to a certificate.
    """

    name: str
    version: str
    enabled: bool
    created: datetime | None
    updated: datetime | None
    managed: bool
    tags: Mapping[str, str]


def quote_text(text: str) -> str:
    """Return a user's text for a message: quoted, on one line, at most 60 characters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


class ItemIndex(msgspec.Struct):
    """The items of a class that were read so far. `ProviderConfig` describes the fields."""

    objects: dict[str, VaultObject] = {}
    histories: dict[str, VaultObject] = {}
    faults: dict[str, str] = {}
    unnamed_faults: list[str] = []
    warnings: dict[str, list[str]] = {}

    def add(self, vault_object: VaultObject, where: str, warnings: list[str]) -> None:
        """Add an object, unless another one has the same sourcePath: then neither can be used.

        One item can give the newest version, as `a`, and another one the history, as `a/0`, `a/1` and so on.
        """
        name, known = vault_object.served_as, self.objects.get(vault_object.served_as)
        plain = known if known and known.history <= 1 else None
        duplicate = plain if vault_object.history <= 1 else self.histories.get(name)
        if duplicate == vault_object or name in self.faults:  # two identical items are fetched once
            return
        if duplicate:
            types = f", as {duplicate.type} and as {vault_object.type}" if duplicate.type != vault_object.type else ""
            history = "" if types else ", or use objectVersionHistory"
            self.fail(name, f"{where}: {shorten_name(name)} is named twice{types}; give one an objectAlias{history}")
        else:
            if vault_object.history > 1:
                self.histories[name] = vault_object
            self.objects[name] = plain or vault_object
            if warnings:
                self.warnings.setdefault(name, []).extend(warnings)

    def fail(self, name: str, fault: str) -> None:
        """Store why no object is found by a name. The first fault remains."""
        self.objects.pop(name, None)
        self.histories.pop(name, None)
        self.warnings.pop(name, None)
        self.faults.setdefault(name, fault)


def shorten_name(name: str) -> str:
    """Return a name for a message: unchanged, or quoted and shortened if it is long or has control characters."""
    return name if name.isprintable() and len(name) <= 60 else quote_text(name)


def read_objects(parameter: str) -> ItemIndex:
    """Read the parameter `objects`. Raise `ClassError` if it is not a list of items."""
    # The CSI provider removes white space around the parameter, also the indentation of the first line.
    trimmed = parameter.lstrip()
    line_breaks = parameter.count("\n") - trimmed.count("\n")
    root = _compose_yaml("\n" * line_breaks + trimmed.rstrip(), "parameter objects")
    entries = dict(_node_fields(root, "parameter objects", 0)) if isinstance(root, yaml.MappingNode) else {}
    array = entries.get("array")
    if not isinstance(array, yaml.SequenceNode) or not array.value:
        raise ClassError("parameter objects: expected `array:` with one `- |` item per object, see the guide's example")
    if len(array.value) > MAX_ITEMS:
        raise ClassError(
            f"parameter objects: it has {len(array.value)} items, and at most {MAX_ITEMS} are read; split the"
            " SecretProviderClass"
        )
    items = ItemIndex()
    for number, item in enumerate(array.value):
        where = f"objects item {number} (line {item.start_mark.line + 1})"
        node: yaml.Node | None = None
        try:
            if not isinstance(item, yaml.ScalarNode):
                raise ClassError(f"{where}: expected a text; write `- |` and the fields below it, indented")
            # A block text begins on the line after its `|`.
            first = item.start_mark.line + (1 if item.style in ("|", ">") else 0)
            warnings: list[str] = []
            text = _scalar_text(item, where)
            node = None if text is None else _compose_yaml(text, where, first)
            if node is None or _is_null(node):
                continue
            items.add(_vault_object(_read_fields(node, where, first, warnings), where), where, warnings)
        except ClassError as error:
            if name := _named_in(node):
                items.fail(name, error.message)
            else:
                items.unnamed_faults.append(error.message)
    return items


def _named_in(node: yaml.Node | None) -> str:
    """Return the alias or name of an item that has a fault in any field, or an empty text."""
    given: dict[str, str] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode):
            with contextlib.suppress(ClassError):
                given[key.value] = (_scalar_text(value, "") or "").strip()
    return given.get("objectAlias") or given.get("objectName") or ""


def _read_fields(node: yaml.Node, where: str, first_line: int, warnings: list[str]) -> dict[str, str]:
    """Return the fields of an item that have a value."""
    given: dict[str, str] = {}
    unknown = 0
    if not isinstance(node, yaml.MappingNode):
        raise ClassError(f"{where}: expected fields such as `objectName: my-secret`")
    for name, value in _node_fields(node, where, first_line):
        line = f"{where}, line {first_line + value.start_mark.line + 1}"
        if name not in FIELDS:
            unknown += 1
            if unknown <= MAX_WARNINGS:
                meant = next((f"; write {known}" for known in sorted(FIELDS) if known.lower() == name.lower()), "")
                warnings.append(f"{line}: unknown field {quote_text(name)} is ignored{meant}")
        elif not isinstance(value, yaml.ScalarNode):
            raise ClassError(f"{line}: {name} must be one value")
        elif (text := _scalar_text(value, f"{line}: {name}")) is not None:
            given[name] = text.strip()
    if unknown > MAX_WARNINGS:
        warnings.append(f"{where}: {unknown - MAX_WARNINGS} more unknown fields are ignored")
    return given


def _vault_object(given: Mapping[str, str], where: str) -> VaultObject:
    """Return the object that the fields of an item describe. Raise `ClassError` for an invalid field."""
    if not given.get("objectName"):
        raise ClassError(f"{where}: objectName is missing")

    def field(name: str, pattern: re.Pattern[str], meaning: str) -> str:
        if (value := given.get(name, "")) and not pattern.fullmatch(value):
            raise ClassError(f"{where}: {name} is {quote_text(value)}: expected {meaning}")
        return value

    def choice(name: str, known: tuple[str, ...], value: str) -> str:
        if value and value not in known:
            raise ClassError(
                f"{where}: {name} is {quote_text(given[name])}: expected {', '.join(known[:-1])} or {known[-1]}"
            )
        return value or known[0]

    kind = choice("objectType", TYPES, given.get("objectType", ""))
    form = choice("objectFormat", FORMATS, given.get("objectFormat", "").lower())
    encoding = choice("objectEncoding", ENCODINGS, given.get("objectEncoding", "").lower())
    if kind != "secret" and form == "pfx" and given["objectFormat"] != "pfx":
        form = "pem"  # the CSI provider compares with case here, so PFX has no effect
    part = field("objectProperty", PROPERTY, PROPERTY_RULE)
    expand = choice("objectExpand", SWITCH, given.get("objectExpand", "").lower()) == "true"
    history = _go_integer(given.get("objectVersionHistory") or "1")
    if history is None or history > MAX_HISTORY:
        number = quote_text(given["objectVersionHistory"])
        raise ClassError(f"{where}: objectVersionHistory is {number}: expected a number from 0 to {MAX_HISTORY}")
    keep = choice("objectKeep", SWITCH, given.get("objectKeep", "").lower()) == "true"
    version = field("objectVersion", VERSION, "a version's id, 32 hexadecimal digits, or nothing for the newest")
    vault_object = VaultObject(
        name=field("objectName", OBJECT_NAME, "1 to 127 letters, digits and -"),
        type=kind,
        version="" if version == "latest" else version.lower(),  # as in the vault's ids, with which it is compared
        history=max(1, history),
        alias=field("objectAlias", ALIAS, "a relative path without two dots in a row"),
        format=form,
        encoding=encoding,
        property_path=part,
        expand=expand,
        keep=keep,
    )
    _check_combination(vault_object, given, where)
    return vault_object


def _check_combination(wanted: VaultObject, given: Mapping[str, str], where: str) -> None:
    """Raise `ClassError` for fields that are valid alone and not together."""
    for name, has_effect in (
        ("objectFormat", wanted.format != "pem"),
        ("objectEncoding", wanted.encoding != "utf-8"),
        ("objectProperty", bool(wanted.property_path)),
        ("objectExpand", wanted.expand),
    ):
        if has_effect and wanted.type != "secret":
            raise ClassError(
                f"{where}: {name} {shorten_name(given[name])} needs objectType secret; {wanted.type} is always PEM"
            )
    if wanted.expand and wanted.encoding != "utf-8":
        raise ClassError(
            f"{where}: objectExpand cannot be combined with objectEncoding {wanted.encoding}; give each property an"
            " item of its own with objectProperty, objectEncoding and objectAlias"
        )
    if wanted.expand and wanted.keep:
        raise ClassError(
            f"{where}: objectKeep cannot be combined with objectExpand: map single properties with objectProperty"
        )


def _is_null(node: yaml.Node) -> bool:
    """Return whether this is YAML's null. A tag makes it a text, or makes a quoted word null."""
    if not isinstance(node, yaml.ScalarNode) or node.value not in _NULLS:
        return False
    return not node.style if node.tag == _NO_TAG else node.tag == f"{_YAML}null"


def write_name(name: str) -> str:
    """Return a name as a YAML scalar. An object of the vault can be named null, which needs quotes."""
    return f'"{name}"' if name in _NULLS else name


def _scalar_text(node: yaml.ScalarNode, where: str) -> str | None:
    """Return the text of a scalar as gopkg.in/yaml.v3 decodes it, or None for null.

    A tag such as !!int needs a text of that type. Other tags change nothing.
    """
    if _is_null(node):
        return None
    text: str = node.value
    if node.tag == f"{_YAML}binary":
        try:
            return base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True).decode()
        except ValueError:
            raise ClassError(f"{where}: the tag !!binary needs the base64 of a text; remove the tag") from None
    words, number = _TAGGED_WORDS.get(node.tag), _TAGGED_NUMBERS.get(node.tag)
    if (words and text not in words) or (number and not number.fullmatch(text.replace("_", ""))):
        raise ClassError(f"{where}: {quote_text(text)} has another type than its tag; remove the tag")
    return text


# The numbers that gopkg.in/yaml.v3, which the CSI provider uses, finds in a plain text.
_GO_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_GO_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_YAML, _NO_TAG = "tag:yaml.org,2002:", "!"
# The texts that YAML's tags for types accept. Only numbers may have underscores.
_TAGGED_WORDS = {f"{_YAML}null": _NULLS, f"{_YAML}bool": ("true", "True", "TRUE", "false", "False", "FALSE")}
_TAGGED_NUMBERS = {
    f"{_YAML}int": _GO_INTEGER,
    f"{_YAML}float": re.compile(rf"{_GO_INTEGER.pattern}|{_GO_FLOAT.pattern}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
}
# The digits of an int32 and some more. A longer number cannot be intended.
_MAX_DIGITS = 40


def _go_integer(text: str) -> int | None:
    """Return the int32 that SSE reads in a text (010 is 8, 2.0 is 2), or None."""
    plain = text.replace("_", "")
    if len(plain) > _MAX_DIGITS:
        return None
    if match := _GO_INTEGER.fullmatch(plain):
        sign, *digits = match.groups()
        value = next(int(found, base) for found, base in zip(digits, (16, 2, 8, 10), strict=True) if found)
        number = float(-value if sign == "-" else value)
    elif _GO_FLOAT.fullmatch(plain):
        number = float(plain)
    else:
        return None
    return int(number) if -(2**31) <= number < 2**31 else None


def _node_fields(node: yaml.MappingNode, where: str, first_line: int) -> Iterator[tuple[str, yaml.Node]]:
    seen: set[str] = set()
    for key, value in node.value:
        line = first_line + key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ClassError(f"{where}, line {line}: a field's name must be one word")
        if key.value == "<<" and (key.tag == f"{_YAML}merge" or (key.tag == _NO_TAG and not key.style)):
            raise ClassError(f"{where}, line {line}: a merge key (<<); write its fields instead")
        if key.value in seen:
            raise ClassError(f"{where}, line {line}: {quote_text(key.value)} is given twice")
        seen.add(key.value)
        if (name := _scalar_text(key, f"{where}, line {line}")) is not None:
            yield name, value


class _TagLoader(yaml.CBaseLoader):
    """A loader that distinguishes a tag in the text from the tags that YAML derives."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """Return the tag of a node that is written without one."""
        return _NO_TAG


def _compose_yaml(text: str, where: str, first_line: int = 0) -> yaml.Node | None:
    """Return the root node of the first document, or None. SSE ignores further documents.

    Scalars remain text: YAML's `no`, `1e3` and `0x10` are names here. Depth and aliases are checked on the event stream
    first, because the C composer recurses, and a text of a million brackets would end the process.
    """
    directives = sum(line.startswith("%") for line in text.splitlines())
    if directives > MAX_DIRECTIVES:
        raise ClassError(
            f"{where}: it has {directives} lines that begin with %, and at most {MAX_DIRECTIVES} are read; remove them"
        )
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CBaseLoader):
            if isinstance(event, yaml.DocumentEndEvent):
                break
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH or isinstance(event, yaml.AliasEvent):
                number = first_line + (event.start_mark.line if event.start_mark else 0) + 1
                what = "an alias" if depth <= _DEPTH else f"more than {_DEPTH} levels"
                raise ClassError(f"{where}, line {number}: {what}; expected `array:` with one `- |` item per object")
        return next(yaml.compose_all(text, Loader=_TagLoader), None)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {first_line + mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise ClassError(f"{where}{line}: not YAML: {problem}") from error
