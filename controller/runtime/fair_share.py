"""Fair shares of limited slots: a namespace gets another slot only if it has fewer than remain free for the others.

A single namespace can therefore use half of the slots, and a second one half of the rest. A new namespace finds a free
slot, however long the others keep theirs: of 64 slots, only seven namespaces together can use all.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator


class FairShare:
    """Count the slots: `used` are those that each namespace uses, `free` those that no namespace uses."""

    def __init__(self, slots: int) -> None:
        self.free = slots
        self.used: Counter[str] = Counter()

    def has_room(self, namespace: str) -> bool:
        """Return whether the namespace can get another slot."""
        return self.used[namespace] < self.free

    def acquire(self, namespace: str) -> None:
        """Give the namespace one more slot."""
        self.used[namespace] += 1
        self.free -= 1

    def release(self, namespace: str) -> None:
        """Free one slot of the namespace."""
        self.used[namespace] -= 1
        self.free += 1
        if not self.used[namespace]:
            del self.used[namespace]


class FairSemaphore:
    """A semaphore with fair shares. Waiting namespaces are served round-robin, each in order of arrival."""

    def __init__(self, slots: int) -> None:
        self.shares = FairShare(slots)
        self.waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def hold_slot(self, namespace: str) -> AsyncIterator[None]:
        """Wait for a slot, and hold it within the context."""
        # A caller does not overtake others of its namespace: they wait only while the namespace has no room.
        if self.shares.has_room(namespace):
            self.shares.acquire(namespace)
        else:
            await self._wait_for_slot(namespace)
        try:
            yield
        finally:
            self._release_slot(namespace)

    async def _wait_for_slot(self, namespace: str) -> None:
        acquired = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(namespace, deque()).append(acquired)
        try:
            await acquired
        except asyncio.CancelledError:
            if not acquired.cancelled():  # the slot had been acquired already
                self._release_slot(namespace)
            raise

    def _release_slot(self, namespace: str) -> None:
        self.shares.release(namespace)
        for waiting in tuple(self.waiting):
            line = self.waiting[waiting]
            while line and line[0].done():  # cancelled
                line.popleft()
            if line and not self.shares.has_room(waiting):
                continue
            del self.waiting[waiting]
            if line:
                self.shares.acquire(waiting)
                line.popleft().set_result(None)
            if line:
                self.waiting[waiting] = line  # behind the others
