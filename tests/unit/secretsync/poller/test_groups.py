"""Who is in which group, when it is looked at, and who is told what, in virtual time."""

import pytest

from controller.keyvault.credentials import Identity
from controller.keyvault.poll_group import PollGroup
from controller.runtime.work_queue import Key
from controller.secretsync.poller import FULL_READ
from tests.support.virtual_time import VirtualLoop
from tests.unit.secretsync.poller.stage import HOURLY, PASS, SEEN, USER, WHO, A, B, Stage


def test_who_reads_alike_is_looked_at_once(stage: Stage) -> None:
    stage.join(A)
    stage.join(B, wanted=PASS)
    stage.passes(2 * 3600 + 1)
    assert stage.times == [3600, 7200]
    assert stage.looks[0][2] == {USER, PASS}
    first = sorted(stage.told[:2], key=lambda told: told[1])
    assert first == [(3600, A, {"k": USER}, SEEN), (3600, B, {"k": PASS}, SEEN)]


@pytest.mark.parametrize(
    "other",
    [
        PollGroup(Identity("else", "robot", "client", "tenant"), "cloud", "vault", 3600.0),
        PollGroup(Identity("team", "other", "client", "tenant"), "cloud", "vault", 3600.0),
        PollGroup(Identity("team", "robot", "else", "tenant"), "cloud", "vault", 3600.0),
        PollGroup(Identity("team", "robot", "client", "else"), "cloud", "vault", 3600.0),
        PollGroup(WHO, "else", "vault", 3600.0),
        PollGroup(WHO, "cloud", "else", 3600.0),
        PollGroup(WHO, "cloud", "vault", 3599.0),
    ],
)
def test_who_differs_in_anything_is_looked_at_alone(stage: Stage, other: PollGroup) -> None:
    stage.join(A)
    stage.join(B, other, PASS)
    stage.passes(3600.5)
    assert sorted(map(len, (wanted for *_, wanted in stage.looks))) == [1, 1]
    assert {asked for _, asked, _ in stage.looks} == {
        f"{group.identity.namespace}/{group.cloud}/{group.vault}" for group in (HOURLY, other)
    }


@pytest.mark.parametrize(("ages", "at"), [((0, 3000), 600), ((3000, 0), 600), ((3500, 3599, 0), 1)])
def test_the_earliest_due_member_counts(stage: Stage, ages: tuple[float, ...], at: float) -> None:
    for number, age in enumerate(ages):
        stage.join(Key("team", str(number)), age=age)
    stage.passes(at + 0.5)
    assert stage.times == [at]
    assert len(stage.told) == len(ages)


def test_a_group_that_is_overdue_is_spread_over_one_interval(stage: Stage) -> None:
    stage.join(A, age=90_000)
    stage.passes(3600)
    assert stage.times == [1800]


def test_one_draw_of_the_jitter_serves_the_whole_group(loop: VirtualLoop) -> None:
    stage = Stage(loop, jitter=100)
    stage.join(A)
    stage.rng.share = 0.9  # a member that drew by itself would get this
    stage.join(B)
    stage.passes(3600 + 50.5)
    assert stage.times == [3650]
    stage.passes(3600 + 90)
    assert stage.times == [3650, 7340]


def test_one_who_has_left_is_not_told_and_a_group_of_nobody_not_looked_at(stage: Stage) -> None:
    stage.join(A)
    stage.join(B)
    stage.poller.leave(B)
    stage.poller.leave(B)
    stage.passes(3601)
    assert stage.who == [A]
    stage.poller.leave(A)
    assert not stage.poller.cycles
    assert not stage.poller.members
    assert not len(stage.poller.queue)
    stage.passes(10_000)
    assert stage.times == [3600]


def test_one_who_joins_another_group_has_left_the_first(stage: Stage) -> None:
    stage.join(A)
    stage.join(A, PollGroup(WHO, "cloud", "other", 3600.0))
    stage.passes(3601)
    assert [asked for _, asked, _ in stage.looks] == ["team/cloud/other"]


def test_after_a_reset_nobody_is_looked_at_until_he_joins_again(stage: Stage) -> None:
    stage.join(A)
    stage.poller.reset()
    stage.passes(4000)
    assert not stage.looks
    stage.join(A, age=3590)
    stage.passes(11)
    assert stage.times == [4010]


def test_who_leaves_during_a_look_is_not_told_of_it(stage: Stage) -> None:
    stage.takes = 10
    stage.join(A)
    stage.join(B)
    stage.passes(3605)
    stage.poller.leave(B)
    stage.passes(10)
    assert stage.who == [A]


@pytest.mark.parametrize("way", ["leave", "reset"])
def test_a_group_that_all_leave_during_a_look_is_over(stage: Stage, way: str) -> None:
    stage.takes = 10
    stage.join(A)
    stage.passes(3605)
    stage.poller.reset() if way == "reset" else stage.poller.leave(A)
    stage.passes(10_000)
    assert stage.times == [3600]
    assert not stage.told


def test_who_comes_back_during_a_look_is_due_an_interval_from_then(stage: Stage) -> None:
    stage.takes = 10
    stage.join(A)
    stage.passes(3605)
    stage.poller.leave(A)
    stage.join(A)
    stage.passes(3600 + 1)
    assert not stage.told[1:]
    assert stage.times[0] == 3600
    assert 3600 + 3600 <= stage.times[1] <= 3605 + 3600


def test_who_wants_something_else_since_the_look_began_is_told_by_what_he_wants_now(stage: Stage) -> None:
    stage.takes = 10
    stage.join(A)
    stage.passes(3605)
    stage.join(A, wanted=PASS)
    stage.passes(10)
    assert stage.told == [(3610, A, {"k": PASS}, SEEN)]


def test_everybody_is_read_in_full_once_a_day_whatever_looks_show(stage: Stage) -> None:
    stage.join(A)
    stage.passes(3 * FULL_READ)
    full = [moment for moment, _, _, seen in stage.told if seen is None]
    assert full == [FULL_READ / 2, FULL_READ * 1.5, FULL_READ * 2.5]
