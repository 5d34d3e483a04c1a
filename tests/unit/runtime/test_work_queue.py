"""Test the work queue: a model for any order of events, and virtual time for delays and fair shares of workers."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from controller.runtime.work_queue import MIN_COMPACTED, Key, Queue, QueueClosed
from controller.secretsync.reconciler import WORKERS
from tests.support.virtual_time import VirtualLoop, run_virtual

A, B, C = Key("team", "a"), Key("team", "b"), Key("other", "a")


def test_key_is_formatted_as_namespace_and_name() -> None:
    assert str(A) == "team/a"


def test_keys_are_returned_at_their_due_times() -> None:
    async def main(clock: Callable[[], float]) -> list[tuple[Key, float]]:
        queue: Queue[Key] = Queue(clock, 64)
        queue.add(A, 3600)
        queue.add(B, 60)
        queue.add(C)
        return [(await queue.get(), clock()) for _ in range(3)]

    assert run_virtual(main) == [(C, 0), (B, 60), (A, 3600)]


def test_keys_with_the_same_due_time_are_returned_in_the_order_of_addition() -> None:
    async def main(clock: Callable[[], float]) -> list[Key]:
        queue: Queue[Key] = Queue(clock, 64)
        queue.add(B, 0)
        queue.add(A)
        queue.add(C, 0)
        return [await queue.get() for _ in range(3)]

    assert run_virtual(main) == [B, A, C]


@pytest.mark.parametrize(("first", "second"), [(10, 5), (5, 10), (5, 5)])
def test_key_that_is_added_twice_is_returned_once_at_the_earlier_time(first: float, second: float) -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock, 64)
        queue.add(A, first)
        queue.add(A, second)
        assert await queue.get() == A
        assert clock() == 5
        queue.done(A)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 1000)
        assert len(queue) == 0

    run_virtual(main)


def test_worker_processes_keys_until_the_queue_is_closed() -> None:
    async def main(clock: Callable[[], float]) -> list[tuple[Key, float]]:
        queue: Queue[Key] = Queue(clock, 1)
        processed: list[tuple[Key, float]] = []

        async def process_key(key: Key) -> float | None:
            processed.append((key, clock()))
            if clock() >= 20:
                queue.close()
            return 10 if key == A else None

        queue.add(A)
        queue.add(B)
        await queue.process_keys(process_key)
        return processed

    assert run_virtual(main) == [(A, 0), (B, 0), (A, 10), (A, 20)]


@pytest.mark.parametrize("keys", [[], [A, B]], ids=["no key waits", "all workers are busy"])
def test_waiting_worker_sets_no_timer_and_ends_when_the_queue_is_closed(
    monkeypatch: pytest.MonkeyPatch, keys: list[Key]
) -> None:
    timers: list[float] = []
    call_at = VirtualLoop.call_at

    def record(loop: VirtualLoop, when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(loop, when, *args, **options)

    monkeypatch.setattr(VirtualLoop, "call_at", record)

    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock, 1)
        for key in keys:
            queue.add(key)
        if keys:
            assert await queue.get() == keys[0]
        waiting = asyncio.create_task(queue.get())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        queue.close()
        with pytest.raises(QueueClosed):
            await waiting

    run_virtual(main)
    assert not timers


def test_waiting_worker_gets_a_key_that_is_due_earlier() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock, 64)
        queue.add(A, 3600)
        asyncio.get_running_loop().call_later(7, queue.add, B)
        assert (await queue.get(), clock()) == (B, 7)
        assert (await queue.get(), clock()) == (A, 3600)

    run_virtual(main)


def test_busy_key_is_returned_again_only_after_it_is_done() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock, 64)
        queue.add(A)
        await queue.get()
        queue.add(A)
        queue.add(A, 5)
        second = asyncio.create_task(queue.get())
        await asyncio.sleep(60)
        assert not second.done()
        queue.done(A)
        assert (await second, clock()) == (A, 60)

    run_virtual(main)


def test_busy_key_does_not_block_other_keys() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock, 64)
        queue.add(A)
        await queue.get()
        queue.add(A)
        queue.add(B)
        assert await queue.get() == B
        queue.done(A)
        assert await queue.get() == A

    run_virtual(main)


def test_forgotten_key_is_not_returned_unless_added_again() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock, 64)
        queue.add(A, 5)
        queue.forget(A)
        queue.add(A, 50)
        assert (await queue.get(), clock()) == (A, 50)
        queue.add(A)
        queue.forget(A)
        queue.done(A)
        assert len(queue) == 0

    run_virtual(main)


def test_cancelled_workers_lose_no_key_of_the_others() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock, 64)
        keys = [Key("team", str(number)) for number in range(32)]
        workers = [asyncio.create_task(queue.get()) for _ in range(40)]
        await asyncio.sleep(1)
        for worker in workers[:8]:
            worker.cancel()
        for key in keys:
            queue.add(key)
        assert sorted(await asyncio.gather(*workers[8:])) == sorted(keys)

    run_virtual(main)


def test_repeated_edits_leave_few_outdated_entries() -> None:
    """Process each edit at once and add the key again for an hour later, so that each entry becomes outdated."""

    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock, 4)
        for number in range(100):
            queue.add(Key("neighbour", f"{number}"), 3600)
        for _ in range(10_000):
            queue.add(Key("editor", "edited"))
            queue.done(await queue.get())
            queue.add(Key("editor", "edited"), 3600)
        assert len(queue) == 101
        assert len(queue.entries) <= 64 + 2 * 101 + 1

    run_virtual(main)


@pytest.mark.parametrize(
    ("others", "additions", "entries"),
    [([], 66, 66), ([], 67, 1), ([B], 67, 68), ([B], 68, 2)],
)
def test_outdated_entries_beyond_the_limit_are_removed(others: list[Key], additions: int, entries: int) -> None:
    queue: Queue[Key] = Queue(lambda: 0.0, 4)
    for key in others:
        queue.add(key, 3600)
    for number in range(additions):
        queue.add(A, 1000 - number)
    assert len(queue.entries) == entries


def test_keys_keep_their_order_when_outdated_entries_are_removed() -> None:
    last = Key("team", "last")

    async def main(clock: Callable[[], float]) -> list[tuple[Key, float]]:
        queue: Queue[Key] = Queue(clock, 64)
        queue.add(A, 1)
        queue.forget(A)
        queue.add(B, 30)
        queue.add(C, 20)
        for number in range(MIN_COMPACTED + 6):
            queue.add(last, 200 - number)
        assert len(queue.entries) < MIN_COMPACTED
        return [(await queue.get(), clock()) for _ in range(3)]

    assert run_virtual(main) == [(C, 20), (B, 30), (last, 131)]


def test_overdue_count_has_only_keys_that_are_due_now() -> None:
    now = [0.0]
    queue: Queue[Key] = Queue(lambda: now[0], 64)
    queue.add(A)
    queue.add(B, 5)
    assert (len(queue), queue.count_overdue()) == (2, 1)
    now[0] = 5
    assert queue.count_overdue() == 2


# Fair shares


class QueueHarness:
    """A queue whose workers never finish the keys of hostile namespaces."""

    def __init__(self, clock: Callable[[], float], workers: int) -> None:
        self.queue: Queue[Key] = Queue(clock, workers)
        self.began: list[tuple[float, Key]] = []
        self.clock = clock

    async def process_key(self, key: Key) -> float | None:
        self.began.append((self.clock(), key))
        if key.namespace.startswith("hostile"):
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(1)
        return None

    def add_keys(self, namespace: str, count: int) -> None:
        for number in range(count):
            self.queue.add(Key(namespace, str(number)))

    def count_started(self, namespace: str) -> int:
        """Return the number of keys of a namespace that a worker has started."""
        return sum(key.namespace == namespace for _, key in self.began)


@pytest.mark.parametrize("hostile", range(1, 7))
def test_new_namespace_gets_workers_at_once_despite_hanging_ones(hostile: int) -> None:
    """Check the bound in SECURITY.md: up to six namespaces cannot occupy all workers."""

    async def main(clock: Callable[[], float]) -> None:
        harness = QueueHarness(clock, WORKERS)
        working = asyncio.create_task(harness.queue.process_keys(harness.process_key))
        for number in range(hostile):
            harness.add_keys(f"hostile-{number}", 1000)
        await asyncio.sleep(60)
        assert harness.count_started("hostile-0") == WORKERS / 2
        harness.add_keys("shop", 10)
        await asyncio.sleep(10)
        assert harness.count_started("shop") == 10
        assert min(moment for moment, key in harness.began if key.namespace == "shop") == 60
        working.cancel()
        await asyncio.wait([working])

    run_virtual(main)


def test_namespace_without_a_worker_comes_before_those_with_some() -> None:
    """Return its first key before thousands of older keys, if other namespaces hold all workers."""

    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock, 4)
        for number in range(3):
            for name in range(1000):
                queue.add(Key(f"hostile-{number}", str(name)))
        taken = [await queue.get() for _ in range(4)]
        assert [key.namespace[-1] for key in taken] == ["0", "0", "1", "2"]
        queue.add(A, 1)
        await asyncio.sleep(1)
        queue.done(taken[0])
        assert await queue.get() == A

    run_virtual(main)


def test_single_namespace_uses_half_of_the_workers() -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = QueueHarness(clock, WORKERS)
        harness.add_keys("shop", 1000)
        working = asyncio.create_task(harness.queue.process_keys(harness.process_key))
        await asyncio.sleep(1000 / (WORKERS / 2) - 0.1)  # each key takes a second
        assert harness.count_started("shop") == 1000
        harness.queue.close()
        await working

    run_virtual(main)


def test_forgotten_key_does_not_block_the_next_key_of_its_namespace() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock, 2)
        for key in (A, B, last := Key("team", "c")):
            queue.add(key)
        assert await queue.get() == A
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 1)  # the other worker is reserved for other namespaces
        queue.forget(B)
        queue.done(A)
        assert await queue.get() == last
        assert not queue.waiting

    run_virtual(main)


def test_waiting_keys_that_are_all_forgotten_leave_nothing_behind() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock, 2)
        queue.add(A)
        queue.add(B)
        assert await queue.get() == A
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 1)
        queue.forget(B)
        queue.done(A)
        queue.add(C)
        assert await queue.get() == C
        assert (queue.waiting, queue.entries) == ({}, [])

    run_virtual(main)


class QueueModel(RuleBasedStateMachine):
    """Compare the queue with a model of a dict and a set, for any order of operations."""

    keys = Bundle("keys")
    workers = 5

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.now = 0.0
        self.queue: Queue[Key] = Queue(lambda: self.now, self.workers)
        self.due: dict[Key, float] = {}
        self.busy: set[Key] = set()

    def teardown(self) -> None:
        self.loop.close()

    @rule(target=keys, namespace=st.sampled_from("XYZ"), name=st.sampled_from("abcd"))
    def draw_key(self, namespace: str, name: str) -> Key:
        return Key(namespace, name)

    @rule(key=keys, delay=st.sampled_from([0, 1, 5, 60]))
    def add(self, key: Key, delay: float) -> None:
        self.queue.add(key, delay)
        self.due[key] = min(self.now + delay, self.due.get(key, float("inf")))

    @rule(key=keys)
    def forget(self, key: Key) -> None:
        self.queue.forget(key)
        self.due.pop(key, None)

    @rule(seconds=st.sampled_from([1, 4, 60]))
    def advance_time(self, seconds: float) -> None:
        self.now += seconds

    def _has_share(self, namespace: str) -> bool:
        return sum(key.namespace == namespace for key in self.busy) < self.workers - len(self.busy)

    @rule()
    def take(self) -> None:
        ready = {
            key: due
            for key, due in self.due.items()
            if due <= self.now and key not in self.busy and self._has_share(key.namespace)
        }
        taken = self.loop.run_until_complete(self._get_or_cancel())
        if not ready:
            assert taken is None
            return
        assert taken is not None
        assert ready[taken] == min(ready.values())
        del self.due[taken]
        self.busy.add(taken)

    async def _get_or_cancel(self) -> Key | None:
        """Return a key that is ready, or cancel the call, which must not change the queue."""
        call = asyncio.create_task(self.queue.get())
        await asyncio.sleep(0)
        if call.done():
            return call.result()
        call.cancel()
        await asyncio.wait([call])
        return None

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.busy)))
        self.queue.done(key)
        self.busy.discard(key)

    @invariant()
    def length_equals_the_model(self) -> None:
        assert len(self.queue) == len(self.due)


QueueModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestQueueModel = QueueModel.TestCase
