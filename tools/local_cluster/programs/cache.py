"""The folder that keeps what is built or downloaded once. An entry is complete or absent, also with several processes.

~/.cache/akv-secret-store/         ($XDG_CACHE_HOME/akv-secret-store where that is set)
    1.37.2-amd64/                  the programs of one control plane, built
    node-1.37.2-amd64/             those of a node
    downloaded-1.37.2-amd64/       the programs of one control plane, downloaded, with their checksums
    downloaded-node-1.37.2-amd64/  those of a node
    ct-3.14.0-amd64/               a tool
    otelcol-0.165.0-amd64/         … and cert-manager and trust-manager likewise, for `make test-logs`
    base-debian-bookworm-amd64/    the image's base, where no registry is reachable
    go-1.26.6-amd64/               Go, where the machine has none
    clusters/<name>/               what `tools/cluster up` started
"""

import contextlib
import fcntl
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.local_cluster.errors import ClusterError

_STAMP = ".made-from"


def root() -> Path:
    """The cache folder; it need not exist yet."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if configured.is_absolute():  # the XDG specification: a relative path is to be ignored
        return configured / "akv-secret-store"
    try:
        return Path.home() / ".cache" / "akv-secret-store"
    except RuntimeError as error:
        raise ClusterError(f"no folder for the cache: {error}; set XDG_CACHE_HOME") from error


def architecture() -> str:
    """Return the processor of this machine as Go names it."""
    machine = platform.machine()
    known = {"x86_64": "amd64", "aarch64": "arm64"}
    if machine not in known:
        raise ClusterError(f"this machine is a {machine}; programs are built for {' and '.join(known)} only")
    return known[machine]


def find(name: str, stamp: str) -> Path | None:
    """The finished folder `name`, if it was made from what `stamp` stands for."""
    folder = root() / name
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if (folder / _STAMP).read_text() == stamp:
            return folder
    return None


def populate(name: str, stamp: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, made by `make(empty folder)` unless it is there already.

    `make` works in a folder beside the final one, which gets its name by one rename when everything is in it:
    a build that was interrupted leaves nothing that could be taken for a finished one. One process makes a
    folder at a time; the others wait, then use it. `stamp` stands for the recipe: with another one it is made
    again.
    """
    if folder := find(name, stamp):
        return folder
    folder = root() / name
    root().mkdir(parents=True, exist_ok=True)
    with _lock_folder(name):
        if made := find(name, stamp):
            return made
        _remove_parts(name)  # of a build that was killed: we hold the lock, so nobody uses them
        part = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=root()))
        try:
            make(part)
            (part / _STAMP).write_text(stamp)
            part.chmod(0o755)
            if folder.exists():
                folder.rename(part.with_name(f".{name}.old.part"))
            part.rename(folder)
        finally:
            _remove_parts(name)
    return folder


def _remove_parts(name: str) -> None:
    for part in root().glob(f".{name}.*.part"):
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _lock_folder(name: str) -> Iterator[None]:
    with (root() / f".{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: another process is making it; waiting ...", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
