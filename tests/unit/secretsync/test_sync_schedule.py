"""Test the schedule of first attempts, and of drift checks: spread, in batches, and at most ten per second."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from controller import errors
from controller.api.akvsync import AKVSync
from controller.api.conditions import Condition, Reason
from controller.api.meta import Unreadable
from controller.api.secretsync import REFRESH_INTERVAL, GroupPoll, SecretSync, SecretSyncStatus
from controller.config.settings import Settings
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.status import Failed, Reportable, Requeue, Synced, generation_hash, next_status, sync_hash
from controller.keyvault.credentials import Identity
from controller.polling.poll_group import PollGroup
from controller.runtime.clock import Clock as ProcessClock
from controller.runtime.clock import format_time
from controller.runtime.work_queue import Key
from controller.secretsync.sync_resolver import Class, ResolvedSync
from controller.secretsync.sync_schedule import (
    MAX_PER_TICK,
    TICK,
    DriftScheduler,
    SyncSchedule,
    can_wait_for_poll,
    first_delay,
    was_unreachable,
)
from controller.secretsync.tasks import Fetch
from controller.secretsync.work_state import Edited, OnPoll, Plan, PlannedTask, Undecided, WorkState
from tests.support.builders import make_owner, make_provider_class, make_sync
from tests.support.fixed_random import FixedRandom
from tests.support.outcomes import make_failure
from tests.unit.secretsync.samples import DISABLED, make_condition, make_failed, make_partial, make_status

if TYPE_CHECKING:
    from controller.polling.poller import Poller
    from controller.secretsync.sync_resolver import SyncResolver


class Clock:
    """A clock that the test sets."""

    now = 1000.5

    def __call__(self) -> float:
        return self.now


def test_drift_check_runs_at_the_first_tick_after_its_time() -> None:
    scheduler = DriftScheduler(Clock())
    assert scheduler.reserve(300) == 1302
    assert scheduler.reserve(301.4) == 1302
    assert scheduler.reserve(301.6) == 1304


@pytest.mark.parametrize("count", [1, 1_000, 10_000])
def test_drift_checks_run_at_most_ten_per_second_and_otherwise_in_time(count: int) -> None:
    rng = random.Random(8)
    scheduler = DriftScheduler(Clock())
    delays = [rng.uniform(0, 300) for _ in range(count)]
    moments = [scheduler.reserve(delay) for delay in delays]
    counts = Counter(moments)
    assert max(counts.values()) <= MAX_PER_TICK == 10 * TICK
    for delay, moment in zip(delays, moments, strict=True):
        tick = moment
        while (tick := tick - TICK) >= Clock.now + delay:
            assert counts[tick] == MAX_PER_TICK, "an earlier tick had room"


def test_past_reservations_are_deleted() -> None:
    clock = Clock()
    scheduler = DriftScheduler(clock)
    for _ in range(10 * MAX_PER_TICK):
        scheduler.reserve(0)
    clock.now += 1000
    scheduler.reserve(0)
    assert len(scheduler.reserved) == 1


def test_released_place_is_reserved_again() -> None:
    scheduler = DriftScheduler(Clock())
    moments = [scheduler.reserve(0) for _ in range(2 * MAX_PER_TICK)]
    for moment in (moments[0], moments[-1]):
        scheduler.release(moment)
    assert [scheduler.reserve(0) for _ in range(3)] == [moments[0], moments[-1], moments[-1] + TICK]


@pytest.mark.parametrize("start", [0.0, 1000.0])
def test_reservations_of_the_current_tick_count_until_it_has_passed(start: float) -> None:
    clock = Clock()
    clock.now = start
    scheduler = DriftScheduler(clock)
    scheduler.reserve(0)
    moments = [scheduler.reserve(TICK) for _ in range(MAX_PER_TICK)]
    clock.now += TICK
    assert scheduler.reserve(0) == clock.now + TICK
    assert set(moments) == {clock.now}
    assert set(scheduler.reserved) == {clock.now / TICK, clock.now / TICK + 1}


@pytest.mark.parametrize(
    ("is_new", "draw", "seconds"),
    [(False, 0.0, 0), (False, 1.0, 300), (True, 0.0, 150), (True, 0.5, 225), (True, 1.0, 300)],
)
def test_first_check_of_a_new_sync_waits_half_an_interval(is_new: bool, draw: float, seconds: float) -> None:
    assert first_delay(300, is_new, FixedRandom(draw)) == seconds


# The schedule of SecretSyncs

NOW, DATE = 1000.0, datetime(2030, 1, 1, 12, tzinfo=UTC)
KEY, SOURCE = Key("team", "shop"), make_provider_class()
TEST_SOURCE = msgspec.structs.replace(
    SOURCE, spec=msgspec.structs.replace(SOURCE.spec, parameters={"cloudName": "helm-test"})
)
IDENTITY = Identity("team", "robot", "client", "tenant")
WANTED = {"user": ObjectVersionRef(VaultObject(name="user"))}
RESOLVED = ResolvedSync(IDENTITY, "cloud", "vault", WANTED)
GROUP = PollGroup(IDENTITY, "cloud", "vault", 3600.0)
SETTINGS = Settings(jitter=60, rotation_poll_interval=3600, drift_interval=300, shortest_refresh_interval=10)
SYNCED, UNREACHABLE = Synced(message="2 keys equal"), Failed(errors.ProviderError("the vault is unreachable"))


class ScheduleHarness:
    """A schedule at the time `NOW`. The harness acts as SyncResolver and Poller, and records the calls."""

    def __init__(self, share: float = 1.0, resolved: ResolvedSync | Requeue | Exception = RESOLVED) -> None:
        self.resolved = resolved
        self.requests: list[tuple[SecretSync, Class]] = []
        self.joined: list[tuple[Key, PollGroup, Mapping[str, ObjectVersionRef], float | None]] = []
        self.on_request: Callable[[], None] = lambda: None
        self.schedule = SyncSchedule(
            SETTINGS,
            cast("SyncResolver", self),
            cast("Poller", self),
            FixedRandom(share),
            ProcessClock(lambda: NOW, lambda: DATE),
        )

    async def resolve_sync(self, sync: SecretSync, source: Class) -> ResolvedSync | Requeue:
        self.requests.append((sync, source))
        self.on_request()
        if isinstance(self.resolved, Exception):
            raise self.resolved
        return self.resolved

    def join(self, key: Key, group: PollGroup, wanted: Mapping[str, ObjectVersionRef], age: float | None) -> None:
        self.joined.append((key, group, wanted, age))


def get_past_date(seconds: float) -> datetime:
    return DATE - timedelta(seconds=seconds)


def make_synced_sync(seconds: float, *later: Reportable, generation: int = 1) -> SecretSync:
    """Return a SecretSync that was synced this many seconds ago, with these outcomes since."""
    found = make_sync()
    for outcome in (SYNCED, *later):
        status = next_status(found.metadata, found.status, SOURCE, outcome, get_past_date(seconds))
        found = msgspec.structs.replace(found, status=status)
    return msgspec.structs.replace(found, metadata=msgspec.structs.replace(found.metadata, generation=generation))


def remove_sync_time(sync: SecretSync) -> SecretSync:
    return msgspec.structs.replace(sync, status=msgspec.structs.replace(sync.status, last_successful_sync_time=None))


@pytest.mark.parametrize(
    ("sync", "source", "share", "due"),
    [
        pytest.param(make_sync(), None, 1.0, NOW, id="no class"),
        pytest.param(make_synced_sync(600), None, 1.0, NOW, id="class was deleted"),
        pytest.param(make_sync(), Unreadable(SOURCE.metadata, "m"), 1.0, NOW, id="unreadable class"),
        pytest.param(make_sync(), SOURCE, 0.0, NOW, id="new, shortest jitter"),
        pytest.param(make_sync(), SOURCE, 1.0, NOW + 60, id="new, longest jitter"),
        pytest.param(make_sync(), TEST_SOURCE, 1.0, NOW, id="helm test"),
        pytest.param(make_synced_sync(600, generation=2), SOURCE, 1.0, NOW + 60, id="edited"),
        pytest.param(remove_sync_time(make_synced_sync(600)), SOURCE, 1.0, NOW + 60, id="status without a time"),
    ],
)
async def test_sync_that_cannot_wait_for_a_poll_is_due_without_being_resolved(
    sync: SecretSync, source: Class, share: float, due: float
) -> None:
    harness, state = ScheduleHarness(share), WorkState()
    assert await harness.schedule.decide_due(KEY, sync, source, state) is None
    assert (state.plan, state.equal_at) == (PlannedTask(Fetch(NOW), due), None)
    assert (harness.requests, harness.joined) == ([], [])


async def test_attempt_after_an_edit_fetches_what_the_edit_needs() -> None:
    harness, edit = ScheduleHarness(), Fetch(5.0, frozenset({"k"}))
    state = WorkState(Undecided(edit))
    assert await harness.schedule.decide_due(KEY, make_sync(), SOURCE, state) is None
    assert state.plan == PlannedTask(edit, NOW + 60)


@pytest.mark.parametrize("news", [None, PlannedTask(Fetch(NOW, frozenset({"k"})), NOW), Edited(Fetch(NOW))])
async def test_edit_without_effect_leaves_only_later_plans(news: Plan | None) -> None:
    """An event can plan an attempt while the class is parsed."""
    harness, state = ScheduleHarness(), WorkState(Undecided(Fetch(NOW)))

    def set_plan() -> None:
        state.plan = news or state.plan

    harness.on_request = set_plan
    assert await harness.schedule.decide_due(KEY, make_synced_sync(600), SOURCE, state) is None
    assert state.plan == (news or OnPoll())


async def test_attempt_reports_why_a_sync_cannot_be_resolved() -> None:
    harness, state, sync = ScheduleHarness(resolved=errors.InputError("m")), WorkState(), make_synced_sync(600)
    assert await harness.schedule.decide_due(KEY, sync, SOURCE, state) is None
    assert (state.plan, harness.joined) == (PlannedTask(Fetch(NOW), NOW), [])
    assert harness.requests == [(sync, SOURCE)]


async def test_sync_remains_undecided_until_its_class_can_be_parsed() -> None:
    harness, state = ScheduleHarness(resolved=Requeue(3.0)), WorkState()
    assert await harness.schedule.decide_due(KEY, make_synced_sync(600), SOURCE, state) == Requeue(3.0)
    assert (state.plan, state.drift_check, harness.joined) == (Undecided(), None, [])


def make_sync_with_record(seconds: float, group: PollGroup = GROUP) -> SecretSync:
    """Return another SecretSync whose status records a poll of this group."""
    poll = GroupPoll(group=group.fingerprint(3600.0), time=format_time(get_past_date(seconds)))
    item = make_synced_sync(9000)
    return msgspec.structs.replace(item, status=msgspec.structs.replace(item.status, last_group_poll=poll))


@pytest.mark.parametrize(
    ("sync", "records", "age"),
    [
        pytest.param(make_synced_sync(600), [], 600, id="no record"),
        pytest.param(make_synced_sync(600), [make_sync_with_record(100)], 100, id="newer record"),
        pytest.param(make_synced_sync(600), [make_sync_with_record(1200)], 600, id="older record"),
        pytest.param(
            make_synced_sync(600),
            [make_sync_with_record(100, msgspec.structs.replace(GROUP, vault="x"))],
            600,
            id="record of another group",
        ),
        pytest.param(make_synced_sync(600, UNREACHABLE), [make_sync_with_record(100)], None, id="unreachable vault"),
    ],
)
async def test_sync_that_is_current_joins_the_polls_of_its_group(
    sync: SecretSync, records: list[SecretSync], age: float | None
) -> None:
    harness, state = ScheduleHarness(), WorkState()
    harness.schedule.read_records(records)
    assert await harness.schedule.decide_due(KEY, sync, SOURCE, state) is None
    assert harness.joined == [(KEY, GROUP, WANTED, age)]
    assert (state.plan, state.equal_at) == (OnPoll(), None if age is None else get_past_date(age))


async def test_edit_without_effect_keeps_the_time_of_a_newer_poll() -> None:
    harness, state = ScheduleHarness(), WorkState(equal_at=get_past_date(100))
    assert await harness.schedule.decide_due(KEY, make_synced_sync(600), SOURCE, state) is None
    assert harness.joined == [(KEY, GROUP, WANTED, 100)]
    assert state.equal_at == get_past_date(100)


@pytest.mark.parametrize(
    ("sync", "plan", "drift_check", "after"),
    [
        pytest.param(make_sync(), Undecided(), None, NOW + 150, id="new"),
        pytest.param(make_synced_sync(600), Undecided(), None, NOW, id="synced before"),
        pytest.param(make_synced_sync(600), PlannedTask(Fetch(1.0), 5.0), None, NOW, id="decided"),
        pytest.param(make_synced_sync(600), OnPoll(), 7.0, 7.0, id="both are decided"),
    ],
)
async def test_only_undecided_times_are_decided(
    sync: SecretSync, plan: Plan, drift_check: float | None, after: float
) -> None:
    harness, state = ScheduleHarness(share=0.0), WorkState(plan, drift_check)
    assert await harness.schedule.decide_due(KEY, sync, SOURCE, state) is None
    assert state.drift_check == after
    assert isinstance(plan, Undecided) or (state.plan, harness.requests) == (plan, [])


def test_next_drift_check_follows_after_the_interval() -> None:
    assert ScheduleHarness().schedule.next_drift_check() == NOW + 300


@pytest.mark.parametrize(("requested", "interval"), [(None, 3600.0), ("120", 120.0), ("5", 10.0), ("soon", 3600.0)])
def test_annotation_decides_the_interval_of_the_group(requested: str | None, interval: float) -> None:
    sync = make_sync()
    annotations = {REFRESH_INTERVAL: requested} if requested else {}
    sync = msgspec.structs.replace(sync, metadata=msgspec.structs.replace(sync.metadata, annotations=annotations))
    assert ScheduleHarness().schedule.poll_group(sync, RESOLVED) == msgspec.structs.replace(GROUP, interval=interval)


@pytest.mark.parametrize(
    ("last", "generation", "waits"),
    [
        (SYNCED, 1, True),
        (SYNCED, 2, False),  # edited since
        (UNREACHABLE, 1, True),
        (make_failed(retry=errors.Retry.ON_EDIT), 1, True),  # the reason is also that of a vault
        (make_failure(Reason.LABEL_ERROR), 1, False),
        (make_partial(DISABLED), 1, False),
        (None, 1, False),
    ],
)
def test_new_sync_waits_for_the_poll_if_its_status_is_current(
    last: Reportable | None, generation: int, waits: bool
) -> None:
    meta, source = make_sync().metadata, make_provider_class()
    before = next_status(meta, SecretSyncStatus(), source, SYNCED, DATE) if last else SecretSyncStatus()
    after = next_status(meta, before, source, last, DATE) if last else before
    assert can_wait_for_poll(make_sync(status=after, generation=generation), source) is waits


@pytest.mark.parametrize("read_hash", [sync_hash, generation_hash])
def test_new_sync_of_a_generated_class_waits_with_the_hash_of_any_version(read_hash: Any) -> None:
    sync, source = make_sync(status=make_status()), make_provider_class()
    owner = make_owner("uid-of-the-akvsync", "shop", AKVSync.kind, AKVSync.group)
    source = msgspec.structs.replace(
        source, metadata=msgspec.structs.replace(source.metadata, owner_references=[owner])
    )
    known = read_hash(sync.metadata, source, sync.status.objects)
    after = msgspec.structs.replace(sync.status, sync_hash=known)
    assert can_wait_for_poll(msgspec.structs.replace(sync, status=after), source) is True
    assert can_wait_for_poll(sync, source) is False


@pytest.mark.parametrize(
    ("ready", "unreachable"),
    [
        (None, False),
        (make_condition(False, reason=Reason.PROVIDER_ERROR), True),
        (make_condition(False, reason=Reason.LABEL_ERROR), False),
        pytest.param(make_condition(True, reason=Reason.PROVIDER_ERROR), False, id="another controller wrote it"),
    ],
)
def test_status_says_whether_the_vault_was_unreachable(ready: Condition | None, unreachable: bool) -> None:
    assert was_unreachable(SecretSyncStatus(conditions=[ready] if ready else [])) is unreachable
