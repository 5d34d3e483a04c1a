"""An adaptive rate limiter for the calls to one vault: a token bucket whose rate follows the vault's refusals (429).

All clients of a vault share its limit, perhaps a whole fleet. The controller learns its part only when the vault
refuses. Callers then wait in lines, one for each namespace, which are served round-robin. In a namespace, initial syncs
come before refreshes.

Source: "Azure Key Vault service limits" (4,000 transactions per 10 s and vault); "Azure Key Vault throttling guidance".
"""

import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable

from controller.runtime import budgets

WINDOW = 10.0
# Size of the token bucket, and calls per second: 190 + 10 s x 380/s stay below 4,000.
BURST = 190.0
LIMIT = 380.0
# Seconds without a call after a refusal without Retry-After.
PAUSE = 10.0
# The lowest rate. One call every two seconds finds out soon enough that the vault accepts more.
SLOWEST = 0.5
# A rate that the vault accepted for a minute is doubled. Doubling earlier causes more refusals, later a slow recovery.
# If fewer than KNOWN calls were answered before the refusal, the accepted rate is unknown, and each window doubles it.
STEADY = 60.0
KNOWN = 10
# The longest wait that a caller is given, because the rate may change meanwhile. It is not above GRACE.
LONGEST = 30.0
SHORTEST = 0.001
# A caller that comes back later than so many seconds after its time loses its place.
GRACE = 30.0
# Places in the lines of one namespace. A further caller gets no place and tries again.
MAX_PLACES = int(budgets.PLACES.most)


class _WaitingLine:
    """Callers in the order of their arrival. Places are estimates: a caller that left counts until it is found."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        # The head of a dict is not found at once: a dict goes past each key that was deleted before it.
        self._places: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def join(self, who: Hashable, now: float) -> int:
        """Join, or come again; return how many are before this caller."""
        if who not in self._places and len(self._places) >= MAX_PLACES:
            return MAX_PLACES
        number = self._places[who][0] if who in self._places else next(self._numbers)
        self._places[who] = (number, now + GRACE)
        return min(number - next(iter(self._places.values()))[0], MAX_PLACES)

    def drop_gone(self, now: float) -> None:
        """Drop callers at the head that did not come again in time."""
        while self._places and self._places[head := next(iter(self._places))][1] < now:
            del self._places[head]

    def come_back_at(self, who: Hashable, when: float) -> None:
        """Keep the caller's place until some time after that moment."""
        if who in self._places:
            self._places[who] = (self._places[who][0], when + GRACE)

    def leave(self, who: Hashable) -> None:
        """Remove the caller."""
        self._places.pop(who, None)


class _NamespaceLines:
    """The callers of one namespace: those that have nothing from the vault yet come before those that refresh."""

    def __init__(self) -> None:
        self.first, self.others = _WaitingLine(), _WaitingLine()

    def __len__(self) -> int:
        return len(self.first) + len(self.others)

    def drop_gone(self, now: float) -> None:
        """Drop callers that did not come again in time."""
        self.first.drop_gone(now)
        self.others.drop_gone(now)


class AdaptiveRateLimiter:
    """Limits the calls to one vault by all its readers. Times are in seconds of `clock`.

    Namespaces are served round-robin: a namespace with many callers delays a call of another one by one call.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rate = LIMIT
        self._tokens = BURST
        self._filled = clock()
        self._closed_until = 0.0
        self._steady_since = clock()
        self._steady = STEADY
        self._answered: deque[float] = deque(maxlen=int(LIMIT * WINDOW))
        # By namespace. The one that was served last is at the end.
        self.lines: dict[str, _NamespaceLines] = {}

    def seconds_until_turn(self, namespace: str, who: Hashable, *, first: bool) -> float:
        """Return the seconds until this caller may ask again; 0 where it may call now.

        `first` says that it has nothing from this vault yet.
        """
        now = self._clock()
        self._fill_bucket(now)
        mine = self.lines.setdefault(namespace, _NamespaceLines())
        mine.drop_gone(now)
        line = mine.first if first else mine.others
        place = line.join(who, now) + (0 if first else len(mine.first))
        before = place + self._others_before(namespace, place, now)
        if now >= self._closed_until and self._tokens >= before + 1:
            line.leave(who)
            self._tokens -= 1
            del self.lines[namespace]
            if len(mine):
                self.lines[namespace] = mine  # behind the other namespaces
            return 0.0
        opens = max(0.0, self._closed_until - now)
        wait = min(opens + max(SHORTEST, (before + 1 - self._tokens) / self._rate), max(opens, LONGEST))
        line.come_back_at(who, now + wait)
        return wait

    def _others_before(self, namespace: str, place: int, now: float) -> int:
        """Return how many callers of other namespaces are served before the one at `place` of this namespace."""
        before, rounds = 0, place + 1  # a namespace that is ahead of this one is served once more
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
        """Note a call that the vault answered with anything but 429."""
        now = self._clock()
        self._answered.append(now)
        if self._rate < LIMIT and now - self._steady_since >= self._steady:
            self._fill_bucket(now)
            self._rate = min(LIMIT, self._rate * 2)
            self._steady_since = now

    def note_refusal(self, retry_after: float | None) -> None:
        """Note a 429, with the seconds of its Retry-After if it has one."""
        now = self._clock()
        closed = now + (retry_after or PAUSE)
        if now >= self._closed_until:
            # The first refusal of several: the calls that were answered in the window before it are our part of it.
            while self._answered and now - self._answered[0] > WINDOW:
                self._answered.popleft()
            self._rate = max(SLOWEST, min(LIMIT, len(self._answered) / WINDOW))
            self._steady = STEADY if len(self._answered) >= KNOWN else WINDOW
        self._closed_until = max(self._closed_until, closed)
        self._tokens = 0.0
        self._steady_since = self._filled = self._closed_until

    def _fill_bucket(self, now: float) -> None:
        gained = max(0.0, now - self._filled) * self._rate
        # Below one call per second a whole one must still be possible.
        self._tokens = min(max(1.0, min(BURST, self._rate)), self._tokens + gained)
        self._filled = max(self._filled, now)
