"""A base for the image made from Debian's packages, for places from where no registry is reachable."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tools.local_cluster.nodes import system_packages
from tools.local_cluster.programs import cache

ROOT = Path(__file__).resolve().parents[2]

SUITE = "bookworm"
PYTHON = "3.11"
"""What SUITE's python3 is: wheels are chosen by it."""

_PACKAGES = ("ca-certificates", "python-is-python3", "python3")
_OPTIONS = (
    "--quiet",
    "--variant=essential",
    f"--include={','.join(_PACKAGES)}",
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")),
    # Every base has one; where there is none, a builder leaves an empty one behind.
    '--customize-hook=echo 127.0.0.1 localhost > "$1/etc/hosts"',
)
# An image says nothing of glibc's age; wheels do: 2.36 is SUITE's.
_GLIBC = range(17, 37)
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class DebianBaseError(Exception):
    """It cannot be made; the message says why."""


def rootfs() -> Path:
    """A tar of the base's files, made once; delete its folder in the cache for one with today's packages."""
    system_packages.require(system_packages.DEBIAN_BASE)

    def make(folder: Path) -> None:
        print(f"making a base from the packages of Debian {SUITE} (once; about a minute) ...", file=sys.stderr)
        command = ["mmdebstrap", *_OPTIONS, SUITE, str(folder / "rootfs.tar")]
        _run_command(command, os.environ | {"SOURCE_DATE_EPOCH": "0"})

    name = f"base-debian-{SUITE}-{cache.architecture()}"
    return cache.populate(name, " ".join((SUITE, *_OPTIONS)), make) / "rootfs.tar"


def unpacked(folder: Path, architecture: str) -> None:
    """The base's files for another processor. Nothing of it has run, so it is no base, but its Python works."""
    system_packages.require(system_packages.DEBIAN_BASE)
    options = ["--quiet", "--variant=extract", f"--architectures={architecture}", f"--include={','.join(_PACKAGES)}"]
    _run_command(["mmdebstrap", *options, SUITE, str(folder)], dict(os.environ))


def wheels(folder: Path, architecture: str = "") -> Path:
    """Fetch what the image installs, and a pip, since the base has none, as this machine's pip is set up; the pip."""
    pin = re.search(r"^pip==.*\n(?: .*\n?)+", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    assert pin is not None  # noqa: S101
    own = folder / "pip.txt"
    own.write_text(pin[0])
    machine = _MACHINES[architecture or cache.architecture()]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", f"--python-version={PYTHON}", f"--dest={folder}"]
    command += [f"--platform=manylinux_2_{minor}_{machine}" for minor in reversed(_GLIBC)]
    command += [f"--platform=manylinux2014_{machine}"]
    _run_command([*command, "-r", str(ROOT / "requirements" / "controller.txt"), "-r", str(own)], dict(os.environ))
    [pip] = folder.glob("pip-*.whl")
    return pip


def _run_command(command: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise DebianBaseError(f"{command[0]} failed:\n{last}")
