"""Provide a reconciler in virtual time. Its harness acts as SyncResolver, Syncer and StatusReporter."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import timedelta

import msgspec

from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.config.settings import Settings
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.snapshot import ListedObject, VaultSnapshot
from controller.domain.status import Outcome, Reportable, Requeue, Synced, next_status, ready_condition
from controller.errors import ProviderError, UnusableValue
from controller.keyvault.credentials import Identity
from controller.keyvault.listing import OnListed
from controller.kube.informer import Store
from controller.observability.telemetry import Metrics
from controller.runtime.clock import parse_time
from controller.runtime.work_queue import Key
from controller.secretsync.status_reporter import ReportResult
from controller.secretsync.sync_resolver import Class, ResolvedSync
from controller.secretsync.syncer import LastWrite
from controller.secretsync.tasks import Fetch
from tests.support.builders import make_provider_class, make_sync
from tests.support.fixed_random import FixedRandom
from tests.support.reconciler_factory import NOON, build_reconciler
from tests.support.virtual_time import VirtualLoop

HOUR, DAY = 3600, 86_400
SHOP = Key("team", "shop")
UNREACHABLE = ProviderError("Key Vault shop did not answer in time; check the route")
CANARY = "canary-9a31"
BEFORE, AFTER = "2030-01-01T00:00:00Z", "2030-01-01T12:30:00Z"
GOOD = Synced(message="2 keys equal", objects=[])


class ReconcilerHarness:
    """A reconciler and its workers on a clock that only the test advances."""

    def __init__(self, settings: Settings, loop: VirtualLoop) -> None:
        self.loop = loop
        self.polls: list[float] = []
        self.poll_seconds = 0.0
        self.lists_early = False
        self.snapshot: VaultSnapshot | Exception = VaultSnapshot()
        self.synced: list[tuple[float, int]] = []
        self.tasks: list[Fetch] = []
        self.resolve_error: Exception | None = None
        self.resolve_requeues: list[Requeue] = []
        self.drift_checks: list[float] = []
        self.reports: list[tuple[float, Reason | str]] = []
        self.statuses: list[SecretSyncStatus] = []
        self.warnings: list[tuple[str, ...]] = []
        self.forgotten: list[Key] = []
        self.forgotten_classes: list[Key] = []
        self.check_seconds = 0.0
        self.sync_seconds = 0.0
        self.outcome: Outcome | Exception = GOOD
        self.unusable: dict[str, UnusableValue] = {}
        self.secret_exists: bool | None = None
        self.unchanged: bool | Exception = True
        self.report_results: list[ReportResult | Exception] = []
        self.default_report_result: ReportResult | Exception = ReportResult.DONE
        self.metrics = Metrics()
        self.reconciler = build_reconciler(self, settings, loop, self.metrics, FixedRandom(1.0))
        self.queue = self.reconciler.queue
        self.poll_task = self.loop.create_task(self.reconciler.poller.work())
        self.work_task = self.loop.create_task(self.reconciler.work())

    # Act as SyncResolver and Syncer

    async def resolve_sync(self, wanted: SecretSync, _source: Class) -> ResolvedSync | Requeue:
        if self.resolve_requeues:
            return self.resolve_requeues.pop(0)
        if self.resolve_error:
            raise self.resolve_error.with_traceback(None)
        account = wanted.spec.service_account_name
        pairs = wanted.spec.secret_object.data
        keys = {pair.target_key: ObjectVersionRef(VaultObject(name=pair.source_path)) for pair in pairs}
        return ResolvedSync(Identity(wanted.metadata.namespace, account, "client", "tenant"), "cloud", "vault", keys)

    async def sync(self, wanted: SecretSync, _reading: ResolvedSync, written: LastWrite, task: Fetch) -> Outcome:
        written.unusable, written.exists = self.unusable, self.secret_exists
        self.tasks.append(task)
        self.synced.append((self.loop.time(), wanted.metadata.generation))
        await asyncio.sleep(self.sync_seconds)
        if isinstance(self.outcome, Exception):
            raise self.outcome.with_traceback(None)
        return self.outcome

    async def is_unchanged(self, sync: SecretSync, written: LastWrite) -> bool:
        assert self.reconciler.entries[Key(sync.metadata.namespace, sync.metadata.name)].written is written
        self.drift_checks.append(self.loop.time())
        await asyncio.sleep(self.check_seconds)
        if isinstance(self.unchanged, Exception):
            raise self.unchanged.with_traceback(None)
        return self.unchanged

    def forget_class(self, key: Key) -> None:
        self.forgotten_classes.append(key)

    # Act as VaultPool and VaultReader

    def reader(self, *_: object) -> "ReconcilerHarness":
        return self

    async def take_snapshot(
        self, _wanted: object, _since: float, _queries: object = (), on_listed: OnListed | None = None
    ) -> VaultSnapshot:
        self.polls.append(self.loop.time())
        if self.lists_early and on_listed and isinstance(self.snapshot, VaultSnapshot):
            for kind, objects in self.snapshot.listed.items():
                for name, state in objects.items():
                    on_listed(kind, name, state)
        await asyncio.sleep(self.poll_seconds)
        if isinstance(self.snapshot, Exception):
            raise self.snapshot.with_traceback(None)
        return self.snapshot

    # Act as StatusReporter

    async def report_status(
        self, syncs: Store[SecretSync], meta: ObjectMeta, before: SecretSyncStatus, after: SecretSyncStatus
    ) -> ReportResult:
        answer = self.report_results.pop(0) if self.report_results else self.default_report_result
        if isinstance(answer, Exception):
            raise answer.with_traceback(None)
        ready = ready_condition(after)
        assert ready
        if answer is ReportResult.DONE and after != before:
            self.reports.append((self.loop.time(), ready.reason))
            self.statuses.append(after)
            # The API server stores the status, and the watch delivers it.
            found = syncs.get(Key(meta.namespace, meta.name))
            if isinstance(found, SecretSync):
                syncs.set(msgspec.structs.replace(found, status=after))
        return answer

    def report_warnings(self, meta: ObjectMeta, warnings: Sequence[str]) -> None:
        self.warnings.append((meta.name, *warnings))

    def add_warning(self, meta: ObjectMeta, text: str) -> None:
        self.report_warnings(meta, (text,))

    def forget(self, namespace: str, name: str) -> None:
        self.forgotten.append(Key(namespace, name))

    # Methods that tests call

    def add(self, *objects: SecretSync | Unreadable) -> None:
        for item in objects:
            self.reconciler.syncs.set(item)

    def add_class(self, generation: int = 1) -> None:
        self.reconciler.classes.set(make_provider_class(generation))

    def lose_lease(self) -> None:
        self.reconciler.reset()
        self.reconciler.poller.reset()

    def set_results(self, seen: VaultSnapshot | Exception, outcome: Outcome | Exception) -> None:
        """Set the results of polls and syncs from now on."""
        self.snapshot, self.outcome = seen, outcome

    def clear_records(self) -> None:
        """Delete the records of reports, polls and tasks."""
        self.reports.clear()
        self.polls.clear()
        self.tasks.clear()

    def advance(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        for task in (self.work_task, self.poll_task):
            assert not task.done(), f"the workers have ended: {task}"

    def read_metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"akv_secret_store_{name}", labels)

    @property
    def sync_times(self) -> list[float]:
        """Return the times of all syncs."""
        return [moment for moment, _ in self.synced]


def make_synced(*names: str, updated: str = "2030-01-01T00:00:00Z") -> Synced:
    """Return the outcome of a sync of these objects. Each target key is the name of its object."""
    objects = [ObjectVersion(target_key=name, object=f"secret/{name}", version="v1", updated=updated) for name in names]
    return msgspec.structs.replace(GOOD, objects=objects)


def make_snapshot(**updated: str) -> VaultSnapshot:
    """Return a snapshot that lists these objects with these update times."""
    return VaultSnapshot(
        listed={"secret": {name: ListedObject(parse_time(text), True) for name, text in updated.items()}}
    )


def make_sync_of_age(seconds: float, outcome: Reportable = GOOD, generation: int = 1, name: str = "shop") -> SecretSync:
    """Return a SecretSync that another process synced that many seconds ago."""
    before = make_sync(name=name)
    status = next_status(
        before.metadata, before.status, make_provider_class(), outcome, NOON - timedelta(seconds=seconds)
    )
    return make_sync(status=status, generation=generation, name=name)


def make_harness(settings: Settings) -> Iterator[ReconcilerHarness]:
    """Yield a harness, and stop its workers afterwards."""
    harness = ReconcilerHarness(settings, VirtualLoop())
    yield harness
    harness.work_task.cancel()
    harness.poll_task.cancel()
    harness.loop.run_until_complete(asyncio.gather(harness.work_task, harness.poll_task, return_exceptions=True))
    harness.loop.close()
