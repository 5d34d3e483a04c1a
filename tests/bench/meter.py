"""What one controller process has cost so far: CPU, memory, calls to vault and Entra, writes to the API server."""

import os
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec

from tests.cluster.world import Installed, Namespace
from tools.workload import Workload

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads, in seconds (proc(5), /proc/pid/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident(pid: int) -> float:
    """A process's resident memory in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{pid}/status has no VmRSS")


class _User(msgspec.Struct):
    username: str


class _Object(msgspec.Struct, rename="camel"):
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class _Answer(msgspec.Struct):
    code: int = 0


class _Entry(msgspec.Struct, rename="camel"):
    """A line of the audit log, as much of it as is counted."""

    verb: str
    stage: str
    user: _User
    stage_timestamp: str
    object_ref: _Object = msgspec.field(default_factory=_Object)
    response_status: _Answer = msgspec.field(default_factory=_Answer)


class Write(msgspec.Struct, frozen=True):
    """One write of the controller that the API server took: when (seconds since 1970), verb, and what."""

    moment: float
    verb: str
    resource: str
    name: str


class Meter:
    """Counts from the moment of its making, or of the last `reset`, what concerns one namespace and its vault."""

    def __init__(self, installed: Installed, space: Namespace, workload: Workload) -> None:
        self._installed = installed
        self._space = space
        self._workload = workload
        self._cpu = 0.0
        self._position = 0
        self._writes: list[Write] = []
        self.reset()

    def reset(self) -> None:
        """Starts from nothing."""
        self._installed.emulator.reset_counters()
        self._cpu = cpu_seconds(self._workload.pid) if self._workload.running else 0.0
        self._position = self._installed.plane.audit_log.stat().st_size
        self._writes = []

    @property
    def cpu(self) -> float:
        """CPU seconds spent."""
        return cpu_seconds(self._workload.pid) - self._cpu

    def calls(self) -> dict[str, int]:
        """Answered calls by operation, as {"secrets.get": 3, "token": 1}; 401 challenges count as "challenge"."""
        found: Counter[str] = Counter()
        for what, count in self._installed.emulator.counters().items():
            where, operation, outcome = what.split("/")
            if where not in (self._space.vault, "entra"):
                continue
            found["challenge" if outcome == "401" else operation] += count
        return dict(found)

    def writes(self) -> list[Write]:
        """The controller's writes, in their order. A look at a Secret is a patch, too, though it changes nothing."""
        user = self._installed.user.encode()
        with self._installed.plane.audit_log.open("rb") as log:
            log.seek(self._position)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                # Most lines are of others, and whoever measures must not keep the machine busy.
                if user in line and (write := self._write(msgspec.json.decode(line, type=_Entry))):
                    self._writes.append(write)
        return self._writes

    def _write(self, entry: _Entry) -> Write | None:
        what = entry.object_ref
        counts = (
            entry.user.username == self._installed.user
            and entry.stage == "ResponseComplete"
            and entry.verb in ("create", "patch", "update", "delete")
            and 200 <= entry.response_status.code < 300
            and what.namespace == self._space.name
        )
        resource = "/".join(part for part in (what.resource, what.subresource) if part)
        moment = datetime.fromisoformat(entry.stage_timestamp).timestamp()
        return Write(moment, entry.verb, resource, what.name) if counts else None

    def wait(self, what: str, holds: Callable[[], bool], patience: float, every: float = 0.05) -> float:
        """Waits until it holds; the moment (seconds since 1970) at which it was seen to."""
        deadline = time.monotonic() + patience
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {patience:g} s; calls so far {self.calls()}")
            time.sleep(every)
        return time.time()

    def quiet(self, seconds: float = 1.0, patience: float = 120.0) -> None:
        """Waits until no call and no CPU to speak of has been spent for that long."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            before, spent = self.calls(), self.cpu
            time.sleep(seconds)
            if self.calls() == before and self.cpu - spent < 0.05 * seconds:
                return
        raise TimeoutError(f"the controller was still busy after {patience:g} s: {self.calls()}")
