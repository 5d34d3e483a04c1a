"""SecretSyncs of an unreachable vault: their reports, the probes, and the fetches after the outage, in virtual time."""

import pytest

from controller.api.conditions import Reason
from controller.config.settings import Settings
from controller.domain.status import PartiallySynced
from controller.errors import ControllerError, ObjectError, OwnershipError
from controller.runtime.work_queue import Key
from tests.support.builders import make_sync
from tests.unit.secretsync.reconciler.harness import (
    AFTER,
    BEFORE,
    HOUR,
    UNREACHABLE,
    ReconcilerHarness,
    known,
    snapshot_of,
)

SAME, ROTATED = snapshot_of(user=BEFORE, **{"pass": BEFORE}), snapshot_of(user=BEFORE, **{"pass": AFTER})
SYNCED = known("user", "pass")


def sync_four(harness: ReconcilerHarness) -> None:
    """Sync four SecretSyncs with the same identity and vault, then delete the records of that."""
    harness.outcome = SYNCED
    harness.snapshot = SAME
    harness.add_class()
    harness.add(*(make_sync(name=name, uid=name) for name in "abcd"))
    harness.advance(HOUR - 1)
    harness.clear_records()


def test_single_failed_poll_is_not_reported_and_fetches_nothing(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(2)
    harness.set_results(SAME, SYNCED)
    harness.advance(HOUR - 10)
    assert harness.polls == [HOUR, HOUR + 2]
    assert {reason for _, reason in harness.reports} == {Reason.UP_TO_DATE}  # the hourly record of a poll
    assert not harness.tasks


def test_unreachable_vault_is_reported_by_all_and_probed_once_for_all(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(HOUR)
    assert [(moment - HOUR, reason) for moment, reason in harness.reports] == [(2, Reason.PROVIDER_ERROR)] * 4
    # In an hour the vault gets a list call and one SecretSync's fetch after 2, 4, 8 … 300 s, for any number of them.
    assert len(harness.polls) == len(harness.tasks) + 1 == 19
    # One object is rotated during the outage.
    harness.clear_records()
    harness.set_results(ROTATED, SYNCED)
    harness.advance(301)
    assert [task.keys for task in harness.tasks] == [frozenset({"pass"})] * 4
    assert len({moment for moment, _ in harness.reports}) == 1
    assert [reason for _, reason in harness.reports] == [Reason.UP_TO_DATE] * 5  # one more records the poll


def test_objects_unchanged_during_an_outage_are_not_fetched(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(60)
    harness.clear_records()
    harness.set_results(SAME, SYNCED)
    harness.advance(64)
    assert [reason for _, reason in harness.reports] == [Reason.UP_TO_DATE] * 5  # one more records the poll
    assert [task.keys for task in harness.tasks] == [frozenset()] * 4


@pytest.mark.parametrize("settings", [Settings(rotation_poll_interval=60)])
@pytest.mark.parametrize("partial", [False, True])
def test_secretsync_whose_attempts_failed_recovers_at_the_next_poll(harness: ReconcilerHarness, partial: bool) -> None:
    """Polls succeed and its attempts fail, so the next attempt of its own may be minutes away."""
    harness.outcome = SYNCED
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    some = PartiallySynced(message="503", failed={"pass": UNREACHABLE}, objects=SYNCED.objects or [])
    harness.set_results(ROTATED, some if partial else UNREACHABLE)
    harness.advance(1200)
    assert {task.keys for task in harness.tasks[1:]} == {frozenset({"pass"})}
    harness.outcome = SYNCED
    harness.advance(61)
    assert harness.reports[-1][1] == Reason.UP_TO_DATE


def test_unreachable_vault_does_not_stop_drift_checks(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(5)
    harness.drift_checks.clear()
    harness.advance(HOUR)
    assert len(harness.drift_checks) == 4 * HOUR // 300


def test_restart_during_an_outage_probes_once_for_all(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(60)
    harness.clear_records()
    harness.lose_lease()
    harness.advance(60)
    began = harness.polls[0]
    assert [moment - began for moment in harness.polls] == [0, 2, 6, 14, 30]
    harness.set_results(SAME, SYNCED)
    harness.advance(32)
    assert [reason for _, reason in harness.reports] == [Reason.UP_TO_DATE] * 5  # one more records the poll
    assert [task.keys for task in harness.tasks[-4:]] == [frozenset()] * 4


def test_edit_during_an_outage_is_attempted_at_once(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(HOUR)
    tries = len(harness.tasks)
    harness.add(make_sync(name="a", uid="a", generation=2))
    harness.advance(1)
    assert [task.keys for task in harness.tasks[tries:]] == [None]


def test_secretsync_that_fails_during_an_outage_stays_in_the_poll_group(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, OwnershipError("the Secret has another owner"))
    harness.advance(5)
    assert harness.tasks
    assert len(harness.reconciler.poller.members) == 4


@pytest.mark.parametrize("settings", [Settings(rotation_poll_interval=60)])
@pytest.mark.parametrize(("error", "lasts"), [(UNREACHABLE, True), (ObjectError("secret pass is disabled"), False)])
def test_answer_of_the_vault_ends_an_outage(harness: ReconcilerHarness, error: ControllerError, lasts: bool) -> None:
    harness.set_results(SAME, SYNCED)
    harness.add_class()
    harness.add(make_sync())
    harness.advance(30)
    objects = SYNCED.objects or []
    harness.set_results(ROTATED, PartiallySynced(message="503", failed={"pass": error}, objects=objects))
    harness.sync_seconds = 65
    harness.advance(60)
    harness.snapshot = UNREACHABLE
    harness.advance(36)  # a poll has failed, and the attempt has ended
    assert [task.keys for task in harness.tasks] == [None, frozenset({"pass"})]
    assert harness.reconciler.poller.waits_for_vault(Key("team", "shop")) is lasts
    assert harness.reports[-1] == (125, Reason.PARTIAL)


def test_secretsync_that_fails_after_an_outage_leaves_the_poll_group(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(5)
    harness.reports.clear()
    harness.set_results(SAME, OwnershipError("the Secret has another owner"))
    harness.advance(10)
    assert [reason for _, reason in harness.reports] == [Reason.LABEL_ERROR] * 4
    assert not harness.reconciler.poller.members
