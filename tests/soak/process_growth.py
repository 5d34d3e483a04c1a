"""Measure how the memory and the open file descriptors of a process grow while it runs."""

import os
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from tests.support.process_stats import resident_mebibytes


class ProcessSample(NamedTuple):
    """The resident memory and the number of open file descriptors of a process at a time of the monotonic clock."""

    at: float
    mebibytes: float
    descriptors: int

    def __str__(self) -> str:
        return f"{self.mebibytes:.1f} MiB, {self.descriptors} descriptors"


class ProcessGrowth(NamedTuple):
    """The growth of a process over a number of seconds, on the straight line that fits its samples best."""

    seconds: float
    mebibytes: float
    descriptors: float

    def __str__(self) -> str:
        hours = self.seconds / 3600
        return (
            f"over {self.seconds:.0f} s: memory {self.mebibytes:+.2f} MiB ({self.mebibytes / hours:+.2f} MiB/h),"
            f" descriptors {self.descriptors:+.1f} ({self.descriptors / hours:+.1f}/h)"
        )


def take_sample(pid: int, at: float) -> ProcessSample:
    """Return a sample of a running process."""
    descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 -- only their number is used, so no paths are needed
    return ProcessSample(at, resident_mebibytes(pid), len(descriptors))


def measure_growth(samples: Sequence[ProcessSample], warm_up_seconds: float) -> ProcessGrowth:
    """Return the growth of a process from its samples, without those of the first `warm_up_seconds`."""
    warm_since = samples[0].at + warm_up_seconds
    warm = [sample for sample in samples if sample.at >= warm_since]
    times = [sample.at for sample in warm]
    seconds = times[-1] - times[0]
    mebibytes_per_second = statistics.linear_regression(times, [sample.mebibytes for sample in warm]).slope
    descriptors_per_second = statistics.linear_regression(times, [sample.descriptors for sample in warm]).slope
    return ProcessGrowth(seconds, mebibytes_per_second * seconds, descriptors_per_second * seconds)
