"""Read the kernel's figures about a process: proc(5), /proc/PID/stat, status and io. Measure the CPU time of a call."""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def thread_seconds(work: Callable[[], object]) -> float:
    """Run `work`, and return the CPU time of this thread in seconds.

    The garbage collector is off during the call, because a collection would also visit the objects of all other tests.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        began = time.thread_time()
        work()
        return time.thread_time() - began
    finally:
        if was_enabled:
            gc.enable()


def stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command's name. The name can have spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process, all its threads, in seconds."""
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mebibytes(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    return read_number(pid, "status", "VmRSS") / 1024


def peak_memory(pid: int) -> int:
    """Return the highest number of bytes that a process has had in memory."""
    return read_number(pid, "status", "VmHWM") * 1024


def data_bytes(pid: int) -> int:
    """Return the bytes of a process that RLIMIT_DATA limits."""
    return read_number(pid, "status", "VmData") * 1024


def written_bytes(pid: int) -> int:
    """Return how many bytes a process has written to disk."""
    return read_number(pid, "io", "write_bytes")


def read_number(pid: int, file: str, field: str) -> int:
    """Return the number of a field of /proc/PID/status (KiB for memory) or /proc/PID/io."""
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise ValueError(f"/proc/{pid}/{file} has no {field}")
