"""A process followed over its life: how its memory and its open files grow."""

import os
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from tests.support.process_stats import resident_mebibytes


class Sample(NamedTuple):
    """The memory and the open files of a process at a time (monotonic clock)."""

    at: float
    mebibytes: float
    descriptors: int


class Growth(NamedTuple):
    """The straight line through a process's samples: seconds it covers, and by how much each rose over them."""

    seconds: float
    mebibytes: float
    descriptors: float

    def __str__(self) -> str:
        hours = self.seconds / 3600
        return (
            f"over {self.seconds:.0f} s: memory {self.mebibytes:+.2f} MiB ({self.mebibytes / hours:+.2f} MiB/h),"
            f" descriptors {self.descriptors:+.1f} ({self.descriptors / hours:+.1f}/h)"
        )


def sample(pid: int, at: float) -> Sample:
    """Return a sample of the process."""
    return Sample(at, resident_mebibytes(pid), len(os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208 -- no path is made of them


def growth(samples: Sequence[Sample], warm_up: float) -> Growth:
    """Return the growth of a process since it was `warm_up` seconds old."""
    begin = samples[0].at + warm_up
    warm = [item for item in samples if item.at >= begin]
    times = [item.at for item in warm]
    seconds = times[-1] - times[0]
    memory = statistics.linear_regression(times, [item.mebibytes for item in warm]).slope
    files = statistics.linear_regression(times, [item.descriptors for item in warm]).slope
    return Growth(seconds, memory * seconds, files * seconds)
