"""Test that no module imports a test module. Shared code is in tests/support or beside the tests."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import sources

ROOT = Path(__file__).resolve().parents[3]


def list_imports(text: str) -> Iterator[str]:
    for node in ast.walk(sources.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def list_test_imports(text: str) -> list[str]:
    return [name for name in list_imports(text) if any(part.startswith("test_") for part in name.split("."))]


@pytest.mark.parametrize("folder", ["controller", "tools", "tests"])
def test_no_module_imports_a_test_module(folder: str) -> None:
    found = {str(path): list_test_imports(path.read_text()) for path in (ROOT / folder).rglob("*.py")}
    assert found
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("from tests.unit.test_main import x", 1),
        ("from tests.unit.test_main import x, y", 2),
        ("import tests.unit.test_main.x", 1),
        ("from tests.unit import test_main", 1),
        ("from tests.support import testing", 0),
    ],
)
def test_imports_of_a_source_are_found(text: str, count: int) -> None:
    assert len(list_test_imports(text)) == count
