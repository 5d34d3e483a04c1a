"""Test that each check of `make lint` fails on a copy of this repository with a fault."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import lint
from tools.cli.common import helm

WITHOUT = shutil.ignore_patterns("__pycache__", "go")


@pytest.fixture(scope="module", autouse=True)
def no_system_roots() -> None:
    """Override the fixture of the unit tests: building actionlint on a fresh machine needs the system certificates."""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy what the checks read, and use the copy as the repository."""
    for folder in ("chart", "controller", "tools"):
        shutil.copytree(lint.ROOT / folder, tmp_path / folder, ignore=WITHOUT)
    shutil.copytree(lint.VALUES, tmp_path / "tests" / "chart" / "values")
    for file in ("pyproject.toml", ".yamllint", "values.schema.json", "README.md", "SECURITY.md", "CHANGELOG.md"):
        if (lint.ROOT / file).exists():
            shutil.copy(lint.ROOT / file, tmp_path)
    shutil.copytree(lint.ROOT / ".github", tmp_path / ".github")
    monkeypatch.setattr(lint, "ROOT", tmp_path)
    monkeypatch.setattr(lint, "VALUES", tmp_path / "tests" / "chart" / "values")
    monkeypatch.setattr(helm, "CHART", tmp_path / "chart")
    return tmp_path


def append_text(path: str, text: str) -> Callable[[Path], None]:
    def add_fault(repo: Path) -> None:
        with (repo / path).open("a") as file:
            file.write(text)

    return add_fault


def add_wrong_type(repo: Path) -> None:
    """Use a repository of three modules, because mypy needs minutes for the whole one."""
    for folder in ("controller", "tools", "tests"):
        shutil.rmtree(repo / folder)
        (repo / folder).mkdir()
        (repo / folder / "module.py").write_text("number: int = 1\n")
    (repo / "controller" / "module.py").write_text('number: int = "one"\n')


def without_packages(add_fault: Callable[[Path], None]) -> Callable[[Path], None]:
    """Leave the packages out, because reading all their words takes seconds."""

    def leave_out_and_add_fault(repo: Path) -> None:
        for folder in ("controller", "tools"):
            shutil.rmtree(repo / folder)
        add_fault(repo)

    return leave_out_and_add_fault


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "ruff": (append_text("controller/errors.py", "import sys\n"), "F401"),
    "format": (append_text("controller/errors.py", "NUMBER = (1)\n"), "1 file would be reformatted"),
    "english": (without_packages(append_text("README.md", "No" + "body reads this.\n")), "README.md:"),
    "english mood": (
        without_packages(append_text("module.py", 'def f() -> int:\n    """The number."""\n')),
        "D401",
    ),
    "spelling": (append_text("controller/errors.py", "# rec" + "ieved\n"), " ==> received"),
    "mypy": (add_wrong_type, "Incompatible types in assignment"),
    "imports": (append_text("controller/errors.py", "import tools.pki\n"), "controller.errors -> tools.pki"),
    "generate": (append_text("chart/values.yaml", "more: 1\n"), "chart/values.yaml"),
    "yamllint": (
        append_text("tests/chart/values/unrestricted.yaml", "logLevel:  debug\n"),
        "too many spaces after colon",
    ),
    "yamllint rendered": (
        append_text("chart/templates/serviceaccount.yaml", "\n---\nkind:  X\nmetadata: {name: x}\n"),
        "too many spaces after colon",
    ),
    "helm": (append_text("chart/templates/serviceaccount.yaml", "{{ .Values.nothing.at.all }}\n"), "nil pointer"),
    "workflows": (
        append_text(".github/workflows/ci.yml", "    - run: echo ${{ nothing.at.all }}\n"),
        "undefined variable",
    ),
    "workflows unpinned": (
        append_text(".github/workflows/ci.yml", "    - uses: actions/checkout@v7\n"),
        "unpinned-uses",
    ),
    "workflows schema": (append_text(".github/workflows/nightly.yml", "more: 1\n"), "unexpected key"),
    "workflows renovate": (
        lambda repo: (repo / ".github" / "renovate.json").write_text('{"osvVulnerabilityAlerts": "yes"}'),
        "osvVulnerabilityAlerts",
    ),
    "ct": (append_text("chart/Chart.yaml", "unheardOf: 1\n"), "unheardOf"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_check_fails_on_its_fault(name: str, repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = name.split()[0]
    add_fault, finding = FAULTS[name]
    add_fault(repo)
    assert lint.main([check]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"FAILED {check} ")
    assert finding in out
    assert err.splitlines()[-1] == f"failed: {check}"  # a line before it may report the progress of a build


def test_passed_check_prints_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Use a check that does nothing. `make lint` itself shows that the real checks pass."""
    monkeypatch.setattr(lint, "CHECKS", [lint.LintCheck("one", "about it", lambda: None)])
    assert lint.main(["one"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"ok {5}one {7} {2}\d\.\d s {2}about it\n", out)
    assert err == ""


def test_failed_check_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise lint.CheckFailed("what was found\non two lines")

    ran: list[str] = []
    checks = [
        lint.LintCheck("a", "one", fail),
        lint.LintCheck("b", "two", lambda: ran.append("b")),
        lint.LintCheck("c", "three", fail),
    ]
    monkeypatch.setattr(lint, "CHECKS", checks)
    assert lint.main([]) == 1
    out, err = capsys.readouterr()
    assert ran == ["b"]
    assert [line.split()[:2] for line in out.splitlines() if line[:2] in ("ok", "FA")] == [
        ["FAILED", "a"],
        ["ok", "b"],
        ["FAILED", "c"],
    ]
    assert out.count("what was found\non two lines\n") == 2
    assert err == "failed: a, c\n"
    assert lint.main(["b"]) == 0


def test_unknown_check_ends_with_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        lint.main(["ruf"])
    assert raised.value.code == 2
    assert "no check is called ruf; the checks are mypy, ruff" in capsys.readouterr().err
