"""The cache of programs that are built or downloaded once. Each entry is complete or absent, also for other processes.

~/.cache/akv-secret-store/         (or $XDG_CACHE_HOME/akv-secret-store)
    1.37.2-amd64/                  the programs of one control plane, built
    node-1.37.2-amd64/             the programs of a node, built
    downloaded-1.37.2-amd64/       the programs of one control plane, downloaded, with their checksums
    downloaded-node-1.37.2-amd64/  the programs of a node, downloaded, with their checksums
    ct-3.14.0-amd64/               a tool
    otelcol-0.165.0-amd64/         a tool for `make test-logs`, as are cert-manager and trust-manager
    base-debian-bookworm-amd64/    the base of the image, if no registry is reachable
    go-1.26.6-amd64/               Go, if the machine has no Go
    clusters/<name>/               a cluster that `tools/cluster up` started
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


def cache_root() -> Path:
    """Return the cache folder. It can be missing."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if configured.is_absolute():  # the XDG specification says that a relative path must be ignored
        return configured / "akv-secret-store"
    try:
        return Path.home() / ".cache" / "akv-secret-store"
    except RuntimeError as error:
        raise ClusterError(f"the cache has no folder: {error}; set XDG_CACHE_HOME") from error


def machine_architecture() -> str:
    """Return the processor of this machine as Go names it."""
    machine = platform.machine()
    known = {"x86_64": "amd64", "aarch64": "arm64"}
    if machine not in known:
        raise ClusterError(f"this machine is a {machine}; programs can only be built for {' and '.join(known)}")
    return known[machine]


def find(name: str, stamp: str) -> Path | None:
    """Return the folder `name` if it exists and was made with the recipe of `stamp`, or None."""
    folder = cache_root() / name
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if (folder / _STAMP).read_text() == stamp:
            return folder
    return None


def populate(name: str, stamp: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache. If it does not exist, let `make(empty folder)` fill it.

    `make` works in a temporary folder beside the final one. A rename gives the complete folder its name, so an
    interrupted build leaves no incomplete entry. One process makes a folder at a time. Other processes wait for it.
    `stamp` identifies the recipe. If it differs from the stamp of the existing folder, the folder is made again.
    """
    if folder := find(name, stamp):
        return folder
    folder = cache_root() / name
    cache_root().mkdir(parents=True, exist_ok=True)
    with _lock_folder(name):
        if made := find(name, stamp):
            return made
        _remove_parts(name)  # parts of a build that was killed. This process has the lock, so no other one uses them
        part = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=cache_root()))
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
    for part in cache_root().glob(f".{name}.*.part"):
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _lock_folder(name: str) -> Iterator[None]:
    with (cache_root() / f".{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: waiting for another process, which makes it ...", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
