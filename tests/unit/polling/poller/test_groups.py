"""Test the members of poll groups, the times of polls, and their results, in virtual time."""

import asyncio

import pytest

from controller.keyvault.credentials import Identity
from controller.polling.poll_group import PollGroup
from controller.polling.poller import FULL_READ
from controller.runtime.work_queue import Key
from tests.support.virtual_time import VirtualLoop
from tests.unit.polling.poller.harness import HOURLY, IDENTITY, PASS, SNAPSHOT, USER, A, B, PollerHarness


def test_members_with_the_same_identity_and_vault_share_one_poll(harness: PollerHarness) -> None:
    harness.join(A)
    harness.join(B, wanted=PASS)
    harness.advance(2 * 3600 + 1)
    assert harness.poll_times == [3600, 7200]
    assert harness.polls[0][2] == {USER, PASS}
    first = sorted(harness.results[:2], key=lambda result: result[1])
    assert first == [(3600, A, {"k": USER}, SNAPSHOT), (3600, B, {"k": PASS}, SNAPSHOT)]


@pytest.mark.parametrize(
    "other",
    [
        PollGroup(Identity("else", "robot", "client", "tenant"), "cloud", "vault", 3600.0),
        PollGroup(Identity("team", "other", "client", "tenant"), "cloud", "vault", 3600.0),
        PollGroup(Identity("team", "robot", "else", "tenant"), "cloud", "vault", 3600.0),
        PollGroup(Identity("team", "robot", "client", "else"), "cloud", "vault", 3600.0),
        PollGroup(IDENTITY, "else", "vault", 3600.0),
        PollGroup(IDENTITY, "cloud", "else", 3600.0),
        PollGroup(IDENTITY, "cloud", "vault", 3599.0),
    ],
)
def test_members_that_differ_in_identity_vault_or_interval_poll_apart(harness: PollerHarness, other: PollGroup) -> None:
    harness.join(A)
    harness.join(B, other, PASS)
    harness.advance(3600.5)
    assert sorted(map(len, (wanted for *_, wanted in harness.polls))) == [1, 1]
    assert {path for _, path, _ in harness.polls} == {
        f"{group.identity.namespace}/{group.cloud}/{group.vault}" for group in (HOURLY, other)
    }


@pytest.mark.parametrize(("ages", "at"), [((0, 3000), 600), ((3000, 0), 600), ((3500, 3599, 0), 1)])
def test_group_is_polled_when_its_earliest_member_is_due(
    harness: PollerHarness, ages: tuple[float, ...], at: float
) -> None:
    for number, age in enumerate(ages):
        harness.join(Key("team", str(number)), age=age)
    harness.advance(at + 0.5)
    assert harness.poll_times == [at]
    assert len(harness.results) == len(ages)


def test_overdue_group_is_polled_at_a_random_time_within_an_interval(harness: PollerHarness) -> None:
    harness.join(A, age=90_000)
    harness.advance(3600)
    assert harness.poll_times == [1800]


def test_group_draws_its_jitter_once_for_all_members(loop: VirtualLoop) -> None:
    harness = PollerHarness(loop, jitter=100)
    harness.join(A)
    harness.rng.share = 0.9  # the share of the jitter if the second member draws its own
    harness.join(B)
    harness.advance(3600 + 50.5)
    assert harness.poll_times == [3650]
    harness.advance(3600 + 90)
    assert harness.poll_times == [3650, 7340]


def test_member_that_left_gets_no_result_and_empty_group_no_poll(harness: PollerHarness) -> None:
    harness.join(A)
    harness.join(B)
    harness.poller.leave(B)
    harness.poller.leave(B)
    harness.advance(3601)
    assert harness.served_keys == [A]
    harness.poller.leave(A)
    assert not harness.poller.groups
    assert not harness.poller.members
    assert not len(harness.poller.queue)
    harness.advance(10_000)
    assert harness.poll_times == [3600]


def test_member_that_joins_another_group_leaves_the_first(harness: PollerHarness) -> None:
    harness.join(A)
    harness.join(A, PollGroup(IDENTITY, "cloud", "other", 3600.0))
    harness.advance(3601)
    assert [path for _, path, _ in harness.polls] == ["team/cloud/other"]


def test_after_a_reset_only_members_that_join_again_are_polled(harness: PollerHarness) -> None:
    harness.join(A)
    harness.poller.reset()
    harness.advance(4000)
    assert not harness.polls
    harness.join(A, age=3590)
    harness.advance(11)
    assert harness.poll_times == [4010]


def test_member_that_leaves_during_a_poll_gets_no_result(harness: PollerHarness) -> None:
    harness.poll_seconds = 10
    harness.join(A)
    harness.join(B)
    harness.advance(3605)
    harness.poller.leave(B)
    harness.advance(10)
    assert harness.served_keys == [A]


@pytest.mark.parametrize("way", ["leave", "reset"])
def test_group_left_by_all_during_a_poll_is_not_polled_again(harness: PollerHarness, way: str) -> None:
    harness.poll_seconds = 10
    harness.join(A)
    harness.advance(3605)
    harness.poller.reset() if way == "reset" else harness.poller.leave(A)
    harness.advance(5)
    assert not len(harness.poller.queue)
    harness.advance(10_000)
    assert harness.poll_times == [3600]
    assert not harness.results


def test_member_that_rejoins_during_a_poll_is_due_an_interval_later(harness: PollerHarness) -> None:
    harness.poll_seconds = 10
    harness.join(A)
    harness.advance(3605)
    harness.poller.leave(A)
    harness.join(A)
    harness.advance(3600 + 1)
    assert not harness.results[1:]
    assert harness.poll_times[0] == 3600
    assert 3600 + 3600 <= harness.poll_times[1] <= 3605 + 3600


def test_member_edited_during_a_poll_gets_the_result_of_its_new_objects(harness: PollerHarness) -> None:
    harness.poll_seconds = 10
    harness.join(A)
    harness.advance(3605)
    harness.join(A, wanted=PASS)
    harness.advance(10)
    assert harness.results == [(3610, A, {"k": PASS}, SNAPSHOT)]


def test_each_member_is_read_in_full_once_a_day(harness: PollerHarness) -> None:
    harness.join(A)
    harness.advance(3 * FULL_READ)
    full = [moment for moment, _, _, seen in harness.results if seen is None]
    assert full == [43_200, 129_600, 216_000]


def test_attempt_does_not_postpone_the_full_read(harness: PollerHarness) -> None:
    harness.join(A)
    harness.advance(FULL_READ / 4)
    harness.join(A)
    harness.advance(FULL_READ / 2)
    assert [moment for moment, _, _, seen in harness.results if seen is None] == [FULL_READ / 2]


@pytest.mark.parametrize("steps", range(4))
def test_group_left_by_all_just_before_its_poll_is_forgotten(harness: PollerHarness, steps: int) -> None:
    """The worker takes a group from the queue, and processes it some steps of the event loop later."""

    def leave_later(steps: int) -> None:
        if steps:
            harness.loop.call_soon(leave_later, steps - 1)
        else:
            harness.poller.leave(A)

    harness.join(A)
    harness.loop.call_at(3600, leave_later, steps)
    harness.advance(3601)
    assert not harness.results
    assert not len(harness.poller.queue)


def test_poller_names_the_members_of_a_group(harness: PollerHarness) -> None:
    harness.join(A)
    harness.join(B)
    assert sorted(harness.poller.members_of(HOURLY)) == [A, B]
    assert harness.poller.is_polled(A)
    harness.poller.leave(A)
    assert list(harness.poller.members_of(HOURLY)) == [B]
    assert not harness.poller.is_polled(A)
    harness.poller.leave(B)
    assert list(harness.poller.members_of(HOURLY)) == []


def test_closed_poller_ends_after_the_running_poll(harness: PollerHarness) -> None:
    harness.poll_seconds = 10
    harness.join(A)
    harness.loop.run_until_complete(asyncio.sleep(3605))
    harness.poller.close()
    harness.loop.run_until_complete(asyncio.wait_for(harness.working, 60))
    assert harness.served_keys == [A]


def test_sixteen_vaults_are_polled_at_once(harness: PollerHarness) -> None:
    harness.poll_seconds = 1000
    for number in range(17):
        identity = Identity(str(number), "robot", "client", "tenant")
        harness.join(Key(str(number), "a"), PollGroup(identity, "cloud", "vault", 3600.0))
    harness.advance(3601)
    assert len(harness.polls) == 16
    harness.advance(1000)
    assert len(harness.polls) == 17
