"""Test the installation of Debian packages with a fake apt-get, which is the only program in the PATH."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.local_cluster.nodes import system_packages
from tools.local_cluster.nodes.system_packages import MissingPackagesError, require

COMMAND = "sudo apt-get update && sudo apt-get install --yes --no-install-recommends some-package"


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that writes a fake apt-get and returns its log. `apt-get install` runs the given shell line."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(system_packages, "PROGRAM_PATHS", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def write(line: str) -> Path:
        program, log = tmp_path / "apt-get", tmp_path / "log"
        program.write_text(f'#!/bin/sh\necho "$*" >> {log}\ncase "$1" in install) {line} ;; esac\n')
        program.chmod(0o755)
        return log

    return write


def test_installed_program_causes_no_installation(apt: Callable[[str], Path], tmp_path: Path) -> None:
    log = apt("exit 1")
    (tmp_path / "some-program").touch(mode=0o755)
    require({"some-program": "some-package", str(tmp_path): "another-package"})
    assert not log.exists()


def test_missing_program_is_installed(
    apt: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = apt(f"echo '#!/bin/sh' > {tmp_path}/some-program; /bin/chmod +x {tmp_path}/some-program")
    require({"some-program": "some-package"})
    assert log.read_text().splitlines() == [
        "update --quiet",
        "install --yes --no-install-recommends some-package --quiet",
    ]
    assert capsys.readouterr().err == "installing on this machine: some-package ...\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("echo no such package >&2; exit 100", f"failed: no such package; then try: {COMMAND}"),
        ("true", "some-package: installed, but its programs are not where they were expected"),
    ],
)
def test_failed_installation_is_reported(apt: Callable[[str], Path], line: str, message: str) -> None:
    apt(line)
    with pytest.raises(MissingPackagesError) as caught:
        require({"some-program": "some-package"})
    assert str(caught.value).endswith(message)


def test_user_without_root_gets_the_command(apt: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    log = apt("true")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingPackagesError) as caught:
        require({"some-program": "some-package"})
    assert str(caught.value) == f"some-package: missing; as root: {COMMAND}"
    assert not log.exists()


def test_missing_apt_get_error_names_the_packages(apt: Callable[[str], Path]) -> None:
    with pytest.raises(MissingPackagesError, match=r"^some-package: missing, and there is no apt-get here"):
        require({"some-program": "some-package"})
