"""Test the delivery of log lines to a collector: order, retries, losses, and the end of the process."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator

import pytest

from controller.observability.otlp import backlog, shipper
from controller.observability.otlp.client import UnsentError
from controller.observability.otlp.shipper import FLUSH_SECONDS, MAX_PAUSE, OTHER_SECONDS, REMIND_SECONDS
from controller.observability.otlp.wire import CollectorAnswer
from tests.support import virtual_time
from tests.support.otlp_harness import ACCEPTED, ShipperHarness, last_fields, run_shipper

log = logging.getLogger("controller.secretsync.syncer")
BUSY = CollectorAnswer(503, {}, b"")


@pytest.fixture(autouse=True)
def log_all_levels() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(before)


def test_lines_are_sent_in_one_request_and_in_order() -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        async with run_shipper(harness):
            for number in range(5):
                log.info("line %d", number)
            await asyncio.sleep(shipper.LINGER + 0.1)
            assert harness.collector.accepted == [f"line {number}" for number in range(5)]
            assert len(harness.collector.request_times) == 1
            await asyncio.sleep(100)
            assert len(harness.collector.request_times) == 1
            assert harness.count_lines("shipped") == 5
        assert not harness.records

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("failure", [BUSY, UnsentError("it cannot be reached"), ValueError("text of an unknown error")])
def test_failed_request_is_retried_with_backoff(failure: CollectorAnswer | Exception) -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        harness.collector.script = [failure] * 12
        async with run_shipper(harness):
            log.info("the first")
            await asyncio.sleep(30)
            log.info("the second")
            await asyncio.sleep(1000)
            times = harness.collector.request_times
            pauses = [after - before for before, after in itertools.pairwise(times)]
            assert pauses[0] <= 2
            assert MAX_PAUSE / 2 <= pauses[10] <= MAX_PAUSE
            assert max(pauses) <= MAX_PAUSE
            # Each line arrives once and in order.
            assert harness.collector.accepted == ["the first", "the second"]
            assert (harness.count_lines("shipped"), harness.count_lines("lost", cause="full")) == (2, 0)
        first, *others, last = harness.messages()
        assert first.startswith("logs are not shipped: ")
        assert "text of an unknown error" not in first
        assert len(others) <= 1
        assert last == "logs are shipped again"

    virtual_time.run_virtual(main)


def test_single_failure_is_not_logged() -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        harness.collector.script = [UnsentError("the connection was closed meanwhile"), ACCEPTED, BUSY]
        async with run_shipper(harness):
            for number in range(3):
                log.info("line %d", number)
                await asyncio.sleep(10)
        assert harness.collector.accepted == ["line 0", "line 1", "line 2"]
        assert not harness.records

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("seconds", [20, 200])
def test_retry_after_is_honoured(seconds: int) -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        harness.collector.script = [CollectorAnswer(429, {"Retry-After": str(seconds)}, b"")]
        async with run_shipper(harness):
            log.info("a line")
            await asyncio.sleep(seconds + 20)
            first, second = harness.collector.request_times
            assert seconds <= second - first <= seconds + 2

    virtual_time.run_virtual(main)


def test_refused_lines_are_lost_and_later_lines_are_sent() -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        partial_success = CollectorAnswer(200, {}, b'{"partialSuccess":{"rejectedLogRecords":"1"}}')
        harness.collector.script = [CollectorAnswer(400, {}, b""), partial_success]
        async with run_shipper(harness):
            for number in range(3):
                log.info("line %d", number)
                log.info("line %d, too", number)
                await asyncio.sleep(2)
            assert harness.collector.accepted == ["line 1", "line 1, too", "line 2", "line 2, too"]
            assert (harness.count_lines("lost", cause="refused"), harness.count_lines("shipped")) == (3, 3)

    virtual_time.run_virtual(main)


def test_long_outage_loses_the_oldest_lines_and_is_logged_rarely() -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        harness.collector.default_answer = UnsentError("it is not there")
        hours = 12
        async with run_shipper(harness):
            for _ in range(hours * 360):
                log.info("x" * 1000)
                await asyncio.sleep(10)
            lost = harness.count_lines("lost", cause="full")
            waiting = len(harness.shipper.backlog)
            assert lost > 100
            assert waiting * 1000 < backlog.MAX_BYTES
            seconds = hours * 3600
            assert seconds / (REMIND_SECONDS + MAX_PAUSE) <= len(harness.records) <= seconds / REMIND_SECONDS + 1
            assert last_fields(harness)["lost"] > 0
            harness.collector.default_answer = ACCEPTED
            await asyncio.sleep(MAX_PAUSE + 1)
            assert harness.messages()[-1] == "logs are shipped again"
            assert last_fields(harness)["lost"] == lost
            assert len(harness.collector.accepted) == hours * 360 - lost

    virtual_time.run_virtual(main)


def test_changing_cause_is_logged_sooner_but_not_at_each_attempt() -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        harness.collector.script = [UnsentError(f"failure {number % 2}") for number in range(200)]
        async with run_shipper(harness):
            log.info("a line")
            await asyncio.sleep(3000)
        times = 3000 / OTHER_SECONDS
        assert times / 4 <= len(harness.records) <= times + 1

    virtual_time.run_virtual(main)


def test_log_lines_of_the_shipper_are_not_shipped() -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        harness.collector.script = [BUSY] * 3
        async with run_shipper(harness):
            log.info("a line")
            await asyncio.sleep(30)
        assert len(harness.records) == 2
        assert harness.collector.accepted == ["a line"]

    virtual_time.run_virtual(main)


def test_full_backlog_is_logged_although_no_request_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        harness.shipper.backlog.max_bytes = 3000
        async with run_shipper(harness):
            for _ in range(50):
                log.info("x" * 100)
            await asyncio.sleep(5)
            assert harness.messages() == [
                "logs are not shipped: the controller logs more than the collector accepts; raise the log level"
            ]
            assert last_fields(harness)["lost"] == harness.count_lines("lost", cause="full") > 0
            log.info("x")
            await asyncio.sleep(5)
            assert harness.messages()[1:] == ["logs are shipped again"]

    virtual_time.run_virtual(main)


# The end of the process


def test_remaining_lines_are_sent_at_the_end() -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        async with run_shipper(harness):
            log.info("the last")
        assert clock() < 0.1
        assert harness.collector.accepted == ["the last"]
        assert not harness.records
        log.info("after the end")
        assert len(harness.shipper.backlog) == 0

    virtual_time.run_virtual(main)


def test_end_sends_lines_without_waiting_for_the_backoff() -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        harness.collector.script = [BUSY] * 8
        async with run_shipper(harness):
            log.info("a line")
            await asyncio.sleep(200)
            harness.collector.script = []
            start = clock()
        assert clock() - start < 0.1
        assert harness.collector.accepted == ["a line"]

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("hangs", [True, False])
def test_end_is_bounded_and_logs_the_number_of_unsent_lines(hangs: bool) -> None:
    async def main(clock: Callable[[], float]) -> None:
        harness = ShipperHarness(clock)
        harness.collector.hangs, harness.collector.default_answer = hangs, BUSY
        async with run_shipper(harness):
            log.info("one")
            await asyncio.sleep(1.5)
            log.info("two")
            start, attempts = clock(), len(harness.collector.request_times)
        assert clock() - start <= (FLUSH_SECONDS if hangs else 0.1)
        assert len(harness.collector.request_times) - attempts <= 1
        assert harness.messages()[-1] == "the last 2 log lines were not shipped"

    virtual_time.run_virtual(main)
