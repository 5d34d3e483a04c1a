"""Decide the next action for one SecretSync, and its time. Pure: times and the random source are arguments.

Times are seconds of the monotonic clock, except for `utc_now`. A new process begins with an undecided `WorkState`: the
status of the SecretSync says when its Secret was last equal to the vault.
"""

import math
import random
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from controller import errors
from controller.api.conditions import Condition, Reason
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import GroupPoll, SecretSync, SecretSyncStatus
from controller.domain.provider_class import ObjectVersionRef
from controller.domain.snapshot import NONE_UNUSABLE, PollResult, VaultSnapshot
from controller.domain.status import (
    Failed,
    PartiallySynced,
    Reportable,
    Synced,
    generation_hash,
    ready_condition,
    sync_hash,
)
from controller.runtime import backoff
from controller.runtime.sharing import share_text
from controller.secretsync.class_reader import EDIT_INTERVAL

# Consecutive requeues without a report. Fifteen take half a minute, which is normal while the garbage collector deletes
# an old Secret.
QUIET_REQUEUES = 15
# Consecutive failures of the vault without a report while the Secret is up to date.
UNREPORTED_FAILURES = 1
# Seconds between two writes of a status without news. Polls are recorded more often, once for their group.
CONFIRM_EVERY = 86_400.0
# Seconds that a new SecretSync waits for its class. If both are applied together, their watches can report the class
# later.
CLASS_PATIENCE = 2.0


class Fetch(msgspec.Struct, frozen=True):
    """Fetch the values of these target keys, or of all if None. Shared answers older than `not_before` do not count."""

    not_before: float
    keys: frozenset[str] | None = None


class Confirm(msgspec.Struct, frozen=True):
    """Report that a poll found the Secret equal to the vault, without a fetch.

    `poll` is a poll that found all SecretSyncs of the group equal. The status records it.
    """

    poll: GroupPoll | None = None


class ReportFailure(msgspec.Struct, frozen=True):
    """Report why a poll failed."""

    error: errors.ControllerError


Task = Fetch | Confirm | ReportFailure
"""The purpose of an attempt."""


class Undecided(msgspec.Struct, frozen=True):
    """The SecretSync is new to this process, or was edited."""


class DueAt(msgspec.Struct, frozen=True):
    """An attempt is due at this moment."""

    moment: float


class OnPoll(msgspec.Struct, frozen=True):
    """An attempt is due when a poll of the group makes one necessary."""


Due = Undecided | DueAt | OnPoll


class Sleep(NamedTuple):
    """Do nothing for this many seconds."""

    seconds: float


class CheckDrift(NamedTuple):
    """Check whether another client has changed the Secret."""


class MakeAttempt(NamedTuple):
    """Run the pending task."""


Action = Sleep | CheckDrift | MakeAttempt


class WorkState(msgspec.Struct):
    """The work on one SecretSync in this process.

    `edited` marks an edit that no attempt has taken yet. An edit can arrive during an attempt, and the next attempt
    takes it. `pending` is the task of the next attempt. Events during an attempt can set it. Without one, an attempt
    fetches all keys. `failures` and `requeues` count consecutive ones. `reported` is the message in the status.
    `class_missed` is when the class of a new SecretSync was first found missing. No answer of the last fetch of all
    keys is older than `all_fetched`. `equal_at` is when a poll last found the Secret equal to the vault (UTC). The
    status can be older.
    """

    due: Due = msgspec.field(default_factory=Undecided)
    drift_check: float | None = None
    pending: Task | None = None
    edited: bool = False
    edit_taken: float = -math.inf
    failures: int = 0
    requeues: int = 0
    reported: str = ""
    class_missed: float | None = None
    all_fetched: float = -math.inf
    equal_at: datetime | None = None

    def on_edit(self, now: float, keys: frozenset[str] | None = None) -> float:
        """Record an edit of these target keys, or of all if None. Return the seconds until the attempt for it."""
        self.failures = self.requeues = 0
        self.pending = Fetch(now, self._keys_with(keys))
        self.edited = True
        return max(0.0, self.edit_taken + EDIT_INTERVAL - now)

    def _keys_with(self, keys: frozenset[str] | None) -> frozenset[str] | None:
        """Return the keys to fetch after an edit of these keys, or None for all if the others may be stale."""
        if keys is None or (isinstance(self.due, Undecided) and not self.edited):
            return None
        match self.pending:
            case None | Confirm():
                return keys
            case Fetch(_, frozenset() as pending):
                return pending | keys
        return None

    def seconds_until_class(self, now: float) -> float:
        """Return the seconds until a missing class is reported."""
        if self.class_missed is None:
            self.class_missed = now
        return max(0.0, self.class_missed + CLASS_PATIENCE - now)

    @property
    def fetches_all(self) -> bool:
        """Return whether the next attempt fetches all keys."""
        return not isinstance(self.pending, Fetch) or self.pending.keys is None

    def take_edit(self, now: float, failed: Collection[str] = ()) -> bool:
        """Return whether there was an edit. If so, its keys are pending and the next attempt is undecided again.

        The attempt also fetches the `failed` keys, because the edit can have corrected them.
        """
        if not self.edited:
            return False
        if isinstance(self.pending, Fetch) and self.pending.keys is not None:
            self.pending = Fetch(self.pending.not_before, self.pending.keys.union(failed))
        self.edited, self.edit_taken = False, now
        self.due, self.reported = Undecided(), ""
        return True

    def on_poll(
        self,
        wanted: Mapping[str, ObjectVersionRef],
        result: PollResult,
        status: SecretSyncStatus,
        now: float,
        utc_now: datetime,
        unusable: Mapping[str, errors.UnusableValue] = NONE_UNUSABLE,
    ) -> bool:
        """Record the result of a poll. Return whether it makes an attempt necessary.

        `unusable` are the keys whose values were fetched and cannot be used, so the Secret does not have them.
        """
        if self.edited:
            return False  # the edit fetches everything
        if isinstance(result, VaultSnapshot) and self.all_fetched >= result.since:
            return False  # the last fetch is newer than the list, and the status can be older than both
        task = task_after_poll(wanted, result, status, self.pending, now, utc_now, unusable)
        if (task is None or isinstance(task, Confirm)) and isinstance(self.pending, Fetch) and self.due == OnPoll():
            task = Fetch(now, frozenset())  # it waited for the vault, and the status does not say so yet
        if task is None or isinstance(task, Confirm):
            self.equal_at = utc_now
            if isinstance(self.pending, ReportFailure):
                self.pending = None  # the failure has passed before it was reported
        match task:
            case None:
                return False
            case Fetch():
                self.due, self.pending = DueAt(now), task
            case ReportFailure(error) if error.message == self.reported:
                return False
            case ReportFailure() | Confirm():
                self.pending = self.pending or task
        return True

    def confirm(self, poll: GroupPoll) -> bool:
        """Let the next attempt record a poll that found the whole group equal. Return False if another task pends."""
        if self.edited or not (self.pending is None or isinstance(self.pending, Confirm)):
            return False
        self.pending = Confirm(poll)
        return True

    def next_action(self, now: float) -> Action:
        """Return the next action. `due` and `drift_check` must be decided."""
        if self.due_moment() <= now or isinstance(self.pending, Confirm | ReportFailure):
            return MakeAttempt()
        if self.drift_check is not None and self.drift_check <= now:
            return CheckDrift()
        return Sleep(self.delay_after_check(now))

    def due_moment(self) -> float:
        """Return the time of the next attempt: infinite while a poll decides, and in the past while undecided."""
        match self.due:
            case DueAt(moment):
                return moment
            case OnPoll():
                return math.inf
            case Undecided():
                return -math.inf

    def take_task(self, now: float) -> Task:
        """Return the task of this attempt. The next attempt has none until an event sets it."""
        task, self.pending = self.pending or Fetch(now), None
        if isinstance(task, Fetch) and task.keys is None:
            self.all_fetched = task.not_before
        return task

    def leave_task(self, keys: frozenset[str] | None, now: float) -> None:
        """Leave these keys to the next attempt, together with those that an event has added in the meantime."""
        added = self.pending.keys if isinstance(self.pending, Fetch) else frozenset()
        self.pending = Fetch(now, None if keys is None or added is None else keys | added)
        self.all_fetched = -math.inf

    def settle_attempt(
        self,
        outcome: Reportable,
        waits_for_poll: bool,
        interval: float,
        rng: random.Random,
        now: float,
        least: float = 0.0,
    ) -> None:
        """Record the outcome of an attempt, and decide when the next one is due.

        `waits_for_poll` means that the vault is unreachable, and that the polls of the group probe it. `least` is the
        minimum number of seconds after a failure.
        """
        if isinstance(outcome, Synced) or outcome.retry is errors.Retry.ON_NEW_VALUE:
            self.failures = 0
            # A poll can have set a task during the attempt.
            self.due = DueAt(now) if self.pending else OnPoll()
            return
        if waits_for_poll:
            self.failures, self.due = 0, OnPoll()
            return
        if outcome.retry is not errors.Retry.THROTTLED:
            self.failures += 1
        self.due = DueAt(now + max(least, delay_after(outcome, self.failures, interval, rng)))

    def was_reported(self, message: str) -> None:
        """Record the message that the status has now."""
        self.requeues, self.reported = 0, share_text(message)

    def was_not_reported(self, rng: random.Random, now: float) -> None:
        """Retry the report soon, even if the next attempt would be due later."""
        self.requeues += 1
        self.due = DueAt(min(self.due_moment(), now + backoff.backoff_delay(self.requeues, rng)))

    def settle_requeue(self, seconds: float, now: float) -> bool:
        """Record an attempt without a result. Return whether its obstacle has lasted so long that it is reported."""
        self.requeues += 1
        is_quiet = self.requeues < QUIET_REQUEUES
        longest = backoff.COLLECTED_SOON * 2 if is_quiet else backoff.MAX_BLOCKED_SECONDS
        self.due = DueAt(now + min(seconds * self.requeues, longest))
        return not is_quiet

    def settle_crash(self, rng: random.Random, now: float) -> None:
        """Record an unexpected error of the controller, and retry with a backoff."""
        self.failures += 1
        self.due = DueAt(now + backoff.backoff_delay(self.failures, rng))

    def delay_after_check(self, now: float) -> float:
        """Return the seconds until the next attempt or drift check, whichever comes first."""
        check = math.inf if self.drift_check is None else self.drift_check
        return max(0.0, min(self.due_moment(), check) - now)

    def seconds_until_due(self, now: float) -> float:
        """Return the seconds until the key must be processed again."""
        if isinstance(self.due, OnPoll) and self.drift_check is not None:
            return max(0.0, self.drift_check - now)
        return max(0.0, self.due_moment() - now)


def task_after_poll(
    wanted: Mapping[str, ObjectVersionRef],
    result: PollResult,
    status: SecretSyncStatus,
    pending: Task | None,
    now: float,
    utc_now: datetime,
    unusable: Mapping[str, errors.UnusableValue] = NONE_UNUSABLE,
) -> Task | None:
    """Return the task that a poll's result makes necessary, or None.

    `pending` keys that an earlier attempt left are fetched together with the stale ones.
    """
    if isinstance(result, errors.ControllerError):
        return ReportFailure(result)
    stale = result.stale_keys(wanted, status.objects, unusable) if result else None
    if stale is not None and isinstance(pending, Fetch) and pending.keys:
        stale |= pending.keys
    ready = ready_condition(status)
    if stale is None or stale or not ready or not ready.holds:
        # Without stale keys, the attempt updates the Secret's metadata and the status, and fetches no value.
        return Fetch(now, stale)
    last = backoff.parse_time(status.last_successful_sync_time)
    return Confirm() if last is None or (utc_now - last).total_seconds() >= CONFIRM_EVERY else None


def can_wait_for_poll(sync: SecretSync, source: SecretProviderClass) -> bool:
    """Return whether a SecretSync that is new to this process can wait for the next poll of its group.

    It can if its status says that the Secret was equal to the vault, or was so until the vault became unreachable, and
    if nothing was edited since.
    """
    ready = ready_condition(sync.status)
    if ready is None or not (ready.holds or was_unreachable(sync.status)):
        return False
    return any(
        sync.status.sync_hash == make(sync.metadata, source, sync.status.objects)
        for make in (sync_hash, generation_hash)
    )


def was_unreachable(status: SecretSyncStatus) -> bool:
    """Return whether the status says that the vault could not be read."""
    ready = ready_condition(status)
    return ready is not None and not ready.holds and ready.reason == Reason.PROVIDER_ERROR


def keys_left(
    outcome: PartiallySynced | Failed, keys: frozenset[str] | None, is_polled: bool, stays_polled: bool
) -> frozenset[str] | None:
    """Return the target keys for the attempt after a failed one, or None for all keys.

    `keys` are those of the failed attempt. If no poll covers the other keys in the meantime, all keys are fetched.
    `is_polled` means that the SecretSync is in a poll group, and `stays_polled` that it remains there.
    """
    is_throttled = outcome.retry is errors.Retry.THROTTLED
    left = _retried_keys(outcome) if isinstance(outcome, PartiallySynced) else keys
    if left and (is_polled or is_throttled):
        return left
    return keys if stays_polled else None


def _retried_keys(outcome: PartiallySynced) -> frozenset[str]:
    return frozenset(key for key, error in outcome.failed.items() if error.retry is not errors.Retry.ON_NEW_VALUE)


def delay_after(outcome: PartiallySynced | Failed, failures: int, interval: float, rng: random.Random) -> float:
    """Return the seconds until the attempt after this many consecutive failures. `interval` is that of polls."""
    match outcome.retry:
        case errors.Retry.THROTTLED:
            return outcome.retry_after or backoff.FIRST_RETRY
        case errors.Retry.ON_EDIT | errors.Retry.ON_NEW_VALUE:
            return interval  # an edit or a poll wakes it earlier
        case errors.Retry.BLOCKED:
            return backoff.backoff_delay(failures, rng, outcome.retry_after, backoff.MAX_BLOCKED_SECONDS)
        case errors.Retry.BACKOFF:
            return backoff.backoff_delay(failures, rng, outcome.retry_after, backoff.MAX_RETRY_SECONDS)


def is_unreported(ready: Condition | None, generation: int, outcome: Reportable, failures: int) -> bool:
    """Return whether the status omits this failure: the vault's first one while the Secret is up to date.

    The first failure after an edit, or of a SecretSync that was never synced, is reported at once.
    """
    is_current = ready is not None and ready.holds and ready.observed_generation in (0, generation)
    is_vault_failure = not isinstance(outcome, Synced) and outcome.is_vault_failure
    return is_vault_failure and failures == UNREPORTED_FAILURES and is_current
