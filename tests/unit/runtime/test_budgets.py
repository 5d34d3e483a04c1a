"""Test the budgets of namespaces: rates, totals and recent entries. Each budget must have a use and a test."""

import ast
import functools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.runtime import budgets
from controller.runtime.budgets import BUDGETS, Budget, RateBudget, RecentEntries, TotalBudget
from tests.support import sources
from tests.support.pages import list_test_names
from tools.codegen.docs import budget_table

ROOT = Path(__file__).resolve().parents[3]
NAMES = {name: found for name, found in vars(budgets).items() if isinstance(found, Budget)}


def make_budget(most: float, seconds: float = 0.0) -> Budget:
    return Budget("what", most, "unit", "then", "test", seconds)


@functools.cache
def list_used_names() -> set[str]:
    """Return the names that the controller's modules read as `budgets.NAME`."""
    found = set()
    for path in sorted((ROOT / "controller").rglob("*.py")):
        for node in ast.walk(sources.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "budgets":
                found.add(node.attr)
    return found


# The table


def test_every_budget_is_in_the_table() -> None:
    assert set(NAMES.values()) == set(BUDGETS)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_budget_is_used_in_code(name: str) -> None:
    assert name in list_used_names()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_budget_has_its_test(name: str) -> None:
    path, _, test = NAMES[name].test.partition("::")
    assert test in list_test_names(path)


def test_table_of_budgets_is_in_security_md() -> None:
    assert budget_table() in (ROOT / "SECURITY.md").read_text()


# Rates


def test_rate_allows_a_burst_and_then_its_average() -> None:
    now = [0.0]
    rates = RateBudget(make_budget(10, seconds=60), lambda: now[0])
    assert [rates.take("a") for _ in range(12)] == [True] * 10 + [False] * 2
    assert rates.wait("a", 1) == pytest.approx(6)
    now[0] += 6
    assert rates.take("a")
    assert not rates.take("a")
    assert rates.take("b")


def test_overspent_rate_blocks_until_it_is_refilled() -> None:
    now = [0.0]
    rates = RateBudget(make_budget(10, seconds=60), lambda: now[0])
    rates.spend("a", 30)
    assert rates.wait("a") == pytest.approx(120)
    assert rates.wait("b") == 0
    now[0] += 120
    assert rates.wait("a") == pytest.approx(0)


def test_full_bucket_uses_no_memory() -> None:
    now = [0.0]
    rates = RateBudget(make_budget(10, seconds=60), lambda: now[0])
    for number in range(10_000):
        now[0] += 1
        rates.take(f"namespace-{number}")
        assert len(rates.buckets) <= 1024
    now[0] += 60
    assert len(rates) == 0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 5), st.floats(0, 20)), max_size=60))
def test_rate_never_allows_more_than_burst_and_average(steps: list[tuple[str, float, float]]) -> None:
    now, taken = [0.0], {"a": 0.0, "b": 0.0}
    rates = RateBudget(make_budget(10, seconds=60), lambda: now[0])
    for namespace, amount, pause in steps:
        now[0] += pause
        taken[namespace] += amount if rates.take(namespace, amount) else 0.0
        assert taken[namespace] <= 10 + now[0] / 6 + 1e-6


# Totals


def test_total_is_bounded_by_namespace() -> None:
    totals: TotalBudget[str] = TotalBudget(make_budget(100))
    assert totals.set("a", "x", 60)
    assert not totals.set("a", "y", 60)
    assert totals.total("a") == 60
    assert totals.set("b", "y", 60)
    assert totals.set("a", "x", 30)
    assert totals.set("a", "y", 60)
    totals.drop("a", "x")
    totals.drop("a", "y")
    totals.drop("a", "never there")
    totals.drop("b", "y")
    assert not totals.amounts
    assert not totals.sums


def test_smaller_amount_is_accepted_above_the_budget() -> None:
    totals: TotalBudget[str] = TotalBudget(make_budget(100))
    totals.set("a", "x", 100)
    totals.sums["a"] = 150  # as if the budget had been lowered
    assert totals.set("a", "x", 90)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 70) | st.none()), max_size=80))
def test_total_is_the_sum_of_the_amounts(steps: list[tuple[str, int, int | None]]) -> None:
    totals: TotalBudget[int] = TotalBudget(make_budget(100))
    kept: dict[tuple[str, int], int] = {}
    for namespace, key, amount in steps:
        if amount is None:
            totals.drop(namespace, key)
            kept.pop((namespace, key), None)
        elif totals.set(namespace, key, amount):
            kept[namespace, key] = amount
        for each in "abc":
            assert math.isclose(totals.total(each), sum(amount for (name, _), amount in kept.items() if name == each))
            assert totals.total(each) <= 100


# Recent entries


def test_oldest_entry_of_a_namespace_is_evicted() -> None:
    recent: RecentEntries[str, int] = RecentEntries(make_budget(2))
    assert recent.put("a", "x", 1) == []
    assert recent.put("a", "y", 2) == []
    assert recent.get("a", "x") == 1
    assert recent.put("a", "z", 3) == [("y", 2)]
    assert recent.put("b", "y", 4) == []
    assert sorted(recent.items()) == [("a", "x", 1), ("a", "z", 3), ("b", "y", 4)]
    assert recent.drop("a", "x") == 1
    assert recent.drop("a", "x") is None
    recent.drop("a", "z")
    recent.drop("b", "y")
    assert not recent.entries


def test_namespace_whose_last_entry_makes_room_uses_no_memory() -> None:
    recent: RecentEntries[str, int] = RecentEntries(make_budget(2), total=1)
    recent.put("a", "x", 1)
    assert recent.put("b", "y", 2) == [("x", 1)]
    assert recent.entries.keys() == {"b"}
