"""Parsing what editors and vaults wrote: off the event loop, in fair shares, within a budget of each namespace.

Texts (SecretProviderClasses, PEM) are parsed in threads. A PFX is opened by a process of its own (see `confined`),
which takes memory and seconds, so PFX files have fewer places, and none of those of texts.
"""

import math
import time
from collections.abc import Callable
from typing import TypeVar

from controller.errors import ParsingDeferred
from controller.runtime import budgets
from controller.runtime.threads import FairThreads

# Texts take milliseconds and hold the interpreter's lock: more threads would not be faster.
TEXTS_AT_ONCE = 4
# Each takes 25 MiB.
PFX_AT_ONCE = 2

T = TypeVar("T")
Charge = Callable[[float], None]
"""Adds seconds of CPU that the work took outside of its thread."""


class ParsingPool:
    """Runs parsing work of a namespace, and charges the seconds of CPU to that namespace."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._texts = FairThreads(TEXTS_AT_ONCE, "parse")
        self._pfx = FairThreads(PFX_AT_ONCE, "pfx")
        self._spent = budgets.RateBudget(budgets.PARSING, clock)

    async def run(self, namespace: str, work: Callable[[Charge], T], *, pfx: bool = False) -> T:
        """Return the result of `work`. Raise `ParsingDeferred` where the namespace's budget is spent."""
        self._raise_if_spent(namespace)
        seconds: list[float] = []

        def measured() -> T:
            began = time.thread_time()
            try:
                self._raise_if_spent(namespace)  # its turn came late: others of the namespace were first
                return work(seconds.append)
            finally:
                seconds.append(time.thread_time() - began)

        try:
            return await (self._pfx if pfx else self._texts).run(namespace, measured)
        finally:
            self._spent.spend(namespace, sum(seconds))

    def run_here(self, namespace: str, work: Callable[[], T]) -> T:
        """Do the same on the event loop, for work that takes less time than a thread."""
        self._raise_if_spent(namespace)
        began = time.thread_time()
        try:
            return work()
        finally:
            self._spent.spend(namespace, time.thread_time() - began)

    def _raise_if_spent(self, namespace: str) -> None:
        if wait := self._spent.wait(namespace):
            # At least a while: each try fetches the value again.
            wait = max(budgets.PARSING.seconds / 2, wait)
            raise ParsingDeferred(
                f"namespace {namespace} has used its {budgets.PARSING.most:.0f} seconds of CPU per minute for reading"
                f" SecretProviderClasses and certificates; the controller tries again in {math.ceil(wait)} s. Change"
                " them less often, or look for a PFX with an unusual number of iterations",
                retry_after=wait,
            )
