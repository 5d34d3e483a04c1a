"""Test that one status records the last poll of its group, and that a restarted controller uses the record."""

from datetime import datetime, timedelta

import msgspec
import pytest

from controller.api.conditions import Reason
from controller.api.meta import Unreadable
from controller.api.secretsync import GroupPoll, SecretSync
from controller.config.settings import Settings
from controller.domain.status import Reportable, next_status
from controller.errors import ProviderError
from controller.keyvault.credentials import Identity
from controller.polling.poll_group import PollGroup
from controller.runtime.clock import format_time, parse_time
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
    make_snapshot,
    make_sync_of_age,
    make_synced,
)

GROUP = PollGroup(Identity("team", "robot", "client", "tenant"), "cloud", "vault", HOUR)
EQUAL = make_snapshot(user=BEFORE, **{"pass": BEFORE})
CHANGED = make_snapshot(user=BEFORE, **{"pass": AFTER})


def read_stored_sync(harness: ReconcilerHarness, name: str = "shop") -> SecretSync:
    found = harness.reconciler.syncs.get(Key("team", name))
    assert isinstance(found, SecretSync)
    return found


def read_recorded_times(harness: ReconcilerHarness, *names: str) -> list[str]:
    """Return the times of the polls that these statuses record."""
    found = [read_stored_sync(harness, name).status.last_group_poll for name in names]
    return [record.time for record in found if record]


def format_time_after(seconds: float) -> str:
    return format_time(NOON + timedelta(seconds=seconds))


def add_poll_record(seconds: float, item: SecretSync, group: PollGroup = GROUP) -> SecretSync:
    """Return the SecretSync with a record of a poll of its group in its status."""
    poll = GroupPoll(group=group.fingerprint(HOUR), time=format_time_after(-seconds))
    return msgspec.structs.replace(item, status=msgspec.structs.replace(item.status, last_group_poll=poll))


def sync_group(harness: ReconcilerHarness, *names: str) -> None:
    harness.set_results(EQUAL, make_synced("user", "pass"))
    harness.add_class()
    harness.add(*(make_sync(name=name, uid=f"uid-{name}") for name in names))
    harness.advance(1)


def test_equal_group_writes_one_status_for_each_poll(harness: ReconcilerHarness) -> None:
    names = [f"s{number}" for number in range(10)]
    sync_group(harness, *names)
    harness.clear_records()
    harness.advance(5 * HOUR)
    assert [moment for moment, _ in harness.reports] == [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 5 * HOUR]
    assert read_recorded_times(harness, *names) == [format_time_after(5 * HOUR)]


def test_restarted_controller_records_its_polls(harness: ReconcilerHarness) -> None:
    harness.snapshot = EQUAL
    harness.add_class()
    harness.add(*(make_sync_of_age(600, make_synced("user", "pass"), name=name) for name in "abc"))
    harness.advance(5 * HOUR)
    assert read_recorded_times(harness, *"abc") == [format_time_after(harness.polls[-1])]
    assert not harness.tasks


def delete_later(item: SecretSync) -> SecretSync:
    """Return the SecretSync as it is while a finalizer delays its deletion."""
    metadata = msgspec.structs.replace(item.metadata, deletion_timestamp="2030-01-01T12:00:01Z", resource_version="9")
    return msgspec.structs.replace(item, metadata=metadata)


def test_terminating_sync_delays_no_record_and_is_not_polled(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.add(delete_later(read_stored_sync(harness, "a")))
    harness.advance(5 * HOUR)
    assert read_recorded_times(harness, "b") == [format_time_after(harness.polls[-1])]
    harness.add(delete_later(read_stored_sync(harness, "b")))
    harness.clear_records()
    harness.advance(5 * HOUR)
    assert not harness.polls


def test_sync_that_terminates_during_a_poll_delays_no_record(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.poll_seconds = 10
    harness.advance(HOUR + 1)
    began = harness.polls[-1]
    harness.add(delete_later(read_stored_sync(harness, "a")))
    harness.advance(10)
    assert read_recorded_times(harness, "b") == [format_time_after(began)]


# No drift check notices the deletion later.
@pytest.mark.parametrize("settings", [Settings(drift_interval=DAY)])
@pytest.mark.parametrize("remains", [False, True], ids=["deleted", "terminating"])
def test_sync_deleted_during_its_attempt_is_not_polled(harness: ReconcilerHarness, remains: bool) -> None:
    harness.set_results(EQUAL, make_synced("user", "pass"))
    harness.add_class()
    harness.sync_seconds = 10
    harness.add(make_sync())
    harness.advance(5)
    if remains:
        harness.add(delete_later(read_stored_sync(harness)))
    else:
        harness.reconciler.syncs.delete(SHOP)
    reports = len(harness.forgotten)
    harness.advance(5 * HOUR)
    assert harness.tasks
    assert not harness.polls
    assert harness.forgotten[reports:], "the metrics of the attempt's status remain"


def test_each_status_is_written_once_a_day(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.advance(2 * DAY + HOUR)
    assert parse_time(read_stored_sync(harness, "b").status.last_successful_sync_time) == NOON + timedelta(
        seconds=2 * DAY
    )
    # Two first syncs, one poll an hour, and two daily reads of each SecretSync.
    assert len(harness.reports) <= 2 + 49 + 4


@pytest.mark.parametrize(
    ("recorded", "next_poll"),
    [
        (lambda item: add_poll_record(1800, item), 1800),
        (lambda item: add_poll_record(HOUR - 1, item), 1),
        # An overdue poll runs within one interval. The random source of the harness returns the maximum.
        (lambda item: item, HOUR),
        (lambda item: add_poll_record(1800, item, msgspec.structs.replace(GROUP, vault="other")), HOUR),
        (lambda item: add_poll_record(1800, item, msgspec.structs.replace(GROUP, interval=60.0)), HOUR),
        (lambda item: add_poll_record(-60, item), HOUR),
    ],
    ids=["half an hour ago", "nearly an hour ago", "none", "another vault", "another interval", "in the future"],
)
def test_after_a_crash_the_recorded_poll_decides_when_the_next_is_due(
    harness: ReconcilerHarness, recorded: object, next_poll: float
) -> None:
    assert callable(recorded)
    harness.snapshot = EQUAL
    harness.add_class()
    outcome = make_synced("user", "pass")
    others = [make_sync_of_age(20 * HOUR, outcome, name=f"s{number}") for number in range(5)]
    harness.add(recorded(make_sync_of_age(20 * HOUR, outcome)), *others)
    harness.advance(next_poll - 0.5)
    assert harness.polls == []
    assert harness.tasks == []
    harness.advance(1)
    assert len(harness.polls) == 1


@pytest.mark.parametrize(
    "outcome",
    [make_synced("user", "pass"), make_outcome(Reason.PARTIAL)],
    ids=["the Secret is written", "the status says that it fails"],
)
def test_poll_with_a_change_is_recorded_after_the_status_reports_it(
    harness: ReconcilerHarness, outcome: Reportable
) -> None:
    sync_group(harness, "a", "b", "c")
    for name in "ac":
        found = read_stored_sync(harness, name)
        harness.add(msgspec.structs.replace(found, status=msgspec.structs.replace(found.status, objects=[])))
    harness.set_results(EQUAL, outcome)
    harness.sync_seconds = 10
    harness.advance(HOUR)
    assert read_recorded_times(harness, *"abc") == []
    harness.advance(10)
    assert read_recorded_times(harness, *"abc") == [format_time_after(HOUR)]


def test_poll_whose_change_is_not_reported_is_not_recorded(harness: ReconcilerHarness) -> None:
    """The first failure of the vault is not reported, so the status does not show the change."""
    sync_group(harness, "a", "b")
    harness.set_results(CHANGED, UNREACHABLE)
    harness.advance(HOUR)
    assert read_recorded_times(harness, *"ab") == []


def test_failed_secretsync_says_when_its_secret_was_last_equal(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.advance(3 * HOUR)
    assert read_stored_sync(harness, "b").status.last_successful_sync_time == format_time_after(0)
    harness.set_results(CHANGED, ProviderError("gone"))
    harness.advance(2 * HOUR)
    assert read_stored_sync(harness, "b").status.last_successful_sync_time == format_time_after(3 * HOUR)


def test_time_of_the_last_equality_includes_polls_that_no_status_records(harness: ReconcilerHarness) -> None:
    def read_last_equal(name: str) -> datetime | None:
        return harness.reconciler.last_equal(read_stored_sync(harness, name))

    sync_group(harness, "a", "b")
    assert read_last_equal("b") == NOON
    harness.advance(2 * HOUR)
    assert read_last_equal("b") == NOON + timedelta(hours=2)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(3 * HOUR)
    assert read_last_equal("b") == NOON + timedelta(hours=2)
    # A follower knows only the time in the status.
    harness.lose_lease()
    assert read_last_equal("b") == parse_time(read_stored_sync(harness, "b").status.last_successful_sync_time)
    assert harness.reconciler.last_equal(make_sync(name="new")) is None


def test_sync_that_replaces_another_of_its_name_was_never_equal(harness: ReconcilerHarness) -> None:
    """A list after a broken watch shows the new object without the deletion of the one before it."""
    sync_group(harness, "a")
    harness.advance(2 * HOUR)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.add(make_sync(name="a", uid="recreated"))
    harness.advance(1)
    found = read_stored_sync(harness, "a")
    assert found.status.last_successful_sync_time is None
    assert harness.reconciler.last_equal(found) is None


def test_record_that_was_not_written_is_replaced_by_the_next_poll(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.default_report_result = ReportResult.NOT_WRITTEN
    harness.advance(HOUR + 60)
    assert read_recorded_times(harness, *"ab") == []
    harness.default_report_result = ReportResult.DONE
    harness.advance(HOUR)
    assert read_recorded_times(harness, *"ab") == [format_time_after(2 * HOUR)]


def test_record_moves_to_another_secretsync_when_its_own_is_deleted(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.advance(HOUR)
    assert read_recorded_times(harness, "a") == [format_time_after(HOUR)]
    harness.reconciler.syncs.delete(Key("team", "a"))
    harness.advance(HOUR)
    assert read_recorded_times(harness, "b") == [format_time_after(2 * HOUR)]


def test_record_has_the_start_of_the_poll(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a")
    harness.poll_seconds = 20
    harness.advance(HOUR + 30)
    assert read_recorded_times(harness, "a") == [format_time_after(HOUR)]


def test_poll_with_an_early_result_is_recorded_after_the_status_reports_it(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.add(msgspec.structs.replace(read_stored_sync(harness, "a"), status=make_sync().status))
    harness.lists_early, harness.poll_seconds, harness.sync_seconds = True, 1, 10
    harness.advance(HOUR + 5)
    assert read_recorded_times(harness, "a", "b") == []
    harness.advance(10)
    assert read_recorded_times(harness, "a", "b") == [format_time_after(HOUR)]


def test_record_skips_secretsyncs_that_are_not_ready_or_gone(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b", "c", "d", "e")
    harness.reconciler.poller.join(Key("team", "0-gone"), GROUP, {}, 0.0)
    harness.add(Unreadable(metadata=read_stored_sync(harness, "a").metadata, problem="m"))
    harness.add(msgspec.structs.replace(read_stored_sync(harness, "b"), status=make_sync().status))
    failed = next_status(
        read_stored_sync(harness, "c").metadata,
        read_stored_sync(harness, "c").status,
        None,
        make_outcome(Reason.PARTIAL),
        NOON,
    )
    harness.add(msgspec.structs.replace(read_stored_sync(harness, "c"), status=failed))
    del harness.reconciler.entries[Key("team", "d")]
    harness.reconciler.poller.on_polled(GROUP, harness.loop.time(), [], [])
    harness.advance(1)
    assert read_recorded_times(harness, *"bcde") == [format_time_after(1)]
    assert read_recorded_times(harness, "e") == [format_time_after(1)]


def test_leader_that_leads_again_does_not_record_an_earlier_poll(harness: ReconcilerHarness) -> None:
    sync_group(harness, "a", "b")
    harness.add(msgspec.structs.replace(read_stored_sync(harness, "a"), status=make_sync().status))
    harness.set_results(EQUAL, make_synced("user", "pass"))
    harness.sync_seconds = 10
    harness.advance(HOUR)
    harness.reconciler.reset()
    harness.advance(20)
    assert read_recorded_times(harness, "a", "b") == []


@pytest.mark.parametrize("way", ["deleted", "taken over"])
def test_poll_with_an_unequal_secretsync_that_leaves_is_recorded(harness: ReconcilerHarness, way: str) -> None:
    sync_group(harness, "a", "shop")
    found = read_stored_sync(harness, "a")
    harness.add(msgspec.structs.replace(found, status=msgspec.structs.replace(found.status, objects=[])))
    harness.set_results(EQUAL, UNREACHABLE)  # the first failure is not reported, so the SecretSync remains unequal
    harness.sync_seconds = 10
    harness.advance(HOUR)
    assert read_recorded_times(harness, "shop") == []
    if way == "deleted":
        harness.reconciler.syncs.delete(Key("team", "a"))
    else:
        spec = msgspec.structs.replace(found.spec, secret_sync_controller_name="another")
        meta = msgspec.structs.replace(found.metadata, generation=2)
        harness.add(msgspec.structs.replace(read_stored_sync(harness, "a"), metadata=meta, spec=spec))
    harness.advance(20)
    assert read_recorded_times(harness, SHOP.name) == [format_time_after(HOUR)]
