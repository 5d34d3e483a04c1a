"""A circuit breaker: whether a vault is called at all, by the share of its calls that have failed of late. Pure.

One failure among many answers is normal (a vault's gateway restarts, a region forgets a signing key for a second), so
it is retried and concerns its caller alone. Failures alone, or a majority of them, mean an outage. All outcomes of one
subject count as one, so that failures of a single object are no outage: they open only the breaker of that object.
Source: "Circuit Breaker pattern" and "Retry pattern" of the Azure Architecture Center.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

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

S = TypeVar("S", bound=Hashable)


class CircuitBreaker:
    """The breaker of one vault, identity and operation. Times are in seconds of `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._outcomes: deque[tuple[float, bool, Hashable]] = deque(maxlen=MAX_OUTCOMES)
        self._open_until = 0.0
        self._reason = ""

    def open_reason(self) -> str:
        """Return why no call is allowed now; empty if the breaker is closed, or if its probe is due."""
        return self._reason if self._clock() < self._open_until else ""

    def begin(self) -> None:
        """Note that a call begins: after an outage this one probes, and the others wait for its result."""
        if self._reason:
            self._open_until = self._clock() + OPEN_SECONDS

    @property
    def is_tripped(self) -> bool:
        """Return whether no call succeeded since the breaker opened."""
        return bool(self._reason)

    def retries_left(self, attempts: int) -> int:
        """Return how often a call can be sent again whose attempt number `attempts` fails now.

        A probe is not sent again: its failure says enough. A second retry needs a vault that answers most of its calls.
        """
        if self._reason:
            return 0
        outcomes = self._recent_outcomes()
        is_healthy = len(outcomes) >= HEALTHY_OUTCOMES and outcomes.count(False) < FAILURE_SHARE * len(outcomes)
        return max(0, (MAX_RETRIES if is_healthy else 1) + 1 - attempts)

    def succeed(self, subject: Hashable = None) -> None:
        """Note an answer, of whatever content."""
        self._reason, self._open_until = "", 0.0
        self._outcomes.append((self._clock(), True, subject))

    def fail(self, reason: str, seconds: float = 0.0, *, retries: bool = False, subject: Hashable = None) -> None:
        """Note a failure that may pass; the breaker opens if such failures prevail.

        `subject` is what alone may have failed; None: the failure can concern every call. If the server said in how
        many seconds to come again, one failure without a subject and an answer is enough. If the caller retries, the
        result of its retry decides: each of several simultaneous calls may fail once.
        """
        self._outcomes.append((self._clock(), False, subject))
        votes = self._recent_votes()
        failures = votes.count(False)
        enough = 1 if seconds and subject is None else MIN_FAILURES
        prevails = failures >= enough and failures >= FAILURE_SHARE * len(votes)
        if self._reason or (prevails and not retries):
            self.trip(reason, seconds)

    def trip(self, reason: str, seconds: float = 0.0) -> None:
        """Open: the failure lasts, or failures prevail. `seconds` is the time that the vault said."""
        self._reason, self._open_until = reason, self._clock() + max(seconds, OPEN_SECONDS)

    def _recent_outcomes(self) -> list[bool]:
        since = self._clock() - WINDOW
        return [succeeded for moment, succeeded, _ in self._outcomes if moment > since]

    def _recent_votes(self) -> list[bool]:
        """Return the outcomes that count, of each subject only the last."""
        since = self._clock() - WINDOW
        votes: dict[Hashable, bool] = {}
        for number, (moment, succeeded, subject) in enumerate(self._outcomes):
            if moment > since:
                votes[number if subject is None else (subject,)] = succeeded
        return list(votes.values())


class BreakersBySubject(Generic[S]):
    """The breakers of subjects that failed of late. A subject without failures has none.

    The number is bounded, because editors choose the names of objects.
    """

    def __init__(self, clock: Callable[[], float], most: int) -> None:
        self._clock = clock
        self._most = most
        self._breakers: dict[S, CircuitBreaker] = {}

    def __iter__(self) -> Iterator[S]:
        return iter(self._breakers)

    def open_reason(self, subject: S) -> str:
        """Return why the subject is not called now; empty if it can be called."""
        known = self._breakers.get(subject)
        return known.open_reason() if known else ""

    def is_tripped(self, subject: S) -> bool:
        """Return whether no call of the subject succeeded since its breaker opened."""
        known = self._breakers.get(subject)
        return bool(known and known.is_tripped)

    def begin(self, subject: S) -> None:
        """Note that a call of the subject begins."""
        if known := self._breakers.get(subject):
            known.begin()

    def succeed(self, subject: S) -> None:
        """Note an answer."""
        self._breakers.pop(subject, None)

    def fail(self, subject: S, reason: str, seconds: float = 0.0, *, retries: bool = False) -> None:
        """Note a failure of the subject."""
        # The subject that failed last comes last, and the first makes room.
        breaker = self._breakers.pop(subject, None) or CircuitBreaker(self._clock)
        if len(self._breakers) >= self._most:
            del self._breakers[next(iter(self._breakers))]
        self._breakers[subject] = breaker
        breaker.fail(reason, seconds, retries=retries)
