"""Where a list or a watch breaks: what is asked again, how soon, and what is told of it."""

from typing import Any

import msgspec
import pytest

from controller.kube.informer import LONGEST_PAUSE, QUICK_END
from controller.kube.permissions import SECRET_SYNCS
from controller.runtime.work_queue import Key
from tests.support.fixed_random import FixedRandom
from tests.support.scripted_api_server import ScriptedResponse, error_response
from tests.unit.kube.informer.stage import FOREVER, A, B, C, Scene, bookmark, event, item, listed, raw

# Lists again


@pytest.mark.parametrize(
    "expired",
    [
        pytest.param(error_response(410, "too old"), id="as an HTTP status"),
        pytest.param([event("ERROR", {"kind": "Status", "code": 410, "message": "too old"})], id="as an event"),
    ],
)
async def test_after_410_it_lists_again_and_sees_what_went_away(
    scene: Scene, expired: ScriptedResponse | list[Any]
) -> None:
    await scene.plays(
        listed(item("a"), item("b")),
        [event("ADDED", item("c"))],
        expired,
        listed(item("b", generation=2), version="50"),
        FOREVER,
    )
    assert scene.asked == ["list", "watch 10", "watch 1", "list", "watch 50"]
    assert list(scene.store.keys()) == [B]
    assert sorted(scene.told[3:]) == [(A, "generation 1"), (B, "generation 1"), (C, "generation 1")]


async def test_410_in_the_middle_of_a_list_begins_it_again(scene: Scene) -> None:
    await scene.plays(listed(item("a"), more="token-1"), error_response(410), listed(item("a"), version="11"), FOREVER)
    assert scene.asked == ["list", "list", "list", "watch 11"]


async def test_what_was_seen_on_one_page_only_is_dropped_by_the_next_list(scene: Scene) -> None:
    # The second page failed, and until the next list the object was deleted.
    await scene.plays(listed(item("a"), more="token-1"), error_response(410), listed(item("b")), FOREVER)
    assert list(scene.store.keys()) == [B]


async def test_reflectors_of_several_namespaces_share_a_store(scene: Scene) -> None:
    scene.store.put(SECRET_SYNCS.decode_object(raw(item("x", namespace="elsewhere"))))
    await scene.plays(listed(item("a")), error_response(410), listed(), FOREVER)
    assert list(scene.store.keys()) == [Key("elsewhere", "x")]


# Storms


@pytest.fixture
def longest(scene: Scene) -> None:
    """Each pause is as long as it could be."""
    scene.reflector.rng = FixedRandom(1.0)


async def test_410_again_and_again_is_not_a_hot_loop(scene: Scene) -> None:
    scene.lasts = 0
    await scene.plays(*[listed(), error_response(410)] * 5, listed(), FOREVER)
    assert len(scene.pauses) >= 4
    assert sum(scene.pauses) > 1


async def test_a_watch_that_ends_at_once_is_not_a_hot_loop(scene: Scene) -> None:
    scene.lasts = 0
    await scene.plays(listed(), *[[]] * 6, FOREVER)
    assert len(scene.pauses) >= 5


@pytest.mark.usefixtures("longest")
@pytest.mark.parametrize(
    ("lasts", "pauses"),
    [
        pytest.param(0.0, [1, 2, 4, 8], id="at once"),
        pytest.param(QUICK_END - 0.01, [1, 2, 4, 8], id="quickly"),
        pytest.param(QUICK_END, [], id="after a second"),
    ],
)
async def test_only_a_watch_that_ends_quickly_is_followed_by_longer_and_longer_pauses(
    scene: Scene, lasts: float, pauses: list[float]
) -> None:
    scene.lasts = lasts
    await scene.plays(listed(), *[[]] * 4, FOREVER)
    assert scene.pauses == pauses
    assert scene.asked == ["list", *["watch 10"] * 5]


@pytest.mark.usefixtures("longest")
async def test_a_watch_that_expires_quickly_is_followed_by_longer_and_longer_pauses(scene: Scene) -> None:
    scene.lasts = 0
    await scene.plays(*[listed(), error_response(410)] * 3, listed(), FOREVER)
    assert scene.pauses == [1, 2, 4]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_server_is_not_asked_for_the_list_again(scene: Scene, status: int) -> None:
    await scene.plays(listed(), *[error_response(status)] * 4, FOREVER)
    assert scene.asked == ["list", *["watch 10"] * 5]
    assert len(scene.pauses) == 4


async def test_retry_after_is_kept(scene: Scene) -> None:
    await scene.plays(error_response(429, Retry_After="17"), listed(), FOREVER)
    assert len(scene.pauses) == 1
    assert scene.pauses[0] >= 17


@pytest.mark.usefixtures("longest")
async def test_pauses_grow_up_to_a_bound(scene: Scene) -> None:
    await scene.plays(*[error_response(500)] * 9, listed(), FOREVER)
    assert scene.pauses == sorted(scene.pauses)
    assert scene.pauses[:3] == [1, 2, 4]
    assert scene.pauses[-1] == LONGEST_PAUSE


@pytest.mark.usefixtures("longest")
async def test_after_a_success_the_pauses_begin_small_again(scene: Scene) -> None:
    await scene.plays(*[error_response(500)] * 3, listed(), [bookmark("11")], error_response(500), FOREVER)
    assert scene.pauses == [1, 2, 4, 1]


@pytest.mark.usefixtures("longest")
@pytest.mark.parametrize(("lasts", "pause"), [(60.0, 1), (0.0, 8)], ids=["after a while", "at once"])
async def test_a_watch_that_breaks_begins_the_pauses_anew_if_it_lasted(
    scene: Scene, lasts: float, pause: float
) -> None:
    scene.lasts = lasts
    cut = ScriptedResponse([msgspec.json.encode(bookmark("11")) + b"\n"], broken=True)
    await scene.plays(*[error_response(500)] * 3, listed(), cut, FOREVER)
    assert scene.pauses == [1, 2, 4, pause]


# What is told about it


async def test_a_problem_is_shown_while_it_lasts_and_logged_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await scene.plays(*[error_response(403, "secretsyncs is forbidden")] * 3)
    assert scene.reflector.problem == "secretsyncs is forbidden"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "secretsyncs is forbidden" in caplog.text
    caplog.clear()
    await scene.plays(listed(), [bookmark("11")], FOREVER)
    assert scene.reflector.problem == ""
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def test_where_all_goes_well_nothing_is_logged(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert scene.reflector.problem == ""
    await scene.plays(listed(item("a")), [event("ADDED", item("b"))], FOREVER)
    assert scene.reflector.problem == ""
    assert not caplog.records


async def test_an_object_that_was_never_seen_is_not_told_to_be_gone(scene: Scene) -> None:
    await scene.plays(listed(), [event("DELETED", item("a"))], FOREVER)
    assert scene.told == []


async def test_a_watch_that_is_refused_for_ever_is_logged_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    # Lists work, watches do not: a Role without `watch`.
    caplog.set_level("INFO")
    await scene.plays(*[listed(), error_response(403, "cannot watch")] * 4, listed(), FOREVER)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# What is no answer at all


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(ScriptedResponse(b"<html>Sign in</html>"), id="a page of HTML for a list"),
        pytest.param(ScriptedResponse({"items": []}), id="a list without metadata"),
        pytest.param(ScriptedResponse(b'{"metadata":', broken=True), id="a list that breaks off"),
    ],
)
async def test_a_list_that_makes_no_sense_is_tried_again(scene: Scene, broken: ScriptedResponse) -> None:
    await scene.plays(broken, listed(item("a")), FOREVER)
    assert list(scene.store.keys()) == [A]
    assert len(scene.pauses) == 1


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param([b"<html>\n"], id="a page of HTML for a watch"),
        pytest.param([{"type": "ADDED"}], id="an event without an object"),
        pytest.param([event("ADDED", {"metadata": {"labels": 5}})], id="metadata of another shape"),
        pytest.param(ScriptedResponse([b'{"type":'], broken=True), id="a watch that breaks off"),
    ],
)
async def test_a_watch_that_makes_no_sense_is_tried_again(scene: Scene, broken: ScriptedResponse | list[Any]) -> None:
    await scene.plays(listed(), broken, [event("ADDED", item("a"))], FOREVER)
    assert list(scene.store.keys()) == [A]


async def test_the_store_stays_while_nobody_answers(scene: Scene) -> None:
    await scene.plays(listed(item("a")), error_response(410), *[error_response(503)] * 3)
    assert list(scene.store.keys()) == [A]
    assert scene.reflector.synced.is_set()
