"""What a control plane occupies while it runs: a folder and TCP ports on loopback."""

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
    """A locked folder. A temporary one is removed at the end; one that was given is kept for reading."""

    def __init__(self, folder: Path | None) -> None:
        self.temporary = folder is None
        if folder is None:
            parent = Path(tempfile.gettempdir())
            _remove_abandoned(parent)
            # Locked before it bears the name by which abandoned ones are found.
            unlocked = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
            self.lock = _lock_file(unlocked)
            folder = unlocked.rename(parent / unlocked.name.removeprefix("."))
        else:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.lock = _lock_file(folder)
        self.folder = folder.absolute()

    def empty(self, name: str) -> Path:
        """A subfolder without what an earlier control plane left in it; nobody else may look into it."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        return folder

    def close(self) -> None:
        """Give the folder up."""
        os.close(self.lock)
        if self.temporary:
            shutil.rmtree(self.folder, ignore_errors=True)


def in_use(folder: Path) -> bool:
    """Whether a control plane runs in `folder`."""
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
        time.sleep(0.05)  # in_use() holds it for an instant, too
    os.close(lock)
    raise ClusterError(f"another control plane runs in {folder}: stop it, or name another folder")


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def reserve_port(host: str = "127.0.0.1") -> socket.socket:
    """A TCP port of `host` that stays ours while the socket is open, and on which our servers can listen.

    The kernel picks a port that nobody has; allowing to share it *afterwards* lets in servers of the same
    user that ask for sharing, too (SO_REUSEPORT). So nobody takes the port while its server is being
    restarted, and connecting to it then is refused, since this socket never listens.
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.bind((host, 0))
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return reserved


def _remove_abandoned(parent: Path) -> None:
    """Remove folders whose owner and its supervisor were both killed, so that they do not pile up."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if folder.stat().st_uid == os.getuid() and (folder / "lock").exists() and not in_use(folder):
            shutil.rmtree(folder, ignore_errors=True)
