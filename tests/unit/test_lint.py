"""Each check of `make lint` passes on this repository and fails on a copy that was spoilt."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import helm, lint

WITHOUT = shutil.ignore_patterns("__pycache__", "local_cluster/go", "keyvault_emulator")


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the checks read, in the repository's place."""
    for folder in ("chart", "controller", "tools"):
        shutil.copytree(lint.ROOT / folder, tmp_path / folder, ignore=WITHOUT)
    shutil.copytree(lint.VALUES, tmp_path / "tests" / "chart" / "values")
    for file in ("pyproject.toml", ".yamllint", "values.schema.json", "README.md", "SECURITY.md"):
        if (lint.ROOT / file).exists():
            shutil.copy(lint.ROOT / file, tmp_path)
    monkeypatch.setattr(lint, "ROOT", tmp_path)
    monkeypatch.setattr(lint, "VALUES", tmp_path / "tests" / "chart" / "values")
    monkeypatch.setattr(helm, "CHART", tmp_path / "chart")
    return tmp_path


def append(path: str, text: str) -> Callable[[Path], None]:
    def spoil(repo: Path) -> None:
        with (repo / path).open("a") as file:
            file.write(text)

    return spoil


def wrong_type(repo: Path) -> None:
    """A repository of three modules: reading all of ours would take mypy minutes."""
    for folder in ("controller", "tools", "tests"):
        shutil.rmtree(repo / folder)
        (repo / folder).mkdir()
        (repo / folder / "module.py").write_text("number: int = 1\n")
    (repo / "controller" / "module.py").write_text('number: int = "one"\n')


SPOILT = {
    "ruff": (append("controller/errors.py", "import sys\n"), "F401"),
    "mypy": (wrong_type, "Incompatible types in assignment"),
    "imports": (append("controller/settings.py", "import tools.render\n"), "controller.settings -> tools.render"),
    "generate": (append("chart/values.yaml", "more: 1\n"), "chart/values.yaml"),
    "yamllint": (append("tests/chart/values/unrestricted.yaml", "logLevel:  debug\n"), "too many spaces after colon"),
    "yamllint rendered": (
        append("chart/templates/serviceaccount.yaml", "\n---\nkind:  X\nmetadata: {name: x}\n"),
        "too many spaces after colon",
    ),
    "helm": (append("chart/templates/serviceaccount.yaml", "{{ .Values.nothing.at.all }}\n"), "nil pointer"),
    "ct": (append("chart/Chart.yaml", "unheardOf: 1\n"), "unheardOf"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_check_fails_on_what_it_is_there_for(name: str, repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check = name.split()[0]
    spoil, told = SPOILT[name]
    spoil(repo)
    assert lint.main([check]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"FAILED {check} ")
    assert told in out
    assert err == f"failed: {check}\n"


@pytest.mark.parametrize(
    "check", [check.name for check in lint.CHECKS if check.name not in ("mypy", "ruff", "imports")]
)
def test_a_check_passes_on_the_chart_as_it_is(check: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint.main([check]) == 0, capsys.readouterr().out
    out, err = capsys.readouterr()
    assert out.startswith(f"ok     {check} ")
    assert " s  " in out
    assert err == ""


def test_all_run_even_if_one_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise lint.Failed("what was found\non two lines")

    ran: list[str] = []
    checks = [
        lint.Check("a", "one", fail),
        lint.Check("b", "two", lambda: ran.append("b")),
        lint.Check("c", "three", fail),
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


def test_an_unknown_check_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        lint.main(["ruf"])
    assert raised.value.code == 2
    assert "no check is called ruf; there are mypy, ruff" in capsys.readouterr().err
