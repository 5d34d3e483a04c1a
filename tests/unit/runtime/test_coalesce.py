"""One request for all who ask the same: how old an answer may be, who asks, and what is kept of it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from controller.runtime.coalesce import CoalescingCache


class Scene:
    """A clock, something to ask that answers with how often it was asked, and a gate that holds the answers back."""

    def __init__(self, most: int = 8) -> None:
        self.now = 10.0
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.shared: CoalescingCache[str] = CoalescingCache(most, lambda: self.now)

    def asking(self, what: str) -> Callable[[], Awaitable[str]]:
        async def ask() -> str:
            self.asked.append(what)
            answer = f"{what} {len(self.asked)}"
            await self.gate.wait()
            return answer

        return ask

    async def get(self, what: str, since: float) -> str:
        return await self.shared.get(what, since, self.asking(what))

    def start(self, what: str, since: float) -> asyncio.Task[str]:
        return asyncio.create_task(self.get(what, since))


@pytest.mark.parametrize(("since", "times"), [(9.0, 1), (10.0, 1), (10.1, 2)])
async def test_an_answer_is_good_for_who_asked_no_later_than_it_began(since: float, times: int) -> None:
    scene = Scene()
    await scene.get("a", 10.0)
    scene.now = 11.0
    assert await scene.get("a", since) == f"a {times}"
    assert len(scene.asked) == times


async def test_what_counts_is_when_the_request_began_and_not_when_it_was_answered() -> None:
    scene = Scene()
    scene.gate.clear()
    first = scene.start("a", 10.0)
    await asyncio.sleep(0)
    scene.now = 12.0
    edited = scene.start("a", 12.0)  # while the first is under way: it may have been answered with what was before
    await asyncio.sleep(0)
    scene.gate.set()
    assert (await first, await edited) == ("a 1", "a 2")


async def test_all_who_wait_are_served_by_one_request_and_others_are_not_held_up() -> None:
    scene = Scene()
    scene.gate.clear()
    waiting = [scene.start("a", 10.0) for _ in range(100)] + [scene.start("b", 10.0)]
    await asyncio.sleep(0)
    assert scene.asked == ["a", "b"]
    scene.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"a 1", "b 2"}
    assert scene.asked == ["a", "b"]


async def test_where_the_one_who_asks_gives_up_another_asks() -> None:
    scene = Scene()
    scene.gate.clear()
    asking, waiting, late = (scene.start("a", 10.0) for _ in range(3))
    await asyncio.sleep(0)
    asking.cancel()
    scene.gate.set()
    assert [await waiting, await late] == ["a 2", "a 2"]
    assert asking.cancelled()


async def test_where_the_request_fails_another_asks_for_himself() -> None:
    scene = Scene()

    async def fail() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await scene.shared.get("a", 10.0, fail)
    assert await scene.get("a", 10.0) == "a 1"


async def test_the_latest_answers_are_kept_and_no_more() -> None:
    scene = Scene(most=2)
    for what in ("a", "b", "c"):
        await scene.get(what, 10.0)
    assert await scene.get("c", 10.0) == "c 3"
    assert await scene.get("b", 10.0) == "b 2"
    assert await scene.get("a", 10.0) == "a 4"
    assert len(scene.shared.kept) == 2
    assert not scene.shared.locks


async def test_an_answer_that_is_asked_for_anew_counts_as_late() -> None:
    scene = Scene(most=2)
    for what, since in (("a", 10.0), ("b", 10.0), ("a", 11.0), ("c", 11.0)):
        scene.now = since
        await scene.get(what, since)
    assert await scene.get("a", 11.0) == "a 3"


async def test_nothing_is_kept_once_it_is_cleared() -> None:
    scene = Scene()
    await scene.get("a", 10.0)
    scene.shared.clear()
    assert not scene.shared.kept
    assert not scene.shared.locks
    assert await scene.get("a", 10.0) == "a 2"


@pytest.mark.parametrize("how", ["cleared", "pushed out"])
async def test_who_waits_while_all_is_let_go_is_served_and_lets_go_in_turn(how: str) -> None:
    """A lock is free for a moment between one who is served and the next; then nobody may stumble over its absence."""
    scene = Scene(most=1)
    scene.gate.clear()

    async def let_go() -> None:
        await scene.gate.wait()
        scene.shared.clear()

    first, second = scene.start("a", 10.0), scene.start("a", 11.0)  # the second is not served by the first
    await asyncio.sleep(0)
    other = asyncio.create_task(let_go() if how == "cleared" else scene.get("b", 10.0))
    await asyncio.sleep(0)
    scene.gate.set()
    await asyncio.gather(first, second, other)
    assert scene.asked.count("a") == 2
    for what in ("c", "d"):  # pushes out what was kept
        assert (await scene.get(what, 12.0)).startswith(what)
    assert len(scene.shared.kept) == 1
