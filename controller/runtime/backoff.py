"""Compute when to retry and poll. Pure: the clock and the random source are arguments. Times are in seconds."""

import random
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

FIRST_RETRY = 2.0
MAX_RETRY_SECONDS = 300.0
# The delay while the garbage collector deletes a Secret, or after a conflict.
COLLECTED_SOON = 1.0
# The maximum delay while an object in the cluster blocks the sync, such as a Secret of another owner.
MAX_BLOCKED_SECONDS = 30.0


def refresh_interval(requested: str | None, usual: float, shortest: float) -> float | None:
    """Return the poll interval of a SecretSync, or None if its annotation is not a number.

    The annotation `requested` counts if `shortest`, the minimum, is not 0. `usual` is the interval without it.
    """
    if not shortest or requested is None:
        return usual
    is_number = requested.isascii() and requested.isdecimal() and len(requested) < 10
    return max(shortest, float(requested)) if is_number else None


def seconds_until_poll(age: float, interval: float, jitter: float, draw: float) -> float:
    """Return the seconds until the next poll of a group that was equal to the vault `age` seconds ago.

    `draw` is random, from 0 to 1. A poll is overdue if the controller was down. Many controllers can start in the same
    minute, so overdue polls are spread over one interval. A due time further ahead than interval and jitter means that
    the clock was set, so the poll is soon.
    """
    wait = interval - age
    if wait > interval + jitter:
        return draw * jitter
    return wait + draw * jitter if wait > 0 else draw * interval


def backoff_delay(
    failures: int, rng: random.Random, retry_after: float | None = None, longest: float = MAX_RETRY_SECONDS
) -> float:
    """Return the seconds to wait after this many consecutive failures: exponential, half of it random.

    The wait is at least `retry_after` and at most `longest`. It is not random as a whole, so that failures do not
    cause several short waits in sequence.
    """
    bound = min(longest, FIRST_RETRY * 2.0 ** min(failures - 1, 16))
    wait = rng.uniform(bound / 2, bound)
    if retry_after:
        wait = max(wait, retry_after + rng.uniform(0, FIRST_RETRY))
    return min(longest, wait)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of Retry-After (RFC 9110, 10.2.3), at most `MAX_RETRY_SECONDS`, or None if it has no time.

    A date counts from the Date of the same answer, because the clocks can differ.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), MAX_RETRY_SECONDS)
    try:
        wait = parsedate_to_datetime(text) - parsedate_to_datetime(headers.get("Date", ""))
    except (ValueError, TypeError, OverflowError):  # one is missing or malformed, or has no time zone
        return None
    return min(max(wait.total_seconds(), 0.0), MAX_RETRY_SECONDS)


def random_offset(interval: float, rng: random.Random) -> float:
    """Return a random number of seconds within the interval, to spread work that became due together."""
    return rng.uniform(0, interval)
