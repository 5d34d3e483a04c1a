"""Places that are shared: how many each gets, who comes next, and that none is lost."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.keyvault.client import AT_ONCE
from controller.runtime.fair_share import FairSemaphore, FairShare
from tests.support.virtual_time import run_virtual


@pytest.mark.parametrize(
    ("places", "each"), [(64, [32, 16, 8, 4, 2, 1, 1, 0]), (16, [8, 4, 2, 1, 1]), (3, [2, 1]), (1, [1, 0])]
)
def test_who_takes_all_that_it_gets_leaves_as_much(places: int, each: list[int]) -> None:
    shares = FairShare(places)
    for number, most in enumerate(each):
        taken = 0
        while shares.has_room(str(number)):
            shares.acquire(str(number))
            taken += 1
        assert taken == most


def test_what_was_given_back_is_for_whoever_has_less() -> None:
    shares = FairShare(4)
    for who in ("a", "a", "b", "c"):
        assert shares.has_room(who)
        shares.acquire(who)
    shares.release("a")
    assert [who for who in "abcd" if shares.has_room(who)] == ["d"]


class Users:
    """Who holds a slot, and until when."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.slots = FairSemaphore(AT_ONCE)
        self.began: list[tuple[str, float]] = []

    async def use(self, who: str, seconds: float) -> None:
        async with self.slots.hold_slot(who):
            self.began.append((who, self.clock()))
            await asyncio.sleep(seconds)


@pytest.mark.parametrize("hostile", [1, 2, 6])
def test_who_comes_new_waits_for_nobody(hostile: int) -> None:
    """However many requests hang, of up to six namespaces."""

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


def test_each_ones_callers_come_in_their_order_and_those_who_wait_in_turn() -> None:
    async def main(clock: Callable[[], float]) -> list[str]:
        users = Users(clock)
        users.slots = FairSemaphore(2)
        async with asyncio.TaskGroup() as tasks:
            for who in ("first", "a", "a", "a", "b", "b", "c"):
                tasks.create_task(users.use(who, 1))
        return [who for who, _ in users.began]

    assert run_virtual(main) == ["first", "a", "b", "a", "c", "b", "a"]


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 9), st.integers(1, 9), st.integers(0, 30)), max_size=40),
    st.integers(1, 6),
)
def test_no_place_is_lost_whoever_gives_up_when(callers: list[tuple[str, int, int, int]], places: int) -> None:
    """Callers come, stay and lose patience as it happens; afterwards all places are free and nobody waits."""

    async def main(clock: Callable[[], float]) -> None:
        slots = FairSemaphore(places)
        inside = 0

        async def use(who: str, comes: float, stays: float, patience: float) -> None:
            nonlocal inside
            await asyncio.sleep(comes)
            try:
                async with asyncio.timeout(patience), slots.hold_slot(who):
                    inside += 1
                    assert inside <= places
                    try:
                        await asyncio.sleep(stays)
                    finally:
                        inside -= 1
            except TimeoutError:
                pass

        async with asyncio.TaskGroup() as tasks:
            for caller in callers:
                tasks.create_task(use(*caller))
        assert slots.shares.free == places
        assert not slots.waiting

    run_virtual(main)
