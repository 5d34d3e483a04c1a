"""Threads for blocking work, with fair shares by namespace.

asyncio's own threads are one pool for all: whatever fills it stops all that uses it, name resolution too. Here
each kind of work has places of its own, and a namespace gets at most half of them (see `shares`).

The threads are daemons: a lookup that hangs for minutes must not hold up the end of the process.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from controller.runtime.fair_share import FairSemaphore

T = TypeVar("T")


class FairThreads:
    """So many threads at once; the callers of one namespace are served in the order of their coming."""

    def __init__(self, places: int, name: str) -> None:
        self._slots = FairSemaphore(places)
        self._name = name

    async def run(self, namespace: str, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises.

        A thread cannot be cancelled: it keeps its place until it ends, even if its caller is gone.
        """
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._slots.hold_slot(namespace))
            ended = asyncio.get_running_loop().create_future()
            keeper = asyncio.create_task(_keep_worker(stack.pop_all(), ended))
            result = _start_thread(work, self._name, ended)
        await asyncio.shield(keeper)
        return result()


async def _keep_worker(place: contextlib.AsyncExitStack, ended: "asyncio.Future[None]") -> None:
    async with place:
        await ended


def _start_thread(work: Callable[[], T], name: str, ended: "asyncio.Future[None]") -> Callable[[], T]:
    """Start the thread; return what gives its result, or raises its exception, once `ended` is set."""
    loop = asyncio.get_running_loop()
    results: list[T] = []
    errors: list[BaseException] = []

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(end)

    def result() -> T:
        if errors:
            # An exception and its frames, which hold what was parsed, are not kept in a cycle.
            raise errors.pop()
        return results[0]

    threading.Thread(target=run, name=name, daemon=True).start()
    return result
