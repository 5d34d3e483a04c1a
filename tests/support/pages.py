"""Parse the project's Markdown pages: their fenced blocks, anchors and links."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support import sources

ROOT = Path(__file__).resolve().parents[2]
_DOCS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
_OF_THE_PROJECT = (
    "README.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
    "CODE_OF_CONDUCT.md",
    "CHANGELOG.md",
)
PAGES = (*_OF_THE_PROJECT, "chart/README.md", *_DOCS)
_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. `line` is its first line, and `language` is the word after the opening fence."""

    page: str
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """The first line, by which a list can name the block."""
        return self.text.partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def list_blocks(page: str) -> list[Block]:
    """Return the page's fenced blocks, from top to bottom."""
    return [
        Block(page, token.map[0] + 1, token.info.strip(), token.content)
        for token in parse_page(page)
        if token.type == "fence" and token.map
    ]


def list_anchors(page: str) -> set[str]:
    """Return the anchors of the page's headings, as GitHub generates them."""
    tokens = parse_page(page)
    return {
        make_anchor(heading_text(tokens[at + 1])) for at, token in enumerate(tokens) if token.type == "heading_open"
    }


def list_links(page: str) -> list[str]:
    """Return the targets of the page's links, as they are written."""
    inlines = (child for token in parse_page(page) for child in list_descendants(token))
    return [str(child.attrs["href"]) for child in inlines if child.type == "link_open"]


def matches_output(found: str, wanted: str) -> bool:
    """Return whether the output is what a page shows.

    The number of spaces between words does not matter. The character … matches any text, and any number of lines if it
    is alone in its line.
    """
    parts = [
        r"(.*\n)*?" if line.strip() == "…" else r"[ \t]*" + r"\s+".join(map(word_pattern, line.split())) + r"\s*\n"
        for line in wanted.splitlines()
    ]
    return re.fullmatch("".join(parts), found if found.endswith("\n") else f"{found}\n") is not None


def parse_page(page: str) -> list[Token]:
    return _MARKDOWN.parse((ROOT / page).read_text())


def list_test_names(path: str) -> set[str]:
    """Return the names of the tests in a file."""
    nodes = ast.walk(sources.parse((ROOT / path).read_text()))
    found = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in found if name.startswith("test_")}


def list_descendants(token: Token) -> Iterator[Token]:
    for child in token.children or ():
        yield child
        yield from list_descendants(child)


def heading_text(heading: Token) -> str:
    return "".join(child.content for child in list_descendants(heading) if child.type in ("text", "code_inline"))


def make_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def word_pattern(word: str) -> str:
    return ".*?".join(map(re.escape, word.split("…")))
