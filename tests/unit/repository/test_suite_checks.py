"""Test the checks at the end of a pytest session. They use the records of all modules of tests/cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster.permissions import Permission
from tests.support.cluster.suite_checks import ModuleRecord, check, decode, encode

ROOT = Path(__file__).resolve().parents[3]
GET, PATCH = Permission("*", "get", "", "secrets"), Permission("*", "patch", "", "secrets")


def make_record(module: str, granted: set[Permission], used: set[Permission], *leaks: str) -> ModuleRecord:
    return ModuleRecord(module, frozenset(granted), frozenset(used), leaks)


def list_problems(*records: ModuleRecord, is_complete: bool = True) -> list[str]:
    return [result.problem for result in check(records, is_complete=is_complete) if result.problem]


def test_records_are_unchanged_after_encoding_and_decoding() -> None:
    records = [make_record("a", {GET}, set(), "a value is in x"), make_record("b", {PATCH}, {PATCH})]
    assert decode(encode(records)) == records


def test_rights_used_by_different_modules_are_combined() -> None:
    assert list_problems(make_record("a", {GET, PATCH}, {GET}), make_record("b", {GET, PATCH}, {PATCH})) == []


def test_right_that_no_module_used_fails_a_complete_run_only() -> None:
    records = make_record("a", {GET, PATCH}, {GET}), make_record("b", {GET, PATCH}, {GET})
    assert list_problems(*records) == [f"granted and not used by any test: {PATCH}"]
    assert list_problems(*records, is_complete=False) == []


@pytest.mark.parametrize("is_complete", [True, False])
def test_right_that_was_not_granted_fails_any_run(is_complete: bool) -> None:
    found = list_problems(make_record("a", {GET}, {GET, PATCH}), is_complete=is_complete)
    assert found == [f"a: used without being granted: {PATCH}"]


def test_exposed_value_names_module_and_place() -> None:
    assert list_problems(make_record("a", set(), set()), make_record("b", set(), set(), "a value is in x")) == [
        "b: a value is in x"
    ]


MODULE = """
from tests.support.cluster.permissions import Permission
from tests.support.cluster.suite_checks import ModuleRecord
from tests.cluster import conftest

def test_{name}(request):
    granted = frozenset({{Permission("*", "get", "", "a"), Permission("*", "get", "", "b")}})
    used = frozenset({{Permission("*", "get", "", "{name}")}})
    request.config.stash[conftest._records].append(ModuleRecord("{name}", granted, used, {leaks}))
"""
HOOKS = "pytest_configure, pytest_deselected, pytest_testnodedown, pytest_sessionfinish"


@pytest.mark.parametrize(
    ("workers", "modules", "leaks", "code", "words"),
    [
        ("0", ("a", "b"), (), 0, ["4 passed"]),
        ("2", ("a", "b"), (), 0, ["4 passed"]),
        (
            "2",
            ("b",),
            ("a value is in x",),
            1,
            [
                "granted and not used by any test: Permission(scope='*', verb='get', group='', resource='a'",
                "b: a value is in x",
            ],
        ),
    ],
    ids=["in one process", "with workers", "a right is not used, and a value is exposed"],
)
def test_session_ends_with_the_checks_over_all_workers(
    tmp_path: Path, workers: str, modules: tuple[str, ...], leaks: tuple[str, ...], code: int, words: list[str]
) -> None:
    (tmp_path / "conftest.py").write_text(
        f"from tests.conftest import pytest_addoption\nfrom tests.cluster.conftest import {HOOKS}\n"
    )
    for name in modules:
        (tmp_path / f"test_{name}.py").write_text(MODULE.format(name=name, leaks=leaks if name == "b" else ()))
    command = [sys.executable, "-P", "-m", "pytest", "-c", os.devnull, "--rootdir", str(tmp_path)]
    command += ["-p", "no:cacheprovider", "-n", workers, "--dist", "loadfile", "--granted-equals-used", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert all(each in done.stdout for each in words), done.stdout + done.stderr
    assert done.returncode == code
