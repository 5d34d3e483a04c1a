"""Test that each promise of SECURITY.md names existing tests."""

import re
from pathlib import Path

import pytest

from tests.support.pages import list_test_names

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "SECURITY.md").read_text()
PROMISES = [line for line in TEXT.splitlines() if line.startswith("| **")]
NAMED = re.compile(r"`(tests/\S+\.py)::(\w+)`")


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED.findall(TEXT))))
def test_each_named_test_exists(path: str, name: str) -> None:
    assert name in list_test_names(path)


@pytest.mark.parametrize("promise", PROMISES)
def test_each_promise_names_a_test(promise: str) -> None:
    assert NAMED.search(promise.rpartition(" | ")[2])


def test_security_page_is_short_and_names_tests_with_their_files() -> None:
    assert len(PROMISES) > 10
    assert len(TEXT.splitlines()) < 200
    # Each name of a test has its file, so `NAMED` finds it.
    assert len(re.findall(r"test_\w+", NAMED.sub("", TEXT))) == 0
