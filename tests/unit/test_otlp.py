"""Log lines on their way to a collector: what is sent, what waits, what is tried again and what is lost."""

import asyncio
import contextlib
import itertools
import json
import logging
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest

from controller.otlp import backlog, shipper, wire
from controller.otlp.backlog import Backlog
from controller.otlp.client import UnsentError
from controller.otlp.shipper import FLUSH_SECONDS, LONGEST_PAUSE, OTHER_SECONDS, REMIND_SECONDS, Shipper
from controller.otlp.wire import Answer, Verdict, judge
from controller.telemetry import JsonLines, Metrics
from tests.unit import virtual

log = logging.getLogger("controller.sync")
TAKEN = Answer(200, {}, b"{}")
BUSY = Answer(503, {}, b"")


@pytest.fixture(autouse=True)
def everything() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(before)


def made(message: str = "synced", level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("controller.sync", level, "here.py", 1, message, None, None)
    record.fields = fields
    return record


# What is sent


def plain(value: Mapping[str, Any]) -> Any:
    """An AnyValue as JSON has it."""
    match dict(value):
        case {"arrayValue": {"values": items}}:
            return [plain(item) for item in items]
        case {"kvlistValue": {"values": pairs}}:
            return {pair["key"]: plain(pair["value"]) for pair in pairs}
        case {"intValue": str(text)}:
            return int(text)
        case {}:
            return next(iter(value.values()), None)


def test_a_line_is_what_stdout_has() -> None:
    fields: dict[str, Any] = {
        "name": "s",
        "n": 2**60,
        "ok": True,
        "took": 0.5,
        "keys": ["a", "b"],
        "settings": {"x": None, "y": ("z",)},
    }
    record = made("synced", **fields)
    line = wire.line(record)
    sent = json.loads(line.record)
    printed = json.loads(JsonLines().format(record))
    assert line.logger == printed.pop("logger")
    assert sent["severityText"] == printed.pop("level")
    assert plain(sent["body"]) == printed.pop("message")
    assert {pair["key"]: plain(pair["value"]) for pair in sent["attributes"]} == {
        key: value for key, value in printed.items() if key != "time"
    }
    # protobuf's JSON has 64-bit numbers as strings.
    assert sent["timeUnixNano"] == str(round(record.created * 1e6) * 1000)
    assert {"key": "n", "value": {"intValue": str(2**60)}} in sent["attributes"]


@pytest.mark.parametrize(
    ("level", "number"), [("DEBUG", 5), ("INFO", 9), ("WARNING", 13), ("ERROR", 17), ("CRITICAL", 21)]
)
def test_severities(level: str, number: int) -> None:
    sent = json.loads(wire.line(made(level=logging.getLevelNamesMapping()[level])).record)
    assert sent["severityNumber"] == number


def test_an_exception_goes_along() -> None:
    try:
        raise ValueError("no value here")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "here.py", 1, "failed", None, (type(error), error, None))
    (pair,) = json.loads(wire.line(record).record)["attributes"]
    assert pair == {"key": "exception.stacktrace", "value": {"stringValue": "ValueError: no value here"}}


def test_a_request_has_the_lines_by_their_loggers_in_order() -> None:
    lines = [wire.Line("a", b'{"n":1}'), wire.Line("b", b'{"n":2}'), wire.Line("a", b'{"n":3}')]
    (logs,) = json.loads(wire.request(lines, {"service.name": "me"}))["resourceLogs"]
    assert logs["resource"] == {"attributes": [{"key": "service.name", "value": {"stringValue": "me"}}]}
    assert logs["scopeLogs"] == [
        {"scope": {"name": "a"}, "logRecords": [{"n": 1}, {"n": 3}]},
        {"scope": {"name": "b"}, "logRecords": [{"n": 2}]},
    ]


# What an answer means


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_be_asked_again(status: int) -> None:
    assert judge(Answer(status, {}, b""), 3)[:2] == (True, 0)
    assert judge(Answer(status, {"Retry-After": "7"}, b""), 3).wait == 7


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 500, 999])
def test_what_may_not(status: int) -> None:
    verdict = judge(Answer(status, {"Retry-After": "7"}, b'{"code":3,"message":"too long a name"}'), 3)
    assert verdict[:2] == (False, 3)
    assert f"{status} (too long a name)" in verdict.why
    assert "logs.otlp.endpoint" in verdict.why


@pytest.mark.parametrize(
    ("body", "lost", "why"),
    [
        (b"", 0, ""),
        (b"not JSON", 0, ""),
        (b"{}", 0, ""),
        (b'{"partialSuccess":{}}', 0, ""),
        (b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}', 2, "rejects 2 of 3: too old"),
        (b'{"partialSuccess":{"rejectedLogRecords":2}}', 2, "rejects 2 of 3"),
        (b'{"partialSuccess":{"errorMessage":"use a newer version"}}', 0, "rejects 0 of 3: use a newer version"),
        (b'{"partialSuccess":{"rejectedLogRecords":"70"}}', 3, "rejects 3 of 3"),
    ],
)
def test_a_success_may_be_partial(body: bytes, lost: int, why: str) -> None:
    verdict = judge(Answer(200, {}, body), 3)
    assert (verdict.again, verdict.lost) == (False, lost)
    assert why in verdict.why
    assert bool(why) == bool(verdict.why)
    assert judge(TAKEN, 3) == Verdict()


# What waits


def test_more_than_fits_costs_the_oldest() -> None:
    dropped = []
    waiting = Backlog(lambda: dropped.append(1), most=5_000)
    for number in range(100):
        waiting.handle(made(f"line {number}"))
    assert len(waiting) + len(dropped) == 100
    assert 5 < len(waiting) < 20
    lines = waiting.take()
    assert [f"line {number}" for number in range(100 - len(lines), 100)] == [
        plain(json.loads(line.record)["body"]) for line in lines
    ]
    assert len(waiting) == 0
    assert waiting.take() == []
    # All the room is there again.
    for number in range(len(lines)):
        waiting.handle(made(f"line {number}"))
    assert len(waiting) == len(lines)


def test_what_waits_takes_no_more_memory_than_is_allowed() -> None:
    waiting = Backlog(lambda: None)
    tracemalloc.start()
    try:
        for number in range(30_000):
            waiting.handle(made(f"line {number}", name="some-namespace/some-name"))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(waiting) < 20_000
    assert used < backlog.MOST_BYTES


def test_a_request_has_as_many_as_fit_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "BATCH_BYTES", 5_000)
    waiting = Backlog(lambda: None)
    for text in ["x" * 10_000, *(f"{number}" for number in range(30))]:
        waiting.handle(made(text))
    sizes = []
    while lines := waiting.take():
        sizes.append(len(lines))
    assert sizes[0] == 1
    assert sum(sizes) == 31
    assert 1 < max(sizes[1:]) < 30


def test_a_line_that_cannot_be_written_stops_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = Backlog(lambda: None)
    broken = made("%d of them")
    broken.args = ("no number",)
    waiting.handle(broken)
    waiting.handle(made())
    assert len(waiting) == 1
    assert "no number" in capsys.readouterr().err


# What is tried again, and what is lost


class Collector:
    """Answers by a script, then takes everything."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.script: list[Answer | Exception] = []
        self.otherwise: Answer | Exception = TAKEN
        self.hangs = False
        self.asked: list[float] = []
        self.taken: list[str] = []

    async def post(self, body: bytes) -> Answer:
        self.asked.append(self.clock())
        if self.hangs:
            await asyncio.Event().wait()
        answer = self.script.pop(0) if self.script else self.otherwise
        if isinstance(answer, Exception):
            raise answer
        if answer.status == 200:
            for logs in json.loads(body)["resourceLogs"][0]["scopeLogs"]:
                self.taken += [plain(record["body"]) for record in logs["logRecords"]]
        return answer


class Stage:
    """A shipper with what stdout would have of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.collector = Collector(clock)
        self.metrics = Metrics()
        self.shipper = Shipper(self.collector.post, {}, self.metrics, clock)
        self.told: list[logging.LogRecord] = []

    def says(self) -> list[str]:
        return [record.getMessage() for record in self.told]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"akv_secret_store_log_lines_{name}_total", labels) or 0


class Told(logging.Handler):
    def __init__(self, told: list[logging.LogRecord]) -> None:
        super().__init__()
        self.told = told

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record)


def fields(stage: Stage) -> dict[str, int]:
    """Of what was told last."""
    return dict(vars(stage.told[-1])["fields"])


@contextlib.asynccontextmanager
async def shipping(stage: Stage) -> AsyncIterator[None]:
    handler = Told(stage.told)
    shipper.log.addHandler(handler)
    try:
        async with stage.shipper:
            yield
    finally:
        shipper.log.removeHandler(handler)


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
