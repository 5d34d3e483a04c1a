"""A poll group records its time in one status, which a restarted controller reads, in virtual time."""

from datetime import datetime, timedelta

import msgspec
import pytest

from controller.api.conditions import Reason
from controller.api.meta import Unreadable
from controller.api.secretsync import GroupPoll, SecretSync
from controller.domain.status import Reportable, next_status
from controller.errors import ProviderError
from controller.keyvault.credentials import Identity
from controller.keyvault.poll_group import PollGroup
from controller.runtime.backoff import format_time, parse_time
from controller.runtime.work_queue import Key
from controller.secretsync.status_reporter import ReportResult
from tests.support.builders import make_sync
from tests.support.outcomes import make_outcome
from tests.support.reconciler_factory import NOON
from tests.unit.secretsync.reconciler.harness import (
    AFTER,
    BEFORE,
    DAY,
    HOUR,
    SHOP,
    UNREACHABLE,
    ReconcilerHarness,
    known,
    snapshot_of,
    synced_ago,
)

GROUP = PollGroup(Identity("team", "robot", "client", "tenant"), "cloud", "vault", HOUR)
EQUAL = snapshot_of(user=BEFORE, **{"pass": BEFORE})
CHANGED = snapshot_of(user=BEFORE, **{"pass": AFTER})


def stored(harness: ReconcilerHarness, name: str = "shop") -> SecretSync:
    found = harness.reconciler.syncs.get(Key("team", name))
    assert isinstance(found, SecretSync)
    return found


def records(harness: ReconcilerHarness, *names: str) -> list[str]:
    """Return the times of the polls that these statuses record."""
    found = [stored(harness, name).status.last_group_poll for name in names]
    return [record.time for record in found if record]


def at(seconds: float) -> str:
    return format_time(NOON + timedelta(seconds=seconds))


def polled_ago(seconds: float, item: SecretSync, group: PollGroup = GROUP) -> SecretSync:
    """Return the SecretSync with a record of a poll of its group in its status."""
    poll = GroupPoll(group=group.fingerprint(HOUR), time=at(-seconds))
    return msgspec.structs.replace(item, status=msgspec.structs.replace(item.status, last_group_poll=poll))


def sync_group(harness: ReconcilerHarness, *names: str) -> None:
    harness.set_results(EQUAL, known("user", "pass"))
    harness.add_class()
    harness.add(*(make_sync(name=name, uid=f"uid-{name}") for name in names))
    harness.advance(1)


def test_equal_group_costs_one_status_for_each_poll(harness: ReconcilerHarness) -> None:
    names = [f"s{number}" for number in range(10)]
    sync_group(harness, *names)
    harness.clear_records()
    harness.advance(5 * HOUR)
    assert [moment for moment, _ in harness.reports] == [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 5 * HOUR]
    assert records(harness, *names) == [at(5 * HOUR)]


def test_each_status_is_written_once_a_day(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.advance(2 * DAY + HOUR)
    assert parse_time(stored(harness, "b").status.last_successful_sync_time) == NOON + timedelta(seconds=2 * DAY)
    # Two first syncs, a poll an hour, and two daily reads of each.
    assert len(harness.reports) <= 2 + 49 + 4


@pytest.mark.parametrize(
    ("recorded", "next_poll"),
    [
        (lambda item: polled_ago(1800, item), 1800),
        (lambda item: polled_ago(HOUR - 1, item), 1),
        # Overdue: the poll comes within one interval, and the random source of the harness returns the most.
        (lambda item: item, HOUR),
        (lambda item: polled_ago(1800, item, msgspec.structs.replace(GROUP, vault="other")), HOUR),
        (lambda item: polled_ago(1800, item, msgspec.structs.replace(GROUP, interval=60.0)), HOUR),
        (lambda item: polled_ago(-60, item), HOUR),
    ],
    ids=["half an hour ago", "nearly an hour ago", "none", "another vault", "another interval", "in the future"],
)
def test_after_a_crash_the_recorded_poll_decides_when_the_next_is_due(
    harness: ReconcilerHarness, recorded: object, next_poll: float
) -> None:
    assert callable(recorded)
    harness.snapshot = EQUAL
    harness.add_class()
    outcome = known("user", "pass")
    others = [synced_ago(20 * HOUR, outcome, name=f"s{number}") for number in range(5)]
    harness.add(recorded(synced_ago(20 * HOUR, outcome)), *others)
    harness.advance(next_poll - 0.5)
    assert harness.polls == []
    assert harness.tasks == []
    harness.advance(1)
    assert len(harness.polls) == 1


@pytest.mark.parametrize(
    "outcome",
    [known("user", "pass"), make_outcome(Reason.PARTIAL)],
    ids=["the Secret is written", "the status says that it fails"],
)
def test_poll_with_a_change_is_recorded_after_the_status_reports_it(
    harness: ReconcilerHarness, outcome: Reportable
) -> None:
    sync_group(harness, "a", "b", "c")
    for name in "ac":
        found = stored(harness, name)
        harness.add(msgspec.structs.replace(found, status=msgspec.structs.replace(found.status, objects=[])))
    harness.set_results(EQUAL, outcome)
    harness.sync_seconds = 10
    harness.advance(HOUR)
    assert records(harness, *"abc") == []
    harness.advance(10)
    assert records(harness, *"abc") == [at(HOUR)]


def test_poll_whose_change_is_not_reported_is_not_recorded(harness: ReconcilerHarness) -> None:
    """The first failure of the vault stays out of the status, which then says nothing about the change."""
    sync_group(harness, "a", "b")
    harness.set_results(CHANGED, UNREACHABLE)
    harness.advance(HOUR)
    assert records(harness, *"ab") == []


def test_failed_secretsync_says_when_its_secret_was_last_equal(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.advance(3 * HOUR)
    assert stored(harness, "b").status.last_successful_sync_time == at(0)
    harness.set_results(CHANGED, ProviderError("gone"))
    harness.advance(2 * HOUR)
    assert stored(harness, "b").status.last_successful_sync_time == at(3 * HOUR)


def test_metric_knows_of_polls_that_the_status_does_not(harness: ReconcilerHarness) -> None:
    def last(name: str) -> datetime | None:
        return harness.reconciler.last_equal(stored(harness, name))

    sync_group(harness, "a", "b")
    assert last("b") == NOON
    harness.advance(2 * HOUR)
    assert last("b") == NOON + timedelta(hours=2)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(3 * HOUR)
    assert last("b") == NOON + timedelta(hours=2)
    # A follower knows what the status says.
    harness.lose_lease()
    assert last("b") == parse_time(stored(harness, "b").status.last_successful_sync_time)
    assert harness.reconciler.last_equal(make_sync(name="new")) is None


def test_record_that_was_not_written_is_replaced_by_the_next_poll(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.default_report_result = ReportResult.NOT_WRITTEN
    harness.advance(HOUR + 60)
    assert records(harness, *"ab") == []
    harness.default_report_result = ReportResult.DONE
    harness.advance(HOUR)
    assert records(harness, *"ab") == [at(2 * HOUR)]


def test_record_moves_to_another_secretsync_when_its_own_is_deleted(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.advance(HOUR)
    assert records(harness, "a") == [at(HOUR)]
    harness.reconciler.syncs.delete(Key("team", "a"))
    harness.advance(HOUR)
    assert records(harness, "b") == [at(2 * HOUR)]


def test_record_has_the_start_of_the_poll(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a")
    harness.poll_seconds = 20
    harness.advance(HOUR + 30)
    assert records(harness, "a") == [at(HOUR)]


def test_poll_with_an_early_result_is_recorded_after_the_status_reports_it(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.add(msgspec.structs.replace(stored(harness, "a"), status=make_sync().status))
    harness.lists_early, harness.poll_seconds, harness.sync_seconds = True, 1, 10
    harness.advance(HOUR + 5)
    assert records(harness, "a", "b") == []
    harness.advance(10)
    assert records(harness, "a", "b") == [at(HOUR)]


def test_record_skips_secretsyncs_that_are_not_ready_or_gone(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b", "c", "d", "e")
    harness.reconciler.poller.join(Key("team", "0-gone"), GROUP, {}, 0.0)
    harness.add(Unreadable(metadata=stored(harness, "a").metadata, problem="m"))
    harness.add(msgspec.structs.replace(stored(harness, "b"), status=make_sync().status))
    failed = next_status(
        stored(harness, "c").metadata, stored(harness, "c").status, None, make_outcome(Reason.PARTIAL), NOON
    )
    harness.add(msgspec.structs.replace(stored(harness, "c"), status=failed))
    del harness.reconciler.entries[Key("team", "d")]
    harness.reconciler.poller.on_polled(GROUP, harness.loop.time(), [], [])
    harness.advance(1)
    assert records(harness, *"bcde") == [at(1)]
    assert records(harness, "e") == [at(1)]


def test_leader_that_leads_again_does_not_record_an_earlier_poll(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.add(msgspec.structs.replace(stored(harness, "a"), status=make_sync().status))
    harness.set_results(EQUAL, known("user", "pass"))
    harness.sync_seconds = 10
    harness.advance(HOUR)
    harness.reconciler.reset()
    harness.advance(20)
    assert records(harness, "a", "b") == []


@pytest.mark.parametrize("way", ["deleted", "taken over"])
def test_poll_with_an_unequal_secretsync_that_leaves_is_recorded(harness: ReconcilerHarness, way: str) -> None:
    sync_group(harness, "a", "shop")
    found = stored(harness, "a")
    harness.add(msgspec.structs.replace(found, status=msgspec.structs.replace(found.status, objects=[])))
    harness.set_results(EQUAL, UNREACHABLE)  # the first failure is not reported, so the SecretSync remains unequal
    harness.sync_seconds = 10
    harness.advance(HOUR)
    assert records(harness, "shop") == []
    if way == "deleted":
        harness.reconciler.syncs.delete(Key("team", "a"))
    else:
        spec = msgspec.structs.replace(found.spec, secret_sync_controller_name="another")
        meta = msgspec.structs.replace(found.metadata, generation=2)
        harness.add(msgspec.structs.replace(stored(harness, "a"), metadata=meta, spec=spec))
    harness.advance(20)
    assert records(harness, SHOP.name) == [at(HOUR)]
