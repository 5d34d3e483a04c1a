"""When to look again. Pure: the clock and the dice are arguments. Times are in seconds."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime

FIRST_RETRY = 2.0
LONGEST_RETRY = 300.0
# Something in the cluster that is in the way: a Secret about to be collected, or somebody else's that may go away.
COLLECTED_SOON = 1.0
LONGEST_OBSTACLE = 30.0


def parse_time(text: str | None) -> datetime | None:
    """A Kubernetes timestamp (RFC 3339), or None where there is none that can be read."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    try:
        # In the years 1 and 9999 a time zone can move it beyond what a datetime holds.
        return found.astimezone(UTC)
    except OverflowError:
        return None


def format_time(moment: datetime) -> str:
    """A Kubernetes timestamp: UTC, whole seconds."""
    # Not strftime: before the year 1000 it writes fewer than four digits, which the API server rejects.
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def refresh_interval(asked: str | None, usual: float, shortest: float) -> float | None:
    """How long a SecretSync's vault is not looked at: what it asks for, where it may; None where that is no number."""
    if not shortest or asked is None:
        return usual
    return max(shortest, float(asked)) if asked.isascii() and asked.isdecimal() and len(asked) < 10 else None


def until_due(age: float, interval: float, jitter: float, draw: float) -> float:
    """Seconds until what was equal to the vault `age` seconds ago is looked at again; `draw` is the dice's, 0 to 1.

    Overdue means that nobody ran: a whole fleet may come back in the same minute, so the look is spread over one
    interval. A due time further ahead than interval and jitter means that the clock jumped: soon.
    """
    wait = interval - age
    if wait > interval + jitter:
        return draw * jitter
    return wait + draw * jitter if wait > 0 else draw * interval


def after_failure(
    failures: int, dice: random.Random, asked: float | None = None, longest: float = LONGEST_RETRY
) -> float:
    """Seconds to wait after the n-th failure in a row: exponential, half of it by chance, not less than was asked for.

    So a trouble is over about as soon again as it lasted: with all of it by chance, a run of short waits would be
    followed by one of a minute. Never a hot loop, and never more than `longest`, whatever was asked for.
    """
    most = min(longest, FIRST_RETRY * 2.0 ** min(failures - 1, 16))
    wait = dice.uniform(most / 2, most)
    if asked:
        wait = max(wait, asked + dice.uniform(0, FIRST_RETRY))
    return min(longest, wait)


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """The Retry-After of an answer in seconds, if it is a number (RFC 9110, 10.2.3); at most `LONGEST_RETRY`."""
    text = headers.get("Retry-After", "").strip()
    return min(float(text), LONGEST_RETRY) if text.isascii() and text.isdecimal() else None


def spread(interval: float, dice: random.Random) -> float:
    """A moment within the interval, for things that all became due together."""
    return dice.uniform(0, interval)
