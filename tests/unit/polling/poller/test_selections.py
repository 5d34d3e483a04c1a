"""Test the selections that a poll answers from its list, in virtual time."""

from typing import Any

import msgspec
import pytest

from controller.api.select import Select
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.selection import Query, SelectedObject, SelectionSighting
from controller.domain.snapshot import VaultSnapshot
from controller.errors import ControllerError, SelectionDeferred
from controller.polling.poll_group import PollGroup
from controller.polling.poller import FULL_READ
from controller.runtime import budgets
from controller.runtime.work_queue import Key
from tests.unit.polling.poller.harness import HOURLY, IDENTITY, PASS, UNREACHABLE, USER, A, B, PollerHarness

SHOP = Key("team", "shop")
QUERY = Query(entries=(Select(),), known=frozenset({"user", "pass"}), syncs=frozenset({"a"}))
BOTH = SelectionSighting(matches=((SelectedObject("User"), SelectedObject("pass")),), totals=(2,))
ONE = SelectionSighting(matches=((SelectedObject("pass"),),), totals=(1,))


@pytest.fixture
def answers(harness: PollerHarness) -> list[tuple[Key, SelectionSighting | ControllerError | None]]:
    found: list[tuple[Key, SelectionSighting | ControllerError | None]] = []
    harness.poller.handle_selection = lambda key, query, seen: found.append((key, seen))
    return found


def set_sightings(harness: PollerHarness, *sightings: Any) -> None:
    harness.snapshot = VaultSnapshot(listed={"secret": {}}, sightings=sightings, compared=10)


def test_poll_answers_the_selections_of_its_group(harness: PollerHarness, answers: list[Any]) -> None:
    set_sightings(harness, BOTH)
    harness.join(A)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(3601)
    assert harness.poll_times == [3600]
    assert harness.queries == [(QUERY,)]
    assert answers == [(SHOP, BOTH)]
    assert harness.served_keys == [A]


def test_group_without_secretsyncs_polls_for_the_latest_query(harness: PollerHarness, answers: list[Any]) -> None:
    set_sightings(harness, BOTH)
    harness.poller.select(SHOP, HOURLY, QUERY, 3000.0)
    newer = msgspec.structs.replace(QUERY, known=frozenset())
    harness.poller.select(SHOP, HOURLY, newer, 0.0)
    harness.advance(601)
    assert (harness.poll_times, harness.queries) == ([600], [(newer,)])
    harness.poller.select(SHOP, PollGroup(IDENTITY, "cloud", "other", 3600.0), QUERY, 3599.0)
    harness.advance(2)
    assert len(harness.poller.groups) == 1
    harness.poller.deselect(SHOP)
    harness.poller.deselect(SHOP)
    harness.advance(10_000)
    assert len(harness.poll_times) == 2
    assert not harness.poller.groups


def test_selection_gets_the_error_of_the_second_failed_list(harness: PollerHarness, answers: list[Any]) -> None:
    harness.snapshot = UNREACHABLE
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(3601)
    assert answers == [(SHOP, None)]
    harness.advance(300)
    assert {error for _, error in answers[1:]} == {UNREACHABLE}
    set_sightings(harness, BOTH)
    harness.advance(300)
    assert answers[-1] == (SHOP, BOTH)


def test_object_that_leaves_a_selection_is_not_read_again(harness: PollerHarness, answers: list[Any]) -> None:
    set_sightings(harness, ONE)
    harness.poller.join(A, HOURLY, {"u": USER, "p": PASS}, 0.0)
    harness.poller.join(B, HOURLY, {"u": USER}, 0.0)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(3601)
    assert {key: wanted for _, key, wanted, _ in harness.results} == {A: {"p": PASS}, B: {"u": USER}}


def test_kept_object_does_not_prevent_the_daily_full_read(harness: PollerHarness, answers: list[Any]) -> None:
    set_sightings(harness, ONE)
    kept = ObjectVersionRef(VaultObject(name="user", keep=True))
    harness.poller.join(A, HOURLY, {"u": kept, "p": PASS}, 0.0)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(FULL_READ)
    assert sum(seen is None for *_, seen in harness.results) == 1


def test_group_without_secretsyncs_is_polled_for_its_selection(harness: PollerHarness, answers: list[Any]) -> None:
    set_sightings(harness, BOTH)
    harness.join(A)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.poller.leave(A)
    harness.advance(3601)
    assert answers == [(SHOP, BOTH)]


def test_reset_forgets_the_selections(harness: PollerHarness, answers: list[Any]) -> None:
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.poller.reset()
    assert not harness.poller.groups
    harness.advance(3601)
    assert not answers


@pytest.mark.parametrize(("compared", "polls"), [(10, 2), (1_000_000, 1)])
def test_comparisons_of_a_poll_use_the_budget_of_the_namespace(
    harness: PollerHarness, answers: list[Any], compared: int, polls: int
) -> None:
    harness.snapshot = VaultSnapshot(listed={"secret": {}}, sightings=(BOTH,), compared=compared)
    other = PollGroup(IDENTITY, "cloud", "other", 3600.0)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(3600.5)
    set_sightings(harness, BOTH)
    harness.poller.select(Key("team", "second"), other, QUERY, 3599.0)
    harness.advance(2)
    assert harness.queries == [(QUERY,)] * polls


def test_poll_without_a_selection_uses_no_budget(harness: PollerHarness) -> None:
    harness.join(A)
    harness.advance(3601)
    assert not harness.poller.compared.buckets


def test_namespace_without_budget_is_polled_without_its_selections(harness: PollerHarness, answers: list[Any]) -> None:
    set_sightings(harness)
    harness.join(A)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(3599)
    harness.poller.compared.spend("team", 2 * budgets.COMPARED.limit)
    harness.advance(2)
    assert harness.queries == [()]
    assert not answers
    assert harness.served_keys == [A]


def test_skipped_selections_are_answered_as_soon_as_there_is_budget(harness: PollerHarness, answers: list[Any]) -> None:
    """Another group of the namespace, which polls shortly before this one, must not delay them for ever."""
    harness.join(A)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(3599)
    harness.poller.compared.spend("team", 2 * budgets.COMPARED.limit)
    harness.advance(30)
    assert harness.queries == [()]
    set_sightings(harness, BOTH)
    harness.advance(60)
    assert harness.poll_times == [3600, 3659]
    assert harness.queries == [(), (QUERY,)]
    assert answers == [(SHOP, BOTH)]
    harness.advance(3600)
    assert harness.poll_times == [3600, 3659, 7259]


def test_selections_without_budget_for_an_interval_are_reported(harness: PollerHarness, answers: list[Any]) -> None:
    harness.join(A)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    for number in range(100):
        harness.poller.compared.spend("team", 2 * budgets.COMPARED.limit)
        harness.advance(100)
        if number == 50:
            harness.join(A)  # after an attempt, which needs no poll before the next one
    assert harness.poll_times == [3600, 7200]  # for the SecretSync alone
    assert harness.queries == [(), ()]
    assert [(key, type(seen)) for key, seen in answers] == [(SHOP, SelectionDeferred)]


def test_spent_budget_does_not_concern_a_group_without_selections(harness: PollerHarness) -> None:
    harness.join(A)
    harness.advance(3599)
    harness.poller.compared.spend("team", 2 * budgets.COMPARED.limit)
    harness.advance(3600)
    assert harness.poll_times == [3600]


def test_group_of_selections_alone_is_not_listed_without_budget(harness: PollerHarness, answers: list[Any]) -> None:
    set_sightings(harness, BOTH)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(3599)
    harness.poller.compared.spend("team", 2 * budgets.COMPARED.limit)
    harness.advance(100)
    assert harness.poll_times == [3659]
    assert answers == [(SHOP, BOTH)]


def test_poll_of_a_member_that_joins_late_is_not_delayed_by_the_budget(
    harness: PollerHarness, answers: list[Any]
) -> None:
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(10)
    harness.poller.compared.spend("team", 100 * budgets.COMPARED.limit)
    harness.join(A, age=3590.0)
    harness.advance(11)
    assert harness.poll_times == [20]
    assert harness.served_keys == [A]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("group", [None, PollGroup(IDENTITY, "cloud", "other", 3600.0)])
def test_poll_does_not_answer_a_selection_that_left_its_group(
    harness: PollerHarness, answers: list[Any], group: PollGroup | None, fails: bool
) -> None:
    """The list of one vault, or of one identity, says nothing about another one."""
    set_sightings(harness, BOTH)
    harness.snapshot = UNREACHABLE if fails else harness.snapshot
    harness.poll_seconds = 5
    harness.join(A)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(3601)
    assert harness.poll_times == [3600]
    harness.poller.deselect(SHOP)
    if group:
        harness.poller.select(SHOP, group, QUERY, 0.0)
    harness.advance(5)
    assert answers == []
    assert harness.served_keys == ([] if fails else [A])


def test_poll_of_a_member_that_joins_during_a_poll_is_not_delayed_by_the_budget(
    harness: PollerHarness, answers: list[Any]
) -> None:
    set_sightings(harness, BOTH)
    harness.poll_seconds = 20
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(3610)
    harness.join(A, age=3570.0)
    harness.poller.compared.spend("team", 100 * budgets.COMPARED.limit)
    harness.advance(15)
    set_sightings(harness)
    harness.advance(45)
    assert harness.poll_times == [3600, 3640]
    assert harness.served_keys == [A, A]


def test_probe_of_an_unreachable_vault_is_not_delayed_by_the_budget(harness: PollerHarness, answers: list[Any]) -> None:
    """The SecretSyncs wait for the probe, and the failed poll was sent earlier than they needed one."""
    harness.join(A)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(3599)
    harness.poller.compared.spend("team", 2 * budgets.COMPARED.limit)
    harness.advance(59)
    harness.snapshot = UNREACHABLE
    harness.advance(1.5)
    assert harness.poll_times == [3600, 3659]
    harness.poller.compared.spend("team", 100 * budgets.COMPARED.limit)
    harness.snapshot = VaultSnapshot(listed={"secret": {}})
    harness.advance(60)
    assert len(harness.poll_times) == 3
    assert harness.served_keys == [A, A]


def test_rounded_rest_of_the_wait_occupies_no_worker(
    harness: PollerHarness, answers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum with such a rest can equal the time itself, so the group would be due again at once."""
    rests = [1e-12] * 100
    monkeypatch.setattr(harness.poller.compared, "wait", lambda _namespace: rests.pop() if rests else 0.0)
    harness.poller.select(SHOP, HOURLY, QUERY, 0.0)
    harness.advance(3601)
    assert len(rests) >= 98
