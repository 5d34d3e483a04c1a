"""Make text from a cluster, a file or another program safe to print: in a terminal, in Markdown, in a shell, as JSON.

The author of an object chooses its names and messages. They must not be able to move the cursor, begin a line, reorder
the visible text, close a code block or become a command.
"""

import json
import re
import shlex
from typing import Any

import msgspec

MAX_LINE = 4096
"""Characters of one line. A longer line is cut."""
# Python calls these printable, but they are invisible: fillers, joiners, and selectors that can carry hidden text.
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    + "".join(map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
)
# Characters that can have a meaning in Markdown at any place of a line.
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|~&#$]|(?<=\w)@|(?<=\bwww)\.|:(?=//)", re.IGNORECASE)


def is_printable(character: str) -> bool:
    """Return whether this character is visible and does not move other characters."""
    return character.isprintable() and character not in _INVISIBLE


def line(text: object) -> str:
    """Return the text as one line of at most `MAX_LINE` visible characters. A space replaces each other character."""
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
    """Return indented JSON in ASCII. All other characters are escaped, so that they do nothing in a terminal."""
    return json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=True)
