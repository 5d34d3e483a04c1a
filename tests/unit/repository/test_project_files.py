"""Test the files that a contributor's tools and the code host read."""

import configparser
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def list_tracked_files() -> list[Path]:
    """Return the files that git tracks."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_pre_commit_runs_what_make_lint_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [hook] = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert (hook["entry"], hook["language"]) == ("make lint", "system")
    assert hook["always_run"] is True
    assert hook["pass_filenames"] is False
    assert "\nlint: " in (ROOT / "Makefile").read_text()


def test_help_of_make_has_two_columns() -> None:
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    starts = {found.end() for line in done.stdout.splitlines() if (found := re.match(r"  make [a-z-]+ +", line))}
    assert len(starts) == 1


def test_files_follow_the_editorconfig() -> None:
    parser = configparser.ConfigParser()
    parser.read_string("[root]\n" + (ROOT / ".editorconfig").read_text())
    every = parser["*"]
    assert (every["charset"], every["end_of_line"]) == ("utf-8", "lf")
    for path in list_tracked_files():
        if path.suffix not in (".py", ".md", ".yml", ".yaml", ".toml", ".j2", ".tpl"):
            continue
        lines = path.read_bytes().split(b"\n")
        assert not lines[-1], f"{path} has no newline at its end"
        assert not any(line.endswith((b"\r", b" ")) for line in lines), f"{path} has a space or CR at the end of a line"
        assert not any(line.startswith(b"\t") for line in lines), f"{path} is indented by a tab"


def test_issue_forms_ask_for_what_a_report_needs() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"):
        form = yaml.safe_load(path.read_text())
        assert form["name"]
        assert form["description"]
        inputs = [item for item in form["body"] if item["type"] != "markdown"]
        assert len({item["id"] for item in inputs}) == len(inputs)
        assert any(item.get("validations", {}).get("required") for item in inputs)


def test_decisions_name_files_that_exist_and_fit_on_a_page() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    assert len(records) >= 6
    for record in records:
        text = record.read_text()
        assert f"({record.name})" in index
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Context",
            "## Decision",
            "## Consequences",
        ]
        assert len(text.splitlines()) <= 60
        for path in re.findall(r"`((?:controller|tools|tests|docs|requirements)/[^`:]*)", text):
            assert (ROOT / path).exists(), f"{record.name}: {path}"
