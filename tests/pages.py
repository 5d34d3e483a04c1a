"""The pages that people read, taken apart: fenced blocks in their order, headings as anchors, links."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests import sources

ROOT = Path(__file__).resolve().parents[1]
_DOCS = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
PAGES = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "chart/README.md", *_DOCS)
_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. `line` is where it begins, `language` what stands behind the fence."""

    page: str
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """Its first line, by which a list can name it."""
        return self.text.partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """The page's fenced blocks, from top to bottom."""
    return [
        Block(page, token.map[0] + 1, token.info.strip(), token.content)
        for token in _tokens(page)
        if token.type == "fence" and token.map
    ]


def anchors(page: str) -> set[str]:
    """What a link to a heading of the page may say behind `#`, as GitHub makes it."""
    tokens = _tokens(page)
    return {_anchor(_words(tokens[at + 1])) for at, token in enumerate(tokens) if token.type == "heading_open"}


def links(page: str) -> list[str]:
    """Where the page's links lead, as they are written."""
    inlines = (child for token in _tokens(page) for child in _below(token))
    return [str(child.attrs["href"]) for child in inlines if child.type == "link_open"]


def alike(found: str, wanted: str) -> bool:
    """Whether it is what a page shows: the spaces between words do not count, and … is anything, alone in its line any
    number of lines."""
    parts = [
        r"(.*\n)*?" if line.strip() == "…" else r"\s+".join(map(_word, line.split())) + r"\s*\n"
        for line in wanted.splitlines()
    ]
    return re.fullmatch("".join(parts), found if found.endswith("\n") else f"{found}\n") is not None


def _tokens(page: str) -> list[Token]:
    return _MARKDOWN.parse((ROOT / page).read_text())


def names_in(path: str) -> set[str]:
    """Return the names of the tests in a file."""
    nodes = ast.walk(sources.parse((ROOT / path).read_text()))
    found = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in found if name.startswith("test_")}


def _below(token: Token) -> Iterator[Token]:
    for child in token.children or ():
        yield child
        yield from _below(child)


def _words(heading: Token) -> str:
    return "".join(child.content for child in _below(heading) if child.type in ("text", "code_inline"))


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _word(word: str) -> str:
    return ".*?".join(map(re.escape, word.split("…")))
