"""Test fair shares of slots: the number for each user, the order of users, and that no slot is lost."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.keyvault.client import AT_ONCE
from controller.runtime.fair_share import FairSemaphore, FairShare
from tests.support.virtual_time import run_virtual


@pytest.mark.parametrize(
    ("slot_count", "each"), [(64, [32, 16, 8, 4, 2, 1, 1, 0]), (16, [8, 4, 2, 1, 1]), (3, [2, 1]), (1, [1, 0])]
)
def test_each_user_gets_at_most_half_of_the_remaining_slots(slot_count: int, each: list[int]) -> None:
    shares = FairShare(slot_count)
    for number, most in enumerate(each):
        taken = 0
        while shares.has_room(str(number)):
            shares.acquire(str(number))
            taken += 1
        assert taken == most


def test_released_slot_goes_to_a_user_with_fewer_slots() -> None:
    shares = FairShare(4)
    for user in ("a", "a", "b", "c"):
        assert shares.has_room(user)
        shares.acquire(user)
    shares.release("a")
    assert [user for user in "abcd" if shares.has_room(user)] == ["d"]


class Users:
    """Users of one semaphore, and the time when each of them got a slot."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.slots = FairSemaphore(AT_ONCE)
        self.began: list[tuple[str, float]] = []

    async def use(self, user: str, seconds: float) -> None:
        async with self.slots.hold_slot(user):
            self.began.append((user, self.clock()))
            await asyncio.sleep(seconds)


@pytest.mark.parametrize("hostile", [1, 2, 6])
def test_new_user_gets_a_slot_at_once(hostile: int) -> None:
    """Let hundreds of requests of up to six namespaces hang."""

    async def main(clock: Callable[[], float]) -> None:
        users = Users(clock)
        hanging = [
            asyncio.create_task(users.use(f"hostile-{number % hostile}", 1e6)) for number in range(hostile * 100)
        ]
        await asyncio.sleep(60)
        await users.use("shop", 1)
        assert users.began[-1] == ("shop", 60.0)
        for task in hanging:
            task.cancel()
        await asyncio.wait(hanging)

    run_virtual(main)


def test_waiting_users_alternate_and_each_keeps_its_order() -> None:
    async def main(clock: Callable[[], float]) -> list[str]:
        users = Users(clock)
        users.slots = FairSemaphore(2)
        async with asyncio.TaskGroup() as tasks:
            for user in ("first", "a", "a", "a", "b", "b", "c"):
                tasks.create_task(users.use(user, 1))
        return [user for user, _ in users.began]

    assert run_virtual(main) == ["first", "a", "b", "a", "c", "b", "a"]


def test_user_with_a_full_share_does_not_block_those_behind_it() -> None:
    async def main(clock: Callable[[], float]) -> list[str]:
        users = Users(clock)
        users.slots = FairSemaphore(4)
        async with asyncio.TaskGroup() as tasks:
            for user, seconds in (("a", 9), ("a", 9), ("b", 9), ("c", 1), ("a", 1), ("d", 1)):
                tasks.create_task(users.use(user, seconds))
        return [f"{user} {moment:.0f}" for user, moment in users.began]

    assert run_virtual(main) == ["a 0", "a 0", "b 0", "c 0", "d 1", "a 9"]


async def test_caller_that_is_cancelled_when_it_gets_a_slot_returns_it() -> None:
    slots = FairSemaphore(1)
    async with slots.hold_slot("a"):
        waiting = asyncio.create_task(slots.hold_slot("b").__aenter__())
        await asyncio.sleep(0)
    assert slots.shares.used == {"b": 1}
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (slots.shares.free, slots.shares.used) == (1, {})


async def test_cancelled_callers_leave_no_entry_if_their_namespace_has_no_room() -> None:
    slots = FairSemaphore(4)
    async with contextlib.AsyncExitStack() as held:
        for user in "aab":
            await held.enter_async_context(slots.hold_slot(user))
        async with slots.hold_slot("c"):
            waiting = asyncio.create_task(slots.hold_slot("a").__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert set(slots.waiting) == {"a"}
        assert not slots.waiting


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 9), st.integers(1, 9), st.integers(0, 30)), max_size=40),
    st.integers(1, 6),
)
def test_no_slot_is_lost_when_callers_time_out(callers: list[tuple[str, int, int, int]], slot_count: int) -> None:
    """Let callers arrive, hold slots and time out at random. Afterwards all slots are free and no caller waits."""

    async def main(clock: Callable[[], float]) -> None:
        slots = FairSemaphore(slot_count)
        inside = 0

        async def use(user: str, arrival: float, duration: float, max_wait: float) -> None:
            nonlocal inside
            await asyncio.sleep(arrival)
            try:
                async with asyncio.timeout(max_wait), slots.hold_slot(user):
                    inside += 1
                    assert inside <= slot_count
                    try:
                        await asyncio.sleep(duration)
                    finally:
                        inside -= 1
            except TimeoutError:
                pass

        async with asyncio.TaskGroup() as tasks:
            for caller in callers:
                tasks.create_task(use(*caller))
        assert slots.shares.free == slot_count
        assert not slots.shares.used
        assert not slots.waiting

    run_virtual(main)
