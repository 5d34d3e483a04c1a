"""Send the lines of the backlog, retry while the collector cannot accept them, and report problems on stdout."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Self

from controller.config.settings import Settings
from controller.observability.otlp import wire
from controller.observability.otlp.backlog import OWN, LogBacklog
from controller.observability.otlp.client import CollectorClient, UnsentError
from controller.observability.telemetry import Metrics
from controller.runtime import backoff

# Seconds to collect lines that are logged at about the same time.
LINGER = 1.0
MAX_PAUSE = 60.0
# Seconds at the end for sending the remaining lines. The Deployment allows four times as much for the whole shutdown.
FLUSH_SECONDS = 5.0
# Seconds before the same problem is logged again, and before another one is logged.
REMIND_SECONDS, OTHER_SECONDS = 600.0, 60.0
log = logging.getLogger(OWN)
Post = Callable[[bytes], Awaitable[wire.CollectorAnswer]]


class LogShipper:
    """A context manager that sends the lines of all loggers. On exit, it sends the remaining lines once."""

    def __init__(self, post: Post, resource: Mapping[str, str], metrics: Metrics, clock: Callable[[], float]) -> None:
        self._post = post
        self._resource = resource
        self._metrics = metrics
        self._clock = clock
        self._rng = random.Random()  # noqa: S311 - it spreads attempts and protects nothing
        self.backlog = LogBacklog(lambda: self._drop_lines(1, "full"))
        self._closing = asyncio.Event()
        # Lines in the current request, lines lost so far, and lost lines that were reported.
        self._in_request = self._lost = self._lost_reported = 0
        self._problem, self._reported_at = "", float("-inf")

    async def __aenter__(self) -> Self:
        logging.getLogger().addHandler(self.backlog)
        self._task = asyncio.create_task(self._ship_lines())
        return self

    async def __aexit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self.backlog)
        self._closing.set()
        await asyncio.wait([self._task], timeout=FLUSH_SECONDS)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if left := self._in_request + len(self.backlog):
            log.warning("the last %d log lines were not shipped", left)

    async def _ship_lines(self) -> None:
        while True:
            last = self._closing.is_set()
            while lines := self.backlog.take_lines():
                self._in_request = len(lines)
                if not await self._deliver_body(wire.build_request(lines, self._resource), len(lines)):
                    return
            if last:
                return
            await self._wait_until(LINGER)

    async def _deliver_body(self, body: bytes, lines: int) -> bool:
        """Send until the collector accepts or rejects the lines. Return False if the shutdown comes first."""
        failures = 0
        while (verdict := await self._send_body(body, lines)).again:
            failures += 1
            # A single failure is normal: an idle connection was closed, or a collector restarted.
            if failures > 1 or self._closing.is_set():
                self._report_problem(verdict.why)
            if self._closing.is_set():
                return False
            max_delay = MAX_PAUSE + (verdict.wait or 0.0)
            await self._wait_until(backoff.backoff_delay(failures, self._rng, verdict.wait, max_delay))
        self._in_request = 0
        self._metrics.log_lines_shipped.inc(lines - verdict.lost)
        if verdict.lost:
            self._drop_lines(verdict.lost, "refused")
        if verdict.why:
            self._report_problem(verdict.why)
        elif self._problem:
            self._problem = ""
            self._lost_reported = self._lost
            log.info("logs are shipped again", extra={"fields": {"lost": self._lost}})
        elif self._lost > self._lost_reported:
            self._report_problem("the controller logs more than the collector accepts; raise the log level")
        return True

    async def _send_body(self, body: bytes, lines: int) -> wire.DeliveryVerdict:
        try:
            return wire.judge_answer(await self._post(body), lines)
        except UnsentError as error:
            return wire.DeliveryVerdict(again=True, why=str(error))
        except Exception as error:  # no error must end the loop or the controller
            return wire.DeliveryVerdict(again=True, why=f"unexpected {type(error).__name__}")

    def _drop_lines(self, lines: int, cause: str) -> None:
        self._lost += lines
        self._metrics.log_lines_lost.labels(cause).inc(lines)

    def _report_problem(self, why: str) -> None:
        now = self._clock()
        if now - self._reported_at >= (REMIND_SECONDS if why == self._problem else OTHER_SECONDS):
            self._problem, self._reported_at, self._lost_reported = why, now, self._lost
            waiting = self._in_request + len(self.backlog)
            log.warning("logs are not shipped: %s", why, extra={"fields": {"waiting": waiting, "lost": self._lost}})

    async def _wait_until(self, seconds: float) -> None:
        """Wait that long, or until the shutdown begins."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)


@contextlib.asynccontextmanager
async def ship_logs(settings: Settings, metrics: Metrics) -> AsyncIterator[None]:
    """Send all lines that are logged within the context to the collector of the settings."""
    client = CollectorClient(settings.otlp_endpoint, Path(settings.otlp_folder))
    resource = {
        "service.name": "akv-secret-store",
        "k8s.namespace.name": settings.pod_namespace,
        "k8s.pod.name": settings.pod_name,
    }
    try:
        async with LogShipper(client.post_body, resource, metrics, time.monotonic):
            yield
    finally:
        await client.close()
