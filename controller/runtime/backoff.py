"""When to try or poll again. Pure: the clock and the random source are arguments. Times are in seconds."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime

FIRST_RETRY = 2.0
MAX_RETRY_SECONDS = 300.0
# For an obstacle in the cluster: a Secret that is being collected, or one of another owner.
COLLECTED_SOON = 1.0
MAX_BLOCKED_SECONDS = 30.0


def parse_time(text: str | None) -> datetime | None:
    """Parse a Kubernetes timestamp (RFC 3339); return None if there is none or it is malformed."""
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
    """Return the latest of these moments; None if none is known."""
    return max((moment for moment in moments if moment), default=None)


def format_time(moment: datetime) -> str:
    """Return a Kubernetes timestamp: UTC, whole seconds."""
    # Not strftime: before the year 1000 it writes fewer than four digits, which the API server rejects.
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def refresh_interval(asked: str | None, usual: float, shortest: float) -> float | None:
    """Return the poll interval of a SecretSync: what its annotation says, if allowed; None if that is no number."""
    if not shortest or asked is None:
        return usual
    return max(shortest, float(asked)) if asked.isascii() and asked.isdecimal() and len(asked) < 10 else None


def seconds_until_poll(age: float, interval: float, jitter: float, draw: float) -> float:
    """Return the seconds until the next poll of what was equal to the vault `age` seconds ago.

    `draw` is random, from 0 to 1. If the poll is overdue, the controller was down. A whole fleet may start in the same
    minute, so overdue polls are spread over one interval. If the due time is further ahead than interval and jitter,
    the clock jumped, and the poll is soon.
    """
    wait = interval - age
    if wait > interval + jitter:
        return draw * jitter
    return wait + draw * jitter if wait > 0 else draw * interval


def backoff_delay(
    failures: int, rng: random.Random, asked: float | None = None, longest: float = MAX_RETRY_SECONDS
) -> float:
    """Return the seconds to wait after the n-th failure in a row: exponential, half of it random.

    The wait is at least `asked` (a Retry-After) and at most `longest`. If all of it were random, a series of short
    waits could precede one of a minute.
    """
    most = min(longest, FIRST_RETRY * 2.0 ** min(failures - 1, 16))
    wait = rng.uniform(most / 2, most)
    if asked:
        wait = max(wait, asked + rng.uniform(0, FIRST_RETRY))
    return min(longest, wait)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of Retry-After (RFC 9110, 10.2.3), at most `MAX_RETRY_SECONDS`; None without a number."""
    text = headers.get("Retry-After", "").strip()
    return min(float(text), MAX_RETRY_SECONDS) if text.isascii() and text.isdecimal() else None


def random_offset(interval: float, rng: random.Random) -> float:
    """Return a random moment within the interval, in seconds, for work that all became due together."""
    return rng.uniform(0, interval)
