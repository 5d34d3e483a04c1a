"""Test failures, obstacles, conflicts and drift, in virtual time."""

import logging
from collections import Counter

import msgspec
import pytest

from controller.api.conditions import ConditionType, Reason
from controller.api.secretsync import SecretSync
from controller.domain.status import Failed, PartiallySynced, Reportable, Requeue, find_condition
from controller.errors import (
    AccessDenied,
    ClassError,
    ControllerError,
    ObjectError,
    OwnershipError,
    ProviderError,
    UnusableValue,
)
from controller.runtime import budgets
from controller.runtime.backoff import MAX_BLOCKED_SECONDS
from controller.secretsync import sync_schedule
from controller.secretsync.status_reporter import ReportResult
from controller.secretsync.work_state import CLASS_PATIENCE
from tests.support.builders import make_sync
from tests.unit.secretsync.reconciler.harness import (
    AFTER,
    BEFORE,
    CANARY,
    GOOD,
    HOUR,
    SHOP,
    UNREACHABLE,
    ReconcilerHarness,
    make_snapshot,
    make_sync_of_age,
    make_synced,
)

# Failures


def test_repeated_failure_is_reported_once_and_backs_off(harness: ReconcilerHarness) -> None:
    harness.outcome = UNREACHABLE
    harness.add_class()
    harness.add(make_sync())
    harness.advance(HOUR)
    waits = [later - earlier for earlier, later in zip(harness.sync_times, harness.sync_times[1:], strict=False)]
    assert waits[:8] == [2, 4, 8, 16, 32, 64, 128, 256]
    assert set(waits[8:]) == {300}
    assert harness.reports == [(0, Reason.PROVIDER_ERROR)]


def test_blocked_secretsyncs_of_a_namespace_share_their_checks(harness: ReconcilerHarness) -> None:
    """The SecretSync of the other namespace has generation 2, so that its checks are counted separately."""
    harness.outcome = OwnershipError("the Secret has another owner")
    harness.add_class()
    harness.add(*(make_sync(name=f"s{number}", uid=f"uid-{number}") for number in range(2_000)))
    other = make_sync(generation=2)
    harness.add(msgspec.structs.replace(other, metadata=msgspec.structs.replace(other.metadata, namespace="other")))
    harness.advance(600)
    harness.synced.clear()
    harness.advance(600)
    checks = Counter(generation for _, generation in harness.synced)
    assert 0.9 * 10 * budgets.BLOCKED.limit <= checks[1] <= 10 * budgets.BLOCKED.limit
    assert checks[2] == 600 / MAX_BLOCKED_SECONDS


def start_rotation(harness: ReconcilerHarness) -> None:
    """Sync one SecretSync. The poll in the next second finds a change of one of its objects."""
    harness.outcome = make_synced("user", "pass")
    harness.snapshot = make_snapshot(user=BEFORE, **{"pass": BEFORE})
    harness.add_class()
    harness.add(make_sync())
    harness.advance(HOUR - 1)
    harness.clear_records()
    harness.snapshot = make_snapshot(user=BEFORE, **{"pass": AFTER})


def test_single_failure_during_a_rotation_is_not_reported(
    harness: ReconcilerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    start_rotation(harness)
    harness.outcome = UNREACHABLE
    with caplog.at_level(logging.DEBUG, "controller.secretsync.reconciler"):
        harness.advance(2)
    assert [task.keys for task in harness.tasks] == [frozenset({"pass"})]
    assert not harness.reports
    assert f"team/shop failed once: {UNREACHABLE.message}" in caplog.messages
    harness.outcome = make_synced("user", "pass", updated=AFTER)
    harness.advance(4)
    # Only the key that failed is fetched.
    assert [task.keys for task in harness.tasks] == [frozenset({"pass"})] * 2
    assert [reason for _, reason in harness.reports] == [GOOD.reason] * 2  # the second report records the poll


def test_conflict_during_a_rotation_fetches_the_same_key_again(harness: ReconcilerHarness) -> None:
    start_rotation(harness)
    harness.outcome = Requeue(1)
    harness.advance(3)
    assert [task.keys for task in harness.tasks] == [frozenset({"pass"})] * 2


def test_second_failure_during_a_rotation_is_reported(harness: ReconcilerHarness) -> None:
    start_rotation(harness)
    harness.outcome = UNREACHABLE
    harness.advance(10)
    assert len(harness.tasks) > 1
    assert [reason for _, reason in harness.reports] == [Reason.PROVIDER_ERROR]


@pytest.mark.parametrize("error", [ObjectError("secret pass is disabled"), AccessDenied("may not read secret pass")])
def test_failure_of_one_object_is_reported_at_once(harness: ReconcilerHarness, error: ControllerError) -> None:
    start_rotation(harness)
    harness.outcome = error
    harness.advance(1.5)
    assert [reason for _, reason in harness.reports] == [Reason.PROVIDER_ERROR]


def test_single_failure_after_an_edit_is_reported_at_once(harness: ReconcilerHarness) -> None:
    start_rotation(harness)
    harness.outcome = UNREACHABLE
    found = harness.reconciler.syncs.get(SHOP)
    assert isinstance(found, SecretSync)
    harness.add(make_sync(generation=2, status=found.status))
    harness.advance(0.5)
    assert [reason for _, reason in harness.reports] == [Reason.PROVIDER_ERROR]


def test_edit_of_a_failed_secretsync_resets_the_backoff(harness: ReconcilerHarness) -> None:
    harness.outcome = UNREACHABLE
    harness.add_class()
    harness.add(make_sync())
    harness.advance(400)
    harness.add(make_sync(generation=2))
    harness.advance(3)
    assert harness.sync_times[-2:] == [400, 402]


@pytest.mark.parametrize(
    ("error", "longest"),
    [
        pytest.param(ProviderError("throttled", retry_after=120), 300, id="retry after"),
        pytest.param(OwnershipError("the Secret has another owner"), 30, id="obstacle"),
        pytest.param(ClassError("no such class"), HOUR, id="waits for an edit"),
    ],
)
def test_each_kind_of_failure_has_a_maximum_backoff(
    harness: ReconcilerHarness, error: ControllerError, longest: float
) -> None:
    harness.outcome = error
    harness.add_class()
    harness.add(make_sync())
    harness.advance(5 * HOUR)
    waits = [later - earlier for earlier, later in zip(harness.sync_times, harness.sync_times[1:], strict=False)]
    assert max(waits) == longest
    assert waits[-1] == longest
    if error.retry_after:
        assert min(waits) >= error.retry_after


LACKING = UnusableValue("secret pass has no property", version="v2", updated=AFTER)
DISABLED = ObjectError("secret pass is disabled")


def test_failed_key_of_a_partial_sync_is_retried_alone_and_the_others_are_polled(harness: ReconcilerHarness) -> None:
    objects = make_synced("user").objects or []
    harness.set_results(
        make_snapshot(user=BEFORE), PartiallySynced(message="m", failed={"pass": DISABLED}, objects=objects)
    )
    harness.add_class()
    harness.add(make_sync())
    harness.advance(10)
    assert [task.keys for task in harness.tasks[:3]] == [None, frozenset({"pass"}), frozenset({"pass"})]
    assert harness.reconciler.poller.is_polled(SHOP)


@pytest.mark.parametrize("failed", [["user", "pass"], ["pass"]])
def test_partial_sync_joins_the_polls_only_if_a_value_was_read(harness: ReconcilerHarness, failed: list[str]) -> None:
    harness.outcome = PartiallySynced(message="m", failed=dict.fromkeys(failed, UNREACHABLE), objects=[])
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    assert harness.reconciler.poller.is_polled(SHOP) is (len(failed) == 1)


@pytest.mark.parametrize(
    "outcome",
    [
        LACKING,
        Failed(LACKING),
        PartiallySynced(message="m", failed={"pass": LACKING}, objects=make_synced("user").objects or []),
    ],
)
def test_unusable_value_is_not_fetched_until_a_poll_finds_a_new_one(
    harness: ReconcilerHarness, outcome: Reportable | UnusableValue
) -> None:
    harness.set_results(make_snapshot(user=BEFORE, **{"pass": AFTER}), outcome)
    harness.unusable = {"pass": LACKING}
    harness.add_class()
    harness.add(make_sync(["user", "pass"] if isinstance(outcome, PartiallySynced) else ["pass"]))
    harness.advance(5 * HOUR + 1)
    assert harness.sync_times == [0, *harness.polls]
    assert [task.keys for task in harness.tasks] == [None] + [frozenset()] * 5
    assert len(harness.reports) == 1  # each attempt has the same result
    harness.set_results(make_snapshot(user=BEFORE, **{"pass": "2030-01-02T00:00:00Z"}), make_synced("user", "pass"))
    harness.advance(HOUR)
    assert harness.tasks[-1].keys == frozenset({"pass"})
    assert harness.reports[-1][1] == GOOD.reason


def test_attempt_also_fetches_the_expanded_object_that_shares_a_property(harness: ReconcilerHarness) -> None:
    keys, objects = ["x/*", "y/*"], make_synced("x/*", "y/*").objects or []
    harness.set_results(
        make_snapshot(**{"x/*": BEFORE, "y/*": BEFORE}),
        PartiallySynced(message="m", failed={"y/*": LACKING}, objects=objects),
    )
    harness.unusable = {"y/*": LACKING}
    harness.add_class()
    harness.add(make_sync(keys))
    harness.advance(1)
    harness.set_results(make_snapshot(**{"x/*": AFTER, "y/*": AFTER}), Failed(UNREACHABLE))
    harness.advance(HOUR)
    assert harness.tasks[-1].keys == frozenset(keys)
    # The vault fails during the attempt, and then answers: both objects are still due.
    harness.unusable = {}
    harness.outcome = GOOD
    harness.advance(HOUR)
    assert harness.tasks[-1].keys == frozenset(keys)


def test_edit_fetches_an_unusable_value_at_once(harness: ReconcilerHarness) -> None:
    harness.outcome = Failed(LACKING)
    harness.unusable = {"pass": LACKING}
    harness.add_class()
    harness.add(make_sync(["pass"]))
    harness.advance(100)
    harness.add(make_sync(["pass"], generation=2))
    harness.advance(1)
    assert harness.sync_times == [0, 100]


def test_success_reports_warnings_and_failure_reports_none(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.outcome = msgspec.structs.replace(GOOD, warnings=("a expired",))
    harness.advance(100)
    harness.outcome = UNREACHABLE
    harness.advance(HOUR)
    assert len(harness.reports) == 2
    assert harness.warnings == [("shop", "a expired")]


def test_missing_class_is_reported_and_its_creation_syncs_at_once(harness: ReconcilerHarness) -> None:
    harness.outcome = ClassError("no such class")
    harness.add(make_sync())
    harness.advance(100)
    harness.outcome = GOOD
    harness.add_class()
    harness.advance(1)
    assert harness.sync_times == [CLASS_PATIENCE, 100]
    assert [reason for _, reason in harness.reports] == [Reason.SPC_ERROR, Reason.UP_TO_DATE]


@pytest.mark.parametrize("late", [0.0, 0.5, CLASS_PATIENCE - 0.01])
def test_class_seen_shortly_after_its_sync_causes_no_failure_report(harness: ReconcilerHarness, late: float) -> None:
    harness.add(make_sync())
    harness.advance(late)
    harness.add_class()
    harness.advance(100)
    assert harness.sync_times == [late]
    assert harness.reports == [(late, Reason.UP_TO_DATE)]


def test_secretsync_with_a_status_does_not_wait_for_its_class(harness: ReconcilerHarness) -> None:
    harness.outcome = ClassError("no such class")
    harness.add(make_sync_of_age(10))
    harness.advance(1)
    assert harness.sync_times == [0]


def test_unexpected_error_is_reported_without_its_message(
    harness: ReconcilerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.outcome = ZeroDivisionError(CANARY)
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    assert harness.reports == [(0, Reason.INTERNAL_ERROR)]
    assert harness.reconciler.entries[SHOP].state.reported == (
        "unexpected ZeroDivisionError: the controller's log has the traceback; the Secret is unchanged, and the"
        " controller retries"
    )
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "ZeroDivisionError" in record.getMessage()
    assert CANARY not in caplog.text + repr(vars(record))


@pytest.mark.parametrize("where", ["status report", "drift check"])
def test_unexpected_error_of_one_step_does_not_stop_the_workers(
    harness: ReconcilerHarness, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    harness.add_class()
    if where == "status report":
        harness.report_results = [ZeroDivisionError(CANARY)]
    else:
        harness.unchanged = ZeroDivisionError(CANARY)
    harness.add(make_sync())
    harness.advance(HOUR)
    harness.add(make_sync(name="other", uid="another"))
    harness.advance(1)
    assert harness.sync_times[-1] == HOUR
    assert "unexpected ZeroDivisionError" in caplog.text
    if where == "status report":
        assert harness.sync_times[:2] == [0, 2]
        assert harness.reports[0] == (2, Reason.UP_TO_DATE)


def test_number_of_suppressed_lines_is_logged(harness: ReconcilerHarness, caplog: pytest.LogCaptureFixture) -> None:
    harness.outcome = ZeroDivisionError(CANARY)
    harness.add_class()
    harness.add(*(make_sync(name=f"s{number}", uid=f"uid-{number}") for number in range(12)))
    harness.advance(1)
    assert len(caplog.records) == 10
    harness.outcome = GOOD
    harness.advance(60)
    harness.reconciler.flush_logs()
    assert caplog.messages[10:] == ["2 more lines like the last of this kind: unexpected"]


def test_thousand_unexpected_errors_do_not_flood_the_log(
    harness: ReconcilerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.outcome = ZeroDivisionError(CANARY)
    harness.add_class()
    harness.add(*(make_sync(name=f"s{number}", uid=f"uid-{number}") for number in range(1000)))
    harness.advance(600)
    assert 1 <= len(caplog.records) <= 120  # ten lines and one count per minute


# Conflicts


def test_status_with_a_conflict_is_written_soon(harness: ReconcilerHarness) -> None:
    harness.advance(100)
    harness.report_results = [ReportResult.OUTDATED]
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    ((moment, reason),) = harness.reports
    assert moment == pytest.approx(100.1)
    assert reason == Reason.UP_TO_DATE
    harness.advance(HOUR - 2)
    assert len(harness.sync_times) == 2


def test_lasting_conflict_of_the_status_does_not_flood_the_vault(harness: ReconcilerHarness) -> None:
    """After a restore of etcd, the watch delivers nothing, so each status conflicts with a newer object."""
    harness.advance(100)
    harness.default_report_result = ReportResult.OUTDATED
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    assert 3 <= len(harness.sync_times) <= 5  # a watch that is a little late costs only a moment
    harness.advance(HOUR)
    assert len(harness.sync_times) < 30


def test_failure_after_an_unreported_write_says_that_the_secret_exists(harness: ReconcilerHarness) -> None:
    """An edit came between the first write and its status, so no status says that the Secret was created."""
    harness.report_results = [ReportResult.OUTDATED]
    harness.secret_exists = True
    harness.add_class()
    harness.add(make_sync())
    harness.advance(0.05)
    harness.outcome = UNREACHABLE
    harness.add(make_sync(generation=2))
    harness.advance(2)
    created = find_condition(harness.statuses[0], ConditionType.SECRET_CREATED)
    assert created
    assert created.holds


def test_secret_of_an_earlier_sync_is_checked_often_and_then_rarely(harness: ReconcilerHarness) -> None:
    # At first a retry follows within two seconds of the garbage collection. Later, retries become rare.
    harness.outcome = Requeue(1)
    harness.add_class()
    harness.add(make_sync())
    harness.advance(20)
    waits = [later - earlier for earlier, later in zip(harness.sync_times, harness.sync_times[1:], strict=False)]
    assert max(waits) <= 2
    harness.advance(HOUR)
    assert 100 <= len(harness.sync_times) <= 200
    assert not harness.reports  # there is no obstacle to report


@pytest.mark.parametrize("report_results", [[], [ReportResult.OUTDATED], [ZeroDivisionError(CANARY)]])
def test_secret_of_an_earlier_sync_is_reported_after_half_a_minute(
    harness: ReconcilerHarness, report_results: list[ReportResult | Exception]
) -> None:
    harness.outcome = Requeue(1, "the Secret of an earlier SecretSync is still there")
    harness.report_results = report_results
    harness.add_class()
    harness.add(make_sync())
    harness.advance(20)
    assert not harness.reports
    harness.advance(100)
    assert [reason for _, reason in harness.reports] == [Reason.LABEL_ERROR]


@pytest.mark.parametrize("outcome", [GOOD, Failed(ObjectError("m"))])
def test_status_that_cannot_be_written_is_retried_with_backoff(harness: ReconcilerHarness, outcome: Reportable) -> None:
    harness.default_report_result = ReportResult.NOT_WRITTEN
    harness.outcome = outcome
    harness.add_class()
    harness.add(make_sync())
    harness.advance(HOUR)
    assert 5 <= len(harness.sync_times) <= 30
    harness.default_report_result = ReportResult.DONE
    harness.advance(301)
    assert len({moment for moment, _ in harness.reports}) == 1


# Drift


def test_drift_is_corrected_at_once(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    harness.unchanged = False
    harness.advance(300)
    assert len(harness.sync_times) == 2
    assert harness.sync_times[1] == harness.drift_checks[-1]


def test_conflict_while_correcting_drift_is_retried_soon(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    harness.unchanged, harness.outcome = False, Requeue(1)
    harness.advance(300.5)
    attempts = len(harness.sync_times)
    harness.unchanged, harness.outcome = True, GOOD
    harness.advance(31)
    assert len(harness.sync_times) == attempts + 1


def test_drift_checks_are_batched_and_at_most_ten_per_second(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(*(make_sync(name=f"s{number}", uid=f"uid-{number}") for number in range(500)))
    harness.advance(HOUR - 10)
    assert len(harness.drift_checks) > 4000
    assert max(Counter(harness.drift_checks).values()) == sync_schedule.MAX_PER_TICK
    assert {moment % sync_schedule.TICK for moment in harness.drift_checks} == {0}
