"""Processes of which nothing but their ids is known."""

import contextlib
from pathlib import Path

from tests.cluster.world import eventually


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        # A zombie is gone: whoever should wait for it may be gone, too.
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def wait_gone(*pids: int, patience: float = 5.0) -> None:
    """Waits until none is alive; fails with those that are."""
    eventually(lambda: [pid for pid in pids if alive(pid)], lambda left: not left, patience)
