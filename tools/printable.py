"""Text from a cluster, a file or another program, made safe to print: in a terminal, in Markdown, in a shell, as JSON.

Names and messages belong to whoever may write the object. Nothing in them may move the cursor, begin a line, reorder
what a reader sees, close a code block or become a command.
"""

import json
import re
import shlex
from typing import Any

import msgspec

MAX_LINE = 4096
"""Characters of one line; what is longer is cut."""
# Printable to Python, and invisible all the same: fillers, joiners, and the selectors that can carry hidden text.
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    + "".join(map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
# Characters that Markdown may read as more than themselves, wherever in a line they are.
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|~&#$]|(?<=\w)@|(?<=\bwww)\.|:(?=//)", re.IGNORECASE)


def is_printable(character: str) -> bool:
    """Return whether a reader sees this character, and sees it where it is."""
    return character.isprintable() and character not in _INVISIBLE


def line(text: object) -> str:
    """Return the text as one line of visible characters, a space for each other one; at most `MAX_LINE` of them."""
    whole = str(text)
    shown = "".join(each if is_printable(each) else " " for each in whole[:MAX_LINE])
    return shown if len(whole) <= MAX_LINE else f"{shown} ..."


def block(text: str) -> str:
    """Return a text of several lines, each as `line` returns it."""
    return "\n".join(map(line, re.split(r"\r?\n", text)))


def word(text: str) -> str:
    """Return the text as one word of a POSIX shell, on one line."""
    return shlex.quote(line(text))


def command(*words: str) -> str:
    """Return a command of these words, on one line."""
    return " ".join(map(word, words))


def markdown(text: object) -> str:
    """Return the text as one line of Markdown that shows the text itself."""
    return _MARKDOWN.sub(lambda found: "\\" + found[0], line(text))


def as_json(value: Any) -> str:
    """Return indented JSON of ASCII characters: a terminal shows escapes in place of everything else."""
    return json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=True)
