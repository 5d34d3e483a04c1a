"""Test the reconciler's actions after a poll, in virtual time."""

import pytest

from controller.api.conditions import Reason
from controller.api.secretsync import GroupPoll, SecretSync
from controller.config.settings import Settings
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.status import Failed, Outcome, PartiallySynced, Requeue
from controller.errors import ObjectError, ProviderError, Retry, UnusableValue
from controller.keyvault.errors import throttled_error
from controller.runtime.work_queue import Key
from controller.secretsync import tasks
from tests.support.builders import make_sync
from tests.unit.secretsync.reconciler.harness import (
    AFTER,
    BEFORE,
    CANARY,
    DAY,
    HOUR,
    SHOP,
    UNREACHABLE,
    ReconcilerHarness,
    make_snapshot,
    make_synced,
)

EVERY_MINUTE = pytest.mark.parametrize("settings", [Settings(rotation_poll_interval=60)])


def test_poll_without_a_change_syncs_nothing(harness: ReconcilerHarness) -> None:
    harness.outcome = make_synced("user", "pass")
    harness.snapshot = make_snapshot(user=BEFORE, **{"pass": BEFORE})
    harness.add_class()
    harness.add(*(make_sync(name=f"s{number}", uid=f"uid-{number}") for number in range(100)))
    harness.advance(5 * HOUR + 1)
    assert len(harness.sync_times) == 100
    assert harness.polls == [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 5 * HOUR]


def test_poll_with_a_change_fetches_only_the_changed_objects(harness: ReconcilerHarness) -> None:
    harness.outcome = make_synced("user", "pass")
    harness.snapshot = make_snapshot(user=BEFORE, **{"pass": BEFORE})
    harness.add_class()
    harness.add(make_sync(), make_sync(["user"], name="other", uid="another"))
    harness.advance(HOUR - 1)
    harness.snapshot = make_snapshot(user=BEFORE, **{"pass": AFTER})
    harness.advance(2)
    assert [task.keys for task in harness.tasks] == [None, None, frozenset({"pass"})]


@EVERY_MINUTE
def test_frequent_polls_are_recorded_once_an_hour(harness: ReconcilerHarness) -> None:
    harness.outcome = make_synced("user", "pass")
    harness.snapshot = make_snapshot(user=BEFORE, **{"pass": BEFORE})
    harness.add_class()
    harness.add(make_sync())
    harness.advance(HOUR + 100)
    assert len(harness.polls) == 61
    assert [moment for moment, _ in harness.reports] == [0, 60, HOUR + 60]


def test_change_found_by_the_next_poll_replaces_a_pending_confirmation(
    harness: ReconcilerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may process the key after both polls, not between them."""
    monkeypatch.setattr(tasks, "CONFIRM_EVERY", 0)
    harness.outcome = make_synced("user", "pass")
    harness.add_class()
    harness.add(make_sync())
    harness.advance(10)
    key, wanted = Key("team", "shop"), {name: ObjectVersionRef(VaultObject(name=name)) for name in ("user", "pass")}
    for time in (BEFORE, AFTER):
        harness.reconciler.handle_poll(key, wanted, make_snapshot(user=BEFORE, **{"pass": time}))
    before = len(harness.tasks)
    harness.advance(1)
    assert [task.keys for task in harness.tasks[before:]] == [frozenset({"pass"})]


def test_change_found_by_a_poll_during_a_sync_causes_another_sync(harness: ReconcilerHarness) -> None:
    harness.outcome = make_synced("user", "pass")
    harness.sync_seconds = 10
    harness.add_class()
    harness.add(make_sync())
    harness.advance(5)
    wanted = {name: ObjectVersionRef(VaultObject(name=name)) for name in ("user", "pass")}
    harness.reconciler.handle_poll(SHOP, wanted, make_snapshot(user=BEFORE, **{"pass": AFTER}))
    harness.advance(10)
    assert harness.sync_times == [0, 10]


FAILURES = [
    pytest.param(UNREACHABLE, id="vault unreachable"),
    pytest.param(ObjectError("secret pass is disabled"), id="object disabled"),
    pytest.param(Requeue(1), id="conflict"),
    pytest.param(
        PartiallySynced(message="m", failed={"pass": throttled_error("shop", None)}, objects=[]),
        id="throttled vault",
    ),
]


def start_attempt(harness: ReconcilerHarness, outcome: Outcome | Exception) -> None:
    """Start an attempt to fetch one of two objects. It ends with this outcome."""
    harness.outcome = make_synced("user", "pass")
    harness.snapshot = make_snapshot(user=BEFORE, **{"pass": BEFORE})
    harness.add_class()
    harness.add(make_sync())
    harness.advance(HOUR - 1)
    harness.clear_records()
    harness.set_results(make_snapshot(user=BEFORE, **{"pass": AFTER}), outcome)
    harness.sync_seconds = 10
    harness.advance(5)
    assert [task.keys for task in harness.tasks] == [frozenset({"pass"})]


@pytest.mark.parametrize("outcome", FAILURES)
def test_edit_during_a_failing_attempt_makes_the_next_one_fetch_all(
    harness: ReconcilerHarness, outcome: Outcome | Exception
) -> None:
    start_attempt(harness, outcome)
    found = harness.reconciler.syncs.get(SHOP)
    assert isinstance(found, SecretSync)
    harness.add(make_sync(generation=2, status=found.status))
    harness.advance(10)
    assert [task.keys for task in harness.tasks[1:]] == [None]


@pytest.mark.parametrize("outcome", FAILURES)
def test_poll_during_a_failing_attempt_decides_what_the_next_one_fetches(
    harness: ReconcilerHarness, outcome: Outcome | Exception
) -> None:
    start_attempt(harness, outcome)
    wanted = {name: ObjectVersionRef(VaultObject(name=name)) for name in ("user", "pass")}
    harness.reconciler.handle_poll(SHOP, wanted, make_snapshot(user=AFTER, **{"pass": AFTER}))
    harness.advance(20)
    stays_polled = not isinstance(outcome, ObjectError)  # otherwise, all keys are fetched
    assert [task.keys for task in harness.tasks[1:2]] == [frozenset({"user", "pass"}) if stays_polled else None]


@pytest.mark.parametrize("outcome", FAILURES)
def test_record_of_a_poll_during_a_failing_attempt_replaces_no_fetch(
    harness: ReconcilerHarness, outcome: Outcome | Exception
) -> None:
    start_attempt(harness, outcome)
    assert harness.reconciler.entries[SHOP].state.confirm(GroupPoll(group="x", time=AFTER), harness.loop.time())
    harness.advance(20)
    stays_polled = not isinstance(outcome, ObjectError)
    assert [task.keys for task in harness.tasks[1:2]] == [frozenset({"pass"}) if stays_polled else None]


def test_record_of_a_poll_does_not_hide_a_value_that_became_unusable(harness: ReconcilerHarness) -> None:
    lacking = UnusableValue("secret pass has no property", version="2", updated=AFTER)
    objects = make_synced("user", "pass").objects or []
    start_attempt(harness, PartiallySynced(message="m", failed={"pass": lacking}, objects=objects))
    state, written = harness.reconciler.entries[SHOP]
    harness.unusable = written.unusable = {"pass": lacking}
    assert state.confirm(GroupPoll(group="x", time=AFTER), harness.loop.time())
    harness.advance(60)
    assert [reason for _, reason in harness.reports] == [Reason.PARTIAL]
    assert [task.keys for task in harness.tasks] == [frozenset({"pass"}), frozenset()]


def test_record_of_a_poll_writes_a_status_that_was_emptied_meanwhile(harness: ReconcilerHarness) -> None:
    sync_user_and_pass(harness)
    assert harness.reconciler.entries[SHOP].state.confirm(GroupPoll(group="x", time=AFTER), harness.loop.time())
    harness.reconciler.syncs.update_from_write(make_sync().metadata, make_sync())
    harness.reconciler.queue.add(SHOP)
    harness.advance(1)
    assert [task.keys for task in harness.tasks] == [frozenset()]
    assert [reason for _, reason in harness.reports] == [Reason.UP_TO_DATE]


def test_attempt_after_an_unexpected_error_fetches_what_the_lost_one_did(harness: ReconcilerHarness) -> None:
    wanted = sync_user_and_pass(harness)
    harness.report_results = [ZeroDivisionError("m")]
    harness.reconciler.handle_poll(SHOP, wanted, make_snapshot(user=BEFORE, **{"pass": AFTER}))
    harness.advance(0.1)
    assert not harness.reconciler.poller.is_polled(SHOP)
    harness.advance(10)
    assert [task.keys for task in harness.tasks] == [frozenset({"pass"}), None]
    assert harness.reconciler.poller.is_polled(SHOP)


def test_first_sync_that_met_a_conflict_is_not_polled_yet(harness: ReconcilerHarness) -> None:
    """A poll would report a Secret that does not exist as equal to the vault."""
    harness.outcome = Requeue(5)
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    assert len(harness.tasks) == 1
    assert not harness.reconciler.poller.is_polled(SHOP)


def sync_user_and_pass(harness: ReconcilerHarness) -> dict[str, ObjectVersionRef]:
    """Sync a SecretSync of two keys. Return the versions that a poll compares."""
    harness.outcome = make_synced("user", "pass")
    harness.add_class()
    harness.add(make_sync())
    harness.advance(10)
    harness.clear_records()
    return {name: ObjectVersionRef(VaultObject(name=name)) for name in ("user", "pass")}


def test_failed_poll_does_not_replace_the_change_of_an_earlier_poll(harness: ReconcilerHarness) -> None:
    wanted = sync_user_and_pass(harness)
    harness.reconciler.handle_poll(SHOP, wanted, make_snapshot(user=BEFORE, **{"pass": AFTER}))
    harness.reconciler.handle_poll(SHOP, wanted, UNREACHABLE)
    harness.advance(1)
    assert [task.keys for task in harness.tasks] == [frozenset({"pass"})]


def test_outage_that_ends_before_its_report_fetches_nothing(harness: ReconcilerHarness) -> None:
    """With thousands of SecretSyncs, the vault can be back before the last one has a worker for its report."""
    wanted = sync_user_and_pass(harness)
    harness.reconciler.handle_poll(SHOP, wanted, UNREACHABLE)
    harness.reconciler.handle_poll(SHOP, wanted, make_snapshot(user=BEFORE, **{"pass": BEFORE}))
    harness.advance(10)
    assert (harness.tasks, harness.reports) == ([], [])


@EVERY_MINUTE
def test_secretsync_whose_confirmation_failed_is_polled_again(harness: ReconcilerHarness) -> None:
    harness.outcome = make_synced("user", "pass")
    harness.snapshot = make_snapshot(user=BEFORE, **{"pass": BEFORE})
    harness.add_class()
    harness.add(make_sync())
    harness.advance(HOUR + 59)  # the next poll will be recorded in the status
    harness.resolve_error = ProviderError("the API server is unreachable")
    harness.advance(3)
    harness.resolve_error = None
    harness.advance(10)
    polls = len(harness.polls)
    harness.advance(10 * 60)
    assert len(harness.polls) == polls + 10
    reasons = [reason for _, reason in harness.reports]
    assert reasons.count(Reason.PROVIDER_ERROR) == 1
    assert set(reasons) == {Reason.UP_TO_DATE, Reason.PROVIDER_ERROR}


def test_retry_after_a_failed_key_fetches_all_keys(harness: ReconcilerHarness) -> None:
    harness.outcome = make_synced("user", "pass")
    harness.snapshot = make_snapshot(user=BEFORE, **{"pass": AFTER})
    harness.add_class()
    harness.add(make_sync())
    harness.advance(HOUR - 1)
    harness.outcome = Failed(ObjectError("pass is missing"))
    harness.advance(10)
    assert [task.keys for task in harness.tasks] == [None, frozenset({"pass"}), None, None]


def test_attempt_at_a_throttled_vault_fetches_only_the_remaining_keys(harness: ReconcilerHarness) -> None:
    def make_throttled_outcome(*remaining: str) -> Outcome:
        error = throttled_error("shop", 10)
        failed = dict.fromkeys(remaining, error)
        return PartiallySynced(message="throttled", failed=failed, objects=[]) if remaining else Failed(error)

    harness.add_class()
    harness.add(make_sync(["a", "b", "c"]))
    for outcome in (
        make_throttled_outcome(),
        make_throttled_outcome("b", "c"),
        make_throttled_outcome("c"),
        make_throttled_outcome(),
        make_synced("a", "b", "c"),
    ):
        harness.outcome = outcome
        harness.advance(10 if harness.tasks else 5)
    asked = [(moment, task.keys) for (moment, _), task in zip(harness.synced, harness.tasks, strict=True)]
    last_key = frozenset({"c"})
    assert asked == [(0, None), (10, None), (20, frozenset({"b", "c"})), (30, last_key), (40, last_key)]


def test_unexpected_error_of_a_poll_does_not_stop_the_workers(
    harness: ReconcilerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.snapshot = ZeroDivisionError(CANARY)
    harness.add_class()
    harness.add(make_sync())
    harness.advance(3 * HOUR + 1)
    assert len(harness.sync_times) == 4
    assert CANARY not in caplog.text


def test_drift_after_a_poll_fetches_all_keys(harness: ReconcilerHarness) -> None:
    harness.outcome = make_synced("user", "pass")
    harness.snapshot = make_snapshot(user=BEFORE, **{"pass": AFTER})
    harness.add_class()
    harness.add(make_sync())
    harness.advance(HOUR + 1)
    harness.unchanged = False
    harness.advance(300)
    assert [task.keys for task in harness.tasks] == [None, frozenset({"pass"}), None]


def test_all_keys_are_fetched_once_a_day(harness: ReconcilerHarness) -> None:
    harness.outcome = make_synced("user", "pass")
    harness.snapshot = make_snapshot(user=BEFORE, **{"pass": BEFORE})
    harness.add_class()
    harness.add(make_sync())
    harness.advance(3 * DAY + HOUR)
    assert [task.keys for task in harness.tasks] == [None] * 4
    assert len(harness.polls) == 73


def test_throttled_vault_is_retried_after_the_requested_seconds(harness: ReconcilerHarness) -> None:
    harness.outcome = ProviderError("throttled", retry_after=25, retry=Retry.THROTTLED)
    harness.add_class()
    harness.add(make_sync())
    harness.advance(130)
    assert harness.sync_times == [0, 25, 50, 75, 100, 125]
