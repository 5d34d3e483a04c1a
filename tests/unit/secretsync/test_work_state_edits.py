"""Test edits that affect only some keys of a SecretSync, in each state of its work."""

import pytest

from controller.errors import ProviderError
from controller.secretsync.work_state import (
    Confirm,
    Due,
    DueAt,
    Fetch,
    OnPoll,
    ReportFailure,
    Task,
    Undecided,
    WorkState,
)

A, B = frozenset("a"), frozenset("b")


@pytest.mark.parametrize(
    ("due", "pending", "edited", "fetched"),
    [
        (OnPoll(), None, False, A),
        (DueAt(9.0), None, False, A),
        (OnPoll(), Confirm(), False, A),
        (DueAt(9.0), Fetch(0.0, B), False, A | B),
        (Undecided(), Fetch(0.0, B), True, A | B),
        pytest.param(DueAt(9.0), Fetch(0.0), False, None, id="all keys are fetched anyway"),
        pytest.param(Undecided(), None, False, None, id="new SecretSync"),
        pytest.param(OnPoll(), ReportFailure(ProviderError("down")), False, None, id="the vault could not be read"),
    ],
)
def test_edit_of_some_keys_fetches_only_these(due: Due, pending: Task | None, edited: bool, fetched: object) -> None:
    state = WorkState(due=due, pending=pending, edited=edited)
    state.on_edit(5.0, A)
    assert state.pending == Fetch(5.0, fetched)  # type: ignore[arg-type]
    assert state.fetches_all is (fetched is None)


def test_edit_without_keys_fetches_all() -> None:
    state = WorkState(due=OnPoll())
    state.on_edit(5.0, A)
    state.on_edit(6.0)
    assert state.pending == Fetch(6.0)
