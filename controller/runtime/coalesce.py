"""Coalesce equal requests: one request serves all callers that waited when it began. Compare Go's singleflight."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class KeyedLocks(WeakValueDictionary[Hashable, asyncio.Lock]):
    """The locks by key. A lock exists while a caller holds it or waits for it."""

    def get_lock(self, key: Hashable) -> asyncio.Lock:
        """Return the key's lock. The caller keeps a reference to it."""
        return self.setdefault(key, asyncio.Lock())


class _KeptAnswer(NamedTuple, Generic[T]):
    began: float
    answer: T


class CoalescingCache(Generic[T]):
    """A cache of the latest answers, up to `max_answers`, each with the time of `clock` at which its request began.

    A caller gets a cached answer only if its request began at the caller's `since` or later. So a caller that handles
    an edit never gets an answer from before the edit.
    """

    def __init__(self, max_answers: int, clock: Callable[[], float]) -> None:
        self._max_answers = max_answers
        self._clock = clock
        self.kept: OrderedDict[Hashable, _KeptAnswer[T]] = OrderedDict()
        self.locks = KeyedLocks()

    async def get(self, key: Hashable, since: float, request: Callable[[], Awaitable[T]]) -> T:
        """Return the answer for a key whose request began at `since` or later. Call `request` if there is none."""
        async with self.locks.get_lock(key):
            kept = self.kept.get(key)
            if kept and kept.began >= since:
                return kept.answer
            began = self._clock()
            answer = await request()
            self.kept[key] = _KeptAnswer(began, answer)
            self.kept.move_to_end(key)
            if len(self.kept) > self._max_answers:
                self.kept.popitem(last=False)
            return answer

    def clear(self) -> None:
        """Forget all answers."""
        self.kept.clear()
