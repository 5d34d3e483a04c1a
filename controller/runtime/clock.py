"""Define the clocks of a process. Tests inject their own."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the time of day (UTC)."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Clock:
    """A monotonic clock in seconds for intervals, and the time of day (UTC)."""

    monotonic: Callable[[], float] = time.monotonic
    utc: Callable[[], datetime] = utc_now


SYSTEM_CLOCK = Clock()
