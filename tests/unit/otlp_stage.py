"""A shipper in virtual time, a collector that answers by a script, and what stdout would have."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable

from controller.otlp import shipper
from controller.otlp.shipper import Shipper
from controller.otlp.wire import Answer
from controller.telemetry import Metrics
from tests.unit.otlp_lines import plain

TAKEN = Answer(200, {}, b"{}")


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
