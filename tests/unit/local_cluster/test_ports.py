"""Test claims of ports by several processes at the same time."""

import gc
import socket
import subprocess
import sys

import pytest

from tools.local_cluster.errors import ClusterError
from tools.local_cluster.ports import PortClaim

CLAIM = """
import sys
from tools.local_cluster.ports import PortClaim
claims = [PortClaim() for _ in range(50)]
print(*(claim.port for claim in claims), flush=True)
sys.stdin.read()
"""


def test_concurrent_processes_never_share_a_port() -> None:
    command, pipe = [sys.executable, "-P", "-c", CLAIM], subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    ports: list[str] = []
    for process in running:
        assert process.stdout is not None
        ports += process.stdout.readline().split()
    for process in running:
        process.communicate()
    assert len(ports) == 150
    assert len(set(ports)) == 150


def test_port_of_a_listening_server_is_not_claimed() -> None:
    first = PortClaim()
    free = first.port
    del first
    gc.collect()
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        claim = PortClaim([taken, free])
        assert claim.port == free
        with pytest.raises(ClusterError, match=r"every port from \d+ to \d+ is taken"):
            PortClaim([taken, free])
    del claim
    gc.collect()
    assert PortClaim([taken]).port == taken
