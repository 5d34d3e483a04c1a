"""Which objects to look at, and when. Keys only: whoever takes one looks at what is there now.

A key waits at most once, is never handed out twice at the same time, and comes again if it was wanted while somebody
worked on it. The earliest of several wishes counts. Namespaces share the workers, as `shares` says.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar

from controller.shares import Shares


class Owned(Hashable, Protocol):
    """Something that a namespace wants to have done."""

    @property
    def namespace(self) -> str:
        """Whose share of the workers it takes."""
        ...


K = TypeVar("K", bound=Owned)
# Outdated entries are dropped once they are more than those that count, and more than these.
MIN_COMPACTED = 64


class Key(NamedTuple):
    """Namespace and name of an object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Closed(Exception):  # noqa: N818 -- not an error
    """No more keys are handed out."""


class _Wish(NamedTuple, Generic[K]):
    """A key and when it is due; of those due at the same time the first to be asked for comes first."""

    due: float
    number: int
    key: K


class Queue(Generic[K]):
    """Keys with due times, in seconds of `clock`, for so many workers."""

    def __init__(self, clock: Callable[[], float], workers: int) -> None:
        self._clock = clock
        self._due: dict[K, float] = {}
        # Outdated wishes stay in a heap until they come up; `_due` tells which one of a key counts.
        self._wishes: list[_Wish[K]] = []
        # … and those that are due, while their namespace has its share of the workers.
        self._held: dict[str, list[_Wish[K]]] = {}
        self._numbers = itertools.count()
        self._busy: set[K] = set()
        self._shares = Shares(workers)
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """How many keys wait, due or not."""
        return len(self._due)

    def overdue(self) -> int:
        """How many keys could be worked on now."""
        now = self._clock()
        return sum(due <= now for due in list(self._due.values()))  # a copy: another thread may ask

    def add(self, key: K, delay: float = 0.0) -> None:
        """Wants the key looked at after `delay` seconds, or earlier if that was wanted before."""
        due = self._clock() + delay
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._wish(key)

    def forget(self, key: K) -> None:
        """Nobody needs to look any more."""
        self._due.pop(key, None)

    async def work(self, turn: Callable[[K], Awaitable[float | None]]) -> None:
        """Has the turns of keys, until closed; those begun come to their end.

        A turn answers in how many seconds the key wants another.
        """
        async with asyncio.TaskGroup() as tasks:
            with contextlib.suppress(Closed):
                while True:
                    key = await self.take()
                    tasks.create_task(self._work(key, turn))

    async def _work(self, key: K, turn: Callable[[K], Awaitable[float | None]]) -> None:
        try:
            wait = await turn(key)
        finally:
            self.done(key)
        if wait is not None:
            self.add(key, wait)

    async def take(self) -> K:
        """The next due key; give it back with `done`. Raises `Closed` once `close` was called."""
        while not self._closed:
            self._changed.clear()
            if (key := self._next()) is not None:
                return key
            wait = self._wishes[0].due - self._clock() if self._wishes and self._shares.free else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
        raise Closed

    def done(self, key: K) -> None:
        """The work on a taken key has ended."""
        self._busy.discard(key)
        self._shares.give_back(key.namespace)
        if key in self._due:
            self._wish(key)
        self._changed.set()

    def close(self) -> None:
        """Hands out nothing more."""
        self._closed = True
        self._changed.set()

    def _wish(self, key: K) -> None:
        heapq.heappush(self._wishes, _Wish(self._due[key], next(self._numbers), key))
        if len(self._wishes) > MIN_COMPACTED + 2 * len(self._due):
            self._wishes = [wish for wish in self._wishes if self._counts(wish)]
            heapq.heapify(self._wishes)
        self._changed.set()

    def _counts(self, wish: _Wish[K]) -> bool:
        """Whether it is not outdated. A busy key's wish is dropped, too: `done` wishes anew."""
        return self._due.get(wish.key) == wish.due and wish.key not in self._busy

    def _next(self) -> K | None:
        self._readmit()
        while self._wishes and self._shares.free:
            wish = self._wishes[0]
            if self._counts(wish) and wish.due > self._clock():
                return None
            heapq.heappop(self._wishes)
            if not self._counts(wish):
                continue
            key = wish.key
            if self._shares.open(key.namespace):
                self._shares.take(key.namespace)
                self._busy.add(key)
                del self._due[key]
                return key
            heapq.heappush(self._held.setdefault(key.namespace, []), wish)
        return None

    def _readmit(self) -> None:
        """Of each namespace that has less than its share by now, the first key that was held."""
        for namespace in [name for name in self._held if self._shares.open(name)]:
            line = self._held[namespace]
            while line and not self._counts(line[0]):
                heapq.heappop(line)
            if line:
                heapq.heappush(self._wishes, heapq.heappop(line))
            if not line:
                del self._held[namespace]
