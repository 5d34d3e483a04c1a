"""Test that each row of the table of SSE's features has a test."""

import ast
import importlib
from pathlib import Path

import pytest

from tests.support import sources
from tests.support.cluster.sse_bounds import BOUNDS, MISTAKES
from tests.support.cluster.sse_cases import CASES, COVERED_ELSEWHERE, ROWS, covered_rows

TESTS = Path(__file__).resolve().parents[1]


def test_every_row_has_a_case() -> None:
    for path in Path(__file__).parent.glob("test_sse_*.py"):
        importlib.import_module(
            f"{__package__}.{path.stem}"
        )  # the decorator `covers_rows` records the rows of the module's tests
    rows = {f"{part}: {' '.join(row.split())}" for part, text in ROWS.items() for row in text.split(",")}
    tested = {row for case in CASES for row in case.rows}
    tested |= {bound.row for bound in BOUNDS} | {wrong.row for wrong in MISTAKES}
    assert sorted(rows - tested - covered_rows) == []
    assert sorted((tested | covered_rows) - rows) == []


@pytest.mark.parametrize("named", sorted(set(COVERED_ELSEWHERE.values())))
def test_every_test_that_covers_a_row_elsewhere_exists(named: str) -> None:
    path, _, name = named.partition("::")
    tree = sources.parse((TESTS / path).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
