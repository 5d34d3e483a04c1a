"""A reconciler in virtual time, with stand-ins for SyncResolver, Syncer and StatusReporter that keep a diary."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import msgspec

from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.config.settings import Settings
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.snapshot import ListedObject, VaultSnapshot
from controller.domain.status import Outcome, Reportable, Synced, next_status, ready_condition
from controller.errors import ProviderError, UnusableValue
from controller.keyvault.credentials import Identity
from controller.keyvault.pool import VaultPool
from controller.kube.informer import Store
from controller.observability.telemetry import Metrics
from controller.runtime.backoff import parse_time
from controller.runtime.clock import Clock
from controller.runtime.parsing import ParsingPool
from controller.runtime.work_queue import Key
from controller.secretsync.reconciler import Reconciler
from controller.secretsync.status_reporter import ReportResult, StatusReporter
from controller.secretsync.sync_resolver import Class, ResolvedSync, SyncResolver
from controller.secretsync.syncer import LastWrite, Syncer
from controller.secretsync.work_state import Fetch
from tests.support.builders import make_provider_class, make_sync
from tests.support.fixed_random import FixedRandom
from tests.support.virtual_time import VirtualLoop

HOUR, DAY = 3600, 86_400
SHOP = Key("team", "shop")
AWAY = ProviderError("Key Vault shop did not answer in time; check the route")
CANARY = "canary-9a31"
BEFORE, AFTER = "2030-01-01T00:00:00Z", "2030-01-01T12:30:00Z"
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
GOOD = Synced(message="2 keys equal", objects=[])


class Stage:
    """A reconciler and its workers on a clock that only moves when a test says so."""

    def __init__(self, settings: Settings, loop: VirtualLoop) -> None:
        self.loop = loop
        self.polls: list[float] = []
        self.seen: VaultSnapshot | Exception = VaultSnapshot()
        self.synced: list[tuple[float, int]] = []
        self.asked: list[Fetch] = []
        self.misread: Exception | None = None
        self.looked: list[float] = []
        self.told: list[tuple[float, Reason | str]] = []
        self.warned: list[tuple[str, ...]] = []
        self.forgotten: list[Key] = []
        self.takes = 0.0
        self.comes_to: Outcome | Exception = GOOD
        self.unusable: dict[str, UnusableValue] = {}
        self.untouched: bool | Exception = True
        self.telling: list[ReportResult | Exception] = []
        self.always_telling: ReportResult | Exception = ReportResult.DONE
        self.reconciler = Reconciler(
            settings,
            ParsingPool(),
            cast("SyncResolver", self),
            cast("Syncer", self),
            cast("VaultPool", self),
            cast("StatusReporter", self),
            Metrics(),
            FixedRandom(1.0),
            Clock(loop.time, lambda: NOON + timedelta(seconds=loop.time())),
        )
        self.queue = self.reconciler.queue
        self.polling = self.loop.create_task(self.reconciler.poller.work())
        self.working = self.loop.create_task(self.reconciler.work())

    # What stands in for the SyncResolver and the Syncer

    async def resolve_sync(self, wanted: SecretSync, _source: Class) -> ResolvedSync:
        if self.misread:
            raise self.misread.with_traceback(None)
        account = wanted.spec.service_account_name
        pairs = wanted.spec.secret_object.data
        keys = {pair.target_key: ObjectVersionRef(VaultObject(name=pair.source_path)) for pair in pairs}
        return ResolvedSync(Identity(wanted.metadata.namespace, account, "client", "tenant"), "cloud", "vault", keys)

    async def sync(self, wanted: SecretSync, _reading: ResolvedSync, written: LastWrite, task: Fetch) -> Outcome:
        written.unusable = self.unusable
        self.asked.append(task)
        self.synced.append((self.loop.time(), wanted.metadata.generation))
        await asyncio.sleep(self.takes)
        if isinstance(self.comes_to, Exception):
            raise self.comes_to.with_traceback(None)
        return self.comes_to

    async def is_unchanged(self, _sync: SecretSync, _written: LastWrite) -> bool:
        self.looked.append(self.loop.time())
        if isinstance(self.untouched, Exception):
            raise self.untouched.with_traceback(None)
        return self.untouched

    def forget_class(self, _key: Key) -> None:
        pass

    # What stands in for VaultPool and VaultReader

    def reader(self, *_: object) -> "Stage":
        return self

    async def survey(
        self, _wanted: object, _since: float, _queries: object = (), _on_listed: object = None
    ) -> VaultSnapshot:
        self.polls.append(self.loop.time())
        if isinstance(self.seen, Exception):
            raise self.seen.with_traceback(None)
        return self.seen

    # What stands in for the StatusReporter

    async def report_status(
        self, syncs: Store[SecretSync], meta: ObjectMeta, before: SecretSyncStatus, after: SecretSyncStatus
    ) -> ReportResult:
        answer = self.telling.pop(0) if self.telling else self.always_telling
        if isinstance(answer, Exception):
            raise answer.with_traceback(None)
        ready = ready_condition(after)
        assert ready
        if answer is ReportResult.DONE and after != before:
            self.told.append((self.loop.time(), ready.reason))
            # The API server keeps it, and the watch brings it back.
            found = syncs.get(Key(meta.namespace, meta.name))
            if isinstance(found, SecretSync):
                syncs.put(msgspec.structs.replace(found, status=after))
        return answer

    def report_warnings(self, meta: ObjectMeta, warnings: Sequence[str]) -> None:
        self.warned.append((meta.name, *warnings))

    def forget(self, namespace: str, name: str) -> None:
        self.forgotten.append(Key(namespace, name))

    # What a test does

    def has(self, *objects: SecretSync | Unreadable) -> None:
        for item in objects:
            self.reconciler.syncs.put(item)

    def has_class(self, generation: int = 1) -> None:
        self.reconciler.classes.put(make_provider_class(generation))

    def loses_the_lease(self) -> None:
        self.reconciler.reset()
        self.reconciler.poller.reset()

    def answers(self, seen: VaultSnapshot | Exception, comes_to: Outcome | Exception) -> None:
        """Set the results of polls and syncs from now on."""
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


def known(*names: str, updated: str = "2030-01-01T00:00:00Z") -> Synced:
    """Return a sync after which the status has these objects, each the key of its own name."""
    objects = [ObjectVersion(target_key=name, object=f"secret/{name}", version="v1", updated=updated) for name in names]
    return msgspec.structs.replace(GOOD, objects=objects)


def seen(**updated: str) -> VaultSnapshot:
    """Return a list that shows these objects with these times."""
    return VaultSnapshot(
        listed={"secret": {name: ListedObject(parse_time(text), True) for name, text in updated.items()}}
    )


def synced_ago(seconds: float, outcome: Reportable = GOOD, generation: int = 1, name: str = "shop") -> SecretSync:
    """Return a SecretSync that another process has synced that long ago."""
    before = make_sync(name=name)
    status = next_status(
        before.metadata, before.status, make_provider_class(), outcome, NOON - timedelta(seconds=seconds)
    )
    return make_sync(status=status, generation=generation, name=name)


def staged(settings: Settings) -> Iterator[Stage]:
    """Yield a stage, and take it down afterwards."""
    stage = Stage(settings, VirtualLoop())
    yield stage
    stage.working.cancel()
    stage.polling.cancel()
    stage.loop.run_until_complete(asyncio.gather(stage.working, stage.polling, return_exceptions=True))
    stage.loop.close()
