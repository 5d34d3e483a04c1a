"""Selections that polls answer by the way, in virtual time."""

from typing import Any

import msgspec
import pytest

from controller.api.select import Select
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.selection import Query, SelectedObject, SelectionSighting
from controller.domain.snapshot import VaultSnapshot
from controller.errors import ControllerError
from controller.keyvault.poll_group import PollGroup
from controller.runtime.work_queue import Key
from controller.secretsync.poller import FULL_READ
from tests.unit.secretsync.poller.stage import AWAY, HOURLY, PASS, USER, WHO, A, B, Stage

SHOP = Key("team", "shop")
QUERY = Query(entries=(Select(),), known=frozenset({"user", "pass"}), syncs=frozenset({"a"}))
BOTH = SelectionSighting(matches=((SelectedObject("User"), SelectedObject("pass")),), totals=(2,))
ONE = SelectionSighting(matches=((SelectedObject("pass"),),), totals=(1,))


@pytest.fixture
def told(stage: Stage) -> list[tuple[Key, SelectionSighting | ControllerError | None]]:
    found: list[tuple[Key, SelectionSighting | ControllerError | None]] = []
    stage.poller.tell_selection = lambda key, query, seen: found.append((key, seen))
    return found


def shows(stage: Stage, *sightings: Any) -> None:
    stage.seen = VaultSnapshot(listed={"secret": {}}, sightings=sightings, compared=10)


def test_a_poll_answers_the_selections_of_its_group(stage: Stage, told: list[Any]) -> None:
    shows(stage, BOTH)
    stage.join(A)
    stage.poller.select(SHOP, HOURLY, QUERY, 0.0)
    stage.passes(3601)
    assert stage.times == [3600]
    assert stage.queries == [(QUERY,)]
    assert told == [(SHOP, BOTH)]
    assert stage.who == [A]


def test_a_selection_alone_is_polled_and_the_last_query_counts(stage: Stage, told: list[Any]) -> None:
    shows(stage, BOTH)
    stage.poller.select(SHOP, HOURLY, QUERY, 3000.0)
    newer = msgspec.structs.replace(QUERY, known=frozenset())
    stage.poller.select(SHOP, HOURLY, newer, 0.0)
    stage.passes(601)
    assert (stage.times, stage.queries) == ([600], [(newer,)])
    stage.poller.select(SHOP, PollGroup(WHO, "cloud", "other", 3600.0), QUERY, 3599.0)
    stage.passes(2)
    assert len(stage.poller.cycles) == 1
    stage.poller.deselect(SHOP)
    stage.poller.deselect(SHOP)
    stage.passes(10_000)
    assert len(stage.times) == 2
    assert not stage.poller.cycles


def test_a_selection_whose_list_fails_is_told_the_second_time(stage: Stage, told: list[Any]) -> None:
    stage.seen = AWAY
    stage.poller.select(SHOP, HOURLY, QUERY, 0.0)
    stage.passes(3601)
    assert told == [(SHOP, None)]
    stage.passes(300)
    assert {error for _, error in told[1:]} == {AWAY}
    shows(stage, BOTH)
    stage.passes(300)
    assert told[-1] == (SHOP, BOTH)


def test_an_object_that_leaves_is_not_read_for_the_last_time(stage: Stage, told: list[Any]) -> None:
    shows(stage, ONE)
    stage.poller.join(A, HOURLY, {"u": USER, "p": PASS}, 0.0)
    stage.poller.join(B, HOURLY, {"u": USER}, 0.0)
    stage.poller.select(SHOP, HOURLY, QUERY, 0.0)
    stage.passes(3601)
    assert {key: wanted for _, key, wanted, _ in stage.told} == {A: {"p": PASS}, B: {"u": USER}}


def test_what_is_kept_already_hinders_no_full_read(stage: Stage, told: list[Any]) -> None:
    shows(stage, ONE)
    kept = ObjectVersionRef(VaultObject(name="user", keep=True))
    stage.poller.join(A, HOURLY, {"u": kept, "p": PASS}, 0.0)
    stage.poller.select(SHOP, HOURLY, QUERY, 0.0)
    stage.passes(FULL_READ)
    assert sum(seen is None for *_, seen in stage.told) == 1


def test_a_namespace_that_spent_its_budget_is_polled_without_its_selections(stage: Stage, told: list[Any]) -> None:
    shows(stage)
    stage.join(A)
    stage.poller.select(SHOP, HOURLY, QUERY, 0.0)
    stage.passes(3599)
    stage.poller.compared.spend("team", 1_000_000)
    stage.passes(2)
    assert stage.queries == [()]
    assert not told
    assert stage.who == [A]
