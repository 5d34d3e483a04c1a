"""A poll gives a SecretSync its result as soon as the list has all of its objects, while more pages follow."""

from datetime import UTC, datetime

import pytest

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.selection import Query
from controller.domain.snapshot import ListedObject, VaultSnapshot
from controller.keyvault.poll_group import PollGroup
from controller.runtime.work_queue import Key
from controller.secretsync.poller import FULL_READ
from tests.unit.secretsync.poller.stage import AWAY, HOURLY, PAGE_SECONDS, PASS, SEEN, USER, A, B, C, Stage

STATE = ListedObject(datetime(2030, 1, 1, tzinfo=UTC), True)
USER_PAGE, PASS_PAGE, OTHER_PAGE = ({name: STATE} for name in ("user", "pass", "other"))
FIRST, SECOND, END = (HOURLY.interval + pages * PAGE_SECONDS for pages in (0, 1, 3))


def test_secretsync_is_told_when_its_last_object_is_listed(stage: Stage) -> None:
    stage.pages = [USER_PAGE, PASS_PAGE, OTHER_PAGE]
    stage.join(A)
    stage.join(B, wanted=PASS)
    stage.poller.join(C, HOURLY, {"user": USER, "password": PASS}, 0.0)
    stage.passes(HOURLY.interval + 1)
    moments = [(key, round(moment, 2)) for moment, key, *_ in stage.told]
    assert sorted(moments) == [(A, FIRST), (B, SECOND), (C, SECOND)]
    assert all(isinstance(seen, VaultSnapshot) and "user" in seen.listed["secret"] for *_, seen in stage.told)


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(ObjectVersionRef(VaultObject(name="gone")), id="the list lacks its object"),
        pytest.param(ObjectVersionRef(VaultObject(name="user", type="key")), id="it wants an object of another type"),
        pytest.param(ObjectVersionRef(VaultObject(name="user", history=2), 1), id="it wants several versions"),
    ],
)
def test_secretsync_that_the_pages_cannot_judge_waits_for_the_end(stage: Stage, wanted: ObjectVersionRef) -> None:
    stage.pages = [USER_PAGE, PASS_PAGE, OTHER_PAGE]
    stage.join(A, wanted=wanted)
    stage.passes(HOURLY.interval + 1)
    assert [(key, round(moment, 2)) for moment, key, *_ in stage.told] == [(A, END)]
    assert stage.told[0][3] is SEEN


def test_object_that_two_pages_list_counts_once(stage: Stage) -> None:
    """Objects move to another page where others are added or removed while the list is read."""
    stage.pages = [USER_PAGE, USER_PAGE, OTHER_PAGE]
    stage.poller.join(C, HOURLY, {"user": USER, "password": PASS}, 0.0)
    stage.passes(HOURLY.interval + 1)
    assert [(key, round(moment, 2)) for moment, key, *_ in stage.told] == [(C, END)]


def test_nothing_is_told_early_while_a_selection_is_undecided(stage: Stage) -> None:
    """An object may have left the selection, and only the end of the list shows that."""
    stage.pages = [USER_PAGE, PASS_PAGE, OTHER_PAGE]
    stage.seen = VaultSnapshot(listed={"secret": {}}, sightings=(AWAY,))
    stage.join(A)
    stage.poller.select(Key("team", "all"), HOURLY, Query(entries=()), 0.0)
    stage.passes(HOURLY.interval + 1)
    assert [(key, round(moment, 2)) for moment, key, *_ in stage.told] == [(A, END)]


def test_daily_full_read_waits_for_the_end(stage: Stage) -> None:
    daily = PollGroup(HOURLY.identity, HOURLY.cloud, HOURLY.vault, 2 * FULL_READ)
    stage.pages = [USER_PAGE]
    stage.join(A, daily)
    stage.passes(2 * FULL_READ + 1)
    assert [seen for *_, seen in stage.told] == [None]


def test_secretsync_edited_during_the_poll_is_told_at_the_end_with_its_new_objects(stage: Stage) -> None:
    stage.pages = [OTHER_PAGE, USER_PAGE]
    stage.join(A)
    stage.passes(HOURLY.interval + PAGE_SECONDS / 2)
    stage.join(A, wanted=PASS)
    stage.passes(1)
    told = [(key, round(moment, 2), wanted) for moment, key, wanted, _ in stage.told]
    assert told == [(A, HOURLY.interval + 2 * PAGE_SECONDS, {"k": PASS})]


def test_secretsync_that_leaves_during_the_poll_is_not_told(stage: Stage) -> None:
    stage.pages = [OTHER_PAGE, USER_PAGE]
    stage.join(A)
    stage.join(B, wanted=PASS)
    stage.passes(HOURLY.interval + PAGE_SECONDS / 2)
    stage.poller.leave(A)
    stage.passes(1)
    assert stage.who == [B]


def test_pages_before_a_failure_are_used(stage: Stage) -> None:
    stage.pages = [USER_PAGE]
    stage.join(A)
    stage.join(B, wanted=PASS)
    stage.seen = AWAY
    stage.passes(HOURLY.interval + PAGE_SECONDS / 2)
    assert stage.who == [A]


def test_poll_says_which_secretsyncs_it_found_unequal_early_and_late(stage: Stage) -> None:
    reports: list[tuple[float, list[Key], list[Key]]] = []
    early: list[Key] = []
    stage.poller.on_polled = lambda _, moment, unequal, before: reports.append((moment, unequal, before))
    stage.poller.on_early_unequal = lambda _, key: early.append(key)
    stage.pages = [USER_PAGE]
    stage.unequal = {A, B}
    stage.join(A)
    stage.join(B, wanted=PASS)
    stage.join(C)
    stage.passes(HOURLY.interval + 1)
    assert early == [A]
    assert reports == [(FIRST, [B], [A])]
