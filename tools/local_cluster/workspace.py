"""The folder and the TCP ports on loopback that a control plane occupies while it runs."""

import fcntl
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from tools.local_cluster.errors import ClusterError

_PREFIX = "akv-cluster-"


class Workspace:
    """A locked folder. A temporary folder is removed at the end. A given folder remains."""

    def __init__(self, folder: Path | None) -> None:
        self.temporary = folder is None
        if folder is None:
            parent = Path(tempfile.gettempdir())
            _remove_abandoned(parent)
            # The folder gets its final name after it was locked, because _remove_abandoned() removes unlocked folders
            # with such a name.
            unlocked = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
            self.lock = _lock_file(unlocked)
            folder = unlocked.rename(parent / unlocked.name.removeprefix("."))
        else:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.lock = _lock_file(folder)
        self.folder = folder.absolute()

    def empty(self, name: str) -> Path:
        """Return a new subfolder that only its owner can read. Remove the files of an earlier control plane."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        return folder

    def close(self) -> None:
        """Unlock the folder, and remove it if it is temporary."""
        os.close(self.lock)
        if self.temporary:
            shutil.rmtree(self.folder, ignore_errors=True)


def is_in_use(folder: Path) -> bool:
    """Return whether a control plane runs in `folder`."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return not _try_lock(lock)
    finally:
        os.close(lock)


def _lock_file(folder: Path) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    for _ in range(10):
        if _try_lock(lock):
            return lock
        time.sleep(0.05)  # is_in_use() also holds the lock for a moment
    os.close(lock)
    raise ClusterError(f"another control plane runs in {folder}: stop it, or name another folder")


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def reserve_port(host: str = "127.0.0.1") -> socket.socket:
    """Reserve a TCP port of `host` while the returned socket is open. The caller's servers can listen on the port.

    The kernel chooses a free port. The socket sets SO_REUSEPORT *afterwards*, so that servers of the same user can
    share the port if they set it, too. Therefore no other process can take the port while its server restarts. In that
    time connections are refused, because this socket never listens.
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.bind((host, 0))
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return reserved


def _remove_abandoned(parent: Path) -> None:
    """Remove the folders of control planes that were killed together with their supervisor."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if folder.stat().st_uid == os.getuid() and (folder / "lock").exists() and not is_in_use(folder):
            shutil.rmtree(folder, ignore_errors=True)
