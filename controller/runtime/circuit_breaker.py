"""A circuit breaker: whether a vault is called at all, by the share of its calls that have failed of late. Pure.

One failure among many answers is normal (a vault's gateway restarts, a region forgets a signing key for a second), so
it is retried and concerns its caller alone. Failures alone, or a majority of them, mean an outage.
Source: "Circuit Breaker pattern" and "Retry pattern" of the Azure Architecture Center.
"""

from collections import deque
from collections.abc import Callable

# Outcomes that count, by number and by age in seconds.
MAX_OUTCOMES = 50
WINDOW = 30.0
# The breaker opens at this many failures if they are at least this share of the outcomes that count.
MIN_FAILURES = 2
FAILURE_SHARE = 0.5
# Seconds for which an open breaker lets no call through; then one call probes.
OPEN_SECONDS = 5.0
# Retries of one call, and how many of these need a vault that answers most calls.
MAX_RETRIES = 2
HEALTHY_OUTCOMES = 5


class CircuitBreaker:
    """The breaker of one vault, identity and operation. Times are in seconds of `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=MAX_OUTCOMES)
        self._open_until = 0.0
        self._reason = ""

    def open_reason(self) -> str:
        """Return why no call is allowed now; empty if the breaker is closed, or if its probe is due."""
        return self._reason if self._clock() < self._open_until else ""

    def begin(self) -> None:
        """Note that a call begins: after an outage this one probes, and the others wait for its result."""
        if self._reason:
            self._open_until = self._clock() + OPEN_SECONDS

    def can_retry(self, attempts: int) -> bool:
        """Return whether a call that failed `attempts` times is sent again.

        A probe is not: its failure says enough. A second retry needs a vault that answers most of its calls.
        """
        if self._reason or attempts > MAX_RETRIES:
            return False
        outcomes = self._recent_outcomes()
        failures = outcomes.count(False)
        return attempts == 1 or (len(outcomes) >= HEALTHY_OUTCOMES and failures < FAILURE_SHARE * len(outcomes))

    def succeed(self) -> None:
        """Note an answer, of whatever content."""
        self._reason, self._open_until = "", 0.0
        self._outcomes.append((self._clock(), True))

    def fail(self, reason: str, seconds: float = 0.0, *, retries: bool = False) -> None:
        """Note a failure that may pass; the breaker opens if such failures prevail.

        If the vault said in how many seconds to come again, one failure without an answer is enough. If the caller
        retries, the result of its retry decides: each of several simultaneous calls may fail once.
        """
        self._outcomes.append((self._clock(), False))
        outcomes = self._recent_outcomes()
        failures = outcomes.count(False)
        enough = 1 if seconds else MIN_FAILURES
        prevails = failures >= enough and failures >= FAILURE_SHARE * len(outcomes)
        if self._reason or (prevails and not retries):
            self.trip(reason, seconds)

    def trip(self, reason: str, seconds: float = 0.0) -> None:
        """Open: the failure lasts, or failures prevail. `seconds` is the time that the vault said."""
        self._reason, self._open_until = reason, self._clock() + max(seconds, OPEN_SECONDS)

    def _recent_outcomes(self) -> list[bool]:
        since = self._clock() - WINDOW
        return [succeeded for moment, succeeded in self._outcomes if moment > since]
