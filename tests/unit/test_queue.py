"""The queue: a model for every order of events, and virtual time for the waiting."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from controller.queue import Key, Queue
from tests.unit.virtual import VirtualLoop, run

A, B, C = Key("team", "a"), Key("team", "b"), Key("other", "a")


def test_a_key_reads_as_namespace_and_name() -> None:
    assert str(A) == "team/a"


def test_the_earliest_comes_first_and_when_it_is_due() -> None:
    async def main(clock: Callable[[], float]) -> list[tuple[Key, float]]:
        queue: Queue[Key] = Queue(clock)
        queue.add(A, 3600)
        queue.add(B, 60)
        queue.add(C)
        return [(await queue.take(), clock()) for _ in range(3)]

    assert run(main) == [(C, 0), (B, 60), (A, 3600)]


@pytest.mark.parametrize(("first", "second"), [(10, 5), (5, 10), (5, 5)])
def test_of_several_wishes_the_earliest_counts_once(first: float, second: float) -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock)
        queue.add(A, first)
        queue.add(A, second)
        assert await queue.take() == A
        assert clock() == 5
        queue.done(A)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.take(), 1000)
        assert len(queue) == 0

    run(main)


def test_a_worker_has_the_turn_of_each_key_until_the_queue_is_closed() -> None:
    async def main(clock: Callable[[], float]) -> list[tuple[Key, float]]:
        queue: Queue[Key] = Queue(clock)
        turns: list[tuple[Key, float]] = []

        async def turn(key: Key) -> float | None:
            turns.append((key, clock()))
            if clock() >= 20:
                queue.close()
            return 10 if key == A else None

        queue.add(A)
        queue.add(B)
        await queue.work(turn, 1)
        return turns

    assert run(main) == [(A, 0), (B, 0), (A, 10), (A, 20)]


def test_a_waiting_worker_hears_of_an_earlier_key() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock)
        queue.add(A, 3600)
        asyncio.get_running_loop().call_later(7, queue.add, B)
        assert (await queue.take(), clock()) == (B, 7)
        assert (await queue.take(), clock()) == (A, 3600)

    run(main)


def test_a_busy_key_is_not_handed_out_twice_and_comes_again() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock)
        queue.add(A)
        await queue.take()
        queue.add(A)
        queue.add(A, 5)
        second = asyncio.create_task(queue.take())
        await asyncio.sleep(60)
        assert not second.done()
        queue.done(A)
        assert (await second, clock()) == (A, 60)

    run(main)


def test_other_keys_pass_a_busy_one() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock)
        queue.add(A)
        await queue.take()
        queue.add(A)
        queue.add(B)
        assert await queue.take() == B
        queue.done(A)
        assert await queue.take() == A

    run(main)


def test_a_forgotten_key_does_not_come_and_may_be_wanted_again() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock)
        queue.add(A, 5)
        queue.forget(A)
        queue.add(A, 50)
        assert (await queue.take(), clock()) == (A, 50)
        queue.add(A)
        queue.forget(A)
        queue.done(A)
        assert len(queue) == 0

    run(main)


def test_every_one_of_many_workers_gets_a_key_and_a_cancelled_one_takes_none_along() -> None:
    async def main(clock: Callable[[], float]) -> None:
        queue: Queue[Key] = Queue(clock)
        keys = [Key("team", str(number)) for number in range(32)]
        workers = [asyncio.create_task(queue.take()) for _ in range(40)]
        await asyncio.sleep(1)
        for worker in workers[:8]:
            worker.cancel()
        for key in keys:
            queue.add(key)
        assert sorted(await asyncio.gather(*workers[8:])) == sorted(keys)

    run(main)


def test_overdue_counts_what_could_be_taken_now() -> None:
    now = [0.0]
    queue: Queue[Key] = Queue(lambda: now[0])
    queue.add(A)
    queue.add(B, 5)
    assert (len(queue), queue.overdue()) == (2, 1)
    now[0] = 5
    assert queue.overdue() == 2


class QueueModel(RuleBasedStateMachine):
    """Any order of add, take, done, forget and passing time against a model of a dict and a set."""

    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.now = 0.0
        self.queue: Queue[Key] = Queue(lambda: self.now)
        self.due: dict[Key, float] = {}
        self.busy: set[Key] = set()

    def teardown(self) -> None:
        self.loop.close()

    @rule(target=keys, name=st.sampled_from("abcd"))
    def a_key(self, name: str) -> Key:
        return Key("team", name)

    @rule(key=keys, delay=st.sampled_from([0, 1, 5, 60]))
    def add(self, key: Key, delay: float) -> None:
        self.queue.add(key, delay)
        self.due[key] = min(self.now + delay, self.due.get(key, float("inf")))

    @rule(key=keys)
    def forget(self, key: Key) -> None:
        self.queue.forget(key)
        self.due.pop(key, None)

    @rule(seconds=st.sampled_from([1, 4, 60]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        ready = {key: due for key, due in self.due.items() if due <= self.now and key not in self.busy}
        taken = self.loop.run_until_complete(self._try())
        if not ready:
            assert taken is None
            return
        assert taken is not None
        assert ready[taken] == min(ready.values())
        del self.due[taken]
        self.busy.add(taken)

    async def _try(self) -> Key | None:
        """What `take` gives at once; a call that would wait is cancelled, and must leave no trace."""
        call = asyncio.create_task(self.queue.take())
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
    def waits_for_what_is_wanted(self) -> None:
        assert len(self.queue) == len(self.due)


QueueModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestQueueModel = QueueModel.TestCase
