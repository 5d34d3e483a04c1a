"""Define the clocks of a process, and read and write the timestamps of Kubernetes. Tests inject their own clocks."""

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


def parse_time(text: str | None) -> datetime | None:
    """Parse a Kubernetes timestamp (RFC 3339) as UTC. Return None if it is missing or malformed."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    try:
        # In the years 1 and 9999 a time zone can move it out of the range of datetime.
        return found.astimezone(UTC)
    except OverflowError:
        return None


def latest(*moments: datetime | None) -> datetime | None:
    """Return the latest of these times, or None if all are None."""
    return max((moment for moment in moments if moment), default=None)


def format_time(moment: datetime) -> str:
    """Return a Kubernetes timestamp: UTC, whole seconds."""
    # Not strftime: before the year 1000 it writes fewer than four digits, which the API server rejects.
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
