"""Ships what waits in the backlog, again and again where the collector cannot take it, and says so on stdout."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Self

from controller import schedule
from controller.otlp import wire
from controller.otlp.backlog import OWN, Backlog
from controller.otlp.client import Client, UnsentError
from controller.settings import Settings
from controller.telemetry import Metrics

# Lines that are logged together travel together.
LINGER = 1.0
LONGEST_PAUSE = 60.0
# What is left at the end may be shipped within this time; the Deployment gives the whole end four times as much.
FLUSH_SECONDS = 5.0
# The same trouble is told so often, another one after a minute.
REMIND_SECONDS, OTHER_SECONDS = 600.0, 60.0
log = logging.getLogger(OWN)
Post = Callable[[bytes], Awaitable[wire.Answer]]


class Shipper:
    """A context manager: inside, the lines of all loggers are shipped; on exit those that are left, once."""

    def __init__(self, post: Post, resource: Mapping[str, str], metrics: Metrics, clock: Callable[[], float]) -> None:
        self._post = post
        self._resource = resource
        self._metrics = metrics
        self._clock = clock
        self._dice = random.Random()  # noqa: S311 -- spreads tries, hides nothing
        self._backlog = Backlog(lambda: self._lose(1, "full"))
        self._closing = asyncio.Event()
        # Lines on their way now, lines lost so far, and how many of those were told.
        self._held = self._lost = self._told = 0
        self._trouble, self._said_at = "", float("-inf")

    async def __aenter__(self) -> Self:
        logging.getLogger().addHandler(self._backlog)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._backlog)
        self._closing.set()
        await asyncio.wait([self._task], timeout=FLUSH_SECONDS)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if left := self._held + len(self._backlog):
            log.warning("the last %d log lines were not shipped", left)

    async def _run(self) -> None:
        while True:
            last = self._closing.is_set()
            while lines := self._backlog.take():
                self._held = len(lines)
                if not await self._deliver(wire.request(lines, self._resource), len(lines)):
                    return
            if last:
                return
            await self._rest(LINGER)

    async def _deliver(self, body: bytes, lines: int) -> bool:
        """Until they are taken, or never will be; False where the end has come before that."""
        failures = 0
        while (verdict := await self._try(body, lines)).again:
            failures += 1
            # Once is nothing: an idle connection may have been closed, a collector started anew.
            if failures > 1 or self._closing.is_set():
                self._tell(verdict.why)
            if self._closing.is_set():
                return False
            longest = LONGEST_PAUSE + (verdict.wait or 0.0)
            await self._rest(schedule.after_failure(failures, self._dice, verdict.wait, longest))
        self._held = 0
        self._metrics.log_lines_shipped.inc(lines - verdict.lost)
        if verdict.lost:
            self._lose(verdict.lost, "refused")
        if verdict.why:
            self._tell(verdict.why)
        elif self._trouble:
            self._trouble = ""
            self._told = self._lost
            log.info("logs are shipped again", extra={"fields": {"lost": self._lost}})
        elif self._lost > self._told:
            self._tell("more is logged than the collector takes")
        return True

    async def _try(self, body: bytes, lines: int) -> wire.Verdict:
        try:
            return wire.judge(await self._post(body), lines)
        except UnsentError as error:
            return wire.Verdict(again=True, why=str(error))
        except Exception as error:  # the lines must not end with it, nor the controller
            return wire.Verdict(again=True, why=f"unexpected {type(error).__name__}")

    def _lose(self, lines: int, cause: str) -> None:
        self._lost += lines
        self._metrics.log_lines_lost.labels(cause).inc(lines)

    def _tell(self, why: str) -> None:
        now = self._clock()
        if now - self._said_at >= (REMIND_SECONDS if why == self._trouble else OTHER_SECONDS):
            self._trouble, self._said_at, self._told = why, now, self._lost
            waiting = self._held + len(self._backlog)
            log.warning("logs are not shipped: %s", why, extra={"fields": {"waiting": waiting, "lost": self._lost}})

    async def _rest(self, seconds: float) -> None:
        """That long, or until the end begins."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)


@contextlib.asynccontextmanager
async def shipping(settings: Settings, metrics: Metrics) -> AsyncIterator[None]:
    """Ships all lines that are logged inside, as the settings say."""
    client = Client(settings.otlp_endpoint, Path(settings.otlp_folder))
    resource = {
        "service.name": "akv-secret-store",
        "k8s.namespace.name": settings.pod_namespace,
        "k8s.pod.name": settings.pod_name,
    }
    try:
        async with Shipper(client.post, resource, metrics, time.monotonic):
            yield
    finally:
        await client.close()
