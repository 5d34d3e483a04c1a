"""Claim TCP ports of 127.0.0.1 so that test runs side by side never choose the same one.

Asking the kernel for a free port and closing it again is a race: until the server listens, another process can get the
same port, or an outgoing connection can use it. A claimed port is below the range of outgoing connections, and a lock
on a file tells other processes of this user that it is taken.
"""

import contextlib
import fcntl
import os
import random
import socket
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path

from tools.local_cluster.errors import ClusterError

_LOWEST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_DEFAULT_EPHEMERAL = 32_768


class PortClaim:
    """A port that no other claim has, until this object is gone.

    Processes that use the same `folder` see each other's claims. ClusterError where all `ports` are taken.
    """

    def __init__(self, folder: Path | None = None, ports: Iterable[int] | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir()) / f"akv-ports-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        candidates = list(ports or range(_LOWEST, _first_ephemeral()))
        random.shuffle(candidates)
        for port in candidates:
            if (lock := _try_lock(folder / str(port))) is not None:
                if _is_free(port):
                    self.port = port
                    weakref.finalize(self, os.close, lock)
                    return
                os.close(lock)
        first, last = min(candidates), max(candidates)
        raise ClusterError(f"every port from {first} to {last} is taken: stop a server, or look for locks in {folder}")


def _try_lock(path: Path) -> int | None:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _is_free(port: int) -> bool:
    """Return whether a server of another program can be ruled out."""
    with socket.socket() as probe, contextlib.suppress(OSError):
        # As servers do: connections that a former server of this port has closed do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _first_ephemeral() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        first = int(_EPHEMERAL.read_text().split()[0])
        if first > _LOWEST:
            return first
    return _DEFAULT_EPHEMERAL
