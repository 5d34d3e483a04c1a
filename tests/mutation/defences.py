"""Remove each defence of defences.toml in a copy of the work tree, and check that its test fails.

Exit codes: 0, each test passes with its defence and fails without it; 1, one does not; 2, wrong options.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import msgspec

from tests.mutation.paths import ROOT
from tools.cli.common.command import run_and_exit

LIST = Path(__file__).parent / "defences.toml"
# The time for one test without its defence. A test that hangs has detected the removal.
MAX_TEST_SECONDS = 240
# pytest's exit codes: all tests passed, some failed.
PASSED, FAILED = 0, 1


class Defence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One defence: the promise that it keeps, the code to remove, the replacement, and the test that fails then."""

    promise: str
    file: str
    remove: str
    instead: str
    test: str


def load_defences() -> list[Defence]:
    """Return the defences of the list."""
    return msgspec.convert(tomllib.loads(LIST.read_text())["defence"], list[Defence])


def without_defence(defence: Defence, text: str) -> str:
    """Return a file's text without the defence. Raise `ValueError` unless the file has its code exactly once."""
    if text.count(defence.remove) != 1:
        raise ValueError(f"{defence.file}: has {defence.remove!r} {text.count(defence.remove)} times instead of once")
    return text.replace(defence.remove, defence.instead)


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -P -m tests.mutation.defences", description=__doc__)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="try only defences whose promise or file contains this text"
    )
    only = parser.parse_args().only
    chosen = [each for each in load_defences() if only in each.promise or only in each.file]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
        for name in filter(None, tracked.decode().split("\0")):
            if (source := ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, copy / name)
        detected = [_fails_without(defence, copy) for defence in chosen]
        return int(not all(detected))


def _fails_without(defence: Defence, copy: Path) -> bool:
    """Return whether the test of a defence fails without the defence."""
    path = copy / defence.file
    text = path.read_text()
    _write_source(path, without_defence(defence, text))
    try:
        code = _run_test(defence.test, copy)
    finally:
        _write_source(path, text)
    verdict = {FAILED: "red", None: "red (hangs)", PASSED: "GREEN: the test does not detect it"}.get(
        code, f"exit {code}"
    )
    print(f"{verdict:12} {defence.promise} ({defence.test.rpartition('::')[2]})", flush=True)
    return code in (FAILED, None)


def _write_source(path: Path, text: str) -> None:
    """Write a module, and delete its bytecode.

    Python compares only the size and the second of the change, so it could use the old bytecode.
    """
    path.write_text(text)
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def _run_test(test: str, folder: Path) -> int | None:
    """Return pytest's exit code, or None if the test did not end."""
    command = [
        sys.executable,
        "-P",
        "-B",
        "-m",
        "pytest",
        test,
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "-q",
        "-x",
    ]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "HOME": str(folder)}
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=MAX_TEST_SECONDS, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return None


if __name__ == "__main__":
    run_and_exit("defences", main)
