"""Read one property of a JSON or YAML value, or all of them. Pure.

A property is written as text: a string without quotes, a number as its digits in the source, an object or a list as
JSON. No number is converted, so 1.10, 1e400 and ids of twenty digits remain unchanged.

JSON is RFC 8259 without repeated names. YAML is one document without aliases. A scalar without quotes is a number if
JSON has the same number, and true, false or null if YAML's core schema has them. All others are text, such as no, 0x10
and 012.

Messages name properties and lines, and never quote a value. Depth and size are bounded, and no parser expands aliases.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import yaml

from controller.api.akvsync import PROPERTY_INDEX, PROPERTY_LETTER
from controller.domain.vault_objects import MAX_DIRECTIVES, quote_text, shorten_name
from controller.errors import ObjectError

# Key Vault stores values of up to 25 KB.
MAX_DOCUMENT_BYTES = 64 * 1024
MAX_DEPTH = 64
TOO_DEEP = f"is nested in more than {MAX_DEPTH} levels"
# Maximum number of names in a message.
MAX_NAMES = 10
_STEPS = re.compile(rf"\.?(?:((?:{PROPERTY_LETTER})+)|({PROPERTY_INDEX}))")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_INDEX = re.compile(r"[0-9]{1,6}")
# A comment of JavaScript. A text of YAML without quotes hardly ever has this form.
_COMMENT = re.compile(r"//\s|/\*.*?\*/", re.DOTALL)
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_YAML_CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TEXT_TAGS = ("!", "tag:yaml.org,2002:str")
_TAGS = (*_TEXT_TAGS, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

Node = Any
"""A dict, list, str, bool, None, or a number as `msgspec.Raw` with its text."""


class _UnreadableDocument(Exception):  # noqa: N818 - it describes the text's fault
    """Why the value is not a readable object, without any part of the value."""


def parse_path(path: str) -> list[str | int]:
    """Return the steps of a path: names, and the indexes that were written in brackets."""
    found = _STEPS.finditer(path)
    return [int(step[2][1:-1]) if step[2] else _ESCAPE.sub(r"\1", step[1]) for step in found]


def read_document(data: bytes, noun: str) -> Node:
    """Return the JSON or YAML of a value. Raise `ObjectError` about `noun`: `secret config in Key Vault shop`."""
    try:
        return _read_document(data)
    except _UnreadableDocument as error:
        raise ObjectError(f"{noun} {error}; correct the value, or map it without a property") from None


def find_property(document: Node, path: str, noun: str) -> bytes:
    """Return the text at a path. Raise `ObjectError` with the existing names."""
    return _property_text(find_node(document, path, noun), noun)


def find_node(document: Node, path: str, noun: str) -> Node:
    """Return the node at a path, or the document for an empty path. Raise `ObjectError` with the existing names."""
    node = document
    passed: list[str | int] = []
    for step in parse_path(path):
        index = _parse_index(step) if isinstance(node, list) else None
        if isinstance(node, dict) and isinstance(step, str) and step in node:
            node = node[step]
        elif isinstance(node, list) and index is not None and index < len(node):
            node = node[index]
        elif isinstance(document, dict) and path in document:
            # As in External Secrets, a name can contain dots.
            return document[path]
        else:
            raise ObjectError(f"{noun} has no property {quote_text(path)}; {_offer_names(node, passed)}")
        passed.append(step)
    return node


def list_properties(document: Node, noun: str) -> dict[str, bytes | ObjectError]:
    """Return the text of each top-level property by name, or an `ObjectError` for one without a text.

    Raise `ObjectError` if the document has no properties.
    """
    if not isinstance(document, dict) or not document:
        raise ObjectError(f"{noun} has no properties: it is {_kind_of(document)}; correct the value")
    result: dict[str, bytes | ObjectError] = {}
    for name, node in document.items():
        try:
            result[name] = _property_text(node, noun)
        except ObjectError as error:
            result[name] = error.bare()
    return result


def list_names(names: Iterable[str]) -> str:
    """Return names for a message: the first ones, printable and shortened."""
    known = list(names)
    more = f" and {len(known) - MAX_NAMES} more" if len(known) > MAX_NAMES else ""
    return ", ".join(shorten_name(name) if name else "''" for name in known[:MAX_NAMES]) + more


def _parse_index(step: str | int) -> int | None:
    if isinstance(step, int):
        return step
    return int(step) if _INDEX.fullmatch(step) else None


def _offer_names(node: Node, passed: Sequence[str | int]) -> str:
    """Return a text that lists the names at the end of the path."""
    where = quote_text(".".join(map(str, passed))) if passed else "the value"
    if isinstance(node, dict) and node:
        return f"{where} has: {list_names(node)}"
    return f"{where} is {_kind_of(node)}"


def _kind_of(node: Node) -> str:
    if isinstance(node, dict):
        return "an empty object" if not node else "an object"
    if isinstance(node, list):
        return f"a list of {len(node)}"
    return "a text" if isinstance(node, str) else "a number, true, false or null"


def _property_text(node: Node, noun: str) -> bytes:
    try:
        return node.encode() if isinstance(node, str) else msgspec.json.encode(node)
    except (UnicodeEncodeError, RecursionError):
        raise ObjectError(f"{noun} has a property that is not valid Unicode text; correct the value") from None


def _read_document(data: bytes) -> Node:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise _UnreadableDocument(
            f"has {len(data)} bytes, and JSON or YAML of at most {MAX_DOCUMENT_BYTES} bytes is read"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _UnreadableDocument("is not UTF-8 text") from None
    try:
        return _read_json(text)
    except json.JSONDecodeError as error:
        if mistake := _find_json_mistake(text, error):
            raise _UnreadableDocument(mistake) from None
        return _read_yaml(text)


def _find_json_mistake(text: str, error: json.JSONDecodeError) -> str:
    """Return the mistake in a JSON text that YAML would read as another value, or an empty text."""
    if not text.lstrip().startswith(("{", "[")):
        return ""
    # YAML reads the line break as a space. That would damage a PEM, for example.
    if error.msg.startswith("Invalid control character") and text[error.pos] in "\r\n":
        return rf"has a line break in a JSON text (line {error.lineno}): write \n"
    # YAML has more of them: in C:\apps, it reads the bell character.
    if error.msg.startswith("Invalid \\"):
        return rf"has a backslash that JSON does not have (line {error.lineno}): write \\"
    # Before a value or a name, it can also be a text of YAML, such as //server/share or /*.pem.
    is_between = error.msg.startswith("Expecting ',' delimiter") and text.startswith(("//", "/*"), error.pos)
    if is_between or (error.msg.startswith("Expecting") and _COMMENT.match(text, error.pos)):
        return f"has a comment, which JSON does not have (line {error.lineno}): remove it"
    return ""


def _parse_number(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def _read_json(text: str) -> Node:
    """Parse JSON. Raise `JSONDecodeError` for other texts, and `_UnreadableDocument` for JSON that is not accepted."""
    try:
        document = json.loads(
            text,
            parse_int=_parse_number,
            parse_float=_parse_number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_build_object,
        )
    except RecursionError:
        raise _UnreadableDocument(TOO_DEEP) from None
    _check_depth(document)
    return document


def _check_depth(document: Node) -> None:
    """Raise `_UnreadableDocument` for too many levels. The limit of the parser depends on the version of Python."""
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    if any(isinstance(node, dict | list) for node in level):
        raise _UnreadableDocument(TOO_DEEP)


def _refuse_constant(name: str) -> None:
    raise _UnreadableDocument(f"holds {name}, which JSON does not have")


def _build_object(pairs: list[tuple[str, Node]]) -> dict[str, Node]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _UnreadableDocument(f"has the property {quote_text(twice)} more than once in one object")
    return result


class _YamlBuilder:
    """Build a YAML document from its events, without recursion."""

    def __init__(self) -> None:
        self.root: Node = None
        self._open: list[Node] = []
        # For each open collection, the name that has no value yet.
        self._names: list[str | None] = []

    def add(self, event: yaml.NodeEvent) -> None:
        """Add a scalar, or begin a collection. Raise `_UnreadableDocument` for an event that is not accepted."""
        if isinstance(event, yaml.AliasEvent):
            raise _UnreadableDocument("has a YAML alias, which is not read: write the value out where it is used")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag not in (None, *_TAGS):
            raise _UnreadableDocument("has a YAML tag, which is not read: write the value without it")
        if isinstance(event, yaml.ScalarEvent):
            self._attach_node(event, _scalar_value(event))
            return
        node: Node = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._attach_node(event, node)
        self._open.append(node)
        self._names.append(None)
        if len(self._open) > MAX_DEPTH:
            raise _UnreadableDocument(TOO_DEEP)

    def end(self) -> None:
        """End the innermost collection."""
        self._open.pop()
        self._names.pop()

    def _attach_node(self, event: yaml.NodeEvent, node: Node) -> None:
        if not self._open:
            self.root = node
        elif isinstance(self._open[-1], list):
            self._open[-1].append(node)
        elif (name := self._names[-1]) is not None:
            self._open[-1][name] = node
            self._names[-1] = None
        elif not isinstance(event, yaml.ScalarEvent):
            raise _UnreadableDocument("has a YAML object or list for a property's name")
        elif event.value in self._open[-1]:
            raise _UnreadableDocument(f"has the property {quote_text(event.value)} more than once in one object")
        else:
            self._names[-1] = event.value


def _read_yaml(text: str) -> Node:
    # LibYAML compares each directive with all previous ones.
    if sum(line.startswith("%") for line in text.splitlines()) > MAX_DIRECTIVES:
        raise _UnreadableDocument("is neither JSON nor YAML: it has too many lines that begin with %")
    built = _YamlBuilder()
    documents = 0
    try:
        for event in yaml.parse(text, Loader=yaml.CBaseLoader):
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                raise _UnreadableDocument("has several YAML documents, and one is read")
            if isinstance(event, yaml.CollectionEndEvent):
                built.end()
            elif isinstance(event, yaml.NodeEvent):
                built.add(event)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise _UnreadableDocument(f"is neither JSON nor YAML{line}") from None
    return built.root


def _scalar_value(event: yaml.ScalarEvent) -> Node:
    if event.style or not event.implicit[0] or event.tag in _TEXT_TAGS:
        return event.value
    if event.value in _YAML_CONSTANTS:
        return _YAML_CONSTANTS[event.value]
    return _parse_number(event.value) if _JSON_NUMBER.fullmatch(event.value) else event.value
