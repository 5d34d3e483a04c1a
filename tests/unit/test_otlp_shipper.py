"""Log lines on their way to a collector: in order, tried again, lost, and the last of them."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator

import pytest

from controller.otlp import backlog, shipper
from controller.otlp.client import UnsentError
from controller.otlp.shipper import FLUSH_SECONDS, LONGEST_PAUSE, OTHER_SECONDS, REMIND_SECONDS
from controller.otlp.wire import Answer
from tests.unit import virtual
from tests.unit.otlp_stage import TAKEN, Stage, fields, shipping

log = logging.getLogger("controller.sync")
BUSY = Answer(503, {}, b"")


@pytest.fixture(autouse=True)
def everything() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(before)


def test_lines_go_together_and_in_order() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        async with shipping(stage):
            for number in range(5):
                log.info("line %d", number)
            await asyncio.sleep(shipper.LINGER + 0.1)
            assert stage.collector.taken == [f"line {number}" for number in range(5)]
            assert len(stage.collector.asked) == 1
            await asyncio.sleep(100)
            assert len(stage.collector.asked) == 1
            assert stage.count("shipped") == 5
        assert not stage.told

    virtual.run(main)


@pytest.mark.parametrize("trouble", [BUSY, UnsentError("it cannot be reached"), ValueError("anything")])
def test_trouble_is_tried_again_ever_more_slowly(trouble: Answer | Exception) -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        stage.collector.script = [trouble] * 12
        async with shipping(stage):
            log.info("the first")
            await asyncio.sleep(30)
            log.info("the second")
            await asyncio.sleep(1000)
            asked = stage.collector.asked
            pauses = [after - before for before, after in itertools.pairwise(asked)]
            assert pauses[0] <= 2
            assert LONGEST_PAUSE / 2 <= pauses[10] <= LONGEST_PAUSE
            assert max(pauses) <= LONGEST_PAUSE
            # Nothing was lost, nothing came twice, and the order is kept.
            assert stage.collector.taken == ["the first", "the second"]
            assert (stage.count("shipped"), stage.count("lost", cause="full")) == (2, 0)
        first, *others, last = stage.says()
        assert first.startswith("logs are not shipped: ")
        assert "anything" not in first
        assert len(others) <= 1
        assert last == "logs are shipped again"

    virtual.run(main)


def test_one_failure_alone_is_not_told() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        stage.collector.script = [UnsentError("the connection was closed meanwhile"), TAKEN, BUSY]
        async with shipping(stage):
            for number in range(3):
                log.info("line %d", number)
                await asyncio.sleep(10)
        assert stage.collector.taken == ["line 0", "line 1", "line 2"]
        assert not stage.told

    virtual.run(main)


@pytest.mark.parametrize("asked", [20, 200])
def test_retry_after_is_honoured(asked: int) -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        stage.collector.script = [Answer(429, {"Retry-After": str(asked)}, b"")]
        async with shipping(stage):
            log.info("a line")
            await asyncio.sleep(asked + 20)
            first, second = stage.collector.asked
            assert asked <= second - first <= asked + 2

    virtual.run(main)


def test_what_is_refused_is_lost_and_the_next_go_on() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        partly = Answer(200, {}, b'{"partialSuccess":{"rejectedLogRecords":"1"}}')
        stage.collector.script = [Answer(400, {}, b""), partly]
        async with shipping(stage):
            for number in range(3):
                log.info("line %d", number)
                log.info("line %d, too", number)
                await asyncio.sleep(2)
            assert stage.collector.taken == ["line 1", "line 1, too", "line 2", "line 2, too"]
            assert (stage.count("lost", cause="refused"), stage.count("shipped")) == (3, 3)

    virtual.run(main)


def test_a_collector_that_stays_away_costs_the_oldest_lines_and_few_words() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        stage.collector.otherwise = UnsentError("it is not there")
        hours = 12
        async with shipping(stage):
            for _ in range(hours * 360):
                log.info("x" * 1000)
                await asyncio.sleep(10)
            lost = stage.count("lost", cause="full")
            waiting = len(stage.shipper._backlog)
            assert lost > 100
            assert waiting * 1000 < backlog.MOST_BYTES
            seconds = hours * 3600
            assert seconds / (REMIND_SECONDS + LONGEST_PAUSE) <= len(stage.told) <= seconds / REMIND_SECONDS + 1
            assert fields(stage)["lost"] > 0
            stage.collector.otherwise = TAKEN
            await asyncio.sleep(LONGEST_PAUSE + 1)
            assert stage.says()[-1] == "logs are shipped again"
            assert fields(stage)["lost"] == lost
            assert len(stage.collector.taken) == hours * 360 - lost

    virtual.run(main)


def test_another_trouble_is_told_sooner_but_never_at_each_try() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        stage.collector.script = [UnsentError(f"trouble {number % 2}") for number in range(200)]
        async with shipping(stage):
            log.info("a line")
            await asyncio.sleep(3000)
        times = 3000 / OTHER_SECONDS
        assert times / 4 <= len(stage.told) <= times + 1

    virtual.run(main)


def test_its_own_words_are_never_shipped() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        stage.collector.script = [BUSY] * 3
        async with shipping(stage):
            log.info("a line")
            await asyncio.sleep(30)
        assert len(stage.told) == 2
        assert stage.collector.taken == ["a line"]

    virtual.run(main)


def test_a_full_backlog_is_told_though_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        stage.shipper._backlog._most = 3000
        async with shipping(stage):
            for _ in range(50):
                log.info("x" * 100)
            await asyncio.sleep(5)
            assert stage.says() == ["logs are not shipped: more is logged than the collector takes"]
            assert fields(stage)["lost"] == stage.count("lost", cause="full") > 0
            log.info("x")
            await asyncio.sleep(5)
            assert stage.says()[1:] == ["logs are shipped again"]

    virtual.run(main)


# The end


def test_what_is_left_goes_at_the_end() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        async with shipping(stage):
            log.info("the last")
        assert clock() < 0.1
        assert stage.collector.taken == ["the last"]
        assert not stage.told
        log.info("nobody's")
        assert len(stage.shipper._backlog) == 0

    virtual.run(main)


def test_the_end_does_not_wait_out_a_pause() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        stage.collector.script = [BUSY] * 8
        async with shipping(stage):
            log.info("a line")
            await asyncio.sleep(200)
            stage.collector.script = []
            began = clock()
        assert clock() - began < 0.1
        assert stage.collector.taken == ["a line"]

    virtual.run(main)


@pytest.mark.parametrize("hangs", [True, False])
def test_the_end_is_bounded_and_tells_what_is_left(hangs: bool) -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = Stage(clock)
        stage.collector.hangs, stage.collector.otherwise = hangs, BUSY
        async with shipping(stage):
            log.info("one")
            await asyncio.sleep(1.5)
            log.info("two")
            began, tries = clock(), len(stage.collector.asked)
        assert clock() - began <= (FLUSH_SECONDS if hangs else 0.1)
        assert len(stage.collector.asked) - tries <= 1
        assert stage.says()[-1] == "the last 2 log lines were not shipped"

    virtual.run(main)
