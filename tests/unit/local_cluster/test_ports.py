"""Ports that are claimed by several processes side by side."""

import gc
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tools.local_cluster.errors import ClusterError
from tools.local_cluster.ports import PortClaim

ROOT = Path(__file__).resolve().parents[3]
CLAIM = """
import sys
from pathlib import Path
from tools.local_cluster.ports import PortClaim
claims = [PortClaim(Path(sys.argv[1])) for _ in range(50)]
print(*(claim.port for claim in claims), flush=True)
sys.stdin.read()
"""


def test_processes_side_by_side_never_share_a_port(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", CLAIM, str(tmp_path)]
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={"PYTHONPATH": str(ROOT)}) for _ in range(3)
    ]
    ports: list[str] = []
    for process in running:
        assert process.stdout is not None
        ports += process.stdout.readline().split()
    for process in running:
        process.communicate()
    assert len(ports) == 150
    assert len(set(ports)) == 150


def test_port_of_a_listening_server_is_not_claimed(tmp_path: Path) -> None:
    free = PortClaim(tmp_path).port
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        claim = PortClaim(tmp_path, [taken, free])
        assert claim.port == free
        with pytest.raises(ClusterError, match=rf"every port from \d+ to \d+ is taken: .* {tmp_path}"):
            PortClaim(tmp_path, [taken, free])


def test_port_can_be_claimed_when_its_claim_is_gone(tmp_path: Path) -> None:
    claim = PortClaim(tmp_path)
    (lock,) = tmp_path.iterdir()
    assert lock.name == str(claim.port)
    del claim
    gc.collect()
    check = ["flock", "--nonblock", str(lock), "true"]
    assert subprocess.run(check, check=False).returncode == 0
