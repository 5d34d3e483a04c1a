"""Read YAML of other parties, with limits on its size, its depth and the expansion of its aliases.

Every parser recurses, and each alias of an alias can double the size of the result. So the events of a text are counted
first, without recursion and expansion. Python refuses numbers of more than 4,300 digits.
"""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time
    """PyYAML's safe loader, which reads the values `=` and `<<` as texts, as Kubernetes does.

    The C parser takes a tenth of the time. PyYAML has it if its wheel was built with libyaml.
    """


for _tag in ("tag:yaml.org,2002:value", "tag:yaml.org,2002:merge"):
    _Loader.add_constructor(_tag, yaml.SafeLoader.construct_yaml_str)

LOADER: Any = _Loader
_EVENTS: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
MAX_BYTES = 16 * 2**20
"""Maximum size of a file. An object has at most 1.5 MB, etcd's limit for a request."""
MAX_DEPTH = 100
"""Maximum number of levels. A CustomResourceDefinition of a large operator has 60."""
MAX_NODES = 400_000
"""Maximum number of values and keys, with each alias expanded."""
MAX_EXPLAINED = 100_000
"""Maximum characters of a text that the Python parser also reads, for its better error message. It is slower."""


class OutOfBounds(yaml.YAMLError):
    """A text exceeds a limit. The message names the limit."""


def read_text(path: Path) -> str:
    """Return the text of a file, or of standard input for `-`.

    Raise `OSError`, `UnicodeDecodeError` or `OutOfBounds`. A FIFO without a writer counts as empty.
    """
    if str(path) == "-":
        if sys.stdin is None:  # a script can close it: <&-
            raise OSError(errno.EBADF, "the standard input is closed")
        content = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        with open(path, "rb", opener=_without_waiting) as file:
            content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OutOfBounds(f"it has more than {MAX_BYTES // 2**20} MiB")
    return content.decode()


def load_all(text: str) -> list[Any]:
    """Return the documents. Raise `yaml.YAMLError` or `ValueError`."""
    try:
        check(text)
    except yaml.MarkedYAMLError:
        if len(text) <= MAX_EXPLAINED:
            # The Python parser's error says what it expected. Only its events are read, because the text after the
            # fault was not counted.
            depth = 0
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > MAX_DEPTH:
                    break  # the parser's time grows with the square of the depth
        raise
    try:
        return list(yaml.load_all(text, Loader=LOADER))
    except (LookupError, AttributeError, ArithmeticError):
        # PyYAML does not check a text with a tag such as !!int, or whether a number in base 60 fits a float.
        raise yaml.YAMLError("a value does not fit its type") from None


def compose_all(text: str) -> list[yaml.Node]:
    """Return the root nodes of the documents. Raise `yaml.YAMLError`."""
    check(text)
    return list(yaml.compose_all(text, Loader=LOADER))


def check(text: str) -> None:
    """Raise `OutOfBounds` if the text is too deep or expands too far, or `yaml.YAMLError` if it is not YAML."""
    for nodes, depth, event in _count_nodes(text):
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise OutOfBounds(f"it is nested too deeply, in more than {MAX_DEPTH} levels (line {line})")
        if nodes > MAX_NODES:
            raise OutOfBounds(f"line {line}: it has more than {MAX_NODES} values, with its aliases expanded")


def _count_nodes(text: str) -> Iterator[tuple[int, int, Any]]:
    """Yield the number of nodes so far, the depth, and the event, for each event. Aliases are expanded."""
    total = 0
    # For each open collection: its anchor, the number of nodes before it, and the number of levels inside it.
    collections: list[tuple[str | None, int, int]] = []
    anchors: dict[str, tuple[int, int]] = {}
    for event in yaml.parse(text, Loader=_EVENTS):
        depth = len(collections)
        if isinstance(event, yaml.DocumentStartEvent):
            anchors = {}
            total += 1
        elif isinstance(event, yaml.CollectionStartEvent):
            collections.append((event.anchor, total, 1))
            total += 1
            depth += 1
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                anchors[event.anchor] = (1, 0)
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _, _ in collections):
                raise OutOfBounds(f"the alias {event.anchor} refers to itself")
            if event.anchor not in anchors:
                mark: Any = event.start_mark
                raise yaml.composer.ComposerError(None, None, f"found undefined alias {event.anchor!r}", mark)
            nodes, below = anchors[event.anchor]
            total += nodes
            depth += below
            _deepen(collections, below + 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before, inside = collections.pop()
            if anchor:
                anchors[anchor] = (total - before, inside)
            _deepen(collections, inside + 1)
        yield total, depth, event


def _deepen(collections: list[tuple[str | None, int, int]], inside: int) -> None:
    if collections:
        anchor, before, known = collections[-1]
        collections[-1] = (anchor, before, max(known, inside))


def _without_waiting(path: str, flags: int) -> int:
    """Open a file. Do not wait for the writer of a FIFO."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor
