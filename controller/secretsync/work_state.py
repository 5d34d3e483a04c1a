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
from controller.api.conditions import Condition
from controller.api.secretsync import GroupPoll, SecretSyncStatus
from controller.domain.provider_class import ObjectVersionRef
from controller.domain.snapshot import NONE_UNUSABLE, PollResult, VaultSnapshot
from controller.domain.status import Failed, PartiallySynced, Reportable, Synced
from controller.runtime import backoff
from controller.runtime.sharing import share_text
from controller.secretsync.class_reader import EDIT_INTERVAL
from controller.secretsync.tasks import (
    NO_KEYS,
    Confirm,
    Fetch,
    ReportFailure,
    TargetKeys,
    Task,
    join_keys,
    task_after_poll,
)

# Consecutive requeues without a report. Fifteen take half a minute, which is normal while the garbage collector deletes
# an old Secret.
QUIET_REQUEUES = 15
# Consecutive failures of the vault without a report while the Secret is up to date.
UNREPORTED_FAILURES = 1
# Seconds that a new SecretSync waits for its class. If both are applied together, their watches can report the class
# later.
CLASS_PATIENCE = 2.0


class Undecided(msgspec.Struct, frozen=True):
    """The SecretSync is new to this process, or was edited: it is not decided yet whether an attempt is necessary.

    `edit` fetches what the edit can have changed. A new SecretSync has none. The decision needs the class, and is
    possible from `moment` on.
    """

    edit: Fetch | None = None
    moment: float = -math.inf


class Edited(msgspec.Struct, frozen=True):
    """No run has taken the last edit yet. `edit` fetches what it can have changed."""

    edit: Fetch


class PlannedTask(msgspec.Struct, frozen=True):
    """An attempt carries out this task at this moment."""

    task: Task
    moment: float


class OnPoll(msgspec.Struct, frozen=True):
    """A poll of the group decides when an attempt is necessary.

    `left` is what the last attempt could not fetch. It waits for a poll that finds the vault reachable.
    """

    left: Fetch | None = None


class InProgress(msgspec.Struct, frozen=True):
    """An attempt runs. An event during the attempt plans the next one, and replaces this."""


Plan = Undecided | Edited | PlannedTask | OnPoll | InProgress
# These are equal for most SecretSyncs, which share them.
NEW, ON_POLL, IN_PROGRESS = Undecided(), OnPoll(), InProgress()


class Sleep(NamedTuple):
    """Do nothing for this many seconds."""

    seconds: float


class CheckDrift(NamedTuple):
    """Check whether another client has changed the Secret."""


class MakeAttempt(NamedTuple):
    """Carry out this task."""

    task: Task


Action = Sleep | CheckDrift | MakeAttempt


class WorkState(msgspec.Struct):
    """The work on one SecretSync in this process.

    `plan` says when the next attempt runs, and what it does. An edit was last taken at `edit_taken`. `failures` and
    `requeues` count consecutive ones. `reported` is the message in the status. `class_missed` is when the class of a
    new SecretSync was first found missing. No answer of the last fetch of all keys is older than `all_fetched`.
    `equal_at` is when a poll last found the Secret equal to the vault (UTC). The status can be older.
    """

    plan: Plan = NEW
    drift_check: float | None = None
    edit_taken: float = -math.inf
    failures: int = 0
    requeues: int = 0
    reported: str = ""
    class_missed: float | None = None
    all_fetched: float = -math.inf
    equal_at: datetime | None = None

    @property
    def _pending(self) -> Task | None:
        """Return the task of the next attempt, if the plan has one already."""
        match self.plan:
            case Undecided(edit) | Edited(edit):
                return edit
            case PlannedTask(task):
                return task
            case OnPoll(left):
                return left
            case InProgress():
                return None

    @property
    def _is_free(self) -> bool:
        """Return whether a poll can plan a report, because no other task is pending."""
        return isinstance(self.plan, OnPoll | InProgress) and self._pending is None

    def on_edit(self, now: float, keys: TargetKeys = None) -> float:
        """Record an edit of these target keys. Return the seconds until it is taken."""
        self.failures = self.requeues = 0
        self.plan = Edited(Fetch(now, self._keys_with(keys)))
        return self.seconds_until_due(now)

    def _keys_with(self, keys: TargetKeys) -> TargetKeys:
        """Return the keys to fetch after an edit of these keys: all if the others may be stale."""
        match self._pending:
            case Fetch(_, pending):
                return join_keys(pending, keys)
            case ReportFailure():
                return None
            case None | Confirm():
                return None if isinstance(self.plan, Undecided) else keys

    def take_edit(self, now: float, failed: Collection[str] = ()) -> Fetch | None:
        """Return what the last edit needs, or None if it was taken before. The next attempt is undecided again.

        The attempt also fetches the `failed` keys, because the edit can have corrected them.
        """
        if not isinstance(self.plan, Edited):
            return None
        edit = self.plan.edit
        edit = Fetch(edit.not_before, join_keys(edit.keys, frozenset(failed)))
        self.plan, self.edit_taken, self.reported = Undecided(edit), now, ""
        return edit

    def seconds_until_class(self, now: float) -> float:
        """Return the seconds until a missing class is reported."""
        if self.class_missed is None:
            self.class_missed = now
        return max(0.0, self.class_missed + CLASS_PATIENCE - now)

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
        if isinstance(result, VaultSnapshot) and self.all_fetched >= result.since:
            return False  # the last fetch is newer than the list, and the status can be older than both
        pending = self._pending
        left = pending if isinstance(pending, Fetch) else None
        task = task_after_poll(wanted, result, status, left, now, utc_now, unusable)
        if isinstance(self.plan, Edited):
            if isinstance(task, Fetch):
                self.plan = Edited(Fetch(now, join_keys(self.plan.edit.keys, task.keys)))
            return False  # the edit makes one necessary
        if isinstance(self.plan, OnPoll) and left and (task is None or isinstance(task, Confirm)):
            task = Fetch(now, NO_KEYS)  # it waited for the vault, and the status does not say so yet
        if task is None or isinstance(task, Confirm):
            self.equal_at = utc_now
            if isinstance(pending, ReportFailure):
                self.plan = ON_POLL  # the failure has passed before it was reported
        is_known = isinstance(task, ReportFailure) and task.error.message == self.reported
        if task is None or is_known or not (isinstance(task, Fetch) or self._is_free):
            return False
        self.plan = PlannedTask(task, now)
        return True

    def on_drift(self, began: float) -> None:
        """Record that a check, which began at this time, found that another client has changed the Secret.

        A pending fetch of some keys keeps them. Its attempt detects the change itself, and then fetches all keys.
        """
        if not isinstance(self.plan, Edited):
            keys = self._pending.keys if isinstance(self._pending, Fetch) else None
            self.plan = PlannedTask(Fetch(began, keys), began)

    def confirm(self, poll: GroupPoll, now: float) -> bool:
        """Let the next attempt record a poll that found the whole group equal. Return False if another task pends."""
        if not (self._is_free or isinstance(self._pending, Confirm)):
            return False
        self.plan = PlannedTask(Confirm(poll), now)
        return True

    def next_action(self, now: float) -> Action:
        """Return the next action. `plan` and `drift_check` must be decided."""
        if isinstance(self.plan, PlannedTask) and self.plan.moment <= now:
            return MakeAttempt(self.plan.task)
        if self.drift_check is not None and self.drift_check <= now:
            return CheckDrift()
        return Sleep(self.delay_after_check(now))

    def due_moment(self) -> float:
        """Return the time of the next run for the plan: infinite while a poll decides."""
        match self.plan:
            case PlannedTask(_, moment) | Undecided(_, moment):
                return moment
            case Edited():
                return self.edit_taken + EDIT_INTERVAL
            case OnPoll() | InProgress():
                return math.inf

    def start_attempt(self, task: Task) -> None:
        """Record that an attempt begins. The next attempt has no task until an event plans it."""
        self.plan = IN_PROGRESS
        if isinstance(task, Fetch) and task.keys is None:
            self.all_fetched = task.not_before

    def leave_keys(self, keys: TargetKeys, now: float) -> None:
        """Leave these keys to the next attempt, together with those that an event has added in the meantime."""
        added = self._pending.keys if isinstance(self._pending, Fetch) else NO_KEYS
        fetch = Fetch(now, join_keys(added, keys))
        self.plan = Edited(fetch) if isinstance(self.plan, Edited) else PlannedTask(fetch, now)
        self.all_fetched = -math.inf

    def leave_task(self, task: Task, now: float) -> None:
        """Leave a task without a result to the next attempt."""
        if isinstance(task, Fetch):
            self.leave_keys(task.keys, now)
        elif self._is_free:
            self.plan = PlannedTask(task, now)

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
            if isinstance(self.plan, InProgress):
                self.plan = ON_POLL
        elif waits_for_poll:
            self.failures = 0
            if isinstance(self.plan, PlannedTask) and isinstance(self.plan.task, Fetch):
                self.plan = OnPoll(self.plan.task)
        else:
            if outcome.retry is not errors.Retry.THROTTLED:
                self.failures += 1
            self._postpone(now + max(least, delay_after(outcome, self.failures, interval, rng)), now)

    def was_reported(self, message: str) -> None:
        """Record the message that the status has now."""
        self.requeues, self.reported = 0, share_text(message)

    def was_not_reported(self, task: Task | None, seconds: float, now: float) -> None:
        """Record that the status does not have the result of this task. The next attempt runs soon, and repeats it."""
        self.requeues += 1
        moment = min(self.due_moment(), now + seconds)
        if task is not None:
            self.leave_task(task, now)
        self._postpone(moment, now)

    def settle_requeue(self, seconds: float, now: float) -> bool:
        """Record an attempt without a result. Return whether its obstacle has lasted so long that it is reported."""
        self.requeues += 1
        is_quiet = self.requeues < QUIET_REQUEUES
        longest = backoff.COLLECTED_SOON * 2 if is_quiet else backoff.MAX_BLOCKED_SECONDS
        self._postpone(now + min(seconds * self.requeues, longest), now)
        return not is_quiet

    def settle_crash(self, rng: random.Random, now: float) -> None:
        """Record an unexpected error of the controller, and retry with a backoff.

        The results of the attempt are lost, and it is not known how far it got. So the next one fetches all keys.
        """
        self.failures += 1
        if not isinstance(self.plan, Undecided):
            self.leave_keys(None, now)
        self._postpone(now + backoff.backoff_delay(self.failures, rng), now)

    def _postpone(self, moment: float, now: float) -> None:
        """Continue at this moment. An edit that was not taken yet comes first."""
        if isinstance(self.plan, Undecided):
            self.plan = Undecided(self.plan.edit, moment)
        elif not isinstance(self.plan, Edited):
            self.plan = PlannedTask(self._pending or Fetch(now), moment)

    def delay_after_check(self, now: float) -> float:
        """Return the seconds until the next attempt or drift check, whichever comes first."""
        check = math.inf if self.drift_check is None else self.drift_check
        return max(0.0, min(self.due_moment(), check) - now)

    def seconds_until_due(self, now: float) -> float:
        """Return the seconds until the key must be processed again."""
        if isinstance(self.plan, OnPoll) and self.drift_check is not None:
            return max(0.0, self.drift_check - now)
        return max(0.0, self.due_moment() - now)


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
    # A condition without observedGeneration, which is optional, has 0.
    is_current = ready is not None and ready.holds and ready.observed_generation in (0, generation)
    is_vault_failure = not isinstance(outcome, Synced) and outcome.is_vault_failure
    return is_vault_failure and failures == UNREPORTED_FAILURES and is_current
