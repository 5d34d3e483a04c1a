"""Test the output of foreign text to a terminal, a Markdown page, a shell or a JSON reader."""

import json
import re
import shlex
import subprocess
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.hostile_texts import FORBIDDEN, HOSTILE
from tools.cli.common import printable


@pytest.mark.parametrize("character", FORBIDDEN, ids=lambda each: f"U+{ord(each):04X}")
def test_invisible_character_becomes_a_space(character: str) -> None:
    for printed in (printable.line(f"a{character}b"), printable.block(f"a{character}b").replace("\n", " ")):
        assert printed == "a b"
    assert character not in printable.command("x", f"a{character}b")
    assert character not in printable.markdown(f"a{character}b")
    assert printable.as_json({"k": f"a{character}b"}).isascii()


def test_ordinary_text_is_unchanged() -> None:
    for text in ("Deployment shop/web: Secret principal", "Ünïcödé 秘密 ✓", "https://issuer.example"):
        assert printable.line(text) == text
    assert printable.markdown("Deployment shop/web: Secret principal (a.b-c)") == (
        "Deployment shop/web: Secret principal (a.b-c)"
    )


@given(HOSTILE)
def test_any_text_becomes_one_line_of_visible_characters(text: str) -> None:
    for printed in (printable.line(text), printable.word(text), printable.markdown(text)):
        assert all(unicodedata.category(each)[0] != "C" for each in printed)
        assert printed.splitlines() in ([], [printed])
        printed.encode()  # raises an error for a lone surrogate


def test_length_of_a_line_is_bounded() -> None:
    assert len(printable.line("x" * 10**7)) == printable.MAX_LINE + 4


@given(st.lists(HOSTILE, min_size=1, max_size=5))
def test_command_is_parsed_into_the_original_words(words: list[str]) -> None:
    assert shlex.split(printable.command(*words)) == [printable.line(word) for word in words]


@settings(max_examples=25, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=8))
def test_shell_parses_the_original_words(words: list[str]) -> None:
    text = printable.command("printf", "%s\\n", *words)
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"{printable.line(word)}\n" for word in words)


@pytest.mark.parametrize(
    "text",
    [
        "`code`", "**bold**", "_x_", "[a](https://evil.example)", "![a](b)", "<script>", "a | b", "~~x~~", "&lt;",
        "https://evil.example", "www.evil.example", "x@evil.example", "# title", "\\`", "```", "$x$",
    ],
)  # fmt: skip
def test_markdown_shows_only_the_text(text: str) -> None:
    printed = printable.markdown(text)
    assert printed != text
    # The text without its escapes equals the original.
    assert re.sub(r"\\(.)", r"\1", printed) == text


@given(HOSTILE)
def test_json_is_ascii_and_decodes_to_the_text(text: str) -> None:
    printed = printable.as_json({text: [text]})
    assert printed.isascii()
    assert all(each.isprintable() or each == "\n" for each in printed)
    ((name, (value,)),) = json.loads(printed).items()
    # JSON decodes two adjacent surrogates as one character.
    for each in (name, value):
        assert each.encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")
