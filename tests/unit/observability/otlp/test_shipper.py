"""Log lines on their way to a collector: in order, tried again, lost, and the last of them."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator

import pytest

from controller.observability.otlp import backlog, shipper
from controller.observability.otlp.client import UnsentError
from controller.observability.otlp.shipper import FLUSH_SECONDS, LONGEST_PAUSE, OTHER_SECONDS, REMIND_SECONDS
from controller.observability.otlp.wire import CollectorAnswer
from tests.support import virtual_time
from tests.support.otlp_harness import ACCEPTED, ShipperHarness, last_fields, run_shipper

log = logging.getLogger("controller.secretsync.syncer")
BUSY = CollectorAnswer(503, {}, b"")


@pytest.fixture(autouse=True)
def everything() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(before)


def test_lines_go_together_and_in_order() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        async with run_shipper(stage):
            for number in range(5):
                log.info("line %d", number)
            await asyncio.sleep(shipper.LINGER + 0.1)
            assert stage.collector.accepted == [f"line {number}" for number in range(5)]
            assert len(stage.collector.request_times) == 1
            await asyncio.sleep(100)
            assert len(stage.collector.request_times) == 1
            assert stage.count_lines("shipped") == 5
        assert not stage.records

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("trouble", [BUSY, UnsentError("it cannot be reached"), ValueError("anything")])
def test_trouble_is_tried_again_ever_more_slowly(trouble: CollectorAnswer | Exception) -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        stage.collector.script = [trouble] * 12
        async with run_shipper(stage):
            log.info("the first")
            await asyncio.sleep(30)
            log.info("the second")
            await asyncio.sleep(1000)
            asked = stage.collector.request_times
            pauses = [after - before for before, after in itertools.pairwise(asked)]
            assert pauses[0] <= 2
            assert LONGEST_PAUSE / 2 <= pauses[10] <= LONGEST_PAUSE
            assert max(pauses) <= LONGEST_PAUSE
            # Nothing was lost, nothing came twice, and the order is kept.
            assert stage.collector.accepted == ["the first", "the second"]
            assert (stage.count_lines("shipped"), stage.count_lines("lost", cause="full")) == (2, 0)
        first, *others, last = stage.messages()
        assert first.startswith("logs are not shipped: ")
        assert "anything" not in first
        assert len(others) <= 1
        assert last == "logs are shipped again"

    virtual_time.run_virtual(main)


def test_one_failure_alone_is_not_told() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        stage.collector.script = [UnsentError("the connection was closed meanwhile"), ACCEPTED, BUSY]
        async with run_shipper(stage):
            for number in range(3):
                log.info("line %d", number)
                await asyncio.sleep(10)
        assert stage.collector.accepted == ["line 0", "line 1", "line 2"]
        assert not stage.records

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("asked", [20, 200])
def test_retry_after_is_honoured(asked: int) -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        stage.collector.script = [CollectorAnswer(429, {"Retry-After": str(asked)}, b"")]
        async with run_shipper(stage):
            log.info("a line")
            await asyncio.sleep(asked + 20)
            first, second = stage.collector.request_times
            assert asked <= second - first <= asked + 2

    virtual_time.run_virtual(main)


def test_what_is_refused_is_lost_and_the_next_go_on() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        partly = CollectorAnswer(200, {}, b'{"partialSuccess":{"rejectedLogRecords":"1"}}')
        stage.collector.script = [CollectorAnswer(400, {}, b""), partly]
        async with run_shipper(stage):
            for number in range(3):
                log.info("line %d", number)
                log.info("line %d, too", number)
                await asyncio.sleep(2)
            assert stage.collector.accepted == ["line 1", "line 1, too", "line 2", "line 2, too"]
            assert (stage.count_lines("lost", cause="refused"), stage.count_lines("shipped")) == (3, 3)

    virtual_time.run_virtual(main)


def test_a_collector_that_stays_away_costs_the_oldest_lines_and_few_words() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        stage.collector.default_answer = UnsentError("it is not there")
        hours = 12
        async with run_shipper(stage):
            for _ in range(hours * 360):
                log.info("x" * 1000)
                await asyncio.sleep(10)
            lost = stage.count_lines("lost", cause="full")
            waiting = len(stage.shipper.backlog)
            assert lost > 100
            assert waiting * 1000 < backlog.MOST_BYTES
            seconds = hours * 3600
            assert seconds / (REMIND_SECONDS + LONGEST_PAUSE) <= len(stage.records) <= seconds / REMIND_SECONDS + 1
            assert last_fields(stage)["lost"] > 0
            stage.collector.default_answer = ACCEPTED
            await asyncio.sleep(LONGEST_PAUSE + 1)
            assert stage.messages()[-1] == "logs are shipped again"
            assert last_fields(stage)["lost"] == lost
            assert len(stage.collector.accepted) == hours * 360 - lost

    virtual_time.run_virtual(main)


def test_another_trouble_is_told_sooner_but_never_at_each_try() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        stage.collector.script = [UnsentError(f"trouble {number % 2}") for number in range(200)]
        async with run_shipper(stage):
            log.info("a line")
            await asyncio.sleep(3000)
        times = 3000 / OTHER_SECONDS
        assert times / 4 <= len(stage.records) <= times + 1

    virtual_time.run_virtual(main)


def test_its_own_words_are_never_shipped() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        stage.collector.script = [BUSY] * 3
        async with run_shipper(stage):
            log.info("a line")
            await asyncio.sleep(30)
        assert len(stage.records) == 2
        assert stage.collector.accepted == ["a line"]

    virtual_time.run_virtual(main)


def test_a_full_backlog_is_told_though_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        stage.shipper.backlog.max_bytes = 3000
        async with run_shipper(stage):
            for _ in range(50):
                log.info("x" * 100)
            await asyncio.sleep(5)
            assert stage.messages() == ["logs are not shipped: the controller logs more than the collector accepts"]
            assert last_fields(stage)["lost"] == stage.count_lines("lost", cause="full") > 0
            log.info("x")
            await asyncio.sleep(5)
            assert stage.messages()[1:] == ["logs are shipped again"]

    virtual_time.run_virtual(main)


# The end


def test_what_is_left_goes_at_the_end() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        async with run_shipper(stage):
            log.info("the last")
        assert clock() < 0.1
        assert stage.collector.accepted == ["the last"]
        assert not stage.records
        log.info("nobody's")
        assert len(stage.shipper.backlog) == 0

    virtual_time.run_virtual(main)


def test_the_end_does_not_wait_out_a_pause() -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        stage.collector.script = [BUSY] * 8
        async with run_shipper(stage):
            log.info("a line")
            await asyncio.sleep(200)
            stage.collector.script = []
            began = clock()
        assert clock() - began < 0.1
        assert stage.collector.accepted == ["a line"]

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("hangs", [True, False])
def test_the_end_is_bounded_and_tells_what_is_left(hangs: bool) -> None:
    async def main(clock: Callable[[], float]) -> None:
        stage = ShipperHarness(clock)
        stage.collector.hangs, stage.collector.default_answer = hangs, BUSY
        async with run_shipper(stage):
            log.info("one")
            await asyncio.sleep(1.5)
            log.info("two")
            began, tries = clock(), len(stage.collector.request_times)
        assert clock() - began <= (FLUSH_SECONDS if hangs else 0.1)
        assert len(stage.collector.request_times) - tries <= 1
        assert stage.messages()[-1] == "the last 2 log lines were not shipped"

    virtual_time.run_virtual(main)
