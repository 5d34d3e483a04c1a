"""Inject faults of the controller's machine: clock, name resolution, disk, file descriptors and memory.

Resource limits are the kernel's own. A module that Python loads first (sitecustomize) replaces the time of day and name
resolution inside the process. The monotonic clock stays unchanged, as when a real clock jumps.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.process_stats import data_bytes
from tools.pods.pod_process import PodProcess

# The code reads its settings without opening files, because no descriptor may be left.
_BENT = """
import datetime, os, socket, time
CLOCK, NAMES = os.environ["BENT_CLOCK"], os.environ["BENT_NAMES"]
EPOCH = 2_000_000_000
real, now, resolve = datetime.datetime, time.time, socket.getaddrinfo

def ahead():
    return os.stat(CLOCK).st_mtime - EPOCH

class Like(type):
    def __instancecheck__(cls, other):
        return isinstance(other, real)

class Bent(real, metaclass=Like):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + datetime.timedelta(seconds=ahead())

def getaddrinfo(host, *more, **named):
    if not os.path.exists(NAMES) and host and not str(host).replace(".", "").isdigit():
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return resolve(host, *more, **named)

datetime.datetime, time.time, socket.getaddrinfo = Bent, lambda: now() + ahead(), getaddrinfo
"""
_EPOCH = 2_000_000_000


class MachineFaults:
    """The faults of one workload's machine. They have an effect after the workload's next start."""

    def __init__(self, workload: PodProcess, folder: Path) -> None:
        self._workload = workload
        self._clock, self._names = folder / "clock", folder / "names"
        (folder / "sitecustomize.py").write_text(_BENT)
        workload.env |= {
            "BENT_CLOCK": str(self._clock),
            "BENT_NAMES": str(self._names),
            "PYTHONPATH": f"{folder}:{workload.env['PYTHONPATH']}",
        }
        self._clock.touch()
        self.set_clock_offset(0)
        self.set_name_resolution(True)

    def set_clock_offset(self, ahead: float) -> None:
        """Set the clock that many seconds ahead of the real time."""
        os.utime(self._clock, (_EPOCH + ahead, _EPOCH + ahead))

    def set_name_resolution(self, works: bool) -> None:
        """Make name resolution work or fail."""
        self._names.touch() if works else self._names.unlink(missing_ok=True)

    @contextmanager
    def exhaust_descriptors(self) -> Iterator[None]:
        """Prevent the process from opening further files and connections. Open ones stay open."""
        with self._limited(resource.RLIMIT_NOFILE, 0):
            yield

    @contextmanager
    def fill_disk(self) -> Iterator[None]:
        """Make each write to the process's log fail."""
        with self._limited(resource.RLIMIT_FSIZE, self._workload.log.stat().st_size):
            yield

    @contextmanager
    def exhaust_memory(self) -> Iterator[None]:
        """Prevent the process from allocating further memory."""
        with self._limited(resource.RLIMIT_DATA, data_bytes(self._workload.pid)):
            yield

    @contextmanager
    def _limited(self, what: int, most: int) -> Iterator[None]:
        pid = self._workload.pid
        before, hard = resource.prlimit(pid, what)
        resource.prlimit(pid, what, (most, hard))
        try:
            yield
        finally:
            resource.prlimit(pid, what, (before, hard))
