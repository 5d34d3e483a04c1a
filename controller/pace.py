"""How fast one vault is asked: within its limit, and once it has refused, at the pace that it was seen to bear.

A vault's limit is shared by everybody who uses it, a whole fleet perhaps, so what is left for us is not known before
it refuses. Then callers wait in lines, one for each namespace, which are served in turn. Within a namespace, callers
that have nothing yet come before those that refresh.
Source: "Azure Key Vault service limits" (4,000 transactions per 10 s and vault); "Azure Key Vault throttling guidance".
"""

import itertools
from collections import deque
from collections.abc import Callable, Hashable

from controller import budgets

WINDOW = 10.0
# What may start at once after a rest, and calls per second from then on: 190 + 10 s x 380/s stay below 4,000.
BURST = 190.0
LIMIT = 380.0
# Where a refusal names no time to wait.
PAUSE = 10.0
# The slowest pace that a refusal can lead to: a call every other second tells soon enough that it is over.
SLOWEST = 0.5
# A pace that was borne for a minute is doubled. Sooner would be refused more often, later would take long to recover.
# Where next to nothing got through, nothing is known of what the vault bears, and each window doubles it.
STEADY = 60.0
KNOWN = 10
# Nobody is sent away for longer: the pace may be another by then. It is more than a place in line is kept unused.
LONGEST = 30.0
SHORTEST = 0.001
# Who comes later than this after the time it was told has lost its place: deleted meanwhile, or served elsewhere.
GRACE = 30.0
# Places that are kept for one namespace; a caller beyond them has none, and tries again.
MAX_PLACES = int(budgets.PLACES.most)


class _Line:
    """Callers in the order of their arrival. Places are estimates: a caller that left counts until it is found."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._places: dict[Hashable, tuple[int, float]] = {}

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


class _Lines:
    """The callers of one namespace: those that have nothing from the vault yet come before those that refresh."""

    def __init__(self) -> None:
        self.first, self.others = _Line(), _Line()

    def __len__(self) -> int:
        return len(self.first) + len(self.others)

    def drop_gone(self, now: float) -> None:
        """Drop callers that did not come again in time."""
        self.first.drop_gone(now)
        self.others.drop_gone(now)


class Pace:
    """The calls to one vault by all its readers. Times are in seconds of `clock`.

    Namespaces take turns: a namespace with many callers delays another one by one call for each call of that other.
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
        # By namespace; the one that was served last comes last.
        self._lines: dict[str, _Lines] = {}

    def wait(self, namespace: str, who: Hashable, *, first: bool) -> float:
        """Return the seconds until this caller may ask again; 0 where it may call now.

        `first` says that it has nothing from this vault yet.
        """
        now = self._clock()
        self._fill(now)
        mine = self._lines.setdefault(namespace, _Lines())
        mine.drop_gone(now)
        line = mine.first if first else mine.others
        place = line.join(who, now) + (0 if first else len(mine.first))
        before = place + self._others_before(namespace, place, now)
        if now >= self._closed_until and self._tokens >= before + 1:
            line.leave(who)
            self._tokens -= 1
            del self._lines[namespace]
            if len(mine):
                self._lines[namespace] = mine  # behind the other namespaces
            return 0.0
        opens = max(0.0, self._closed_until - now)
        wait = min(opens + max(SHORTEST, (before + 1 - self._tokens) / self._rate), max(opens, LONGEST))
        line.come_back_at(who, now + wait)
        return wait

    def _others_before(self, namespace: str, place: int, now: float) -> int:
        """Return how many callers of other namespaces are served before the one at `place` of this namespace."""
        before, rounds = 0, place + 1  # a namespace that is ahead of this one has one turn more
        for other, lines in list(self._lines.items()):
            if other == namespace:
                rounds = place
                continue
            lines.drop_gone(now)
            before += min(len(lines), rounds)
            if not len(lines):
                del self._lines[other]
        return before

    @property
    def slowed(self) -> bool:
        """Whether the vault has refused, and is not yet asked at the full pace again."""
        return self._rate < LIMIT or self._clock() < self._closed_until

    def closed(self) -> float:
        """Seconds for which nobody may call."""
        return max(0.0, self._closed_until - self._clock())

    def answered(self) -> None:
        """A call was answered with anything but a refusal for being too many."""
        now = self._clock()
        self._answered.append(now)
        if self._rate < LIMIT and now - self._steady_since >= self._steady:
            self._fill(now)
            self._rate = min(LIMIT, self._rate * 2)
            self._steady_since = now

    def refused(self, retry_after: float | None) -> None:
        """The vault said that there were too many calls, and perhaps when to come again (seconds)."""
        now = self._clock()
        closed = now + (retry_after or PAUSE)
        if now >= self._closed_until:
            # The first refusal of several: what went through in the window before it is our share of the limit.
            while self._answered and now - self._answered[0] > WINDOW:
                self._answered.popleft()
            self._rate = max(SLOWEST, min(LIMIT, len(self._answered) / WINDOW))
            self._steady = STEADY if len(self._answered) >= KNOWN else WINDOW
        self._closed_until = max(self._closed_until, closed)
        self._tokens = 0.0
        self._steady_since = self._filled = self._closed_until

    def _fill(self, now: float) -> None:
        gained = max(0.0, now - self._filled) * self._rate
        # Below one call per second a whole one must still be possible.
        self._tokens = min(max(1.0, min(BURST, self._rate)), self._tokens + gained)
        self._filled = max(self._filled, now)
