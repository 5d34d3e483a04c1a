"""A reconciler in virtual time, with stand-ins for Syncer and Reporter that keep a diary."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from controller import poll, reconcile
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.errors import ProviderError
from controller.identity import Identity
from controller.objects import VaultObject, VersionOf
from controller.queue import Key
from controller.reconcile import Reconciler
from controller.reflector import Store
from controller.report import Reporter
from controller.schedule import parse_time
from controller.settings import Settings
from controller.status import Outcome, next_status, ready_condition
from controller.survey import Listed, Survey
from controller.sync import Ask, Class, Reading, Syncer, Written
from controller.telemetry import Metrics
from controller.vaults import Vaults
from tests.unit.dice import Dice
from tests.unit.objects_of import provider_class, sync
from tests.unit.virtual import VirtualLoop

HOUR, DAY = 3600, 86_400
SHOP = Key("team", "shop")
AWAY = ProviderError("Key Vault shop did not answer in time; check the route")
CANARY = "canary-9a31"
BEFORE, AFTER = "2030-01-01T00:00:00Z", "2030-01-01T12:30:00Z"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
GOOD = Outcome(reason=Reason.UP_TO_DATE, message="2 keys equal", ready=True, equal=True, exists=True, objects=[])


class Stage:
    """A reconciler and its workers on a clock that only moves when a test says so."""

    def __init__(self, settings: Settings, loop: VirtualLoop) -> None:
        self.loop = loop
        self.polls: list[float] = []
        self.seen: Survey | Exception = Survey()
        self.synced: list[tuple[float, int]] = []
        self.asked: list[Ask] = []
        self.misread: Exception | None = None
        self.looked: list[float] = []
        self.told: list[tuple[float, Reason | str]] = []
        self.warned: list[tuple[str, ...]] = []
        self.forgotten: list[Key] = []
        self.takes = 0.0
        self.comes_to: Outcome | Exception = GOOD
        self.untouched: bool | Exception = True
        self.telling: list[bool | Exception] = []
        self.always_telling: bool | Exception = True
        self.reconciler = Reconciler(
            settings, cast("Syncer", self), cast("Vaults", self), cast("Reporter", self), Metrics()
        )
        self.queue = self.reconciler._queue
        self.reconciler._dice = self.reconciler.poller._dice = Dice(1.0)
        self.polling = self.loop.create_task(self.reconciler.poller.work())
        self.working = self.loop.create_task(self.reconciler.work())

    # What stands in for the Syncer

    async def reading(self, wanted: SecretSync, _source: Class) -> Reading:
        if self.misread:
            raise self.misread.with_traceback(None)
        account = wanted.spec.service_account_name
        pairs = wanted.spec.secret_object.data
        keys = {pair.target_key: VersionOf(VaultObject(name=pair.source_path)) for pair in pairs}
        return Reading(Identity(wanted.metadata.namespace, account, "client", "tenant"), "cloud", "vault", keys)

    async def sync(self, wanted: SecretSync, _reading: Reading, _written: Written, ask: Ask) -> Outcome:
        self.asked.append(ask)
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

    # What stands in for Vaults and VaultReader

    def reader(self, *_: object) -> "Stage":
        return self

    async def survey(self, _wanted: object, _since: float) -> Survey:
        self.polls.append(self.loop.time())
        if isinstance(self.seen, Exception):
            raise self.seen.with_traceback(None)
        return self.seen

    # What stands in for the Reporter

    async def report(
        self, syncs: Store[SecretSync], meta: ObjectMeta, before: SecretSyncStatus, after: SecretSyncStatus
    ) -> bool:
        answer = self.telling.pop(0) if self.telling else self.always_telling
        if isinstance(answer, Exception):
            raise answer.with_traceback(None)
        ready = ready_condition(after)
        assert ready
        if answer and after != before:
            self.told.append((self.loop.time(), ready.reason))
            # The API server keeps it, and the watch brings it back.
            found = syncs.get(Key(meta.namespace, meta.name))
            if isinstance(found, SecretSync):
                syncs.put(msgspec.structs.replace(found, status=after))
        return answer

    def warn(self, meta: ObjectMeta, warnings: Sequence[str]) -> None:
        self.warned.append((meta.name, *warnings))

    def forget(self, namespace: str, name: str) -> None:
        self.forgotten.append(Key(namespace, name))

    # What a test does

    def has(self, *objects: SecretSync | Unreadable) -> None:
        for item in objects:
            self.reconciler.syncs.put(item)

    def has_class(self, generation: int = 1) -> None:
        self.reconciler.classes.put(provider_class(generation))

    def loses_the_lease(self) -> None:
        self.reconciler.reset()
        self.reconciler.poller.reset()

    def answers(self, seen: Survey | Exception, comes_to: Outcome | Exception) -> None:
        """What polls and syncs come to from now on."""
        self.seen, self.comes_to = seen, comes_to

    def forgets(self) -> None:
        """From now on what is told, polled and asked is counted anew."""
        self.told.clear()
        self.polls.clear()
        self.asked.clear()

    def passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        for task in (self.working, self.polling):
            assert not task.done(), f"the workers have ended: {task}"

    @property
    def times(self) -> list[float]:
        """When it was synced."""
        return [moment for moment, _ in self.synced]


def known(*names: str, updated: str = "2030-01-01T00:00:00Z") -> Outcome:
    """A sync after which the status has these objects, each the key of its own name."""
    objects = [ObjectVersion(target_key=name, object=f"secret/{name}", version="v1", updated=updated) for name in names]
    return msgspec.structs.replace(GOOD, objects=objects)


def seen(**updated: str) -> Survey:
    """A list that shows these objects with these times."""
    return Survey(listed={"secret": {name: Listed(parse_time(text), True) for name, text in updated.items()}})


def synced_ago(seconds: float, outcome: Outcome = GOOD, generation: int = 1, name: str = "shop") -> SecretSync:
    """A SecretSync that another process has synced that long ago."""
    before = sync(name=name)
    status = next_status(before.metadata, before.status, provider_class(), outcome, NOON - timedelta(seconds=seconds))
    return sync(status=status, generation=generation, name=name)


def staged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage, taken down afterwards; the reconciler's clocks are the loop's."""
    loop = VirtualLoop()
    for module in (reconcile, poll):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=loop.time))
    stage = Stage(Settings(), loop)
    now = SimpleNamespace(now=lambda _zone: NOON + timedelta(seconds=stage.loop.time()))
    monkeypatch.setattr(reconcile, "datetime", now)
    yield stage
    stage.working.cancel()
    stage.polling.cancel()
    stage.loop.run_until_complete(asyncio.gather(stage.working, stage.polling, return_exceptions=True))
    stage.loop.close()
