"""Test parsing in threads: the CPU budget of each namespace, and fair shares."""

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from controller.errors import ClassError, ParsingDeferred
from controller.runtime import budgets
from controller.runtime.threads import parsing
from controller.runtime.threads.fair_threads import FairThreads
from controller.runtime.threads.parsing import PFX_AT_ONCE, TEXTS_AT_ONCE, Charge, ParsingPool

# A call that must not wait fails after this many seconds.
SOON = 5.0


def make_work(seconds: float) -> Callable[[Charge], None]:
    """Return work that charges this number of seconds."""
    return lambda charge: charge(seconds)


async def test_namespace_that_spent_its_budget_is_deferred_and_others_are_not() -> None:
    now = [0.0]
    parser = ParsingPool(clock=lambda: now[0])
    await parser.run("a", make_work(budgets.PARSING.limit + 1))
    with pytest.raises(ParsingDeferred, match="namespace a has used its 20 seconds") as caught:
        await parser.run("a", make_work(0))
    with pytest.raises(ParsingDeferred):
        parser.run_here("a", lambda: None)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= budgets.PARSING.seconds / 2
    await parser.run("b", make_work(0))
    now[0] += caught.value.retry_after
    await parser.run("a", make_work(0))


async def test_failed_work_is_charged_as_well() -> None:
    parser = ParsingPool(clock=lambda: 0.0)

    def fail(charge: Charge) -> None:
        charge(budgets.PARSING.limit + 1)
        raise ClassError("no")

    with pytest.raises(ClassError):
        await parser.run("a", fail)
    with pytest.raises(ParsingDeferred):
        await parser.run("a", make_work(0))


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds of CPU that each thread has used. The test changes them."""
    seconds = [1000.0]
    monkeypatch.setattr(parsing, "time", SimpleNamespace(thread_time=lambda: seconds[0]))
    return seconds


@pytest.mark.parametrize("here", [False, True], ids=["in a thread", "on the event loop"])
@pytest.mark.parametrize(
    ("seconds", "retry_after"),
    [
        pytest.param(20, None, id="the whole budget"),
        pytest.param(21, 30, id="at least half a minute"),
        pytest.param(30, 30, id="half a minute"),
        pytest.param(35, 45, id="more than half a minute"),
        pytest.param(35.1, 45.3, id="a fraction"),
    ],
)
async def test_cpu_time_of_work_is_charged(
    cpu: list[float], here: bool, seconds: float, retry_after: float | None
) -> None:
    parser = ParsingPool(clock=lambda: 0.0)

    def work(*_: Charge) -> str:
        cpu[0] += seconds
        return "parsed"

    assert (parser.run_here("a", work) if here else await parser.run("a", work)) == "parsed"
    if retry_after is None:
        assert parser.run_here("a", lambda: "parsed") == "parsed"
        return
    with pytest.raises(ParsingDeferred) as caught:
        parser.run_here("a", lambda: None)
    assert caught.value.retry_after == pytest.approx(retry_after)
    assert caught.value.message == (
        "namespace a has used its 20 seconds of CPU per minute for reading SecretProviderClasses and certificates; the"
        f" controller tries again in {math.ceil(retry_after)} s. Change them less often, or find the PFX that has an"
        " unusual number of iterations"
    )


async def test_namespace_without_budget_is_deferred_although_all_its_threads_hang(cpu: list[float]) -> None:
    parser, gate = ParsingPool(clock=lambda: 0.0), threading.Event()
    hanging = asyncio.create_task(parser.run("a", lambda _: gate.wait(), pfx=True))
    await asyncio.sleep(0)

    def spend() -> None:
        cpu[0] += budgets.PARSING.limit + 1

    parser.run_here("a", spend)
    try:
        with pytest.raises(ParsingDeferred):
            async with asyncio.timeout(SOON):
                await parser.run("a", make_work(0), pfx=True)
    finally:
        gate.set()
        await hanging


@pytest.mark.parametrize("cancelled", [False, True], ids=["ends", "is cancelled"])
async def test_waiting_work_is_deferred_if_earlier_work_spent_the_budget(cancelled: bool) -> None:
    parser, gate, done = ParsingPool(clock=lambda: 0.0), threading.Event(), []

    def spend(charge: Charge) -> None:
        gate.wait()
        charge(budgets.PARSING.limit + 1)

    spending = asyncio.create_task(parser.run("a", spend, pfx=True))
    waiting = asyncio.create_task(parser.run("a", lambda _: done.append("waiting"), pfx=True))
    await asyncio.sleep(0)
    if cancelled:
        spending.cancel()
    gate.set()
    with pytest.raises(ParsingDeferred):
        await waiting
    assert not done
    await asyncio.wait([spending])
    assert spending.cancelled() == cancelled


@pytest.mark.parametrize(
    ("options", "threads"), [({}, {"parse": 4}), ({"pfx": False}, {"parse": 4}), ({"pfx": True}, {"pfx": 2})]
)
async def test_each_kind_of_work_has_its_own_threads(options: dict[str, bool], threads: dict[str, int]) -> None:
    parser, gate, before = ParsingPool(), threading.Event(), set(threading.enumerate())
    hanging = [
        asyncio.create_task(parser.run(namespace, lambda _: gate.wait(), **options))
        for namespace in "abcd"
        for _ in range(4)
    ]
    await asyncio.sleep(0)
    assert Counter(thread.name for thread in threading.enumerate() if thread not in before) == threads
    gate.set()
    await asyncio.gather(*hanging)


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


async def test_thread_that_cannot_start_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container's limit of processes, or of memory, prevents a new thread."""
    threads = FairThreads(1, "test")

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            await threads.run("a", lambda: 1)
    async with asyncio.timeout(SOON):
        assert await threads.run("a", lambda: 1) == 1
