"""Test polls of a group whose vault is unreachable, is throttled or hangs, in virtual time."""

import itertools
import logging

import pytest

from controller.domain.snapshot import PollResult
from controller.errors import ControllerError, ProviderError
from controller.keyvault.errors import throttled_error
from controller.polling.poll_group import PollGroup
from controller.polling.poller import FailedPoll, judge_failure
from controller.runtime.work_queue import Key
from tests.support.virtual_time import VirtualLoop
from tests.unit.polling.poller.harness import IDENTITY, SNAPSHOT, UNREACHABLE, A, B, C, PollerHarness


def results_by_time(harness: PollerHarness, since: float = 0.0) -> dict[float, list[PollResult]]:
    """Return the results of all members by time. None is first: it lets a member read."""
    results: dict[float, list[PollResult]] = {}
    for moment, _, _, seen in harness.results:
        if moment >= since:
            results.setdefault(moment, []).append(seen)
    return {moment: sorted(each, key=lambda seen: seen is not None) for moment, each in results.items()}


@pytest.mark.parametrize(
    ("error", "values_were_read", "expected"),
    [
        (UNREACHABLE, False, FailedPoll.UNREACHABLE),
        (None, False, FailedPoll.UNREACHABLE),
        (throttled_error("vault", 30), False, FailedPoll.THROTTLED),
        (throttled_error("vault", 30), True, FailedPoll.LISTS_FAIL),
        (None, True, FailedPoll.LISTS_FAIL),
    ],
)
def test_meaning_of_a_failed_poll(error: ControllerError | None, values_were_read: bool, expected: FailedPoll) -> None:
    assert judge_failure(error, values_were_read) is expected


def test_single_failed_poll_is_not_reported(harness: PollerHarness) -> None:
    harness.join(A)
    harness.snapshot = UNREACHABLE
    harness.advance(3601)
    assert harness.poller.waits_for_vault(A)
    harness.snapshot = SNAPSHOT
    harness.advance(10)
    assert not harness.poller.waits_for_vault(A)
    assert results_by_time(harness) == {3601.5: [SNAPSHOT]}
    harness.advance(3600)
    assert harness.poll_times[2:] == [3601.5 + 3600]


def test_unreachable_vault_gets_one_probe_at_a_time_with_backoff(harness: PollerHarness) -> None:
    for key in (A, B, C):
        harness.join(key)
    harness.snapshot = UNREACHABLE
    harness.advance(2 * 3600)
    first, second, *later = harness.poll_times
    assert (first, second) == (3600, 3601.5)
    # The backoff is 2, 4, 8 … 300 s; half of it is random.
    waits = [after - before for before, after in itertools.pairwise(harness.poll_times)]
    assert waits == [1.5, 3, 6, 12, 24, 48, 96, 192, *[225] * (len(waits) - 8)]
    assert results_by_time(harness) == {moment: [None, UNREACHABLE, UNREACHABLE] for moment in (second, *later)}
    readers = {key for _, key, _, seen in harness.results if seen is None}
    assert readers == {A, B, C}
    harness.snapshot = SNAPSHOT
    harness.advance(225)
    assert results_by_time(harness, 2 * 3600) == {harness.poll_times[-1]: [SNAPSHOT] * 3}
    harness.advance(3600)
    assert harness.poll_times[-1] - harness.poll_times[-2] == 3600


def test_failed_poll_is_repeated_after_the_seconds_of_retry_after(harness: PollerHarness) -> None:
    harness.join(A)
    harness.snapshot = ProviderError("down", retry_after=100)
    harness.advance(3600 + 150)
    assert harness.poll_times == [3600, 3701]


def test_while_only_lists_fail_all_members_read_at_each_interval(harness: PollerHarness) -> None:
    harness.join(A)
    harness.join(B)
    harness.snapshot = UNREACHABLE
    harness.advance(3602)
    harness.join(A)  # the member has read after its result, with success
    harness.join(A, age=5.0)
    assert not harness.poller.waits_for_vault(B)
    harness.advance(3 * 3600)
    second = harness.poll_times[1]
    third = second + 3
    assert harness.poll_times[2:] == [third, third + 3600, third + 2 * 3600]
    assert results_by_time(harness, third) == {moment: [None, None] for moment in harness.poll_times[2:]}
    # After a successful list, the next failure counts as an outage of the vault again.
    harness.snapshot = SNAPSHOT
    harness.advance(3600)
    harness.snapshot = UNREACHABLE
    harness.advance(3600)
    assert harness.poller.waits_for_vault(A)


def test_member_that_reads_after_the_first_failure_shows_that_only_lists_fail(harness: PollerHarness) -> None:
    harness.join(A)
    harness.snapshot = UNREACHABLE
    harness.advance(3601)
    harness.join(A, age=5.0)  # not read since the failure
    assert harness.poller.waits_for_vault(A)
    harness.join(A)
    assert not harness.poller.waits_for_vault(A)


def test_member_that_joins_during_an_outage_waits_with_the_group(harness: PollerHarness) -> None:
    harness.join(A)
    harness.snapshot = UNREACHABLE
    harness.advance(3605)
    harness.join(B, age=None)
    harness.advance(5)
    assert results_by_time(harness, 3605).popitem()[1] == [None, UNREACHABLE]


def test_member_of_unknown_age_is_polled_after_the_jitter(loop: VirtualLoop) -> None:
    harness = PollerHarness(loop, jitter=100)
    harness.join(A, age=None)
    harness.join(B)
    harness.advance(60)
    assert results_by_time(harness) == {50: [SNAPSHOT, SNAPSHOT]}


def test_failed_poll_of_a_group_that_all_left_and_joined_is_not_recorded(harness: PollerHarness) -> None:
    recorded: list[float] = []
    harness.poller.on_polled = lambda _group, began, _unequal, _early: recorded.append(began)
    harness.snapshot = UNREACHABLE
    harness.poll_seconds = 10
    harness.join(A)
    harness.advance(3601)
    harness.poller.leave(A)
    harness.join(A)
    harness.advance(10)
    assert (harness.poll_times, recorded) == ([3600], [])
    harness.snapshot = SNAPSHOT
    harness.advance(3610)
    assert recorded == [7201]


def test_group_left_by_all_during_a_failing_poll_is_not_polled_again(harness: PollerHarness) -> None:
    harness.join(A)
    harness.snapshot = UNREACHABLE
    harness.poll_seconds = 1
    harness.advance(3600.5)
    harness.poller.leave(A)
    harness.advance(1)
    assert not len(harness.poller.queue)
    harness.advance(10_000)
    assert harness.poll_times == [3600]
    assert not harness.results
    assert not harness.poller.waits_for_vault(A)


def test_unexpected_error_of_polls_lets_all_members_read(
    harness: PollerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.join(A)
    harness.join(B)
    harness.snapshot = RuntimeError("bug")
    harness.advance(3602)
    assert results_by_time(harness) == {3601.5: [None, None]}
    assert [record.getMessage() for record in caplog.records] == ["unexpected RuntimeError"] * 2


def test_number_of_suppressed_lines_is_logged_after_a_minute(
    harness: PollerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(12):
        harness.join(Key("team", str(number)), PollGroup(IDENTITY, "cloud", f"vault-{number}", 3600.0))
    harness.snapshot = RuntimeError("bug")
    harness.advance(3600.5)
    assert len(caplog.records) == 10
    harness.snapshot = SNAPSHOT
    harness.advance(60)
    harness.poller.flush_logs()
    assert caplog.records[10].getMessage() == "2 more lines like the last of this kind: unexpected"


def test_failed_poll_is_logged_for_debugging(harness: PollerHarness, caplog: pytest.LogCaptureFixture) -> None:
    harness.join(A)
    harness.snapshot = UNREACHABLE
    with caplog.at_level(logging.DEBUG, "controller.polling.poller"):
        harness.advance(3601)
    assert [record.getMessage() for record in caplog.records] == ["Key Vault vault could not be polled: down"]


def test_throttled_poll_is_repeated_and_no_member_reads_meanwhile(harness: PollerHarness) -> None:
    harness.join(A)
    harness.join(B)
    harness.snapshot = throttled_error("vault", 30)
    harness.advance(3600 + 100)
    assert harness.poll_times == [3600, 3630, 3660, 3690]
    assert not harness.results
    harness.snapshot = SNAPSHOT
    harness.advance(30)
    assert [seen for *_, seen in harness.results] == [SNAPSHOT, SNAPSHOT]
    # The deferral of the poll is counted from zero when the vault throttles again.
    harness.snapshot = throttled_error("vault", 30)
    harness.advance(3600)
    assert harness.poll_times[4:] == [3720, 7320]
    assert len(harness.results) == 2


@pytest.mark.parametrize("seconds", [None, 30, 300])
def test_vault_throttled_for_a_whole_interval_counts_as_unreachable(
    harness: PollerHarness, seconds: float | None
) -> None:
    harness.join(A)
    harness.join(B)
    harness.snapshot = busy = throttled_error("vault", seconds)
    harness.advance(2 * 3600 - 1)
    assert not harness.results
    assert not harness.poller.waits_for_vault(A)
    harness.advance(2)
    assert results_by_time(harness) == {7200: [busy, busy]}
    assert harness.poller.waits_for_vault(A)
    harness.snapshot = SNAPSHOT
    harness.advance(300)
    assert harness.results[-1][-1] == SNAPSHOT
    assert not harness.poller.waits_for_vault(A)


def test_outage_after_a_throttled_interval_is_the_second_failure(harness: PollerHarness) -> None:
    harness.join(A)
    harness.snapshot = throttled_error("vault", 300)
    harness.advance(2 * 3600 + 1)
    harness.snapshot = UNREACHABLE
    harness.advance(305)
    # The wait after a second failure is between two and four seconds.
    assert harness.poll_times[-2:] == [7500, 7503]


def test_member_that_leaves_a_throttled_group_gets_no_result(harness: PollerHarness) -> None:
    harness.join(A)
    harness.snapshot = throttled_error("vault", 30)
    harness.advance(3601)
    harness.poller.leave(A)
    harness.advance(10_000)
    assert harness.poll_times == [3600]
    assert not len(harness.poller.queue)


def test_hanging_vault_does_not_delay_polls_of_other_vaults(harness: PollerHarness) -> None:
    harness.join(A)
    harness.poll_seconds = 3000
    harness.advance(3601)
    harness.poll_seconds = 0
    harness.join(B, PollGroup(IDENTITY, "cloud", "other", 3600.0), age=3590)
    harness.advance(20)
    assert harness.served_keys == [B]
