"""Reconcile SecretSyncs: carry out the actions that `work_state` decides.

informers → work queue → `Reconciler` → `Syncer` → `StatusReporter` (one status) → `Poller`. The poller lists a vault
for all SecretSyncs that read it as the same identity, and the reconciler requeues those whose objects changed.
"""

import logging
import random
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from controller import errors
from controller.api.meta import Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import GroupPoll, SecretSync, SecretSyncStatus
from controller.config.settings import Settings
from controller.domain.generated import akvsync_owner, changed_keys
from controller.domain.provider_class import ObjectVersionRef
from controller.domain.snapshot import PollResult
from controller.domain.status import (
    Failed,
    Outcome,
    Reportable,
    Requeue,
    Synced,
    next_status,
    ready_condition,
)
from controller.keyvault.pool import VaultPool
from controller.kube.informer import Store
from controller.observability.telemetry import Metrics, RateLimitedLog
from controller.polling.group_polls import GroupPolls, is_recorded
from controller.polling.poll_group import PollGroup
from controller.polling.poller import Poller
from controller.runtime import backoff, budgets
from controller.runtime.budgets import RateBudget
from controller.runtime.clock import SYSTEM_CLOCK, Clock, format_time, latest, parse_time
from controller.runtime.threads.parsing import ParsingPool
from controller.runtime.work_queue import Key, Queue
from controller.secretsync.attempts import AttemptRunner
from controller.secretsync.class_edits import AffectedKeys, ClassEdits
from controller.secretsync.status_reporter import ReportResult, StatusReporter
from controller.secretsync.sync_resolver import Class, SyncResolver, poll_interval
from controller.secretsync.sync_schedule import SyncSchedule
from controller.secretsync.syncer import LastWrite, Syncer
from controller.secretsync.tasks import NO_KEYS, Task
from controller.secretsync.work_state import CheckDrift, MakeAttempt, Sleep, WorkState, is_unreported

# One namespace gets at most half of these, which is enough for all calls that its vault allows.
WORKERS = 2 * int(budgets.WORKERS.limit)
# Seconds until a report is retried after a conflict. Each further conflict doubles them: the watch can be far behind,
# and the next attempt reads the vault.
CONFLICT_DELAY = 0.1
# Seconds that an AKVSync's SecretSyncs wait for their own edit after one of their class.
CHILD_PATIENCE = 2.0
log = logging.getLogger(__name__)


class _SyncEntry(NamedTuple):
    """The state of one SecretSync in this process. A new process begins without it."""

    state: WorkState
    written: LastWrite


class Reconciler:
    """A reconciler of SecretSyncs. Each worker processes one SecretSync at a time."""

    def __init__(
        self,
        settings: Settings,
        parser: ParsingPool,
        resolver: SyncResolver,
        syncer: Syncer,
        vaults: VaultPool,
        reporter: StatusReporter,
        metrics: Metrics,
        rng: random.Random | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - it spreads load and protects nothing
        self._clock = clock
        self.poller = Poller(settings.jitter, vaults, self.handle_poll, self._rng, clock.monotonic)
        self._group_polls = GroupPolls(self._record_poll)
        self.poller.on_early_unequal = self._group_polls.mark_unequal
        self.poller.on_polled = self._group_polls.mark_polled
        self._settings = settings
        self._resolver = resolver
        self._syncer = syncer
        self._reporter = reporter
        self._metrics = metrics
        self.queue: Queue[Key] = Queue(clock.monotonic, WORKERS)
        self._names = ("", settings.controller_name)
        metrics.queue_due.set_function(self.queue.count_overdue)
        self._rate_limited_log = RateLimitedLog(log, clock.monotonic)
        self._blocked = RateBudget(budgets.BLOCKED, clock.monotonic)
        self.entries: dict[Key, _SyncEntry] = {}
        self.users: dict[Key, set[Key]] = {}
        self._schedule = SyncSchedule(settings, resolver, self.poller, self._rng, clock)
        self._attempts = AttemptRunner(resolver, syncer, self.poller, self._schedule, self._rate_limited_log, clock)
        self.syncs: Store[SecretSync] = Store()
        self.syncs.add_handler(self._handle_sync_change)
        self.classes: Store[SecretProviderClass] = Store()
        self._class_edits = ClassEdits(
            parser, self.classes.get, self._users_of, self._handle_class_edit, self._rate_limited_log
        )
        self.classes.add_handler(self._handle_class_change)

    def _handle_sync_change(self, key: Key, before: SecretSync | Unreadable | None) -> None:
        if isinstance(before, SecretSync) and (users := self.users.get(class_key(before))):
            users.discard(key)
            if not users:
                del self.users[class_key(before)]
        now = self.syncs.get(key)
        if isinstance(now, SecretSync):
            self.users.setdefault(class_key(now), set()).add(key)
        # A list after a broken watch can show another object of this name without the deletion of the first one.
        if now is None or (before is not None and before.metadata.uid != now.metadata.uid):
            if entry := self.entries.pop(key, None):
                self._schedule.cancel_drift_check(entry.state)
            self.queue.forget(key)
            self._forget_sync(key)
        if now is not None:
            self._handle_edit(key, changed_keys(before, now))

    def _handle_class_change(self, key: Key, before: SecretProviderClass | Unreadable | None) -> None:
        if self.classes.get(key) is None:
            self._resolver.forget_class(key)
        self._class_edits.handle_edit(key, before)

    def _users_of(self, key: Key) -> dict[Key, SecretSync | Unreadable | None]:
        return {user: self.syncs.get(user) for user in self.users.get(key, ())}

    def _handle_class_edit(self, affected: AffectedKeys) -> None:
        for user, keys in affected.items():
            if (keys is None or keys) and (sync := self.syncs.get(user)):
                self._handle_edit(user, keys, _patience_after_class_edit(sync))

    def _get_entry(self, key: Key) -> _SyncEntry:
        if key not in self.entries:
            self.entries[key] = _SyncEntry(WorkState(), LastWrite())
        return self.entries[key]

    def _handle_edit(self, key: Key, keys: frozenset[str] | None, patience: float = 0.0) -> None:
        """Handle an edit of these target keys, or of all if None. An attempt that waits after a failure runs now.

        Another edit within the `patience` (seconds) can complete this one, and ends the wait.
        """
        wait = self._get_entry(key).state.on_edit(self._clock.monotonic(), keys)
        self.queue.add(key, max(wait, patience))

    def handle_poll(self, key: Key, wanted: Mapping[str, ObjectVersionRef], result: PollResult) -> bool:
        """Handle the result of a poll for the objects that a SecretSync reads.

        Return whether its Secret is equal to the vault.
        """
        sync, entry = self._find_served(key), self.entries.get(key)
        if entry is None or not isinstance(sync, SecretSync):
            return True  # it is gone
        date = self._clock.utc()
        unusable = entry.written.unusable
        if entry.state.on_poll(wanted, result, sync.status, self._clock.monotonic(), date, unusable):
            self.queue.add(key)
        return entry.state.equal_at == date

    def _record_poll(self, group: PollGroup, moment: float) -> None:
        """Record in the status of one SecretSync of a group that a poll found all of them equal.

        `moment` is the time at which the poll began (monotonic clock).
        """
        began = self._clock.utc() - timedelta(seconds=self._clock.monotonic() - moment)
        fingerprint = group.fingerprint(self._settings.rotation_poll_interval)
        poll = GroupPoll(group=fingerprint, time=format_time(began))
        for key in sorted(self.poller.members_of(group)):
            sync, entry = self.syncs.get(key), self.entries.get(key)
            if not (entry and isinstance(sync, SecretSync)):
                continue
            if is_recorded(sync.status, poll, group.interval):
                return
            ready = ready_condition(sync.status)
            if ready and ready.holds and entry.state.confirm(poll, self._clock.monotonic()):
                self.queue.add(key)
                return

    def last_equal(self, sync: SecretSync) -> datetime | None:
        """Return when the Secret was last known to equal the vault. The time in the status can be a day older."""
        entry = self.entries.get(Key(sync.metadata.namespace, sync.metadata.name))
        status_time = parse_time(sync.status.last_successful_sync_time)
        return latest(entry.state.equal_at if entry else None, status_time)

    def own_syncs(self) -> Iterator[SecretSync]:
        """Yield the readable SecretSyncs of this controller."""
        for key in self.syncs.keys():  # noqa: SIM118 - a store is not a mapping
            sync = self.syncs.get(key)
            if isinstance(sync, SecretSync) and sync.spec.secret_sync_controller_name in self._names:
                yield sync

    def reset(self) -> None:
        """Forget the state of all SecretSyncs, because another process can become the leader.

        The objects in the API server have everything that is necessary, so this causes no additional vault calls.
        """
        self.entries.clear()
        self._schedule.reset()
        self._group_polls.reset()
        for key in self.syncs.keys():  # noqa: SIM118
            self._reporter.forget(*key)
            self.queue.add(key)

    async def work(self) -> None:
        """Process keys until closed."""
        self._schedule.read_records(self.own_syncs())
        await self.queue.process_keys(self._timed_process)

    def close(self) -> None:
        """Take no more keys. Runs in progress end normally."""
        self.queue.close()

    async def _timed_process(self, key: Key) -> float | None:
        started = self._clock.monotonic()
        try:
            return await self._process_key(key)
        finally:
            self._metrics.reconcile_seconds.observe(self._clock.monotonic() - started)

    async def _process_key(self, key: Key) -> float | None:
        """Do the due work for one SecretSync. Return the seconds until the next run."""
        sync = self._find_served(key)
        if sync is None:
            self._forget_sync(key)
            return None
        state, written = self._get_entry(key)
        now = self._clock.monotonic()
        if isinstance(sync, SecretSync) and (wait := self._seconds_until_class(sync, state, now)):
            return wait
        if edit := state.take_edit(now, written.unusable):
            written.refused, written.failing = None, NO_KEYS
            if edit.keys is None:
                self.poller.leave(key)  # otherwise the next poll would use the keys from before the edit
        try:
            return await self._reconcile_sync(key, sync, state, written)
        except Exception as error:
            self._rate_limited_log.log_unexpected(error)
            # The next attempt fetches all keys. A poll would compare only the keys from before the last edit.
            self.poller.leave(key)
            state.settle_crash(self._rng, self._clock.monotonic())
            return state.seconds_until_due(self._clock.monotonic())
        finally:
            if self._find_served(key) is None:
                self._forget_sync(key)  # it was deleted during the attempt, which can have joined the polls since

    def _find_served(self, key: Key) -> SecretSync | Unreadable | None:
        """Return the object unless it is being deleted or names another controller."""
        sync = self.syncs.get(key)
        if sync is None or sync.metadata.deletion_timestamp:
            return None
        is_own = isinstance(sync, Unreadable) or sync.spec.secret_sync_controller_name in self._names
        return sync if is_own else None

    def _forget_sync(self, key: Key) -> None:
        """End the polls, the poll records and the metrics of an object that this controller does not sync any more."""
        self.poller.leave(key)
        self._group_polls.mark_settled(key)
        self._reporter.forget(*key)

    def _seconds_until_class(self, sync: SecretSync, state: WorkState, now: float) -> float:
        """Return the seconds to wait for a missing class, whose watch can be behind the watch of SecretSyncs.

        A report that the class is missing would cost a status patch. The next attempt would also have to probe for a
        Secret, because the SecretSync would then have a status.
        """
        if sync.status.conditions or self.classes.get(class_key(sync)) is not None:
            return 0.0
        return state.seconds_until_class(now)

    async def _reconcile_sync(
        self, key: Key, sync: SecretSync | Unreadable, state: WorkState, written: LastWrite
    ) -> float:
        """Carry out the next action. Return the seconds until the next run."""
        if isinstance(sync, Unreadable):
            return await self._report_unreadable(key, sync, state)
        source = self.classes.get(class_key(sync))
        if requeue := await self._schedule.decide_due(key, sync, source, state):
            return await self._settle_outcome(key, sync, source, requeue, state)
        match state.next_action(self._clock.monotonic()):
            case Sleep(seconds):
                return seconds
            case CheckDrift():
                return await self._check_drift(sync, state, written)
            case MakeAttempt(task):
                outcome, task = await self._attempts.run_attempt(key, sync, source, task, state, written)
                return await self._settle_outcome(key, sync, source, outcome, state, task)

    async def _check_drift(self, sync: SecretSync, state: WorkState, written: LastWrite) -> float:
        """Check the Secret for drift. Return the seconds until the next run."""
        began = self._clock.monotonic()
        state.drift_check = self._schedule.next_drift_check()
        if not await self._syncer.is_unchanged(sync, written):
            state.on_drift(began)
        elif written.contested:
            self._reporter.add_warning(sync.metadata, written.contested)
        return state.delay_after_check(self._clock.monotonic())

    async def _report_unreadable(self, key: Key, sync: Unreadable, state: WorkState) -> float:
        error = errors.InputError(f"this SecretSync cannot be read: {sync.problem}")
        if state.reported == error.message:
            return self._settings.rotation_poll_interval
        return await self._settle_outcome(key, sync, None, Failed(error), state)

    async def _settle_outcome(
        self,
        key: Key,
        sync: SecretSync | Unreadable,
        source: Class,
        outcome: Outcome,
        state: WorkState,
        task: Task | None = None,
    ) -> float:
        """Record the outcome of a task, and report it if that is due. Return the seconds until the next run."""
        if isinstance(outcome, Requeue):
            is_late = state.settle_requeue(outcome.seconds, self._clock.monotonic())
            if is_late and outcome.obstacle:
                # If this report fails, the next attempt repeats it.
                await self._report_outcome(sync, source, Failed(errors.OwnershipError(outcome.obstacle)))
            return state.seconds_until_due(self._clock.monotonic())
        waits_for_poll = self.poller.waits_for_vault(key)
        usual = self._settings.rotation_poll_interval
        interval = poll_interval(sync, self._settings) if isinstance(sync, SecretSync) else usual
        least = self._charge_if_blocked(key.namespace, outcome)
        state.settle_attempt(outcome, waits_for_poll, interval, self._rng, self._clock.monotonic(), least)
        if is_unreported(ready_condition(_status_of(sync)), sync.metadata.generation, outcome, state.failures):
            log.debug("%s failed once: %s", key, outcome.message)
            return state.seconds_until_due(self._clock.monotonic())
        match await self._report_outcome(sync, source, outcome):
            case ReportResult.DONE:
                state.was_reported(outcome.message)
                self._group_polls.mark_settled(key)
            case ReportResult.NOT_WRITTEN:
                seconds = backoff.backoff_delay(state.requeues + 1, self._rng)
                state.was_not_reported(task, seconds, self._clock.monotonic())
            case ReportResult.OUTDATED:
                # The status does not have the versions of the fetched keys. An edit may have named other keys.
                seconds = min(CONFLICT_DELAY * 2.0 ** min(state.requeues, 16), backoff.MAX_RETRY_SECONDS)
                state.was_not_reported(task, seconds, self._clock.monotonic())
        return state.seconds_until_due(self._clock.monotonic())

    def _charge_if_blocked(self, namespace: str, outcome: Reportable) -> float:
        """Charge the attempt of a blocked SecretSync. Return the minimum of seconds until its next one."""
        if isinstance(outcome, Synced) or outcome.retry is not errors.Retry.BLOCKED:
            return 0.0
        self._blocked.spend(namespace, 1)
        return self._blocked.wait(namespace)

    async def _report_outcome(self, sync: SecretSync | Unreadable, source: Class, outcome: Reportable) -> ReportResult:
        self._metrics.reconciles.labels(outcome.reason).inc()
        known = source if isinstance(source, SecretProviderClass) else None
        before = _status_of(sync)
        entry = self.entries.get(Key(sync.metadata.namespace, sync.metadata.name))
        status = next_status(
            sync.metadata,
            before,
            known,
            outcome,
            self._clock.utc(),
            last_equal=entry.state.equal_at if entry else None,
            secret_exists=entry.written.exists if entry else None,
        )
        if not isinstance(outcome, Failed) and outcome.warnings is not None:
            self._reporter.report_warnings(sync.metadata, outcome.warnings)
        return await self._reporter.report_status(self.syncs, sync.metadata, before, status)

    def flush_logs(self) -> None:
        """Log how many lines of one kind were suppressed."""
        self._rate_limited_log.flush_minutes()


def _status_of(sync: SecretSync | Unreadable) -> SecretSyncStatus:
    """Return the status. That of an unreadable object is unknown: it can have been synced before."""
    return sync.status if isinstance(sync, SecretSync) else SecretSyncStatus(sync_hash="unknown")


def _patience_after_class_edit(sync: SecretSync | Unreadable) -> float:
    """Return how long a SecretSync waits for its own edit after one of its class, in seconds.

    The controller writes the class of an AKVSync first, so its existing SecretSyncs may not match the class yet.
    """
    was_attempted = isinstance(sync, SecretSync) and bool(sync.status.conditions)
    return CHILD_PATIENCE if was_attempted and akvsync_owner(sync.metadata) else 0.0


def class_key(sync: SecretSync) -> Key:
    """Return the key of the SecretProviderClass that a SecretSync names."""
    return Key(sync.metadata.namespace, sync.spec.secret_provider_class_name)
