"""The machine as a controller sees it: its clock, its names, disk, descriptors and memory, while it runs.

Limits are the kernel's own. Clock and names are bent inside the process, by a module that Python loads first: whatever
asks for the time of day or resolves a name in there asks this. The clock that only goes on is left alone, as by a real
jump.
"""

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.workload import Workload

# Read without opening anything: descriptors may be what is missing.
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


class Machine:
    """Where one workload runs, from its next start on."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        self._workload = workload
        self._clock, self._names = folder / "clock", folder / "names"
        (folder / "sitecustomize.py").write_text(_BENT)
        workload.env |= {
            "BENT_CLOCK": str(self._clock),
            "BENT_NAMES": str(self._names),
            "PYTHONPATH": f"{folder}:{workload.env['PYTHONPATH']}",
        }
        self._clock.touch()
        self.clock_goes(0)
        self.names_resolve(True)

    def clock_goes(self, ahead: float) -> None:
        """The clock jumps to so many seconds ahead of the right time, or behind."""
        os.utime(self._clock, (_EPOCH + ahead, _EPOCH + ahead))

    def names_resolve(self, whether: bool) -> None:
        """Whether there is a name server."""
        self._names.touch() if whether else self._names.unlink(missing_ok=True)

    @contextmanager
    def no_more_descriptors(self) -> Iterator[None]:
        """Nothing more can be opened or connected to; what is open stays."""
        with self._limited(resource.RLIMIT_NOFILE, 0):
            yield

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Its log takes no more: each write to it fails."""
        with self._limited(resource.RLIMIT_FSIZE, self._workload.log.stat().st_size):
            yield

    @contextmanager
    def no_more_memory(self) -> Iterator[None]:
        """It gets no more than it has: whatever it asks for beyond is refused."""
        status = Path(f"/proc/{self._workload.pid}/status").read_text()
        [kibibytes] = re.findall(r"VmData:\s+(\d+) kB", status)
        with self._limited(resource.RLIMIT_DATA, int(kibibytes) * 1024):
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
