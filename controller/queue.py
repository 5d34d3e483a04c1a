"""Which objects to look at, and when. Keys only: whoever takes one looks at what is there now.

A key waits at most once, is never handed out twice at the same time, and comes again if it was wanted while somebody
worked on it. The earliest of several wishes counts.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Key(NamedTuple):
    """Namespace and name of an object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Closed(Exception):  # noqa: N818 -- not an error
    """No more keys are handed out."""


class Queue(Generic[K]):
    """Keys with due times, in seconds of `clock`; those due at the same time come in the order of asking."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: dict[K, float] = {}
        # Outdated entries stay in the heap until they come up; `_due` tells which one of a key counts.
        self._heap: list[tuple[float, int, K]] = []
        self._numbers = itertools.count()
        self._busy: set[K] = set()
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """How many keys wait, due or not."""
        return len(self._due)

    def overdue(self) -> int:
        """How many keys could be worked on now."""
        now = self._clock()
        return sum(due <= now for due in self._due.values())

    def add(self, key: K, delay: float = 0.0) -> None:
        """Wants the key looked at after `delay` seconds, or earlier if that was wanted before."""
        due = self._clock() + delay
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._numbers), key))
            self._changed.set()

    def forget(self, key: K) -> None:
        """Nobody needs to look any more."""
        self._due.pop(key, None)

    async def take(self) -> K:
        """The next due key; give it back with `done`. Raises `Closed` once `close` was called."""
        while not self._closed:
            self._changed.clear()
            wait = None
            while self._heap:
                due, _, key = self._heap[0]
                if self._due.get(key) != due or key in self._busy:
                    # Outdated, or busy: `done` puts a busy key back.
                    heapq.heappop(self._heap)
                elif (wait := due - self._clock()) > 0:
                    break
                else:
                    heapq.heappop(self._heap)
                    del self._due[key]
                    self._busy.add(key)
                    return key
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue
        raise Closed

    async def work(self, turn: Callable[[K], Awaitable[float | None]], workers: int) -> None:
        """Takes keys and has their turns, so many at a time, until closed.

        A turn answers in how many seconds the key wants another.
        """
        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(self._work(turn))

    async def _work(self, turn: Callable[[K], Awaitable[float | None]]) -> None:
        with contextlib.suppress(Closed):
            while True:
                key = await self.take()
                try:
                    wait = await turn(key)
                finally:
                    self.done(key)
                if wait is not None:
                    self.add(key, wait)

    def close(self) -> None:
        """Hands out nothing more."""
        self._closed = True
        self._changed.set()

    def done(self, key: K) -> None:
        """The work on a taken key has ended."""
        self._busy.discard(key)
        if key in self._due:
            heapq.heappush(self._heap, (self._due[key], next(self._numbers), key))
            self._changed.set()
