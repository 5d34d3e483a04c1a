"""What is to be done for one SecretSync, and when. Pure: moments and the random source are arguments.

Moments are seconds of the monotonic clock. A process can lose a `WorkState` without harm: a new one is undecided, and
the status of the SecretSync says when its Secret was last equal to the vault.
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
from controller.domain.snapshot import NONE_UNUSABLE, VaultSnapshot
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
from controller.secretsync.class_reader import EDIT_INTERVAL

# So many requeues in a row, about half a minute, are normal while an old Secret is being collected. More are reported.
QUIET_REQUEUES = 15
# One failure of the vault is not reported while the Secret is up to date.
UNREPORTED_FAILURES = 1
# The status says once a day that polls find the Secret up to date. The time of a poll is kept once for its group.
CONFIRM_EVERY = 86_400.0
# Seconds that a new SecretSync waits for its class: applied together, the class may be seen after it.
CLASS_PATIENCE = 2.0


class Fetch(msgspec.Struct, frozen=True):
    """Fetch values that were read at `not_before` or later, of these target keys; None: of all keys."""

    not_before: float
    keys: frozenset[str] | None = None


class Confirm(msgspec.Struct, frozen=True):
    """Report that a poll found the Secret equal to the vault. Nothing is fetched. `poll`: so were all of its group."""

    poll: GroupPoll | None = None


class ReportFailure(msgspec.Struct, frozen=True):
    """Report why a poll could not find out."""

    error: errors.ControllerError


Task = Fetch | Confirm | ReportFailure
"""What an attempt is for."""


class Undecided(msgspec.Struct, frozen=True):
    """The SecretSync is new to this process, or was edited."""


class At(msgspec.Struct, frozen=True):
    """An attempt is due at this moment."""

    moment: float


class OnPoll(msgspec.Struct, frozen=True):
    """The poll of its group decides when an attempt is due."""


Due = Undecided | At | OnPoll


class Sleep(NamedTuple):
    """Nothing is to be done for so many seconds."""

    seconds: float


class CheckDrift(NamedTuple):
    """Check whether the Secret is still as the controller wrote it."""


class MakeAttempt(NamedTuple):
    """Carry out the pending task."""


Action = Sleep | CheckDrift | MakeAttempt

PollResult = VaultSnapshot | errors.ControllerError | None
"""What a poll found, or why it could not find out; None: only a full read can tell."""


class WorkState(msgspec.Struct):
    """What this process remembers of one SecretSync.

    `edited` is set while another worker may hold the key; the next attempt takes the edit, so that no edit is lost.
    `pending` is the task of the next attempt; events during an attempt may set it. Without one, an attempt fetches all
    keys. `failures` and `requeues` count in a row. `reported` is the message that the status has. `class_missed` is
    when the class of a new SecretSync was first found missing. `all_fetched` is when the last fetch of all keys began.
    `equal_at` is when a poll last found the Secret equal to the vault; the status may say it later.
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
        """Note an edit, of these target keys alone if they are given; return the seconds until it is to be handled."""
        self.failures = self.requeues = 0
        self.pending = Fetch(now, self._keys_with(keys))
        self.edited = True
        return max(0.0, self.edit_taken + EDIT_INTERVAL - now)

    def _keys_with(self, keys: frozenset[str] | None) -> frozenset[str] | None:
        """Return what to fetch after an edit of these keys: all, unless the others are known to be in order."""
        if keys is None or (isinstance(self.due, Undecided) and not self.edited):
            return None
        match self.pending:
            case None | Confirm():
                return keys
            case Fetch(_, frozenset() as pending):
                return pending | keys
        return None

    def seconds_until_class(self, now: float) -> float:
        """Return how much longer to wait for a missing class before that is reported; 0 if for no longer."""
        if self.class_missed is None:
            self.class_missed = now
        return max(0.0, self.class_missed + CLASS_PATIENCE - now)

    @property
    def fetches_all(self) -> bool:
        """Return whether the next attempt fetches all keys."""
        return not isinstance(self.pending, Fetch) or self.pending.keys is None

    def take_edit(self, now: float, failed: Collection[str] = ()) -> bool:
        """Return whether there was an edit, and begin again with it.

        The attempt also fetches the `failed` keys: the edit can be what they needed.
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
        date: datetime,
        unusable: Mapping[str, errors.UnusableValue] = NONE_UNUSABLE,
    ) -> bool:
        """Note what a poll found; return whether an attempt is to be made for it.

        `unusable` are the keys whose values were read and are not in the Secret.
        """
        if self.edited:
            return False  # the edit fetches everything
        if isinstance(result, VaultSnapshot) and self.all_fetched >= result.since:
            return False  # the values are newer, and the status may not have them yet
        task = task_after_poll(wanted, result, status, self.pending, now, date, unusable)
        if task is None or isinstance(task, Confirm):
            self.equal_at = date
        match task:
            case None:
                return False
            case Fetch():
                self.due, self.pending = At(now), task
            case ReportFailure(error) if error.message == self.reported:
                return False
            case ReportFailure() | Confirm():
                self.pending = self.pending or task
        return True

    def confirm(self, poll: GroupPoll) -> bool:
        """Have the next attempt record this poll of the whole group, unless it has something else to report."""
        if self.edited or not (self.pending is None or isinstance(self.pending, Confirm)):
            return False
        self.pending = Confirm(poll)
        return True

    def next_action(self, now: float) -> Action:
        """Return what is to be done now. `due` and `drift_check` must be decided."""
        if self.due_moment() <= now or isinstance(self.pending, Confirm | ReportFailure):
            return MakeAttempt()
        if self.drift_check is not None and self.drift_check <= now:
            return CheckDrift()
        return Sleep(self.delay_after_check(now))

    def due_moment(self) -> float:
        """Return the moment of the next attempt; infinite while a poll decides, and past while undecided."""
        match self.due:
            case At(moment):
                return moment
            case OnPoll():
                return math.inf
            case Undecided():
                return -math.inf

    def take_task(self, now: float) -> Task:
        """Return the task of this attempt, and leave none for the next."""
        task, self.pending = self.pending or Fetch(now), None
        if isinstance(task, Fetch) and task.keys is None:
            self.all_fetched = now
        return task

    def leave_task(self, keys: frozenset[str] | None, now: float) -> None:
        """Leave these keys to the next attempt, unless an event has set its task meanwhile."""
        self.pending = self.pending or Fetch(now, keys)
        self.all_fetched = -math.inf

    def settle_attempt(
        self, outcome: Reportable, waits_for_poll: bool, interval: float, rng: random.Random, now: float
    ) -> None:
        """Note how an attempt ended, and decide when the next one is due.

        `waits_for_poll`: the vault is unreachable, and one poll after the other finds out for the whole group.
        """
        if isinstance(outcome, Synced) or outcome.retry is errors.Retry.ON_NEW_VALUE:
            self.failures = 0
            # A poll may have found something during the attempt.
            self.due = At(now) if self.pending else OnPoll()
            return
        if waits_for_poll:
            self.failures, self.due = 0, OnPoll()
            return
        if outcome.retry is not errors.Retry.THROTTLED:
            self.failures += 1
        self.due = At(now + delay_after(outcome, self.failures, interval, rng))

    def was_reported(self, message: str) -> None:
        """Note the message that the status has now."""
        self.requeues, self.reported = 0, message

    def was_not_reported(self, rng: random.Random, now: float) -> None:
        """Try the report again soon, however late the next attempt would be due."""
        self.requeues += 1
        self.due = At(min(self.due_moment(), now + backoff.backoff_delay(self.requeues, rng)))

    def settle_requeue(self, seconds: float, now: float) -> bool:
        """Note an attempt that could not report yet; return whether it is time to report what it waits for."""
        self.requeues += 1
        is_quiet = self.requeues < QUIET_REQUEUES
        longest = backoff.COLLECTED_SOON * 2 if is_quiet else backoff.MAX_BLOCKED_SECONDS
        self.due = At(now + min(seconds * self.requeues, longest))
        return not is_quiet

    def settle_crash(self, rng: random.Random, now: float) -> None:
        """Note an unexpected error of the controller."""
        self.failures += 1
        self.due = At(now + backoff.backoff_delay(self.failures, rng))

    def delay_after_check(self, now: float) -> float:
        """Return the seconds until the next attempt or drift check, whichever comes first."""
        check = math.inf if self.drift_check is None else self.drift_check
        return max(0.0, min(self.due_moment(), check) - now)

    def seconds_until_due(self, now: float) -> float:
        """Return the seconds until the key is to be processed again."""
        if isinstance(self.due, OnPoll) and self.drift_check is not None:
            return max(0.0, self.drift_check - now)
        return max(0.0, self.due_moment() - now)


def task_after_poll(
    wanted: Mapping[str, ObjectVersionRef],
    result: PollResult,
    status: SecretSyncStatus,
    pending: Task | None,
    now: float,
    date: datetime,
    unusable: Mapping[str, errors.UnusableValue] = NONE_UNUSABLE,
) -> Task | None:
    """Return what a poll's result makes necessary; None if nothing.

    `date` is the time of day. `pending` keys that an earlier attempt left are fetched with the stale ones.
    """
    if isinstance(result, errors.ControllerError):
        return ReportFailure(result)
    stale = result.stale_keys(wanted, status.objects, unusable) if result else None
    if stale is not None and isinstance(pending, Fetch) and pending.keys:
        stale |= pending.keys
    ready = ready_condition(status)
    if stale is None or stale or not ready or not ready.holds:
        # Without stale keys, the attempt checks the Secret and the status, and reads no value.
        return Fetch(now, stale)
    last = backoff.parse_time(status.last_successful_sync_time)
    return Confirm() if last is None or (date - last).total_seconds() >= CONFIRM_EVERY else None


def can_wait_for_poll(sync: SecretSync, source: SecretProviderClass) -> bool:
    """Return whether a SecretSync that is new to this process needs no attempt before the next poll of its group.

    By its status, the Secret equals the vault, or did so until the vault became unreachable, and nothing was edited.
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
    """Return the target keys of the attempt after one that failed; None: all keys.

    `keys` are those of the attempt that failed. An attempt fetches all keys if no poll watches the others meanwhile.
    `is_polled`: the SecretSync is in a poll group. `stays_polled`: the failure does not remove it from the group.
    """
    waits_for_its_turn = outcome.retry is errors.Retry.THROTTLED
    left = _retried_keys(outcome) if isinstance(outcome, PartiallySynced) else keys
    if left and (is_polled or waits_for_its_turn):
        return left
    return keys if stays_polled else None


def _retried_keys(outcome: PartiallySynced) -> frozenset[str]:
    return frozenset(key for key, error in outcome.failed.items() if error.retry is not errors.Retry.ON_NEW_VALUE)


def delay_after(outcome: PartiallySynced | Failed, failures: int, interval: float, rng: random.Random) -> float:
    """Return the seconds until the attempt after the n-th failure in a row. `interval` is that of polls."""
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
    """Return whether a failure is kept out of the status: the first one of the vault while the Secret is up to date.

    A failure after an edit is reported at once. So is one of a SecretSync that was never synced.
    """
    is_current = ready is not None and ready.holds and ready.observed_generation in (0, generation)
    is_away = not isinstance(outcome, Synced) and outcome.is_away
    return is_away and failures == UNREPORTED_FAILURES and is_current
