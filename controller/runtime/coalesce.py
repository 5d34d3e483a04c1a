"""Coalesce equal requests: one request serves all callers that asked before it began. Compare Go's singleflight."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class _KeptAnswer(NamedTuple, Generic[T]):
    began: float
    answer: T


class CoalescingCache(Generic[T]):
    """The latest answers, at most `most`, each with the moment of `clock` at which its request began.

    A caller gets an answer only if its request began after the caller's `since`. So a caller that handles an edit never
    gets what was read before the edit.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self.kept: OrderedDict[Hashable, _KeptAnswer[T]] = OrderedDict()
        # A lock exists while a caller holds it or waits for it.
        self.locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    async def get(self, what: Hashable, since: float, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to `what` that was requested at `since` or later, by this caller or another one."""
        lock = self.locks.setdefault(what, asyncio.Lock())
        async with lock:
            kept = self.kept.get(what)
            if kept and kept.began >= since:
                return kept.answer
            began = self._clock()
            answer = await ask()
            self.kept[what] = _KeptAnswer(began, answer)
            self.kept.move_to_end(what)
            if len(self.kept) > self._most:
                self.kept.popitem(last=False)
            return answer

    def clear(self) -> None:
        """Forget all answers."""
        self.kept.clear()
