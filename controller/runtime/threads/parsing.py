"""Parse untrusted texts and files off the event loop, in fair shares and within a budget for each namespace.

Threads parse texts (SecretProviderClasses and PEM). A separate process opens each PFX (see `pkcs12_sandbox`). That
takes memory and seconds, so PFX files have fewer threads, and cannot occupy those for texts.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import TypeVar

from controller.errors import ParsingDeferred
from controller.runtime import budgets
from controller.runtime.threads.fair_threads import FairThreads

# A text takes milliseconds, during which its thread holds the interpreter's lock. More threads would not be faster.
TEXTS_AT_ONCE = 4
# Each process takes 25 MiB.
PFX_AT_ONCE = 2

T = TypeVar("T")
Charge = Callable[[float], None]
"""Add the seconds of CPU that the work used outside of its thread."""


class ParsingPool:
    """Threads that run parsing work. The CPU time is charged to the namespace of the work."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._texts = FairThreads(TEXTS_AT_ONCE, "parse")
        self._pfx = FairThreads(PFX_AT_ONCE, "pfx")
        self._spent = budgets.RateBudget(budgets.PARSING, clock)

    async def run(self, namespace: str, work: Callable[[Charge], T], *, pfx: bool = False) -> T:
        """Return the result of `work`. Raise `ParsingDeferred` if the namespace has spent its budget."""
        self._raise_if_spent(namespace)
        loop = asyncio.get_running_loop()

        def measure_work() -> T:
            seconds: list[float] = []
            began = time.thread_time()
            try:
                # While this work waited for a thread, other work of the namespace can have spent the budget.
                self._raise_if_spent(namespace)
                return work(seconds.append)
            finally:
                seconds.append(time.thread_time() - began)
                # The thread charges, because its caller can be cancelled. The event loop does so before the next work
                # of the namespace gets the thread.
                loop.call_soon_threadsafe(self._spent.spend, namespace, sum(seconds))

        return await (self._pfx if pfx else self._texts).run(namespace, measure_work)

    def run_here(self, namespace: str, work: Callable[[], T]) -> T:
        """Run short work on the event loop, without a thread. Raise `ParsingDeferred` as `run` does."""
        self._raise_if_spent(namespace)
        began = time.thread_time()
        try:
            return work()
        finally:
            self._spent.spend(namespace, time.thread_time() - began)

    def _raise_if_spent(self, namespace: str) -> None:
        if wait := self._spent.wait(namespace):
            # Wait for a minimum time, because each attempt fetches the value from the vault again.
            wait = max(budgets.PARSING.seconds / 2, wait)
            raise ParsingDeferred(
                f"namespace {namespace} has used its {budgets.PARSING.limit:.0f} seconds of CPU per minute for reading"
                f" SecretProviderClasses and certificates; the controller tries again in {math.ceil(wait)} s. Change"
                " them less often, or find the PFX that has an unusual number of iterations",
                retry_after=wait,
            )
