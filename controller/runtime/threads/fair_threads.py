"""Run blocking work in threads, with fair shares by namespace.

asyncio has one pool of threads for everything, so work that fills it would block all other work, such as name
resolution. Here each kind of work has its own slots, and a namespace gets at most half of them (see `fair_share`).

The threads are daemons, so that a lookup that hangs for minutes does not delay the end of the process.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from controller.runtime.fair_share import FairSemaphore

T = TypeVar("T")


class FairThreads:
    """A limited number of threads. The callers of one namespace are served in order of arrival."""

    def __init__(self, slots: int, name: str) -> None:
        self._slots = FairSemaphore(slots)
        self._name = name

    async def run(self, namespace: str, work: Callable[[], T]) -> T:
        """Run `work` in a thread. Return its result, or raise its error.

        A thread cannot be cancelled: it keeps its slot until it ends, even if its caller is cancelled.
        """
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._slots.hold_slot(namespace))
            ended = asyncio.get_running_loop().create_future()
            # A thread that cannot start must leave its slot, so the slot gets its holder afterwards.
            result = _start_thread(work, self._name, ended)
            holder = asyncio.create_task(_hold_slot(stack.pop_all(), ended))
        await asyncio.shield(holder)
        return result()


async def _hold_slot(slot: contextlib.AsyncExitStack, ended: "asyncio.Future[None]") -> None:
    async with slot:
        await ended


def _start_thread(work: Callable[[], T], name: str, ended: "asyncio.Future[None]") -> Callable[[], T]:
    """Start the thread. Return a function that returns its result or raises its error, once `ended` is set."""
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
            # `pop` breaks the reference cycle of the exception and its frames, which hold the parsed value.
            raise errors.pop()
        return results[0]

    threading.Thread(target=run, name=name, daemon=True).start()
    return result
