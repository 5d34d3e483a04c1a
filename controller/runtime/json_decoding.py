"""Decode JSON that another party sent. Each failure becomes one error, `Undecodable`. Pure.

Recursive decoders stop at about a thousand levels, and the API server accepts `managedFields` nested ten times as deep.
The fields that the controller reads are far less deep. So a scanner without recursion removes everything below
`MAX_DEPTH` from an object that is too deep, and the rest is decoded as usual.

The controller and the tools decode all objects of the API server with `decode_json`.
"""

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")
# Levels that remain of a value that is too deep: far more than any field that the controller reads.
MAX_DEPTH = 64
_MAX_PROBLEM = 500
_FLAT = rb'[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+(?:"|\Z)'
# One bracket, and before it everything that does not change the depth: other characters, strings, and containers
# without containers. The quantifiers are possessive and the pattern always matches, so the scan takes linear time.
_NEXT_BRACKET = re.compile(
    rb"(?:%b|\{(?:%b)*+\}|\[(?:%b)*+\])*+([{}\[\]]|\Z)" % (_FLAT, _FLAT, _FLAT),
    re.DOTALL,
)


REPLACEMENT = "\ufffd"
# An escaped pair of surrogates, a lone surrogate (group 1), or another escape.
_SURROGATES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)


class Undecodable(ValueError):  # noqa: N818 -- says what is wrong with the text
    """The text does not fit its type. `problem` names the field. `is_json` means that it is valid JSON."""

    def __init__(self, problem: str, *, is_json: bool = False) -> None:
        super().__init__(problem)
        self.problem = problem
        self.is_json = is_json


def decode_json(raw: bytes | bytearray | msgspec.Raw, shape: type[T]) -> T:
    """Decode JSON into a type. Raise `Undecodable`, and no other error, if it does not fit."""
    try:
        try:
            return msgspec.json.decode(raw, type=shape)
        except RecursionError:
            return msgspec.json.decode(cut_nesting(bytes(raw)), type=shape)
    except msgspec.ValidationError as error:
        raise Undecodable(str(error)[:_MAX_PROBLEM], is_json=True) from None
    except (ValueError, RecursionError, OverflowError, MemoryError):
        # A `ValueError` is, among others, invalid JSON, invalid UTF-8, a lone surrogate, or a number that has more
        # digits than Python converts.
        raise Undecodable("it is not valid JSON") from None


def cut_nesting(raw: bytes, depth: int = MAX_DEPTH) -> bytes:
    """Return the text without values that are nested deeper than `depth`. Containers at the limit become empty."""
    level = kept_from = 0
    kept = bytearray()
    for match in _NEXT_BRACKET.finditer(raw):
        bracket = match[1]
        if bracket in (b"{", b"["):
            level += 1
            if level == depth + 1:
                kept += raw[kept_from : match.end()]
        elif bracket:
            if level == depth + 1:
                kept_from = match.end() - 1
            level -= 1
    if level <= depth:
        kept += raw[kept_from:]
    return bytes(kept)


def replace_lone_surrogates(raw: bytes) -> bytes:
    """Return the JSON text with U+FFFD instead of each escaped surrogate without its other half."""
    return _SURROGATES.sub(lambda match: rb"\ufffd" if match[1] else match[0], raw)
