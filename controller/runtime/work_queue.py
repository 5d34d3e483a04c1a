"""A work queue of keys with due times. A worker reads the current object of a key when it gets the key.

A key waits at most once, and only one worker processes it at a time. A key that is added while it is processed is
processed again. If a key is added several times, the earliest due time counts. Namespaces share the workers fairly (see
`fair_share`). Compare client-go's `workqueue`.
"""

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar

from controller.runtime.fair_share import FairShare


class NamespacedKey(Hashable, Protocol):
    """A key that belongs to a namespace."""

    @property
    def namespace(self) -> str:
        """Return the namespace whose share of the workers it uses."""
        ...


K = TypeVar("K", bound=NamespacedKey)
# Outdated entries are removed when there are more of them than of current ones, and more than this number.
MIN_COMPACTED = 64


class Key(NamedTuple):
    """Namespace and name of an object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class QueueClosed(Exception):  # noqa: N818 -- not an error
    """The queue is closed, so `get` returns no more keys."""


class _QueueEntry(NamedTuple, Generic[K]):
    """A key and its due time. `number` orders entries with the same due time by when they were added."""

    due: float
    number: int
    key: K


class Queue(Generic[K]):
    """A queue of keys with due times, in seconds of `clock`. `workers` is the number of keys processed at once."""

    def __init__(self, clock: Callable[[], float], workers: int) -> None:
        self._clock = clock
        self._due: dict[K, float] = {}
        # Outdated entries remain in the heap until they are due. `_due` has the current due time of a key.
        self.entries: list[_QueueEntry[K]] = []
        # Entries that are due while their namespace uses all of its share.
        self.waiting: dict[str, list[_QueueEntry[K]]] = {}
        self._numbers = itertools.count()
        self._busy: set[K] = set()
        self._shares = FairShare(workers)
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Return how many keys wait, due or not."""
        return len(self._due)

    def count_overdue(self) -> int:
        """Return how many keys are due and wait for a worker."""
        now = self._clock()
        return sum(due <= now for due in list(self._due.values()))  # a copy: the thread of the metrics reads it

    def add(self, key: K, delay: float = 0.0) -> None:
        """Add a key that is due after `delay` seconds. An earlier due time of the key remains."""
        due = self._clock() + delay
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._push_entry(key)

    def forget(self, key: K) -> None:
        """Remove a key."""
        self._due.pop(key, None)

    async def process_keys(self, process: Callable[[K], Awaitable[float | None]]) -> None:
        """Process keys until the queue is closed, then let running ones finish.

        `process` returns the seconds until the key is processed again, or None.
        """
        async with asyncio.TaskGroup() as tasks:
            with contextlib.suppress(QueueClosed):
                while True:
                    key = await self.get()
                    tasks.create_task(self._process_key(key, process))

    async def _process_key(self, key: K, process: Callable[[K], Awaitable[float | None]]) -> None:
        try:
            wait = await process(key)
        finally:
            self.done(key)
        if wait is not None:
            self.add(key, wait)

    async def get(self) -> K:
        """Wait for the next due key, whose processing ends with `done`. Raise `QueueClosed` after `close`."""
        while not self._closed:
            self._changed.clear()
            if (key := self._next_key()) is not None:
                return key
            wait = self.entries[0].due - self._clock() if self.entries and self._shares.free else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
        raise QueueClosed

    def done(self, key: K) -> None:
        """Record that a key was processed."""
        self._busy.discard(key)
        self._shares.release(key.namespace)
        if key in self._due:
            self._push_entry(key)
        self._changed.set()

    def close(self) -> None:
        """Return no more keys."""
        self._closed = True
        self._changed.set()

    def _push_entry(self, key: K) -> None:
        heapq.heappush(self.entries, _QueueEntry(self._due[key], next(self._numbers), key))
        if len(self.entries) > MIN_COMPACTED + 2 * len(self._due):
            self.entries = [entry for entry in self.entries if self._is_current(entry)]
            heapq.heapify(self.entries)
        self._changed.set()

    def _is_current(self, entry: _QueueEntry[K]) -> bool:
        """Return whether an entry is current. The entry of a busy key is not, because `done` adds it again."""
        return self._due.get(entry.key) == entry.due and entry.key not in self._busy

    def _next_key(self) -> K | None:
        self._readmit_waiting()
        while self.entries and self._shares.free:
            entry = self.entries[0]
            if entry.due > self._clock():
                return None
            heapq.heappop(self.entries)
            if not self._is_current(entry):
                continue
            key = entry.key
            if self._shares.has_room(key.namespace):
                self._shares.acquire(key.namespace)
                self._busy.add(key)
                del self._due[key]
                return key
            heapq.heappush(self.waiting.setdefault(key.namespace, []), entry)
        return None

    def _readmit_waiting(self) -> None:
        """Push the first waiting entry of each namespace that no longer uses all of its share."""
        for namespace in [name for name in self.waiting if self._shares.has_room(name)]:
            line = self.waiting[namespace]
            while line and not self._is_current(line[0]):
                heapq.heappop(line)
            if line:
                heapq.heappush(self.entries, heapq.heappop(line))
            if not line:
                del self.waiting[namespace]
