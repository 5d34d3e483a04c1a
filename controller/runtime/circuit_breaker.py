"""A circuit breaker: decide by the share of recent failures whether a vault is called at all. Pure.

One failure among many answers is normal (a vault's gateway restarts, a region forgets a signing key for a second). Only
its caller retries it. Two or more failures that are at least half of the outcomes mean an outage. All outcomes of one
subject count as one. So failures of a single object are not an outage: they open only the breaker of that object.
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
# Seconds for which an open breaker allows no call. Then one call probes the vault.
OPEN_SECONDS = 5.0
# Maximum number of retries of one call, and the number of recent outcomes that are enough to call a vault healthy.
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
        """Return why no call is allowed now, or an empty text if the breaker is closed or its probe is due."""
        return self._reason if self._clock() < self._open_until else ""

    def begin(self) -> None:
        """Record that a call begins. If the breaker has opened, this call probes, and others wait for its result."""
        if self._reason:
            self._open_until = self._clock() + OPEN_SECONDS

    @property
    def is_tripped(self) -> bool:
        """Return whether no call succeeded since the breaker opened."""
        return bool(self._reason)

    def retries_left(self, attempts: int) -> int:
        """Return how often a call can be sent again after `attempts` attempts, of which the last one fails now.

        A probe is not sent again, because its failure is sufficient. A second retry needs a vault that answers most of
        its calls.
        """
        if self._reason:
            return 0
        outcomes = self._recent_outcomes()
        is_healthy = len(outcomes) >= HEALTHY_OUTCOMES and outcomes.count(False) < FAILURE_SHARE * len(outcomes)
        return max(0, (MAX_RETRIES if is_healthy else 1) + 1 - attempts)

    def succeed(self, subject: Hashable = None) -> None:
        """Record an answer with any content."""
        self._reason, self._open_until = "", 0.0
        self._outcomes.append((self._clock(), True, subject))

    def fail(self, reason: str, seconds: float = 0.0, *, retries: bool = False, subject: Hashable = None) -> None:
        """Record a failure that can pass by itself. Open the breaker if such failures prevail.

        `subject` is the object that can be the only one to fail. None means that the failure can concern every call.
        `seconds` is the delay that the server asked for: then one failure without a subject is enough. `retries` means
        that the caller retries. Then the result of the retry decides, because each of several simultaneous calls can
        fail once.
        """
        self._outcomes.append((self._clock(), False, subject))
        votes = self._recent_votes()
        failures = votes.count(False)
        enough = 1 if seconds and subject is None else MIN_FAILURES
        prevails = failures >= enough and failures >= FAILURE_SHARE * len(votes)
        if self._reason or (prevails and not retries):
            self.trip(reason, seconds)

    def trip(self, reason: str, seconds: float = 0.0) -> None:
        """Open the breaker. `seconds` is the delay that the vault asked for, or 0."""
        self._reason, self._open_until = reason, self._clock() + max(seconds, OPEN_SECONDS)

    def _recent_outcomes(self) -> list[bool]:
        since = self._clock() - WINDOW
        return [succeeded for moment, succeeded, _ in self._outcomes if moment > since]

    def _recent_votes(self) -> list[bool]:
        """Return the outcomes that count. Of each subject, only the last one counts."""
        since = self._clock() - WINDOW
        votes: dict[Hashable, bool] = {}
        for number, (moment, succeeded, subject) in enumerate(self._outcomes):
            if moment > since:
                votes[number if subject is None else (subject,)] = succeeded
        return list(votes.values())


class BreakersBySubject(Generic[S]):
    """The breakers of subjects that failed recently. A subject without failures has none.

    The number is bounded, because editors choose the names of objects.
    """

    def __init__(self, clock: Callable[[], float], max_subjects: int) -> None:
        self._clock = clock
        self._max_subjects = max_subjects
        self._breakers: dict[S, CircuitBreaker] = {}

    def __iter__(self) -> Iterator[S]:
        return iter(self._breakers)

    def open_reason(self, subject: S) -> str:
        """Return why the subject is not called now, or an empty text if it can be called."""
        known = self._breakers.get(subject)
        return known.open_reason() if known else ""

    def is_tripped(self, subject: S) -> bool:
        """Return whether no call of the subject succeeded since its breaker opened."""
        known = self._breakers.get(subject)
        return bool(known and known.is_tripped)

    def begin(self, subject: S) -> None:
        """Record that a call of the subject begins."""
        if known := self._breakers.get(subject):
            known.begin()

    def succeed(self, subject: S) -> None:
        """Record an answer."""
        self._breakers.pop(subject, None)

    def fail(self, subject: S, reason: str, seconds: float = 0.0, *, retries: bool = False) -> None:
        """Record a failure of the subject."""
        # The newest failure is last. At the limit, the oldest one is removed.
        breaker = self._breakers.pop(subject, None) or CircuitBreaker(self._clock)
        if len(self._breakers) >= self._max_subjects:
            del self._breakers[next(iter(self._breakers))]
        self._breakers[subject] = breaker
        breaker.fail(reason, seconds, retries=retries)
