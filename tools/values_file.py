"""A file of the chart's values, before helm reads it: what helm would fetch, take in silence, or say less clearly.

Everything here raises `helm.BadValues`.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml

from tools import bounded_yaml, command, helm

_NOTHING = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"


def read(path: str) -> str:
    """Its text."""
    # helm takes URLs, too; here everything is offline.
    try:
        return bounded_yaml.read_text(Path(path))
    except (OSError, UnicodeDecodeError, bounded_yaml.OutOfBounds) as error:
        raise helm.BadValues([command.unreadable(path, error)]) from error


def check(path: str, stdin: str | None) -> None:
    """Nothing where it is one document that names each value once; `stdin` is what to look at instead of the file."""
    text = read(path) if stdin is None else stdin
    if not text.strip():
        raise helm.BadValues([f"{path}: is empty; leave it out to render the defaults"])
    try:
        documents = bounded_yaml.compose_all(text)
    except bounded_yaml.OutOfBounds as error:
        raise helm.BadValues([command.unreadable(path, error)]) from error
    except yaml.YAMLError:
        return  # helm says it
    if sum(document.tag != _NOTHING for document in documents) > 1:
        raise helm.BadValues([f"{path}: has several documents, of which helm reads the first; leave one"])
    for key in _twice(documents):
        line = key.start_mark.line + 1
        raise helm.BadValues(
            [f"{path}: line {line}: {key.value} stands there twice, and helm takes the last; leave one"]
        )


def _twice(nodes: list[yaml.Node]) -> Iterator[yaml.Node]:
    """Keys that their mapping has already."""
    seen: set[int] = set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                    if key.value in keys:
                        yield key
                    keys.add(key.value)
                nodes.append(value)
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
