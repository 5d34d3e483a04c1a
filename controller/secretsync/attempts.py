"""Carry out the tasks of attempts. Each error becomes an outcome.

An attempt also decides whether the polls of a group serve the SecretSync afterwards, and what it leaves to the next
attempt.
"""

import msgspec

from controller import errors
from controller.api.secretsync import SecretSync
from controller.domain.status import Failed, Outcome, PartiallySynced, Requeue, Synced, ready_condition
from controller.observability.telemetry import RateLimitedLog
from controller.polling.poller import Poller
from controller.runtime.clock import Clock
from controller.runtime.work_queue import Key
from controller.secretsync.sync_resolver import Class, ResolvedSync, SyncResolver
from controller.secretsync.sync_schedule import SyncSchedule
from controller.secretsync.syncer import LastWrite, Syncer, confirmed_outcome
from controller.secretsync.tasks import NO_KEYS, Confirm, Fetch, ReportFailure, Task, join_dependents, keys_left
from controller.secretsync.work_state import WorkState


class AttemptRunner:
    """A runner of attempts. All workers share it; it keeps no state of a SecretSync."""

    def __init__(
        self,
        resolver: SyncResolver,
        syncer: Syncer,
        poller: Poller,
        schedule: SyncSchedule,
        rate_limited_log: RateLimitedLog,
        clock: Clock,
    ) -> None:
        self._resolver = resolver
        self._syncer = syncer
        self._poller = poller
        self._schedule = schedule
        self._rate_limited_log = rate_limited_log
        self._clock = clock

    async def run_attempt(
        self, key: Key, sync: SecretSync, source: Class, task: Task, state: WorkState, written: LastWrite
    ) -> tuple[Outcome, Task]:
        """Carry out a task, and leave the failed keys to the next attempt. Return the outcome and the task."""
        state.start_attempt(task)
        ready = ready_condition(sync.status)
        if isinstance(task, Confirm) and not (ready and ready.holds):
            # A poll set the task during an attempt that then reported an unusable value.
            task = Fetch(self._clock.monotonic(), NO_KEYS)
        if isinstance(task, Fetch):
            task = Fetch(task.not_before, join_dependents(task.keys, written.unusable))
        outcome = await self._run_task(key, sync, source, task, written)
        match outcome:
            case Requeue():
                state.leave_task(task, self._clock.monotonic())
            case PartiallySynced() | Failed():
                self._leave_failed(key, task, outcome, state)
        return outcome, task

    def _leave_failed(self, key: Key, task: Task, outcome: PartiallySynced | Failed, state: WorkState) -> None:
        waits_for_value = outcome.retry is errors.Retry.ON_NEW_VALUE
        # The poll that finds the vault reachable also serves the SecretSyncs that were added in the meantime.
        stays_polled = (
            isinstance(outcome, PartiallySynced)
            or waits_for_value
            or outcome.is_vault_failure
            or self._poller.waits_for_vault(key)
        )
        if not stays_polled:
            self._poller.leave(key)
        if not waits_for_value:
            keys = task.keys if isinstance(task, Fetch) else None
            left = keys_left(outcome, keys, self._poller.is_polled(key), stays_polled)
            state.leave_keys(left, self._clock.monotonic())

    async def _run_task(self, key: Key, sync: SecretSync, source: Class, task: Task, written: LastWrite) -> Outcome:
        try:
            if isinstance(task, ReportFailure):
                return Failed(task.error.bare())
            resolved = await self._resolver.resolve_sync(sync, source)
            if isinstance(resolved, Requeue):
                return resolved
            if isinstance(task, Confirm):
                return msgspec.structs.replace(confirmed_outcome(resolved), poll=task.poll)
            outcome = await self._sync(sync, resolved, written, task)
            if _is_served_by_polls(outcome, resolved, task):
                self._poller.join(key, self._schedule.poll_group(sync, resolved), resolved.wanted, 0.0)
            return outcome
        except errors.ControllerError as error:
            return Failed(error.bare())
        except Exception as error:
            self._rate_limited_log.log_unexpected(error)
            text = (
                f"unexpected {type(error).__name__}: the controller's log has the traceback; the Secret is unchanged,"
                " and the controller retries"
            )
            return Failed(errors.ControllerError(text))

    async def _sync(self, sync: SecretSync, resolved: ResolvedSync, written: LastWrite, task: Fetch) -> Outcome:
        try:
            return await self._syncer.sync(sync, resolved, written, task)
        except errors.ControllerError as error:
            return Failed(error.bare())


def _is_served_by_polls(outcome: Outcome, resolved: ResolvedSync, task: Fetch) -> bool:
    """Return whether polls serve the SecretSync after this outcome.

    They keep the fetched keys up to date, and detect another value of the unusable ones. Other failed keys are retried
    separately.
    """
    match outcome:
        case Synced():
            return True
        case PartiallySynced():
            requested = resolved.wanted.keys() if task.keys is None else task.keys
            return not (outcome.is_vault_failure and outcome.failed.keys() >= requested)
        case Failed():
            return outcome.retry is errors.Retry.ON_NEW_VALUE
        case Requeue():
            return False
