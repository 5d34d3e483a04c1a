"""Measure and limit the nesting of JSON without recursion. Pure.

The API server accepts managed fields of 9,995 levels, and every JSON decoder here is recursive.
"""

import re
from collections.abc import Iterator

Json = bytes | bytearray | memoryview
# A whole string, because brackets in it do not count; or one bracket.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]', re.DOTALL)
_OPENING = frozenset(b"[{")
_CLOSING = frozenset(b"]}")


def is_deeper_than(text: Json, limit: int) -> bool:
    """Return whether arrays and objects are nested in more than `limit` levels."""
    return any(depth > limit for depth, _, _ in _find_brackets(text))


def truncate_depth(text: Json, limit: int) -> bytes:
    """Return the JSON with null in place of each array and object below `limit` levels."""
    parts: list[bytes] = []
    kept = 0
    for depth, start, end in _find_brackets(text):
        if depth == limit + 1:
            opening = text[start] in _OPENING
            if opening:
                parts += [bytes(text[kept:start]), b"null"]
            kept = end
    return b"".join([*parts, bytes(text[kept:])])


def _find_brackets(text: Json) -> Iterator[tuple[int, int, int]]:
    """Yield for each bracket: the level that it opens or closes, its start, and its end (offsets in bytes)."""
    depth = 0
    for found in _TOKEN.finditer(text):
        first = text[found.start()]
        depth += first in _OPENING
        if first in _OPENING or first in _CLOSING:
            yield depth, found.start(), found.end()
        depth -= first in _CLOSING
