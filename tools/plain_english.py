"""Check the words of code, messages and pages, and the mood of docstrings: CONTRIBUTING.md, "Rules".

In Python files the check reads comments, strings and names. `plain_english.toml` has the forbidden words, the
quotations that can contain them, and the files that are not yet rewritten.
"""

import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

RULES = Path(__file__).with_suffix(".toml")
SUFFIXES = {".cfg", ".go", ".in", ".j2", ".md", ".py", ".sh", ".toml", ".tpl", ".yaml", ".yml"}
NAMES = {"Containerfile", "Makefile", "NOTES.txt"}
LEFT_OUT = {".git", ".venv", "__pycache__", "build", "go", "node_modules"}
# From Python 3.12 on, the text of an f-string is a token of its own.
TEXT = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))


@dataclass(frozen=True)
class Finding:
    """One forbidden phrase, or one docstring that does not start with a verb."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass(frozen=True)
class LanguageRules:
    """The contents of `plain_english.toml`."""

    words: dict[str, str]
    """A regular expression for each forbidden phrase, and what to write instead."""
    quotations: list[str]
    """Texts that may contain forbidden phrases, because others wrote them or because the word has its usual meaning."""
    not_rewritten: list[str]
    """Files that the check leaves out. A file leaves this list when it is rewritten; none is added."""

    @classmethod
    def read(cls, path: Path = RULES) -> "LanguageRules":
        """Read the rules from a file."""
        return cls(**tomllib.loads(path.read_text()))

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Return one expression that finds all forbidden phrases."""
        return re.compile("|".join(f"(?:{word})" for word in self.words), re.IGNORECASE)

    @cached_property
    def allowed(self) -> re.Pattern[str]:
        """Return one expression that finds all quotations."""
        return re.compile("|".join(map(re.escape, self.quotations)) or "(?!)", re.IGNORECASE)

    def advice(self, phrase: str) -> str:
        """Return what to write instead of a phrase that `pattern` found."""
        return next(advice for word, advice in self.words.items() if re.fullmatch(word, phrase, re.IGNORECASE))


def list_files(root: Path) -> Iterator[Path]:
    """List the text files below a folder that people write or read."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - LEFT_OUT)
        for name in sorted(names):
            path = Path(folder, name)
            if (path.suffix in SUFFIXES or name in NAMES or is_script(path)) and not path.is_symlink():
                yield path


def is_script(path: Path) -> bool:
    """Return whether a file without suffix is a script."""
    if path.suffix or not os.access(path, os.X_OK):
        return False
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def find_words(path: Path, name: str, rules: LanguageRules) -> Iterator[Finding]:
    """Find the forbidden phrases of one file. In Python code, only comments, strings and names count."""
    text = path.read_text()
    if not rules.pattern.search(split_names(text)):  # reading tokens takes a hundred times as long
        return
    is_code = path.suffix == ".py" and name not in rules.not_rewritten
    lines = list(read_prose(text) if is_code else enumerate(text.splitlines(), 1))
    for number, line in lines:
        for found in rules.pattern.finditer(rules.allowed.sub("", line)):
            yield Finding(name, number, f'"{found[0]}": {rules.advice(found[0])}')


def split_names(text: str) -> str:
    """Return a text with spaces between the words of names."""
    return re.sub(r"_+|(?<=[a-z0-9])(?=[A-Z])", " ", text)


def read_prose(source: str) -> Iterator[tuple[int, str]]:
    """Read the comments and strings of Python code line by line, and all names as words."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], split_names(token.string).strip()
        if token.type in TEXT:
            yield from enumerate(token.string.splitlines(), token.start[0])


def find_moods(root: Path) -> Iterator[Finding]:
    """Find the docstrings of functions that do not start with a verb in the imperative (D401)."""
    command = [sys.executable, "-P", "-m", "ruff", "check", "--isolated", "--no-cache", "--quiet", "--select=D401"]
    done = subprocess.run(
        [*command, "--output-format=concise", "."], cwd=root, stdout=subprocess.PIPE, text=True, check=False
    )
    for line in done.stdout.splitlines():
        if found := re.fullmatch(r"(.+?):(\d+):\d+: (D401 .+)", line):
            yield Finding(found[1], int(found[2]), found[3])


def check(root: Path, rules: LanguageRules) -> list[str]:
    """Return one line for each finding, and one for each file that need not be on the list any more."""
    words = (each for path in list_files(root) for each in find_words(path, str(path.relative_to(root)), rules))
    return judge([*words, *find_moods(root)], [name for name in rules.not_rewritten if (root / name).exists()])


def judge(findings: Iterable[Finding], not_rewritten: Iterable[str]) -> list[str]:
    """Keep the findings of rewritten files; name files that are listed as not rewritten and have no finding."""
    every = list(findings)
    left_out = set(not_rewritten)
    stale = sorted(left_out - {each.path for each in every})
    return [
        *(str(each) for each in every if each.path not in left_out),
        *(f'{name}: is rewritten; delete it from "not_rewritten" in tools/{RULES.name}' for name in stale),
    ]


if __name__ == "__main__":
    found_lines = check(Path.cwd(), LanguageRules.read())
    print("\n".join(found_lines), file=sys.stderr, end="\n" if found_lines else "")
    sys.exit(1 if found_lines else 0)
