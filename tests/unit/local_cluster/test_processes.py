"""Test processes that end with their parent, and the report of a process that ends too early."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster.harness import eventually
from tests.support.pids import is_alive, wait_until_gone
from tools.local_cluster import ClusterError
from tools.local_cluster.processes import ServerProcesses

PARENT = """
import os, sys, time
from pathlib import Path
from tools.local_cluster.processes import ServerProcesses
scratch = Path(sys.argv[1])
scratch.mkdir()
processes = ServerProcesses(scratch=scratch)
pid = processes.start("sleeper", ["sleep", "60"], scratch / "log")
# A forked child holds the supervisor's stdin open; it must not keep the servers alive.
if sys.argv[2] == "forks" and os.fork() == 0:
    time.sleep(5)
    os._exit(0)
print(pid, processes._supervisor.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ServerProcesses]:
    started = ServerProcesses(scratch=tmp_path / "scratch")
    yield started
    started.close()


@pytest.mark.parametrize("parent_action", ["waits", "forks"])
def test_killed_parent_leaves_no_process_and_no_folder(tmp_path: Path, parent_action: str) -> None:
    scratch = tmp_path / "scratch"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(scratch), parent_action],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(is_alive(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        wait_until_gone(*pids, patience=3)
    assert not scratch.exists()


def test_killed_supervisor_leaves_no_process(processes: ServerProcesses, tmp_path: Path) -> None:
    pid = processes.start("sleeper", ["sleep", "60"], tmp_path / "log")
    processes.supervisor.kill()
    wait_until_gone(pid, patience=3)
    with pytest.raises(ClusterError, match="not running any more"):
        processes.require("sleeper")


def test_server_that_exits_is_reported_with_the_end_of_its_log(processes: ServerProcesses, tmp_path: Path) -> None:
    script = "echo first; echo Error: no such flag; echo Usage: long; exit 3"
    pid = processes.start("server", ["sh", "-c", script], tmp_path / "log")
    wait_until_gone(pid)
    with pytest.raises(ClusterError, match=r"^server ended with code 3:\nfirst\nError: no such flag$"):
        processes.require("server")


def test_missing_program_is_reported(processes: ServerProcesses, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"cannot start server: .*No such file.*nonsense"):
        processes.start("server", ["/nonsense"], tmp_path / "log")


def test_process_that_ignores_sigterm_is_killed(processes: ServerProcesses, tmp_path: Path) -> None:
    script = "trap '' TERM; echo ready; while true; do sleep 0.05; done"
    pid = processes.start("stubborn", ["sh", "-c", script], tmp_path / "log")
    eventually((tmp_path / "log").read_text, lambda text: "ready" in text)
    processes.stop("stubborn", grace=0.1)
    assert not is_alive(pid)
