"""Who has how much of what is scarce: nobody gets more of it than stays free for the others.

So the first to take all that it gets has half, the next one half of the rest, and whoever comes new finds some free,
however long the others keep theirs. Of 64 it takes seven to hold all; then one who has none comes before all who have
some. Those who share are namespaces: what is done for one must not wait for what another never lets end.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator


class Shares:
    """So many places, and who has how many of them."""

    def __init__(self, places: int) -> None:
        self.free = places
        self._taken: Counter[str] = Counter()

    def open(self, who: str) -> bool:
        """Whether this one gets another place."""
        return self._taken[who] < self.free

    def take(self, who: str) -> None:
        """One more place is this one's."""
        self._taken[who] += 1
        self.free -= 1

    def give_back(self, who: str) -> None:
        """One of its places is free again."""
        self._taken[who] -= 1
        self.free += 1
        if not self._taken[who]:
            del self._taken[who]


class Slots:
    """Places to wait for. Each one's callers are served in the order of their coming, and all who wait in turn."""

    def __init__(self, places: int) -> None:
        self._shares = Shares(places)
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def of(self, who: str) -> AsyncIterator[None]:
        """A place for as long as the context lasts."""
        if who in self._waiting or not self._shares.open(who):
            await self._wait(who)
        else:
            self._shares.take(who)
        try:
            yield
        finally:
            self._leave(who)

    async def _wait(self, who: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had its place already
                self._leave(who)
            raise

    def _leave(self, who: str) -> None:
        self._shares.give_back(who)
        for next_one in tuple(self._waiting):
            line = self._waiting[next_one]
            while line and line[0].done():  # cancelled
                line.popleft()
            if line and not self._shares.open(next_one):
                continue
            del self._waiting[next_one]
            if line:
                self._shares.take(next_one)
                line.popleft().set_result(None)
            if line:
                self._waiting[next_one] = line  # behind the others
