"""Test that a SecretSync gets the result of a poll as soon as the pages that were read list all of its objects."""

from datetime import UTC, datetime

import pytest

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.selection import Query
from controller.domain.snapshot import ListedObject, VaultSnapshot
from controller.polling.poll_group import PollGroup
from controller.polling.poller import FULL_READ
from controller.runtime.work_queue import Key
from tests.unit.polling.poller.harness import (
    HOURLY,
    PAGE_SECONDS,
    PASS,
    SNAPSHOT,
    UNREACHABLE,
    USER,
    A,
    B,
    C,
    PollerHarness,
)

STATE = ListedObject(datetime(2030, 1, 1, tzinfo=UTC), True)
USER_PAGE, PASS_PAGE, OTHER_PAGE = ({name: STATE} for name in ("user", "pass", "other"))
FIRST, SECOND, END = (HOURLY.interval + pages * PAGE_SECONDS for pages in (0, 1, 3))


def test_secretsync_gets_its_result_when_its_last_object_is_listed(harness: PollerHarness) -> None:
    harness.pages = [USER_PAGE, PASS_PAGE, OTHER_PAGE]
    harness.join(A)
    harness.join(B, wanted=PASS)
    harness.poller.join(C, HOURLY, {"user": USER, "password": PASS}, 0.0)
    harness.advance(HOURLY.interval + 1)
    moments = [(key, round(moment, 2)) for moment, key, *_ in harness.results]
    assert sorted(moments) == [(A, FIRST), (B, SECOND), (C, SECOND)]
    snapshots = [seen for *_, seen in harness.results if isinstance(seen, VaultSnapshot)]
    assert [(seen.since, "user" in seen.listed["secret"]) for seen in snapshots] == [(FIRST, True)] * 3
    assert harness.uses_pages == [True]


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(ObjectVersionRef(VaultObject(name="gone")), id="the list lacks its object"),
        pytest.param(ObjectVersionRef(VaultObject(name="user", type="key")), id="it wants an object of another type"),
        pytest.param(ObjectVersionRef(VaultObject(name="user", history=2), 1), id="it wants several versions"),
    ],
)
def test_secretsync_that_needs_the_whole_list_gets_its_result_at_the_end(
    harness: PollerHarness, wanted: ObjectVersionRef
) -> None:
    harness.pages = [USER_PAGE, PASS_PAGE, OTHER_PAGE]
    harness.join(A, wanted=wanted)
    harness.advance(HOURLY.interval + 1)
    assert [(key, round(moment, 2)) for moment, key, *_ in harness.results] == [(A, END)]
    assert harness.results[0][3] is SNAPSHOT


def test_object_that_two_pages_list_counts_once(harness: PollerHarness) -> None:
    """Objects move to another page where others are added or removed while the list is read."""
    harness.pages = [USER_PAGE, USER_PAGE, OTHER_PAGE]
    harness.poller.join(C, HOURLY, {"user": USER, "password": PASS}, 0.0)
    harness.advance(HOURLY.interval + 1)
    assert [(key, round(moment, 2)) for moment, key, *_ in harness.results] == [(C, END)]


def test_undecided_selection_delays_all_results_to_the_end(harness: PollerHarness) -> None:
    """An object may have left the selection, and only the end of the list shows that."""
    harness.pages = [USER_PAGE, PASS_PAGE, OTHER_PAGE]
    harness.snapshot = VaultSnapshot(listed={"secret": {}}, sightings=(UNREACHABLE,))
    harness.join(A)
    harness.poller.select(Key("team", "all"), HOURLY, Query(entries=()), 0.0)
    harness.advance(HOURLY.interval + 1)
    assert harness.uses_pages == [False]
    assert [(key, round(moment, 2)) for moment, key, *_ in harness.results] == [(A, END)]


def test_daily_full_read_waits_for_the_end(harness: PollerHarness) -> None:
    daily = PollGroup(HOURLY.identity, HOURLY.cloud, HOURLY.vault, 2 * FULL_READ)
    harness.pages = [USER_PAGE]
    harness.join(A, daily)
    harness.advance(2 * FULL_READ + 1)
    assert [seen for *_, seen in harness.results] == [None]


def test_full_read_that_is_due_at_the_start_of_the_poll_waits_for_the_end(harness: PollerHarness) -> None:
    harness.pages = [USER_PAGE]
    harness.join(A)
    harness.advance(FULL_READ / 2 + 1)
    assert harness.poll_times[-1] == FULL_READ / 2
    assert [seen is None for *_, seen in harness.results] == [False] * 11 + [True]


def test_secretsync_edited_during_the_poll_gets_its_result_at_the_end(harness: PollerHarness) -> None:
    harness.pages = [OTHER_PAGE, USER_PAGE]
    harness.join(A)
    harness.advance(HOURLY.interval + PAGE_SECONDS / 2)
    harness.join(A, wanted=PASS)
    harness.advance(1)
    results = [(key, round(moment, 2), wanted) for moment, key, wanted, _ in harness.results]
    assert results == [(A, HOURLY.interval + 2 * PAGE_SECONDS, {"k": PASS})]


def test_secretsync_that_leaves_during_the_poll_gets_no_result(harness: PollerHarness) -> None:
    harness.pages = [OTHER_PAGE, USER_PAGE]
    harness.join(A)
    harness.join(B, wanted=PASS)
    harness.advance(HOURLY.interval + PAGE_SECONDS / 2)
    harness.poller.leave(A)
    harness.advance(1)
    assert harness.served_keys == [B]


def test_pages_before_a_failure_are_used(harness: PollerHarness) -> None:
    harness.pages = [USER_PAGE]
    harness.join(A)
    harness.join(B, wanted=PASS)
    harness.snapshot = UNREACHABLE
    harness.advance(HOURLY.interval + PAGE_SECONDS / 2)
    assert harness.served_keys == [A]


def test_secretsync_that_an_early_result_found_unequal_is_served_once(harness: PollerHarness) -> None:
    harness.pages = [USER_PAGE, OTHER_PAGE]
    harness.unequal = {A}
    harness.join(A)
    harness.advance(HOURLY.interval + 10)
    assert harness.served_keys == [A]
    assert harness.poll_times == [HOURLY.interval]


def test_poll_reports_which_secretsyncs_it_found_unequal_early_and_late(harness: PollerHarness) -> None:
    reports: list[tuple[float, list[Key], list[Key]]] = []
    early: list[Key] = []
    harness.poller.on_polled = lambda _, moment, unequal, before: reports.append((moment, unequal, before))
    harness.poller.on_early_unequal = lambda _, key: early.append(key)
    harness.pages = [USER_PAGE]
    harness.unequal = {A, B}
    harness.join(A)
    harness.join(B, wanted=PASS)
    harness.join(C)
    harness.advance(HOURLY.interval + 1)
    assert early == [A]
    assert reports == [(FIRST, [B], [A])]
