"""While a vault is away, busy, or hangs: one look after the other for the whole group, in virtual time."""

import itertools

import pytest

from controller.errors import ProviderError
from controller.keyvault.errors import throttled_error
from controller.keyvault.poll_group import PollGroup
from controller.secretsync.work_state import PollResult
from tests.support.virtual_time import VirtualLoop
from tests.unit.secretsync.poller.stage import AWAY, SEEN, WHO, A, B, C, Stage


def told(stage: Stage, since: float = 0.0) -> dict[float, list[PollResult]]:
    """Return what all were told, by the moment; those who are to read first."""
    found: dict[float, list[PollResult]] = {}
    for moment, _, _, seen in stage.told:
        if moment >= since:
            found.setdefault(moment, []).append(seen)
    return {moment: sorted(each, key=lambda seen: seen is not None) for moment, each in found.items()}


def test_one_look_that_fails_is_no_news(stage: Stage) -> None:
    stage.join(A)
    stage.seen = AWAY
    stage.passes(3601)
    assert stage.poller.waits_for_vault(A)
    stage.seen = SEEN
    stage.passes(10)
    assert not stage.poller.waits_for_vault(A)
    assert told(stage) == {3601.5: [SEEN]}
    stage.passes(3600)
    assert stage.times[2:] == [3601.5 + 3600]


def test_while_a_vault_is_away_one_look_after_the_other_is_for_all_and_one_member_reads(stage: Stage) -> None:
    for key in (A, B, C):
        stage.join(key)
    stage.seen = AWAY
    stage.passes(2 * 3600)
    first, second, *later = stage.times
    assert (first, second) == (3600, 3601.5)
    # … after 2, 4, 8 … 300 s, half of it by chance.
    waits = [after - before for before, after in itertools.pairwise(stage.times)]
    assert waits == [1.5, 3, 6, 12, 24, 48, 96, 192, *[225] * (len(waits) - 8)]
    assert told(stage) == {moment: [None, AWAY, AWAY] for moment in (second, *later)}
    readers = {key for _, key, _, seen in stage.told if seen is None}
    assert readers == {A, B, C}
    stage.seen = SEEN
    stage.passes(225)
    assert told(stage, 2 * 3600) == {stage.times[-1]: [SEEN] * 3}
    stage.passes(3600)
    assert stage.times[-1] - stage.times[-2] == 3600


def test_a_look_is_tried_again_when_it_was_told_to(stage: Stage) -> None:
    stage.join(A)
    stage.seen = ProviderError("down", retry_after=100)
    stage.passes(3600 + 150)
    assert stage.times == [3600, 3701]


def test_where_the_lists_alone_are_out_of_order_all_read_at_every_interval(stage: Stage) -> None:
    stage.join(A)
    stage.join(B)
    stage.seen = AWAY
    stage.passes(3602)
    stage.join(A)  # it was told to read, and could
    assert not stage.poller.waits_for_vault(B)
    stage.passes(3 * 3600)
    second = stage.times[1]
    third = second + 3
    assert stage.times[2:] == [third, third + 3600, third + 2 * 3600]
    assert told(stage, third) == {moment: [None, None] for moment in stage.times[2:]}
    # … until there are lists again.
    stage.seen = SEEN
    stage.passes(3600)
    stage.seen = AWAY
    stage.passes(3600)
    assert stage.poller.waits_for_vault(A)


def test_who_is_taken_in_while_his_vault_is_away_waits_with_the_others(stage: Stage) -> None:
    stage.join(A)
    stage.seen = AWAY
    stage.passes(3605)
    stage.join(B, age=None)
    stage.passes(5)
    assert told(stage, 3605).popitem()[1] == [None, AWAY]


def test_who_is_not_known_to_be_equal_is_looked_at_soon(loop: VirtualLoop) -> None:
    stage = Stage(loop, jitter=100)
    stage.join(A, age=None)
    stage.join(B)
    stage.passes(60)
    assert told(stage) == {50: [SEEN, SEEN]}


def test_a_group_that_all_leave_while_its_vault_is_away_is_over(stage: Stage) -> None:
    stage.join(A)
    stage.seen = AWAY
    stage.takes = 1
    stage.passes(3600.5)
    stage.poller.leave(A)
    stage.passes(10_000)
    assert stage.times == [3600]
    assert not stage.told
    assert not stage.poller.waits_for_vault(A)


def test_a_look_that_fails_unexpectedly_is_taken_for_one_that_shows_nothing(stage: Stage) -> None:
    stage.join(A)
    stage.join(B)
    stage.seen = RuntimeError("bug")
    stage.passes(3602)
    assert told(stage) == {3601.5: [None, None]}


def test_a_look_waits_for_its_turn_at_a_busy_vault_and_nobody_asks_instead(stage: Stage) -> None:
    stage.join(A)
    stage.join(B)
    stage.seen = throttled_error("vault", 30)
    stage.passes(3600 + 100)
    assert stage.times == [3600, 3630, 3660, 3690]
    assert not stage.told
    stage.seen = SEEN
    stage.passes(30)
    assert [seen for *_, seen in stage.told] == [SEEN, SEEN]
    # What was put off then is forgotten when it happens again.
    stage.seen = throttled_error("vault", 30)
    stage.passes(3600)
    assert stage.times[4:] == [3720, 7320]
    assert len(stage.told) == 2


@pytest.mark.parametrize("seconds", [None, 30, 300])
def test_a_vault_that_stays_busy_for_an_interval_is_told_of_as_one_that_is_away(
    stage: Stage, seconds: float | None
) -> None:
    stage.join(A)
    stage.join(B)
    stage.seen = busy = throttled_error("vault", seconds)
    stage.passes(2 * 3600 - 1)
    assert not stage.told
    assert not stage.poller.waits_for_vault(A)
    stage.passes(2)
    assert told(stage) == {7200: [busy, busy]}
    assert stage.poller.waits_for_vault(A)
    stage.seen = SEEN
    stage.passes(300)
    assert stage.told[-1][-1] == SEEN
    assert not stage.poller.waits_for_vault(A)


def test_who_leaves_a_group_whose_look_is_put_off_is_not_told(stage: Stage) -> None:
    stage.join(A)
    stage.seen = throttled_error("vault", 30)
    stage.passes(3601)
    stage.poller.leave(A)
    stage.passes(10_000)
    assert stage.times == [3600]
    assert not len(stage.poller.queue)


def test_a_vault_that_hangs_does_not_hold_up_the_others(stage: Stage) -> None:
    stage.join(A)
    stage.takes = 3000
    stage.passes(3601)
    stage.takes = 0
    stage.join(B, PollGroup(WHO, "cloud", "other", 3600.0), age=3590)
    stage.passes(20)
    assert stage.who == [B]
