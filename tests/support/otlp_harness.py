"""A log shipper in virtual time, a collector that answers from a script, and the shipper's own log lines."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable

from controller.observability.otlp import shipper
from controller.observability.otlp.shipper import LogShipper
from controller.observability.otlp.wire import CollectorAnswer
from controller.observability.telemetry import Metrics
from tests.support.otlp_lines import decode_any_value

ACCEPTED = CollectorAnswer(200, {}, b"{}")


class ScriptedCollector:
    """A collector that answers from its script, and then with `default_answer`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.script: list[CollectorAnswer | Exception] = []
        self.default_answer: CollectorAnswer | Exception = ACCEPTED
        self.hangs = False
        self.request_times: list[float] = []
        self.accepted: list[str] = []

    async def post(self, body: bytes) -> CollectorAnswer:
        self.request_times.append(self.clock())
        if self.hangs:
            await asyncio.Event().wait()
        answer = self.script.pop(0) if self.script else self.default_answer
        if isinstance(answer, Exception):
            raise answer
        if answer.status == 200:
            for logs in json.loads(body)["resourceLogs"][0]["scopeLogs"]:
                self.accepted += [decode_any_value(record["body"]) for record in logs["logRecords"]]
        return answer


class ShipperHarness:
    """A shipper, and the log records that it writes about itself."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.collector = ScriptedCollector(clock)
        self.metrics = Metrics()
        self.shipper = LogShipper(self.collector.post, {}, self.metrics, clock)
        self.records: list[logging.LogRecord] = []

    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def count_lines(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"akv_secret_store_log_lines_{name}_total", labels) or 0


class RecordHandler(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self.records = records

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def last_fields(harness: ShipperHarness) -> dict[str, int]:
    """Return the fields of the last log record."""
    return dict(vars(harness.records[-1])["fields"])


@contextlib.asynccontextmanager
async def run_shipper(harness: ShipperHarness) -> AsyncIterator[None]:
    handler = RecordHandler(harness.records)
    shipper.log.addHandler(handler)
    try:
        async with harness.shipper:
            yield
    finally:
        shipper.log.removeHandler(handler)
