"""Measure the cost of one controller process: CPU, memory, calls to vault and Entra, writes to the API server."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from tests.bench.audit_log import WRITES, AuditEntry, is_accepted, read_completed_requests, read_lines
from tests.support.cluster.harness import InstalledRelease
from tests.support.cluster.namespace import Namespace
from tests.support.process_stats import cpu_seconds
from tools.pods.pod_process import PodProcess


class Write(msgspec.Struct, frozen=True):
    """One write of the controller. `moment` is in seconds since 1970, and `code` is the HTTP status of the answer."""

    moment: float
    verb: str
    resource: str
    name: str
    code: int

    @property
    def is_accepted(self) -> bool:
        """Return whether the API server accepted the write."""
        return is_accepted(self.code)


class SyncWrites(NamedTuple):
    """The numbers of writes of first syncs, by kind. Before a create, a patch only checks whether the Secret exists."""

    creates: int
    empty_patches: int
    status_patches: int
    repeated_status_patches: int
    events: int

    @classmethod
    def of(cls, writes: Sequence[Write]) -> "SyncWrites":
        """Count writes, including those that the API server refused."""
        counts = Counter((item.verb, item.resource) for item in writes)
        statuses = counts["patch", "secretsyncs/status"]
        reported = {item.name for item in writes if item.resource == "secretsyncs/status"}
        return cls(
            counts["create", "secrets"],
            counts["patch", "secrets"],
            statuses,
            statuses - len(reported),
            counts["create", "events"],
        )


class Meter:
    """Count calls, writes and CPU time for one namespace and its vault, since the last `reset` or the creation."""

    def __init__(self, installed: InstalledRelease, space: Namespace, workload: PodProcess) -> None:
        self._installed = installed
        self._space = space
        self._workload = workload
        self._cpu = 0.0
        self._position = 0
        self._attempts: list[Write] = []
        self.reset()

    def reset(self) -> None:
        """Start all counts again."""
        self._installed.emulator.reset_counters()
        self._cpu = cpu_seconds(self._workload.pid) if self._workload.running else 0.0
        self._position = self._installed.plane.audit_log.stat().st_size
        self._attempts = []

    @property
    def cpu(self) -> float:
        """Return the CPU seconds that the controller has used."""
        return cpu_seconds(self._workload.pid) - self._cpu

    def calls(self) -> dict[str, int]:
        """Count answered calls by operation: {"secrets.get": 3, "token": 1}. An answer of 401 counts as "challenge"."""
        found: Counter[str] = Counter()
        for what, count in self._installed.emulator.counters().items():
            where, operation, outcome = what.split("/")
            if where not in (self._space.vault, "entra"):
                continue
            found["challenge" if outcome == "401" else operation] += count
        return dict(found)

    def writes(self) -> list[Write]:
        """Return the controller's accepted writes in order. A drift check counts, because it is an empty patch."""
        return [item for item in self.attempts() if item.is_accepted]

    def attempts(self) -> list[Write]:
        """Return the controller's writes in their order, including those that the API server refused."""
        lines = list(read_lines(self._installed.plane.audit_log, self._position))
        self._position += sum(map(len, lines))
        entries = read_completed_requests(lines, self._installed.user)
        self._attempts += [_decode_write(entry) for entry in entries if self._counts(entry)]
        return self._attempts

    def _counts(self, entry: AuditEntry) -> bool:
        return entry.verb in WRITES and entry.object_ref.namespace == self._space.name

    def wait(self, what: str, holds: Callable[[], bool], patience: float, every: float = 0.05) -> float:
        """Wait until the condition is true. Return the time in seconds since 1970."""
        deadline = time.monotonic() + patience
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {patience:g} s; calls so far {self.calls()}")
            time.sleep(every)
        return time.time()

    def wait_idle(self, seconds: float = 1.0, patience: float = 120.0) -> None:
        """Wait until the controller has made no calls and used almost no CPU for this many seconds."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            before, spent = self.calls(), self.cpu
            time.sleep(seconds)
            if self.calls() == before and self.cpu - spent < 0.05 * seconds:
                return
        raise TimeoutError(f"the controller was still busy after {patience:g} s: {self.calls()}")


def _decode_write(entry: AuditEntry) -> Write:
    moment = datetime.fromisoformat(entry.stage_timestamp).timestamp()
    return Write(moment, entry.verb, entry.resource, entry.object_ref.name, entry.response_status.code)
