"""Reads YAML of others within bounds on size, depth and what aliases expand to.

Every parser recurses, and each alias of an alias doubles what is read. So the events of a text are counted first. That
count neither recurses nor expands. Numbers of any length are refused as well: no value has 4,300 digits.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# The C parser takes a tenth of the time; PyYAML has it wherever libyaml was there when its wheel was built.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_EVENTS: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
MAX_BYTES = 16 * 2**20
"""Of one file. An object has at most 1.5 MB (etcd's limit on a request)."""
MAX_DEPTH = 100
"""Levels. A CustomResourceDefinition of a large operator has 60."""
MAX_NODES = 400_000
"""Values and keys, each alias counted as all that it stands for."""

MAX_EXPLAINED = 100_000
"""Characters of a text that the Python parser reads, too, for its better message. It takes ten times as long."""


class OutOfBounds(yaml.YAMLError):
    """A text that is YAML, perhaps, and more of it than is read; the message says which bound it exceeds."""


def read_text(path: Path) -> str:
    """Return a file's text, of standard input for `-`. Raises `OSError`, `UnicodeDecodeError` or `OutOfBounds`.

    A FIFO that no process writes to is empty.
    """
    if str(path) == "-":
        content = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        with open(path, "rb", opener=_without_waiting) as file:
            content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OutOfBounds(f"it has more than {MAX_BYTES // 2**20} MiB")
    return content.decode()


def load_all(text: str) -> list[Any]:
    """Return the documents. Raises `yaml.YAMLError` or `ValueError`."""
    try:
        check(text)
    except yaml.MarkedYAMLError:
        if len(text) <= MAX_EXPLAINED:
            # The Python parser says what it expected. Its events alone: what follows the fault has no bounds yet.
            depth = 0
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > MAX_DEPTH:
                    break  # its time grows with the square of the depth
        raise
    return list(yaml.load_all(text, Loader=LOADER))


def compose_all(text: str) -> list[yaml.Node]:
    """Return the nodes of the documents. Raises `yaml.YAMLError`."""
    check(text)
    return list(yaml.compose_all(text, Loader=LOADER))


def check(text: str) -> None:
    """Raise `OutOfBounds` where a parser could recurse or grow too far, `yaml.YAMLError` where it is no YAML."""
    for nodes, depth, event in _counted(text):
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise OutOfBounds(f"it is nested too deeply, in more than {MAX_DEPTH} levels (line {line})")
        if nodes > MAX_NODES:
            raise OutOfBounds(f"line {line}: it has more than {MAX_NODES} values, with what its aliases stand for")


def _counted(text: str) -> Iterator[tuple[int, int, Any]]:
    """Each event, with how many nodes there are by then and how deep it is, aliases expanded."""
    total = 0
    # Of each open collection: its anchor, how many nodes came before it, and how deep it is inside.
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
                raise OutOfBounds(f"an alias, {event.anchor}, stands for itself")
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
    """Open a FIFO, too, without waiting for a writer. One that has a writer is read as any file."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor
