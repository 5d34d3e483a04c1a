"""Claim TCP ports of 127.0.0.1 so that test runs side by side never choose the same one.

Asking the kernel for a free port and closing it again is a race: until the server listens, another process can get the
same port, or an outgoing connection can use it. A claimed port is below the range of outgoing connections, and a bound
name in Linux's abstract socket namespace shows other processes that it is taken. The kernel frees the name when the
process ends, however it ends, and nothing is left on disk.
"""

import contextlib
import random
import socket
import weakref
from collections.abc import Iterable
from pathlib import Path

from tools.local_cluster.errors import ClusterError

_LOWEST = 10_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_DEFAULT_EPHEMERAL = 32_768


class PortClaim:
    """A port that no other claim has while this object exists. Raise `ClusterError` if all `ports` are taken."""

    def __init__(self, ports: Iterable[int] | None = None) -> None:
        candidates = list(ports or range(_LOWEST, _first_ephemeral()))
        random.shuffle(candidates)
        for port in candidates:
            if claim := _try_claim(port):
                if _is_free(port):
                    self.port = port
                    weakref.finalize(self, claim.close)
                    return
                claim.close()
        first, last = min(candidates), max(candidates)
        raise ClusterError(f"every port from {first} to {last} is taken: end servers or test runs that you do not need")


def _try_claim(port: int) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0akv-secret-store-port-{port}")
    except OSError:
        claim.close()
        return None
    return claim


def _is_free(port: int) -> bool:
    """Return whether no server of another program listens on the port."""
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
