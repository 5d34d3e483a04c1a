"""Test which objects an AKVSync's select matches: patterns, conditions, and kept objects."""

import fnmatch
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.akvsync import MAX_PARTS, AKVObject
from controller.api.select import Select
from controller.domain.selection import (
    GlobPattern,
    ObjectChoice,
    ObjectSelector,
    Query,
    SelectedObject,
    SelectionCollector,
    SelectionSighting,
    choose_objects,
)
from controller.domain.vault_objects import ListItem
from tests.support.builders import make_item


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("shop-*", "shop-", True),
        ("shop-*", "shop-a", True),
        ("shop-*", "shop", False),
        ("*", "", True),
        ("**", "anything", True),
        ("*-db", "shop-db", True),
        ("*-db", "shop-db-old", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("a?c", "abbc", False),
        ("?*?", "a", False),
        ("?*?", "ab", True),
        ("a*b*c", "a1b2c", True),
        ("a*b*c", "a1c2b", False),
        ("a*bc*bc", "abcbcbc", True),
        ("abc", "abc", True),
        ("abc", "abcd", False),
    ],
)
def test_pattern_matches_the_whole_name(pattern: str, name: str, matches: bool) -> None:
    assert GlobPattern(pattern).matches(name) is matches


NAMES = st.text("ab-", max_size=12)


@given(st.text("ab-*?", max_size=12), NAMES)
def test_pattern_matches_like_fnmatch(pattern: str, name: str) -> None:
    assert GlobPattern(pattern).matches(name) is fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize("pattern", ["*a" * 63 + "b", "?*" * 63 + "b", "*" * 126 + "b", "*a?" * 42 + "b"])
def test_hostile_pattern_does_not_backtrack(pattern: str) -> None:
    glob, name = GlobPattern(pattern), "a" * 127
    began = time.process_time()
    assert not any(glob.matches(name) for _ in range(1000))
    assert time.process_time() - began < 1  # a pattern that backtracks takes years


@pytest.mark.parametrize(
    ("select", "found", "selected"),
    [
        ({}, make_item("a"), True),
        ({}, make_item("a", enabled=False), False),
        ({"namePrefix": "shop-"}, make_item("shop-a"), True),
        ({"namePrefix": "shop-"}, make_item("SHOP-a"), True),
        ({"namePrefix": "Shop-"}, make_item("shop-a"), True),
        ({"namePrefix": "shop-"}, make_item("a-shop-"), False),
        ({"namePattern": "*-DB"}, make_item("shop-db"), True),
        ({"namePrefix": "shop-", "namePattern": "*-db"}, make_item("shop-a"), False),
        ({"namePrefix": "shop-", "namePattern": "*-db"}, make_item("a-db"), False),
        ({"tags": {"app": "shop"}}, make_item("a", tags={"app": "shop", "x": "y"}), True),
        ({"tags": {"app": "shop"}}, make_item("a", tags={"app": "Shop"}), False),
        ({"tags": {"app": "shop"}}, make_item("a", tags={"App": "shop"}), False),
        ({"tags": {"app": "shop"}}, make_item("a"), False),
        ({"tags": {"app": "", "x": "y"}}, make_item("a", tags={"app": ""}), False),
        ({"tags": {"app": ""}}, make_item("a", tags={"app": ""}), True),
        ({"types": ["secret"]}, make_item("a"), True),
        ({"types": ["secret"]}, make_item("a", managed=True), False),
        ({"types": ["cert"]}, make_item("a"), False),
        ({"types": ["cert"]}, make_item("a", managed=True), True),
        ({"types": ["secret", "cert"]}, make_item("a", managed=True), True),
        (
            {"namePrefix": "a", "tags": {"t": "1"}, "types": ["cert"]},
            make_item("a", managed=True, tags={"t": "1"}),
            True,
        ),
        ({"namePrefix": "a", "tags": {"t": "1"}, "types": ["cert"]}, make_item("a", tags={"t": "1"}), False),
    ],
)
def test_object_is_selected_if_all_given_conditions_match(
    select: dict[str, Any], found: ListItem, selected: bool
) -> None:
    assert ObjectSelector(msgspec.convert(select, Select)).matches(found) is selected


def collect_items(query: Query, *items: ListItem) -> SelectionCollector:
    collector = SelectionCollector(query)
    for each in items:
        collector.add(each)
    return collector


def test_sighting_has_the_matches_of_each_entry() -> None:
    query = Query(entries=(Select(name_prefix="a"), Select(types=["cert"])))
    seen = collect_items(
        query, make_item("a1"), make_item("b", managed=True), make_item("A2", managed=True), make_item("c")
    ).to_sighting()
    assert seen.matches == (
        (SelectedObject("a1"), SelectedObject("A2", True)),
        (SelectedObject("A2", True), SelectedObject("b", True)),
    )
    assert seen.totals == (2, 2)


def test_missing_objects_are_those_absent_or_disabled_in_the_list() -> None:
    query = Query(entries=(Select(name_prefix="a"),), confirm=frozenset({"a", "b", "c", "d"}))
    collector = collect_items(
        query, make_item("A"), make_item("b", enabled=False), make_item("d", tags={"left": "the selection"})
    )
    assert collector.missing_names == {"b", "c"}


def test_known_and_first_matches_are_kept_of_too_many() -> None:
    query = Query(entries=(Select(),), known=frozenset({"z9999"}))
    seen = collect_items(query, *(make_item(f"z{number:04}") for number in range(10_000))).to_sighting()
    (matches,) = seen.matches
    assert seen.totals == (10_000,)
    assert len(matches) == MAX_PARTS + 2
    assert {"z9999", "z0000", "z0256"} <= {match.name for match in matches}


KEEP, REMOVE = AKVObject(select=Select()), AKVObject(select=Select(), when_gone="Remove")


@pytest.mark.parametrize(
    ("entry", "present", "before", "removed", "chosen"),
    [
        (KEEP, ["a"], [], [], [ObjectChoice("a", is_new=True)]),
        (KEEP, ["a"], ["a"], [], [ObjectChoice("a")]),
        (KEEP, [], ["a"], [], [ObjectChoice("a", kept=True)]),
        (KEEP, [], ["a"], ["a"], [ObjectChoice("a", kept=True)]),
        (REMOVE, [], ["a"], [], [ObjectChoice("a", kept=True)]),
        (REMOVE, [], ["a"], ["a"], []),
        (REMOVE, ["a"], ["a"], ["a"], [ObjectChoice("a")]),
        (REMOVE, [], ["a", "b"], ["a"], [ObjectChoice("b", kept=True)]),
        pytest.param(KEEP, ["A"], ["a"], [], [ObjectChoice("a")], id="same object in another spelling"),
        pytest.param(KEEP, ["b", "a"], ["c"], [], [ObjectChoice("c", kept=True), ObjectChoice("a", is_new=True),
                                                   ObjectChoice("b", is_new=True)], id="earlier choices first"),
    ],
)  # fmt: skip
def test_choices_of_an_entry_follow_from_the_list_and_the_last_choices(
    entry: AKVObject, present: list[str], before: list[str], removed: list[str], chosen: list[ObjectChoice]
) -> None:
    sighting = SelectionSighting(matches=(tuple(map(SelectedObject, present)),), totals=(len(present),))
    last_choices = [{name.lower(): name for name in before}]
    assert list(choose_objects([entry], sighting, last_choices, frozenset(removed))[0]) == chosen
