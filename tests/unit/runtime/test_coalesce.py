"""Test the cache that coalesces equal requests: the age of an answer, failed requests, and evictions."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from controller.runtime.coalesce import CoalescingCache


class CacheHarness:
    """A cache, its clock, a source of numbered answers, and a gate that delays the answers."""

    def __init__(self, size: int = 8) -> None:
        self.now = 10.0
        self.fetched: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.cache: CoalescingCache[str] = CoalescingCache(size, lambda: self.now)

    def make_fetch(self, name: str) -> Callable[[], Awaitable[str]]:
        async def fetch() -> str:
            self.fetched.append(name)
            answer = f"{name} {len(self.fetched)}"
            await self.gate.wait()
            return answer

        return fetch

    async def get(self, name: str, since: float) -> str:
        return await self.cache.get(name, since, self.make_fetch(name))

    def start(self, name: str, since: float) -> asyncio.Task[str]:
        return asyncio.create_task(self.get(name, since))


@pytest.mark.parametrize(("since", "times"), [(9.0, 1), (10.0, 1), (10.1, 2)])
async def test_answer_serves_only_requests_no_later_than_its_start(since: float, times: int) -> None:
    harness = CacheHarness()
    await harness.get("a", 10.0)
    harness.now = 11.0
    assert await harness.get("a", since) == f"a {times}"
    assert len(harness.fetched) == times


async def test_age_of_an_answer_is_measured_from_its_start() -> None:
    harness = CacheHarness()
    harness.gate.clear()
    first = harness.start("a", 10.0)
    await asyncio.sleep(0)
    harness.now = 12.0
    edited = harness.start("a", 12.0)  # The first answer may be older than this edit.
    await asyncio.sleep(0)
    harness.gate.set()
    assert (await first, await edited) == ("a 1", "a 2")


async def test_waiting_callers_share_one_request_and_block_no_other_key() -> None:
    harness = CacheHarness()
    harness.gate.clear()
    waiting = [harness.start("a", 10.0) for _ in range(100)] + [harness.start("b", 10.0)]
    await asyncio.sleep(0)
    assert harness.fetched == ["a", "b"]
    harness.gate.set()
    assert set(await asyncio.gather(*waiting)) == {"a 1", "b 2"}
    assert harness.fetched == ["a", "b"]


async def test_cancelled_request_is_repeated_by_a_waiting_caller() -> None:
    harness = CacheHarness()
    harness.gate.clear()
    requesting, waiting, late = (harness.start("a", 10.0) for _ in range(3))
    await asyncio.sleep(0)
    requesting.cancel()
    harness.gate.set()
    assert [await waiting, await late] == ["a 2", "a 2"]
    assert requesting.cancelled()


async def test_failed_request_is_repeated_by_the_next_caller() -> None:
    harness = CacheHarness()

    async def fail() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await harness.cache.get("a", 10.0, fail)
    assert await harness.get("a", 10.0) == "a 1"


async def test_cache_keeps_only_the_latest_answers() -> None:
    harness = CacheHarness(size=2)
    for name in ("a", "b", "c"):
        await harness.get(name, 10.0)
    assert await harness.get("c", 10.0) == "c 3"
    assert await harness.get("b", 10.0) == "b 2"
    assert await harness.get("a", 10.0) == "a 4"
    assert len(harness.cache.kept) == 2
    assert not harness.cache.locks


async def test_renewed_answer_is_evicted_after_older_ones() -> None:
    harness = CacheHarness(size=2)
    for name, since in (("a", 10.0), ("b", 10.0), ("a", 11.0), ("c", 11.0)):
        harness.now = since
        await harness.get(name, since)
    assert await harness.get("a", 11.0) == "a 3"


async def test_cleared_cache_is_empty() -> None:
    harness = CacheHarness()
    await harness.get("a", 10.0)
    harness.cache.clear()
    assert not harness.cache.kept
    assert not harness.cache.locks
    assert await harness.get("a", 10.0) == "a 2"


@pytest.mark.parametrize("removal", ["cleared", "evicted"])
async def test_waiting_caller_is_served_while_its_entry_is_removed(removal: str) -> None:
    """Remove the entry at the moment when its lock is free, between the first caller and the next."""
    harness = CacheHarness(size=1)
    harness.gate.clear()

    async def clear_cache() -> None:
        await harness.gate.wait()
        harness.cache.clear()

    first, second = harness.start("a", 10.0), harness.start("a", 11.0)  # the first answer does not serve the second
    await asyncio.sleep(0)
    other = asyncio.create_task(clear_cache() if removal == "cleared" else harness.get("b", 10.0))
    await asyncio.sleep(0)
    harness.gate.set()
    await asyncio.gather(first, second, other)
    assert harness.fetched.count("a") == 2
    for name in ("c", "d"):  # evict the kept answer
        assert (await harness.get(name, 12.0)).startswith(name)
    assert len(harness.cache.kept) == 1
