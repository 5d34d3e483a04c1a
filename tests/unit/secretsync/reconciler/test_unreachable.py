"""Test reports, probes, and fetches after an outage, of SecretSyncs with an unreachable vault, in virtual time."""

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
    make_snapshot,
    make_sync_of_age,
    make_synced,
)

SAME, ROTATED = make_snapshot(user=BEFORE, **{"pass": BEFORE}), make_snapshot(user=BEFORE, **{"pass": AFTER})
SYNCED = make_synced("user", "pass")


def sync_four(harness: ReconcilerHarness) -> None:
    """Sync four SecretSyncs with the same identity and vault, then clear the records of the harness."""
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


def test_unreachable_vault_is_reported_by_all_after_a_restart(harness: ReconcilerHarness) -> None:
    names = [f"s{number}" for number in range(100)]
    harness.snapshot = SAME
    harness.add_class()
    harness.add(*(make_sync_of_age(600, SYNCED, name=name) for name in names))
    harness.advance(1)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(2 * HOUR)
    assert [reason for _, reason in harness.reports] == [Reason.PROVIDER_ERROR] * 100
    harness.clear_records()
    harness.set_results(SAME, SYNCED)
    harness.advance(301)
    assert [reason for _, reason in harness.reports] == [Reason.UP_TO_DATE] * 101  # one report records the poll
    assert {task.keys for task in harness.tasks} == {frozenset()}


def test_unreachable_vault_is_reported_by_all_and_probed_once_for_all(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(HOUR)
    assert [(moment - HOUR, reason) for moment, reason in harness.reports] == [(2, Reason.PROVIDER_ERROR)] * 4
    # After each wait of 2, 4, 8 … 300 s, one list call and one SecretSync's fetch reach the vault.
    assert len(harness.polls) == len(harness.tasks) + 1 == 19
    # One object is rotated during the outage.
    harness.clear_records()
    harness.set_results(ROTATED, SYNCED)
    harness.advance(301)
    assert [task.keys for task in harness.tasks] == [frozenset({"pass"})] * 4
    assert len({moment for moment, _ in harness.reports}) == 1
    assert [reason for _, reason in harness.reports] == [Reason.UP_TO_DATE] * 5  # the fifth report records the poll


def test_objects_unchanged_during_an_outage_are_not_fetched(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(60)
    harness.clear_records()
    harness.set_results(SAME, SYNCED)
    harness.advance(64)
    assert [reason for _, reason in harness.reports] == [Reason.UP_TO_DATE] * 5  # the fifth report records the poll
    assert [task.keys for task in harness.tasks] == [frozenset()] * 4


@pytest.mark.parametrize("settings", [Settings(rotation_poll_interval=60)])
@pytest.mark.parametrize("partial", [False, True])
def test_secretsync_whose_attempts_failed_recovers_at_the_next_poll(harness: ReconcilerHarness, partial: bool) -> None:
    """Polls succeed and attempts fail, so the next scheduled attempt may be minutes later."""
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


def test_restart_during_an_outage_probes_the_vault_once_for_all_secretsyncs(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(60)
    harness.clear_records()
    harness.lose_lease()
    harness.advance(60)
    start = harness.polls[0]
    assert [moment - start for moment in harness.polls] == [0, 2, 6, 14, 30]
    harness.set_results(SAME, SYNCED)
    harness.advance(32)
    assert [reason for _, reason in harness.reports] == [Reason.UP_TO_DATE] * 5  # the fifth report records the poll
    assert [task.keys for task in harness.tasks[-4:]] == [frozenset()] * 4


def test_edit_during_an_outage_is_attempted_at_once(harness: ReconcilerHarness) -> None:
    sync_four(harness)
    harness.set_results(UNREACHABLE, UNREACHABLE)
    harness.advance(HOUR)
    attempts = len(harness.tasks)
    harness.add(make_sync(name="a", uid="a", generation=2))
    harness.advance(1)
    assert [task.keys for task in harness.tasks[attempts:]] == [None]


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
