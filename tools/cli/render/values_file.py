"""Check a file of the chart's values before helm reads it, for mistakes that helm ignores or reports less clearly.

All functions raise `helm.BadValues`.
"""

from collections.abc import Iterator
from pathlib import Path

import yaml

from controller.runtime import bounded_yaml
from tools.cli.common import command, helm

_NOTHING = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"
# Files that this process has open. helm has others.
_OPEN_FILES = ("/dev/stdin", "/dev/fd/", "/proc/")


def read(path: str) -> str:
    """Return the text of a file, or of standard input for `-`."""
    # helm also accepts URLs; this tool is offline.
    try:
        return bounded_yaml.read_text(Path(path))
    except (OSError, UnicodeDecodeError, bounded_yaml.OutOfBounds) as error:
        raise helm.BadValues([command.describe_unreadable(path, error)]) from error


def read_twice(path: str) -> str:
    """Return the text of a file that helm reads, too. Refuse a file that helm would find empty or not at all."""
    if Path(path).is_fifo() or path.startswith(_OPEN_FILES):
        raise helm.BadValues([f"{path}: is a pipe or an open file, which helm cannot read; use --values - instead"])
    return read(path)


def check(path: str, stdin: str | None) -> None:
    """Check that the file is one document that names each value once. `stdin` is the text for `-`."""
    text = read_twice(path) if stdin is None else stdin
    if not text.strip():
        raise helm.BadValues([f"{path}: is empty; leave it out to render the defaults"])
    try:
        documents = bounded_yaml.compose_all(text)
    except bounded_yaml.OutOfBounds as error:
        raise helm.BadValues([command.describe_unreadable(path, error)]) from error
    except yaml.YAMLError:
        return  # helm reports it
    if sum(document.tag != _NOTHING for document in documents) > 1:
        raise helm.BadValues([f"{path}: has several documents, of which helm reads the first; remove the others"])
    for key in _duplicate_keys(documents):
        line = key.start_mark.line + 1
        raise helm.BadValues([f"{path}: line {line}: {key.value} is set twice, and helm uses the last one; remove one"])


def _duplicate_keys(nodes: list[yaml.Node]) -> Iterator[yaml.Node]:
    """Yield the keys that their mapping already has."""
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
