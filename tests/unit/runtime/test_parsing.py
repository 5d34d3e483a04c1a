"""Test parsing in threads: the CPU budget of each namespace, and fair shares."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from controller.errors import ClassError, ParsingDeferred
from controller.runtime import budgets
from controller.runtime.parsing import PFX_AT_ONCE, TEXTS_AT_ONCE, Charge, ParsingPool
from controller.runtime.threads import FairThreads

# Seconds until something that must not wait has waited.
SOON = 5.0


def costing(seconds: float) -> Callable[[Charge], None]:
    return lambda charge: charge(seconds)


async def test_namespace_that_spent_its_budget_is_deferred_and_others_are_not() -> None:
    now = [0.0]
    parser = ParsingPool(clock=lambda: now[0])
    await parser.run("a", costing(budgets.PARSING.limit + 1))
    with pytest.raises(ParsingDeferred, match="namespace a has used its 20 seconds") as caught:
        await parser.run("a", costing(0))
    with pytest.raises(ParsingDeferred):
        parser.run_here("a", lambda: None)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= budgets.PARSING.seconds / 2
    await parser.run("b", costing(0))
    now[0] += caught.value.retry_after
    await parser.run("a", costing(0))


async def test_failed_work_is_charged_as_well() -> None:
    parser = ParsingPool(clock=lambda: 0.0)

    def fail(charge: Charge) -> None:
        charge(budgets.PARSING.limit + 1)
        raise ClassError("no")

    with pytest.raises(ClassError):
        await parser.run("a", fail)
    with pytest.raises(ParsingDeferred):
        await parser.run("a", costing(0))


@pytest.mark.parametrize(("pfx", "places"), [(False, TEXTS_AT_ONCE), (True, PFX_AT_ONCE)])
async def test_hanging_namespace_leaves_a_thread_to_others(pfx: bool, places: int) -> None:
    parser, gate = ParsingPool(), threading.Event()
    hanging = [asyncio.create_task(parser.run("a", lambda _: gate.wait(), pfx=pfx)) for _ in range(places * 4)]
    await asyncio.sleep(0)
    async with asyncio.timeout(SOON):
        await parser.run("b", lambda _: None, pfx=pfx)
        await parser.run("b", lambda _: None, pfx=not pfx)
    gate.set()
    await asyncio.gather(*hanging)


async def test_thread_keeps_its_place_when_its_caller_is_cancelled() -> None:
    threads, gate, began = FairThreads(1, "test"), threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        gate.wait()

    caller = asyncio.create_task(threads.run("a", hang))
    await asyncio.to_thread(began.wait)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    other = asyncio.create_task(threads.run("b", lambda: 1))
    await asyncio.sleep(0.1)
    assert not other.done()
    gate.set()
    assert await other == 1
