"""Answers for several who ask the same: one request serves whoever asked before it began."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class _Kept(NamedTuple, Generic[T]):
    began: float
    answer: T


class Shared(Generic[T]):
    """Up to `most` answers, the latest ones, each with the moment of `clock` at which its request began.

    An answer is as good as one's own if its request began after one wanted to know, and no better: an edit is never
    served what was read before it.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._kept: OrderedDict[Hashable, _Kept[T]] = OrderedDict()
        # A lock lives as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    async def get(self, what: Hashable, since: float, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer to `what`, asked at `since` or later, by oneself or by another."""
        lock = self._locks.setdefault(what, asyncio.Lock())
        async with lock:
            kept = self._kept.get(what)
            if kept and kept.began >= since:
                return kept.answer
            began = self._clock()
            answer = await ask()
            self._kept[what] = _Kept(began, answer)
            self._kept.move_to_end(what)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return answer

    def clear(self) -> None:
        """Keeps nothing any more."""
        self._kept.clear()
