"""Build a base for the image from Debian's packages, for machines that reach no registry."""

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
"""The version of SUITE's python3. It determines which wheels are downloaded."""

_PACKAGES = ("ca-certificates", "python-is-python3", "python3")
_OPTIONS = (
    "--quiet",
    "--variant=essential",
    f"--include={','.join(_PACKAGES)}",
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")),
    # Every base has this file. Without it, the builder would add an empty one to the image.
    '--customize-hook=echo 127.0.0.1 localhost > "$1/etc/hosts"',
)
# The minor versions of glibc 2 whose wheels run on SUITE, which has glibc 2.36.
_GLIBC = range(17, 37)
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class DebianBaseError(Exception):
    """The base cannot be built. The message has the cause."""


def build_rootfs() -> Path:
    """Return a tar of the base's files, which is built once. To update its packages, delete its folder in the cache."""
    system_packages.require(system_packages.DEBIAN_BASE)

    def make(folder: Path) -> None:
        print(f"building a base from the packages of Debian {SUITE} (once; about a minute) ...", file=sys.stderr)
        command = ["mmdebstrap", *_OPTIONS, SUITE, str(folder / "rootfs.tar")]
        _run_command(command, os.environ | {"SOURCE_DATE_EPOCH": "0"})

    name = f"base-debian-{SUITE}-{cache.machine_architecture()}"
    return cache.populate(name, " ".join((SUITE, *_OPTIONS)), make) / "rootfs.tar"


def unpack_base(folder: Path, architecture: str) -> None:
    """Unpack the base's packages for another architecture into a folder.

    The packages are not configured, because their scripts cannot run. So the folder is not a base, but its Python
    works.
    """
    system_packages.require(system_packages.DEBIAN_BASE)
    options = ["--quiet", "--variant=extract", f"--architectures={architecture}", f"--include={','.join(_PACKAGES)}"]
    _run_command(["mmdebstrap", *options, SUITE, str(folder)], dict(os.environ))


def download_wheels(folder: Path, architecture: str = "") -> Path:
    """Download the wheels that the image installs, with the settings of this machine's pip.

    Return the wheel of pip, which is also downloaded because the base has no pip.
    """
    pin = re.search(r"^pip==.*\n(?: .*\n?)+", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    assert pin is not None  # noqa: S101
    own = folder / "pip.txt"
    own.write_text(pin[0])
    machine = _MACHINES[architecture or cache.machine_architecture()]
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
