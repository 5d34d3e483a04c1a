"""Check processes by their ids."""

import contextlib
from pathlib import Path

from tests.support.cluster.harness import eventually


def is_alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        # A zombie has ended. Its parent may have ended too, so that no process collects its exit code.
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def wait_until_gone(*pids: int, patience: float = 5.0) -> None:
    """Wait until none of the processes runs. Fail with the ids of those that still run."""
    eventually(lambda: [pid for pid in pids if is_alive(pid)], lambda left: not left, patience)
