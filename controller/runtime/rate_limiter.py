"""An adaptive rate limiter for the calls to one vault: a token bucket whose rate follows the vault's refusals (429).

All clients of a vault share its limit, perhaps a whole fleet. The controller learns its share only from refusals.
Callers wait in lines, one for each namespace. The limiter serves the namespaces round-robin, and in each namespace
initial syncs before refreshes.

Source: "Azure Key Vault service limits" (4,000 transactions per 10 s and vault); "Azure Key Vault throttling guidance".
"""

import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

from controller.runtime import budgets

WINDOW = 10.0
# Size of the token bucket, and calls per second. In 10 s these are 190 + 10 x 380 calls, which is below 4,000.
BURST = 190.0
LIMIT = 380.0
# Seconds without calls after a refusal that has no Retry-After.
PAUSE = 10.0
# The lowest rate. One call every two seconds is enough to detect that the vault accepts calls again.
MIN_RATE = 0.5
# The limiter doubles a rate that the vault accepted for this time. Doubling earlier causes more refusals, doubling
# later delays the recovery. If the vault answered fewer than KNOWN calls before a refusal, the accepted rate is
# unknown, and the limiter doubles the rate after each WINDOW.
STEADY = 60.0
KNOWN = 10
# The longest and shortest wait, in seconds. A caller that waits longer asks again, because the rate can change in the
# meantime. MAX_WAIT must not be above GRACE.
MAX_WAIT = 30.0
MIN_WAIT = 0.001
# A caller that returns later than this, in seconds after its time, loses its place.
GRACE = 30.0
# Places in the lines of one namespace. A further caller gets no place and tries again.
MAX_PLACES = int(budgets.PLACES.limit)


class _WaitingLine:
    """Callers in order of arrival. The number of callers before one is an estimate, because callers can give up."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        # An OrderedDict finds its first key in constant time. A dict skips all keys that were deleted before it.
        self._places: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def join(self, caller: Hashable, now: float) -> int:
        """Add the caller, or renew its place. Return the number of callers before it."""
        if caller not in self._places and len(self._places) >= MAX_PLACES:
            return MAX_PLACES
        number = self._places[caller][0] if caller in self._places else next(self._numbers)
        self._places[caller] = (number, now + GRACE)
        return min(number - next(iter(self._places.values()))[0], MAX_PLACES)

    def drop_gone(self, now: float) -> None:
        """Drop callers at the head of the line that did not return in time."""
        while self._places and self._places[head := next(iter(self._places))][1] < now:
            del self._places[head]

    def reserve_place(self, caller: Hashable, when: float) -> None:
        """Reserve the caller's place until GRACE seconds after that moment."""
        if caller in self._places:
            self._places[caller] = (self._places[caller][0], when + GRACE)

    def leave(self, caller: Hashable) -> None:
        """Remove the caller."""
        self._places.pop(caller, None)


class _NamespaceLines:
    """The callers of one namespace. Initial syncs (`first`) are served before refreshes (`others`)."""

    def __init__(self) -> None:
        self.first, self.others = _WaitingLine(), _WaitingLine()

    def __len__(self) -> int:
        return len(self.first) + len(self.others)

    def drop_gone(self, now: float) -> None:
        """Drop callers that did not return in time."""
        self.first.drop_gone(now)
        self.others.drop_gone(now)


class AdaptiveRateLimiter:
    """A limiter for the calls of all readers to one vault. Times are in seconds of `clock`.

    It serves namespaces round-robin, so a namespace with many callers delays a call of another namespace by one call.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rate = LIMIT
        self._tokens = BURST
        self._filled = clock()
        self._closed_until = 0.0
        self._steady_since = clock()
        self._steady = STEADY
        self.answered: deque[float] = deque(maxlen=int(LIMIT * WINDOW))
        # By namespace. The namespace that was served last is at the end.
        self.lines: dict[str, _NamespaceLines] = {}

    def seconds_until_call(self, namespace: str, caller: Hashable, *, first: bool) -> float:
        """Return 0 if the caller can call the vault now, or the seconds after which it has to ask again.

        `first` is true for an initial sync, which has no value from this vault yet.
        """
        now = self._clock()
        self._fill_bucket(now)
        mine = self.lines.setdefault(namespace, _NamespaceLines())
        mine.drop_gone(now)
        line = mine.first if first else mine.others
        place = line.join(caller, now) + (0 if first else len(mine.first))
        before = place + self._others_before(namespace, place, now)
        # After a refusal there is no token before the end of its Retry-After.
        if self._tokens >= before + 1:
            line.leave(caller)
            self._tokens -= 1
            del self.lines[namespace]
            if len(mine):
                self.lines[namespace] = mine  # behind the other namespaces
            return 0.0
        opens = max(0.0, self._closed_until - now)
        wait = min(opens + max(MIN_WAIT, (before + 1 - self._tokens) / self._rate), max(opens, MAX_WAIT))
        line.reserve_place(caller, now + wait)
        return wait

    def _others_before(self, namespace: str, place: int, now: float) -> int:
        """Return how many callers of other namespaces are served before the one at `place` of this namespace."""
        before, rounds = 0, place + 1  # a namespace that is ahead of this one is served one time more
        for other, lines in list(self.lines.items()):
            if other == namespace:
                rounds = place
                continue
            lines.drop_gone(now)
            before += min(len(lines), rounds)
            if not len(lines):
                del self.lines[other]
        return before

    @property
    def is_slowed(self) -> bool:
        """Return whether the rate is below the limit because the vault refused calls."""
        return self._rate < LIMIT or self._clock() < self._closed_until

    def seconds_closed(self) -> float:
        """Return the seconds for which no call is allowed."""
        return max(0.0, self._closed_until - self._clock())

    def note_answer(self) -> None:
        """Record a call to which the vault answered anything except 429."""
        now = self._clock()
        self.answered.append(now)
        if now - self._steady_since >= self._steady:
            self._fill_bucket(now)
            self._rate = min(LIMIT, self._rate * 2)
            self._steady_since = now

    def note_refusal(self, retry_after: float | None) -> None:
        """Record a 429, with the seconds of its Retry-After if it has one."""
        now = self._clock()
        closed = now + (retry_after or PAUSE)
        if now >= self._closed_until:
            # This is the first refusal of several. The calls that the vault answered in the window before it are the
            # controller's share of the limit.
            while self.answered and now - self.answered[0] > WINDOW:
                self.answered.popleft()
            self._rate = max(MIN_RATE, min(LIMIT, len(self.answered) / WINDOW))
            self._steady = STEADY if len(self.answered) >= KNOWN else WINDOW
        self._closed_until = max(self._closed_until, closed)
        self._tokens = 0.0
        self._steady_since = self._filled = self._closed_until

    def _fill_bucket(self, now: float) -> None:
        gained = max(0.0, now - self._filled) * self._rate
        # At a rate below one call per second, the bucket must still be able to hold one token.
        self._tokens = min(max(1.0, min(BURST, self._rate)), self._tokens + gained)
        self._filled = max(self._filled, now)
