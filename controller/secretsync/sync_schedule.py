"""Schedule the first attempts of SecretSyncs, and the drift checks of their Secrets.

A SecretSync is undecided if it is new to this process or was edited. After a restart, most SecretSyncs wait for the
next poll of their group, whose time the statuses record.

Drift checks are spread evenly over their interval. They run in small groups, because each wake-up of the process costs
CPU. The API server receives at most ten checks a second, independent of the number of SecretSyncs.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable

from controller import errors
from controller.api.conditions import Reason
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync, SecretSyncStatus
from controller.config.settings import TEST_CLOUD, Settings
from controller.domain.status import Requeue, generation_hash, ready_condition, sync_hash
from controller.polling.group_polls import Records, recorded_polls
from controller.polling.poll_group import PollGroup
from controller.polling.poller import Poller
from controller.runtime import backoff
from controller.runtime.clock import Clock, parse_time
from controller.runtime.work_queue import Key
from controller.secretsync.sync_resolver import Class, ResolvedSync, SyncResolver, poll_interval
from controller.secretsync.tasks import Fetch
from controller.secretsync.work_state import ON_POLL, OnPoll, PlannedTask, Undecided, WorkState

# Checks run together at the ticks of a clock, in seconds, with a maximum per tick.
TICK = 2.0
MAX_PER_TICK = 20


def first_delay(interval: float, is_new: bool, rng: random.Random) -> float:
    """Return the seconds until the first check of a Secret in this process, at random so that checks are spread.

    `is_new` means that the SecretSync was never synced. Its Secret is about to be written, so a check in the first half
    of the interval would only repeat the result of the write.
    """
    return interval / 2 + backoff.random_offset(interval / 2, rng) if is_new else backoff.random_offset(interval, rng)


class DriftScheduler:
    """Reserve ticks for drift checks. Times are in seconds of `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.reserved: Counter[int] = Counter()
        self._pruned = 0

    def reserve(self, delay: float) -> float:
        """Reserve a place at the first tick with room after `delay` seconds. Return its time."""
        now = self._clock()
        self._prune(math.floor(now / TICK))
        tick = math.ceil((now + delay) / TICK)
        while self.reserved[tick] >= MAX_PER_TICK:
            tick += 1
        self.reserved[tick] += 1
        return tick * TICK

    def release(self, moment: float) -> None:
        """Return the place of a check that will not run."""
        self.reserved[round(moment / TICK)] -= 1

    def reset(self) -> None:
        """Return all places."""
        self.reserved.clear()

    def _prune(self, now: int) -> None:
        if now > self._pruned:
            self._pruned = now
            for tick in [tick for tick in self.reserved if tick < now]:
                del self.reserved[tick]


class SyncSchedule:
    """Schedule the first attempts and the drift checks of all SecretSyncs."""

    def __init__(
        self, settings: Settings, resolver: SyncResolver, poller: Poller, rng: random.Random, clock: Clock
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._poller = poller
        self._rng = rng
        self._clock = clock
        self._drift_checks = DriftScheduler(clock.monotonic)
        self._recorded: Records = {}

    def read_records(self, syncs: Iterable[SecretSync]) -> None:
        """Read from the statuses when each group was last polled."""
        self._recorded = recorded_polls(syncs, self._clock.utc())

    def next_drift_check(self) -> float:
        """Reserve the drift check after the current one. Return its time."""
        return self._drift_checks.reserve(self._settings.drift_interval)

    def cancel_drift_check(self, state: WorkState) -> None:
        """Return the place of the drift check of a deleted SecretSync to the others."""
        if state.drift_check is not None:
            self._drift_checks.release(state.drift_check)

    def reset(self) -> None:
        """Cancel all drift checks."""
        self._drift_checks.reset()

    async def decide_due(self, key: Key, sync: SecretSync, source: Class, state: WorkState) -> Requeue | None:
        """Decide when the next attempt and the next drift check are due, if that is undecided.

        Return `Requeue` if the class cannot be parsed yet.
        """
        if isinstance(undecided := state.plan, Undecided):
            plan = await self._decide_plan(key, sync, source, state, undecided.edit)
            if isinstance(plan, Requeue):
                return plan
            if state.plan is undecided:  # otherwise, an event has planned something else while the class was parsed
                state.plan = plan
        if state.drift_check is None:
            delay = first_delay(self._settings.drift_interval, not sync.status.conditions, self._rng)
            state.drift_check = self._drift_checks.reserve(delay)
        return None

    async def _decide_plan(
        self, key: Key, sync: SecretSync, source: Class, state: WorkState, edit: Fetch | None
    ) -> PlannedTask | OnPoll | Requeue:
        """Return the plan for a SecretSync that is new to this process, or was edited."""
        now = self._clock.monotonic()
        fetch = edit or Fetch(now)
        if not isinstance(source, SecretProviderClass):
            return PlannedTask(fetch, now)  # the attempt reports it and calls no vault
        last = parse_time(sync.status.last_successful_sync_time)
        if last is None or not can_wait_for_poll(sync, source):
            return PlannedTask(fetch, now + self._draw_jitter(source))
        try:
            resolved = await self._resolver.resolve_sync(sync, source)
        except errors.ControllerError:
            return PlannedTask(fetch, now)  # the attempt reports it
        if isinstance(resolved, Requeue):
            return resolved
        group = self.poll_group(sync, resolved)
        age = None  # if the vault was unreachable, one poll checks for the whole group whether it is back
        if not was_unreachable(sync.status):
            # The poll of its group can have found it equal after the time in its status.
            recorded = self._recorded.get((group.namespace, group.fingerprint(self._settings.rotation_poll_interval)))
            state.equal_at = last = max(last, recorded or last, state.equal_at or last)
            age = (self._clock.utc() - last).total_seconds()
        self._poller.join(key, group, resolved.wanted, age)
        return ON_POLL

    def _draw_jitter(self, source: SecretProviderClass) -> float:
        """Return the seconds to wait before an attempt. There are none for `helm test`, which waits half a minute."""
        is_test = source.spec.parameters.get("cloudName") == TEST_CLOUD
        return 0.0 if is_test else self._rng.uniform(0, self._settings.jitter)

    def poll_group(self, sync: SecretSync, resolved: ResolvedSync) -> PollGroup:
        """Return the group whose polls serve a SecretSync."""
        return PollGroup(resolved.identity, resolved.cloud, resolved.vault, poll_interval(sync, self._settings))


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
