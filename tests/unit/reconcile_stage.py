"""A reconciler in virtual time, with stand-ins for Syncer and Reporter that keep a diary."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from controller import reconcile
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretsync import SecretSync, SecretSyncStatus
from controller.queue import Key, Queue
from controller.reconcile import Reconciler
from controller.report import Reporter
from controller.settings import Settings
from controller.status import Outcome, ready_condition
from controller.sync import Class, Syncer, Written
from controller.telemetry import Metrics
from tests.unit.objects_of import provider_class
from tests.unit.virtual import VirtualLoop

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
GOOD = Outcome(reason=Reason.UP_TO_DATE, message="2 keys equal", ready=True, equal=True, exists=True, objects=[])


class Dice(random.Random):
    """Always the most of a range: waits are as long as they may be."""

    def uniform(self, _least: float, most: float) -> float:
        return most


class Stage:
    """A reconciler and its workers on a clock that only moves when a test says so."""

    def __init__(self, settings: Settings) -> None:
        self.loop = VirtualLoop()
        self.synced: list[tuple[float, int]] = []
        self.looked: list[float] = []
        self.told: list[tuple[float, Reason | str]] = []
        self.warned: list[tuple[str, ...]] = []
        self.forgotten: list[Key] = []
        self.takes = 0.0
        self.comes_to: Outcome | Exception = GOOD
        self.untouched: bool | Exception = True
        self.telling: list[bool | Exception] = []
        self.always_telling: bool | Exception = True
        self.queue = Queue(self.loop.time)
        self.reconciler = Reconciler(settings, cast("Syncer", self), cast("Reporter", self), Metrics(), self.queue)
        self.reconciler._dice = Dice()
        self.working = self.loop.create_task(self.reconciler.work())

    # What stands in for the Syncer

    async def sync(self, wanted: SecretSync, _source: Class, _written: Written) -> Outcome:
        self.synced.append((self.loop.time(), wanted.metadata.generation))
        await asyncio.sleep(self.takes)
        if isinstance(self.comes_to, Exception):
            raise self.comes_to.with_traceback(None)
        return self.comes_to

    async def unchanged(self, _sync: SecretSync, _written: Written) -> bool:
        self.looked.append(self.loop.time())
        if isinstance(self.untouched, Exception):
            raise self.untouched.with_traceback(None)
        return self.untouched

    def forget_class(self, _key: Key) -> None:
        pass

    # What stands in for the Reporter

    async def report(self, meta: ObjectMeta, before: SecretSyncStatus, after: SecretSyncStatus) -> bool:
        answer = self.telling.pop(0) if self.telling else self.always_telling
        if isinstance(answer, Exception):
            raise answer.with_traceback(None)
        ready = ready_condition(after)
        assert ready
        if answer and after != before:
            self.told.append((self.loop.time(), ready.reason))
            # The API server keeps it, and the watch brings it back.
            found = self.reconciler.syncs.get(Key(meta.namespace, meta.name))
            if isinstance(found, SecretSync):
                self.reconciler.syncs.put(msgspec.structs.replace(found, status=after))
        return answer

    async def warn(self, meta: ObjectMeta, warnings: Sequence[str]) -> None:
        self.warned.append((meta.name, *warnings))

    def forget(self, namespace: str, name: str) -> None:
        self.forgotten.append(Key(namespace, name))

    # What a test does

    def has(self, *objects: SecretSync | Unreadable) -> None:
        for item in objects:
            self.reconciler.syncs.put(item)

    def has_class(self, generation: int = 1) -> None:
        self.reconciler.classes.put(provider_class(generation))

    def passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert not self.working.done(), f"the workers have ended: {self.working}"

    @property
    def times(self) -> list[float]:
        """When it was synced."""
        return [moment for moment, _ in self.synced]


def staged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage, taken down afterwards; the reconciler's clocks are the loop's."""
    stage = Stage(Settings())
    monkeypatch.setattr(reconcile, "time", SimpleNamespace(monotonic=stage.loop.time))
    now = SimpleNamespace(now=lambda _zone: NOON + timedelta(seconds=stage.loop.time()))
    monkeypatch.setattr(reconcile, "datetime", now)
    yield stage
    stage.working.cancel()
    stage.loop.run_until_complete(asyncio.gather(stage.working, return_exceptions=True))
    stage.loop.close()
