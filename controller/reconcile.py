"""When to do it: what the reflectors saw becomes keys in the queue, and a key's turn becomes a sync, a look or a wait.

reflectors → queue → `Reconciler` → `Syncer` → one status by `Reporter` → `Poller`, which looks at a vault for all that
read it alike, and queues those whose objects have changed.
"""

import contextlib
import logging
import math
import random
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import msgspec

from controller import budgets, errors, schedule
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import REFRESH_INTERVAL, SecretSync, SecretSyncStatus
from controller.class_reader import EDIT_INTERVAL
from controller.looks import Looks
from controller.objects import VersionOf
from controller.poll import Group, Poller, Seen
from controller.queue import Key, Queue
from controller.reflector import Store
from controller.report import Reporter
from controller.settings import Settings
from controller.status import Outcome, next_status, ready_condition, sync_hash
from controller.sync import Again, Ask, Class, Equal, Reading, Syncer, Written, confirmed
from controller.telemetry import Chorus, Metrics
from controller.vaults import Vaults

# One namespace alone gets half of these, which is enough for all the calls that its vault bears.
WORKERS = 2 * int(budgets.WORKERS.most)
# Turns that wait for an old Secret's collection before it is worth a word: about half a minute.
PATIENT_TURNS = 15
# Failures in a row that are not reported while a Secret is up to date.
UNREPORTED_FAILURES = 1
# The status of a SecretSync that polls find unchanged says so once an hour: a restart needs to know, nobody else does.
CONFIRM_EVERY = 3600.0
log = logging.getLogger(__name__)


Found = Ask | Equal | errors.ControllerError
"""What a turn is for: fetching, telling that nothing has changed, or telling why that cannot be known."""


class Memory(msgspec.Struct):
    """What this process remembers of one SecretSync; all of it can be lost without harm.

    `due` and `look` are moments of the monotonic clock, None where not decided yet; `due` is infinite where the poll
    of its group decides. `edited` is set while others may work on the key, and taken at the start of a turn, so that no
    edit is lost. `found` is what the last look, or edit, or attempt has left to do, or why there was nothing to see; an
    attempt takes it, and where there is none it asks for everything. `edit_taken` is when the last edit
    was taken. `again` counts turns in a row that told nothing;
    `told` is the last message that the status took.
    """

    written: Written = msgspec.field(default_factory=Written)
    failures: int = 0
    again: int = 0
    edited: bool = False
    edit_taken: float = -math.inf
    found: Found | None = None
    told: str = ""
    due: float | None = None
    look: float | None = None


class Reconciler:
    """Works on one key at a time per worker."""

    def __init__(
        self,
        settings: Settings,
        syncer: Syncer,
        vaults: Vaults,
        reporter: Reporter,
        metrics: Metrics,
    ) -> None:
        self.poller = Poller(settings.jitter, vaults, self._polled)
        self._settings = settings
        self._syncer = syncer
        self._reporter = reporter
        self._metrics = metrics
        self._queue: Queue[Key] = Queue(time.monotonic, WORKERS)
        self._names = ("", settings.controller_name)
        metrics.queue_due.set_function(self._queue.overdue)
        self._dice = random.Random()  # noqa: S311 -- spreads load, guards nothing
        self._chorus = Chorus(log)
        self._memory: dict[Key, Memory] = {}
        self._users: dict[Key, set[Key]] = {}
        self._looks = Looks(time.monotonic)
        self.syncs: Store[SecretSync] = Store()
        self.syncs.listen(self._sync_changed)
        self.classes: Store[SecretProviderClass] = Store()
        self.classes.listen(self._class_changed)

    def _sync_changed(self, key: Key, before: SecretSync | Unreadable | None) -> None:
        if isinstance(before, SecretSync) and (users := self._users.get(class_key(before))):
            users.discard(key)
            if not users:
                del self._users[class_key(before)]
        now = self.syncs.get(key)
        if isinstance(now, SecretSync):
            self._users.setdefault(class_key(now), set()).add(key)
        if now is None:
            self.poller.leave(key)
            self._memory.pop(key, None)
            self._queue.forget(key)
            self._reporter.forget(*key)
        else:
            self._wake(key)

    def _class_changed(self, key: Key, _before: SecretProviderClass | Unreadable | None) -> None:
        if self.classes.get(key) is None:
            self._syncer.forget_class(key)
        for user in self._users.get(key, ()):
            self._wake(user)

    def _wake(self, key: Key) -> None:
        # An edit is news: whatever failed before gets its next try at once.
        memory = self._memory.setdefault(key, Memory())
        memory.failures = memory.again = 0
        memory.edited = True
        now = time.monotonic()
        memory.found = Ask(now)
        # However often it is edited: the first edit at once, then the last one of each second.
        self._queue.add(key, max(0.0, memory.edit_taken + EDIT_INTERVAL - now))

    def _polled(self, key: Key, wanted: Mapping[str, VersionOf], seen: Seen) -> None:
        """A poll has looked, or could not look, at what the SecretSync reads."""
        sync, memory = self.syncs.get(key), self._memory.get(key)
        if memory is None or memory.edited or not isinstance(sync, SecretSync):
            return  # an edit asks for everything anyway
        if isinstance(seen, errors.ControllerError):
            if memory.told != seen.message:
                memory.found = memory.found or seen
                self._queue.add(key)
            return
        stale = seen.stale(wanted, sync.status.objects) if seen else None
        if stale is not None and isinstance(memory.found, Ask) and memory.found.stale:
            stale |= memory.found.stale  # what an attempt has left to do
        ready = ready_condition(sync.status)
        if stale is None or stale or not ready or not ready.holds:
            # Where the vault was away and nothing is stale, the Secret is looked at before all is said to be well.
            memory.due = time.monotonic()
            memory.found = Ask(memory.due, stale)
            self._queue.add(key)
            return
        last = schedule.parse_time(sync.status.last_successful_sync_time)
        if last is None or (datetime.now(UTC) - last).total_seconds() >= CONFIRM_EVERY:
            memory.found = memory.found or Equal()
            self._queue.add(key)

    def ours(self) -> Iterator[SecretSync]:
        """The SecretSyncs that are ours to carry out and can be read."""
        for key in self.syncs.keys():  # noqa: SIM118 -- a store is no mapping
            sync = self.syncs.get(key)
            if isinstance(sync, SecretSync) and sync.spec.secret_sync_controller_name in self._names:
                yield sync

    def reset(self) -> None:
        """Forgets what is remembered of SecretSyncs: from now on another process may work on them.

        What that does is in the objects, so one who begins anew with everything costs no vault more than is due.
        """
        self._memory.clear()
        for key in self.syncs.keys():  # noqa: SIM118
            self._reporter.forget(*key)
            self._queue.add(key)

    async def work(self) -> None:
        """Works until closed."""
        await self._queue.work(self._timed_turn)

    def close(self) -> None:
        """Begins nothing more."""
        self._queue.close()

    async def _timed_turn(self, key: Key) -> float | None:
        started = time.monotonic()
        try:
            return await self._turn(key)
        finally:
            self._metrics.reconcile_seconds.observe(time.monotonic() - started)

    async def _turn(self, key: Key) -> float | None:
        """Does what is due for one SecretSync; returns the seconds until it wants to be looked at again."""
        sync = self.syncs.get(key)
        if sync is None or sync.metadata.deletion_timestamp:
            return None
        if isinstance(sync, SecretSync) and sync.spec.secret_sync_controller_name not in self._names:
            self._reporter.forget(*key)
            self.poller.leave(key)
            return None
        memory = self._memory.setdefault(key, Memory())
        if memory.edited:
            memory.edited, memory.due, memory.told = False, None, ""
            memory.edit_taken = time.monotonic()
            self.poller.leave(key)
        try:
            try:
                return await self._reconcile(key, sync, memory)
            except Again as again:
                return await self._wait(again, sync, memory)
        except Exception as error:
            memory.failures += 1
            self._chorus.unexpected(error)
            wait = schedule.after_failure(memory.failures, self._dice)
            memory.due = time.monotonic() + wait
            return wait

    async def _wait(self, again: Again, sync: SecretSync | Unreadable, memory: Memory) -> float:
        """Nothing was reported, so it is still due; and soon, until that has been so for a while."""
        memory.again += 1
        soon = memory.again < PATIENT_TURNS
        wait = min(again.seconds * memory.again, schedule.COLLECTED_SOON * 2 if soon else schedule.LONGEST_OBSTACLE)
        memory.due = time.monotonic() + wait
        if again.obstacle and not soon and isinstance(sync, SecretSync):
            outcome = Outcome(reason=Reason.LABEL_ERROR, message=again.obstacle, ready=False, exists=False)
            with contextlib.suppress(Again):  # the next turn tells
                await self._tell(sync.metadata, sync.status, None, outcome)
        return wait

    async def _reconcile(self, key: Key, sync: SecretSync | Unreadable, memory: Memory) -> float:
        if isinstance(sync, Unreadable):
            message = f"this SecretSync cannot be read: {sync.problem}"
            if memory.told == message:
                return self._settings.rotation_poll_interval
            outcome = Outcome(reason=Reason.INPUT_INVALID, message=message, ready=False, retry=errors.Retry.EDIT)
            # What its status was cannot be read either.
            return await self._settle(sync.metadata, SecretSyncStatus(), None, outcome, memory)
        source = self.classes.get(class_key(sync))
        now = time.monotonic()
        if memory.due is None:
            memory.due = now + await self._until_due(key, sync, source)
        if memory.look is None:
            memory.look = self._looks.book(schedule.spread(self._settings.drift_interval, self._dice))
        if memory.due > now and (memory.found is None or isinstance(memory.found, Ask)):
            if memory.look > now:
                return min(memory.due, memory.look) - now
            memory.look = self._looks.book(self._settings.drift_interval)
            if await self._syncer.unchanged(sync, memory.written):
                if memory.written.contested:
                    self._reporter.warn_also(sync.metadata, memory.written.contested)
                return max(0.0, min(memory.due, memory.look) - time.monotonic())
            memory.found = Ask(now)
        outcome = await self._attempt(key, sync, source, memory)
        known = source if isinstance(source, SecretProviderClass) else None
        wait = await self._settle(sync.metadata, sync.status, known, outcome, memory)
        return max(0.0, min(wait, memory.look - time.monotonic())) if memory.due == math.inf else wait

    async def _settle(
        self,
        meta: ObjectMeta,
        before: SecretSyncStatus,
        source: SecretProviderClass | None,
        outcome: Outcome,
        memory: Memory,
    ) -> float:
        """Reports the outcome; returns, and remembers, how long nothing is due."""
        wait = self._until_next(Key(meta.namespace, meta.name), outcome, memory)
        if _may_pass(meta, before, outcome, memory):
            log.debug("%s/%s failed once: %s", meta.namespace, meta.name, outcome.message)
        elif await self._tell(meta, before, source, outcome):
            memory.again, memory.told = 0, outcome.message
        else:
            # What came of it is worth telling long before the next look at the vault is due.
            memory.again += 1
            wait = min(wait, schedule.after_failure(memory.again, self._dice))
        memory.due = time.monotonic() + wait
        return wait

    async def _tell(
        self, meta: ObjectMeta, before: SecretSyncStatus, source: SecretProviderClass | None, outcome: Outcome
    ) -> bool:
        self._metrics.reconciles.labels(outcome.reason).inc()
        status = next_status(meta, before, source, outcome, datetime.now(UTC))
        if outcome.warnings is not None:
            self._reporter.warn(meta, outcome.warnings)
        return await self._reporter.report(self.syncs, meta, before, status)

    async def _until_due(self, key: Key, sync: SecretSync, source: Class) -> float:
        """When a SecretSync that this process sees for the first time, or that was edited, is due by itself."""
        if not isinstance(source, SecretProviderClass):
            return 0.0  # the vault is not asked: there is only something to tell
        ready = ready_condition(sync.status)
        last = schedule.parse_time(sync.status.last_successful_sync_time)
        edited = sync.status.sync_hash != sync_hash(sync.metadata, source, sync.status.objects)
        if not ready or not last or edited:
            return self._jitter()
        # One that was synced and then found its vault away needs no more than a look, which is for all of them.
        away = not ready.holds and ready.reason == Reason.PROVIDER_ERROR
        if not (ready.holds or away):
            return self._jitter()
        try:
            reading = await self._syncer.reading(sync, source)
        except errors.ControllerError:
            return 0.0  # the attempt will say why
        self._join(key, sync, reading, None if away else (datetime.now(UTC) - last).total_seconds())
        return math.inf

    def _join(self, key: Key, sync: SecretSync, reading: Reading, age: float | None) -> None:
        usual, shortest = self._settings.rotation_poll_interval, self._settings.shortest_refresh_interval
        interval = schedule.refresh_interval(sync.metadata.annotations.get(REFRESH_INTERVAL), usual, shortest)
        group = Group(reading.identity, reading.cloud, reading.vault, interval or usual)
        self.poller.join(key, group, reading.wanted, age)

    def _jitter(self) -> float:
        return self._dice.uniform(0, self._settings.jitter)

    def _until_next(self, key: Key, outcome: Outcome, memory: Memory) -> float:
        if outcome.ready:
            memory.failures = 0
            return 0.0 if memory.found else math.inf  # its group's poll decides, or has done so meanwhile
        if self.poller.waits(key):
            memory.failures = 0
            return math.inf
        if outcome.retry is errors.Retry.TURN:
            return outcome.retry_after or schedule.FIRST_RETRY
        memory.failures += 1
        if outcome.retry is errors.Retry.EDIT:
            return self._settings.rotation_poll_interval  # the edit will wake it
        longest = schedule.LONGEST_OBSTACLE if outcome.retry is errors.Retry.OBSTACLE else schedule.LONGEST_RETRY
        return schedule.after_failure(memory.failures, self._dice, outcome.retry_after, longest)

    async def _attempt(self, key: Key, sync: SecretSync, source: Class, memory: Memory) -> Outcome:
        """Does what was found, and leaves to the next attempt what could not be done."""
        found, memory.found = memory.found or Ask(time.monotonic()), None
        stale = found.stale if isinstance(found, Ask) else None
        try:
            outcome = await self._try(key, sync, source, memory, found)
        except Again:
            memory.found = memory.found or Ask(time.monotonic(), stale)
            raise
        if not outcome.ready:
            # The look that finds a vault back is for those, too, who came while it was away.
            polled = outcome.away or self.poller.waits(key) or _is_partial(outcome)
            if not polled:
                self.poller.leave(key)
            # Whom nobody polls meanwhile asks for everything, but for one that waits for its turn at a busy vault.
            left = (outcome.left or stale) if self.poller.polls(key) or outcome.retry is errors.Retry.TURN else None
            left = left or (stale if polled else None)
            memory.found = memory.found or Ask(time.monotonic(), left)
        return outcome

    async def _try(self, key: Key, sync: SecretSync, source: Class, memory: Memory, found: Found) -> Outcome:
        """Syncs, and turns whatever went wrong into an outcome that a person can read."""
        try:
            if isinstance(found, errors.ControllerError):
                raise found.bare()
            reading = await self._syncer.reading(sync, source)
            if isinstance(found, Equal):
                return confirmed(reading)
            outcome = await self._syncer.sync(sync, reading, memory.written, found)
            if outcome.ready or _is_partial(outcome):
                # The poll looks after the keys that could be fetched; the others are tried by themselves.
                self._join(key, sync, reading, 0.0)
            return outcome
        except errors.ControllerError as error:
            return Outcome(
                reason=error.reason,
                message=error.message,
                ready=False,
                exists=False if isinstance(error, errors.OwnershipError) else None,
                retry_after=error.retry_after,
                retry=error.retry,
                away=errors.is_away(error),
            )
        except Again:
            raise
        except Exception as error:
            self._chorus.unexpected(error)
            message = (
                f"unexpected {type(error).__name__}: the controller's log has the place; the Secret stays as it is"
            )
            return Outcome(reason=Reason.INTERNAL_ERROR, message=message, ready=False)

    def flush(self) -> None:
        """Says how many lines of one kind were held back."""
        self._chorus.flush()


def _is_partial(outcome: Outcome) -> bool:
    """Return whether some keys were written and others alone could not be fetched."""
    return bool(outcome.left) and not outcome.away


def _may_pass(meta: ObjectMeta, before: SecretSyncStatus, outcome: Outcome, memory: Memory) -> bool:
    """Return whether this is a first failure of the vault, during a rotation: as with a list, one is not reported.

    What a user edited is reported at once. So is what has not been synced yet.
    """
    ready = ready_condition(before)
    current = ready is not None and ready.holds and ready.observed_generation in (0, meta.generation)
    return outcome.away and memory.failures == UNREPORTED_FAILURES and current


def class_key(sync: SecretSync) -> Key:
    """The key of the SecretProviderClass that a SecretSync names."""
    return Key(sync.metadata.namespace, sync.spec.secret_provider_class_name)
