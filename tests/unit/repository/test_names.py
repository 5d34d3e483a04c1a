"""Test names: a class is a noun phrase, a function is a verb phrase. The share of one-word names does not grow.

Single nouns and verbs of the field, such as `Informer` or `main`, are allowed.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import sources

ROOT = Path(__file__).resolve().parents[3]
FIELD = {"Condition", "Informer", "Lease", "Settings", "Poller", "Reconciler", "main", "run", "close", "start", "stop"}
# The highest shares allowed, in percent. Lower them with each renaming; the goal is 50 for functions, 25 for classes.
HIGHEST = {
    ("controller", "functions"): 22,
    ("controller", "classes"): 15,
    ("tools", "functions"): 34,
    ("tools", "classes"): 7,
    ("tests/support", "functions"): 32,
    ("tests/support", "classes"): 21,
}
MAX_TEST_NAME = 76
# After `test_`, a name begins with the condition or the subject, and not with one of these words.
ARTICLES = {"a", "an", "the", "it", "its", "what", "who", "where"}


def split_name(name: str) -> list[str]:
    return [word for word in re.split(r"_+|(?<=[a-z0-9])(?=[A-Z])", name) if word]


def list_names(folder: str, kind: str) -> Iterator[str]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(sources.parse(path.read_text())):
            if kind == "classes" and isinstance(node, ast.ClassDef):
                yield node.name
            if kind == "functions" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name


@pytest.mark.parametrize(("folder", "kind"), HIGHEST)
def test_share_of_one_word_names_does_not_grow(folder: str, kind: str) -> None:
    counted = [name for name in list_names(folder, kind) if not name.startswith("__") and name not in FIELD]
    single = [name for name in counted if len(split_name(name)) == 1]
    assert len(counted) > (40 if folder == "tests/support" else 100)
    assert 100 * len(single) / len(counted) <= HIGHEST[folder, kind], sorted(single)


@pytest.mark.parametrize(
    ("name", "count"), [("get", 1), ("_get", 1), ("get_key", 2), ("_Key", 1), ("WorkQueue", 2), ("AKVSync", 1)]
)
def test_name_is_split_into_its_words(name: str, count: int) -> None:
    assert len(split_name(name)) == count


@pytest.mark.parametrize("folder", ["unit", "chart", "cluster", "node", "hostile", "logs"])
def test_test_names_state_condition_and_result_in_few_words(folder: str) -> None:
    found = [name for name in list_names(f"tests/{folder}", "functions") if name.startswith("test_")]
    assert found
    assert [name for name in found if len(name) > MAX_TEST_NAME or split_name(name)[1] in ARTICLES] == []


@pytest.mark.parametrize("folder", ["controller", "tools"])
def test_no_folder_has_more_than_fourteen_modules(folder: str) -> None:
    counts = {
        str(place.relative_to(ROOT)): len([path for path in place.glob("*.py") if path.name != "__init__.py"])
        for place in (ROOT / folder, *(ROOT / folder).rglob("*/"))
        if place.is_dir()
    }
    assert counts[f"{folder}"] > 0
    assert {place: count for place, count in counts.items() if count > 14} == {}


def test_no_test_patches_a_private_attribute() -> None:
    """Ruff (SLF001) reports private attributes in code, but not their names in strings."""
    patched = re.compile(r"""(?:[gs]et|del|has)attr\([^()]*["'](?:[\w.]*\.)?_[a-z]""", re.IGNORECASE)
    assert [str(path) for path in sorted((ROOT / "tests").rglob("*.py")) if patched.search(path.read_text())] == []
