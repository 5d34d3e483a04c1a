"""Test the emulator's command line: each invalid input is reported in one line that names it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tools.keyvault_emulator.__main__ import main

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the state cannot be read"),
        (b"\xff\xfe", "it is not text"),
        (b"a: 1\n---\nb: 2\n", "the state cannot be read: expected a single document"),
        (b"vaults: {v: {secrets: [a]}}", "$.vaults[...].secrets"),
        (b"vaults: [", "the state cannot be read"),
    ],
)
def test_invalid_state_file_is_reported_in_one_line(
    content: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state.yaml").write_bytes(content)
    assert main(["--state", str(tmp_path / "state.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("keyvault-emulator: ")
    assert reason in line


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--port=x", "expected a port number from 0 to 65535"),
        ("--port=-1", "expected a port number from 0 to 65535"),
        ("--control-port=65536", "expected a port number from 0 to 65535"),
        ("--address=ü", "expected an IP address of this machine"),
        ("--directory=", "argument --directory: expected a path, and it is empty"),
        ("--state=", "argument --state: expected a path, and it is empty"),
    ],
)
def test_invalid_option_is_reported(option: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("stdin", ["</dev/null", "<&-", "<file"])
def test_standard_input_that_never_closes_is_refused(stdin: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    program = f'exec "$0" -m tools.keyvault_emulator --until-stdin-closes --directory made {stdin}'
    done = subprocess.run(
        ["sh", "-c", program, sys.executable],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "keyvault-emulator: --until-stdin-closes: the standard input must be a pipe or a terminal\n"
    assert not (tmp_path / "made").exists()


def test_folder_that_cannot_be_created_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["--directory", str(tmp_path / "file" / "x")]) == 1
    assert capsys.readouterr().err == f"keyvault-emulator: {tmp_path}/file/x: Not a directory\n"


def test_temporary_folder_is_removed_if_the_emulator_cannot_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["--address", "192.0.2.1"]) == 1  # no machine has this address
    assert "cannot listen on 192.0.2.1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_temporary_folder_is_removed_at_the_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tools.keyvault_emulator", "--until-stdin-closes"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        input="",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, json.loads(done.stdout)["directory"].startswith(str(tmp_path))) == (0, True), done.stderr
    assert list(tmp_path.iterdir()) == []
