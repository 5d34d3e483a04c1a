"""While a vault is away: who says so, who asks, and what its return costs, in virtual time."""

import pytest

from controller.api.conditions import Reason
from controller.config.settings import Settings
from controller.domain.status import PartiallySynced
from controller.errors import OwnershipError
from tests.support.builders import make_sync
from tests.unit.secretsync.reconciler.stage import AFTER, AWAY, BEFORE, HOUR, Stage, known, seen

SAME, ROTATED = seen(user=BEFORE, **{"pass": BEFORE}), seen(user=BEFORE, **{"pass": AFTER})
SYNCED = known("user", "pass")


def four(stage: Stage) -> None:
    """Four SecretSyncs that read alike and are synced; from now on everything is counted anew."""
    stage.comes_to = SYNCED
    stage.seen = SAME
    stage.has_class()
    stage.has(*(make_sync(name=name, uid=name) for name in "abcd"))
    stage.passes(HOUR - 1)
    stage.forgets()


def test_a_vault_that_does_not_answer_once_is_no_news(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(2)
    stage.answers(SAME, SYNCED)
    stage.passes(HOUR - 10)
    assert stage.polls == [HOUR, HOUR + 2]
    assert {reason for _, reason in stage.told} == {Reason.UP_TO_DATE}  # as once in an hour
    assert not stage.asked


def test_while_a_vault_is_away_all_say_so_and_wait_for_the_look_that_finds_it_back(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(HOUR)
    assert [(moment - HOUR, reason) for moment, reason in stage.told] == [(2, Reason.PROVIDER_ERROR)] * 4
    # A list and one's values after 2, 4, 8 … 300 s: that is all that an hour costs the vault, however many there are.
    assert len(stage.polls) == len(stage.asked) + 1 == 19
    # Meanwhile one object is rotated.
    stage.forgets()
    stage.answers(ROTATED, SYNCED)
    stage.passes(301)
    assert [task.keys for task in stage.asked] == [frozenset({"pass"})] * 4
    assert len({moment for moment, _ in stage.told}) == 1
    assert [reason for _, reason in stage.told] == [Reason.UP_TO_DATE] * 5  # one more records the poll


def test_what_has_not_changed_while_a_vault_was_away_is_not_fetched(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(60)
    stage.forgets()
    stage.answers(SAME, SYNCED)
    stage.passes(64)
    assert [reason for _, reason in stage.told] == [Reason.UP_TO_DATE] * 5  # one more records the poll
    assert [task.keys for task in stage.asked] == [frozenset()] * 4


@pytest.mark.parametrize("settings", [Settings(rotation_poll_interval=60)])
@pytest.mark.parametrize("partial", [False, True])
def test_one_that_found_the_vault_away_again_and_again_is_polled_with_the_others(stage: Stage, partial: bool) -> None:
    """Looks have come through, and its tries have not: its own next one may be minutes away."""
    stage.comes_to = SYNCED
    stage.has_class()
    stage.has(make_sync())
    stage.passes(1)
    some = PartiallySynced(message="503", failed={"pass": AWAY}, objects=SYNCED.objects or [])
    stage.answers(ROTATED, some if partial else AWAY)
    stage.passes(1200)
    assert {task.keys for task in stage.asked[1:]} == {frozenset({"pass"})}
    stage.comes_to = SYNCED
    stage.passes(61)
    assert stage.told[-1][1] == Reason.UP_TO_DATE


def test_drift_is_looked_for_while_a_vault_is_away(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(5)
    stage.looked.clear()
    stage.passes(HOUR)
    assert len(stage.looked) == 4 * HOUR // 300


def test_a_restart_while_a_vault_is_away_waits_for_it_with_all(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(60)
    stage.forgets()
    stage.loses_the_lease()
    stage.passes(60)
    began = stage.polls[0]
    assert [moment - began for moment in stage.polls] == [0, 2, 6, 14, 30]
    stage.answers(SAME, SYNCED)
    stage.passes(32)
    assert [reason for _, reason in stage.told] == [Reason.UP_TO_DATE] * 5  # one more records the poll
    assert [task.keys for task in stage.asked[-4:]] == [frozenset()] * 4


def test_an_edit_while_a_vault_is_away_is_tried_at_once(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(HOUR)
    tries = len(stage.asked)
    stage.has(make_sync(name="a", uid="a", generation=2))
    stage.passes(1)
    assert [task.keys for task in stage.asked[tries:]] == [None]


def test_one_that_has_trouble_of_its_own_when_the_vault_is_back_is_left_to_itself(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(5)
    stage.told.clear()
    stage.answers(SAME, OwnershipError("a Secret of somebody else"))
    stage.passes(10)
    assert [reason for _, reason in stage.told] == [Reason.LABEL_ERROR] * 4
    assert not stage.reconciler.poller.members
