"""Test broken lists and watches: the retries, the pauses between them, and the reports."""

from typing import Any

import msgspec
import pytest

from controller.kube.informer import Informer
from controller.kube.permissions import SECRET_SYNCS
from controller.runtime.work_queue import Key
from tests.support.fixed_random import FixedRandom
from tests.support.scripted_api_server import ScriptedResponse, error_response
from tests.unit.kube.informer.informer_harness import (
    FOREVER,
    A,
    B,
    C,
    InformerHarness,
    encode_object,
    make_bookmark,
    make_event,
    make_item,
    make_list,
)

# New lists


@pytest.mark.parametrize(
    "expired",
    [
        pytest.param(error_response(410, "too old"), id="as an HTTP status"),
        pytest.param([make_event("ERROR", {"kind": "Status", "code": 410, "message": "too old"})], id="as an event"),
    ],
)
async def test_410_is_followed_by_a_list_that_removes_deleted_objects(
    harness: InformerHarness, expired: ScriptedResponse | list[Any]
) -> None:
    await harness.play(
        make_list(make_item("a"), make_item("b")),
        [make_event("ADDED", make_item("c"))],
        expired,
        make_list(make_item("b", generation=2), version="50"),
        FOREVER,
    )
    assert harness.requested == ["list", "watch 10", "watch 1", "list", "watch 50"]
    assert list(harness.store.keys()) == [B]
    assert harness.informer.own_keys == {B}
    assert sorted(harness.notified[3:]) == [(A, "generation 1"), (B, "generation 1"), (C, "generation 1")]


async def test_list_without_a_change_keeps_and_notifies_nothing(harness: InformerHarness) -> None:
    await harness.play(make_list(make_item("a")), error_response(410), make_list(make_item("a")), FOREVER)
    assert list(harness.store.keys()) == [A]
    assert harness.informer.own_keys == {A}
    assert harness.notified == [(A, None)]


async def test_410_within_a_list_restarts_it(harness: InformerHarness) -> None:
    await harness.play(
        make_list(make_item("a"), more="token-1"), error_response(410), make_list(make_item("a"), version="11"), FOREVER
    )
    assert harness.requested == ["list", "list", "list", "watch 11"]


async def test_object_of_an_incomplete_list_is_removed_by_the_next_list(harness: InformerHarness) -> None:
    # The second page failed, and the object was deleted before the next list.
    await harness.play(
        make_list(make_item("a"), more="token-1"), error_response(410), make_list(make_item("b")), FOREVER
    )
    assert list(harness.store.keys()) == [B]


async def test_list_of_one_namespace_keeps_objects_of_others(harness: InformerHarness) -> None:
    harness.store.set(SECRET_SYNCS.decode_object(encode_object(make_item("x", namespace="elsewhere"))))
    await harness.play(make_list(make_item("a")), error_response(410), make_list(), FOREVER)
    assert list(harness.store.keys()) == [Key("elsewhere", "x")]


# Pauses between retries


@pytest.fixture
def longest_pauses(harness: InformerHarness) -> None:
    """Make each pause as long as possible."""
    harness.informer.rng = FixedRandom(1.0)


async def test_repeated_410_is_retried_with_pauses(harness: InformerHarness) -> None:
    harness.watch_seconds = 0
    await harness.play(*[make_list(), error_response(410)] * 5, make_list(), FOREVER)
    assert len(harness.pauses) >= 4
    assert sum(harness.pauses) > 1


async def test_watch_that_ends_at_once_is_retried_with_pauses(harness: InformerHarness) -> None:
    harness.watch_seconds = 0
    await harness.play(make_list(), *[[]] * 6, FOREVER)
    assert len(harness.pauses) >= 5


@pytest.mark.usefixtures("longest_pauses")
@pytest.mark.parametrize(
    ("watch_seconds", "pauses"),
    [
        pytest.param(0.0, [1, 2, 4, 8], id="at once"),
        pytest.param(0.99, [1, 2, 4, 8], id="quickly"),
        pytest.param(1.0, [], id="after a second"),
    ],
)
async def test_only_watches_that_end_quickly_make_pauses_longer(
    harness: InformerHarness, watch_seconds: float, pauses: list[float]
) -> None:
    harness.watch_seconds = watch_seconds
    await harness.play(make_list(), *[[]] * 4, FOREVER)
    assert harness.pauses == pauses
    assert harness.requested == ["list", *["watch 10"] * 5]


@pytest.mark.usefixtures("longest_pauses")
async def test_watches_that_expire_quickly_make_pauses_longer(harness: InformerHarness) -> None:
    harness.watch_seconds = 0
    await harness.play(*[make_list(), error_response(410)] * 3, make_list(), FOREVER)
    assert harness.pauses == [1, 2, 4]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_busy_server_gets_no_second_list(harness: InformerHarness, status: int) -> None:
    await harness.play(make_list(), *[error_response(status)] * 4, FOREVER)
    assert harness.requested == ["list", *["watch 10"] * 5]
    assert len(harness.pauses) == 4


async def test_retry_after_is_respected(harness: InformerHarness) -> None:
    await harness.play(error_response(429, Retry_After="17"), make_list(), FOREVER)
    assert len(harness.pauses) == 1
    assert harness.pauses[0] >= 17


@pytest.mark.usefixtures("longest_pauses")
async def test_pauses_grow_up_to_a_limit(harness: InformerHarness) -> None:
    await harness.play(*[error_response(500)] * 9, make_list(), FOREVER)
    assert harness.pauses == [1, 2, 4, 8, 16, 30, 30, 30, 30]


@pytest.mark.usefixtures("longest_pauses")
async def test_pauses_also_grow_if_each_list_breaks_after_a_while(harness: InformerHarness) -> None:
    await harness.play(*[ScriptedResponse(b'{"metadata":', broken=True)] * 4, make_list(), FOREVER)
    assert harness.pauses == [1, 2, 4, 8]


async def test_shortest_pause_is_200_ms(harness: InformerHarness) -> None:
    harness.informer.rng = FixedRandom(0.0)
    await harness.play(error_response(500), error_response(503), make_list(), FOREVER)
    assert harness.pauses == [0.2, 0.2]


@pytest.mark.usefixtures("longest_pauses")
async def test_success_resets_the_pauses(harness: InformerHarness) -> None:
    await harness.play(*[error_response(500)] * 3, make_list(), [make_bookmark("11")], error_response(500), FOREVER)
    assert harness.pauses == [1, 2, 4, 1]


@pytest.mark.usefixtures("longest_pauses")
@pytest.mark.parametrize(("watch_seconds", "pause"), [(60.0, 1), (0.0, 8)], ids=["after a while", "at once"])
async def test_broken_watch_resets_the_pauses_only_if_it_lasted(
    harness: InformerHarness, watch_seconds: float, pause: float
) -> None:
    harness.watch_seconds = watch_seconds
    cut = ScriptedResponse([msgspec.json.encode(make_bookmark("11")) + b"\n"], broken=True)
    await harness.play(*[error_response(500)] * 3, make_list(), cut, FOREVER)
    assert harness.pauses == [1, 2, 4, pause]


async def test_watch_that_breaks_continues_from_its_last_version(harness: InformerHarness) -> None:
    """Otherwise the store would go back to deleted objects and earlier specs."""
    await harness.play(
        make_list(make_item("a")),
        [
            make_event("MODIFIED", make_item("a", generation=2, version="11")),
            make_event("DELETED", make_item("a", generation=2, version="12")),
            b"<html>\n",
        ],
        FOREVER,
    )
    assert harness.requested == ["list", "watch 10", "watch 12"]


# Refusals


@pytest.mark.parametrize(
    ("namespace", "failures", "settles"),
    [
        pytest.param("team", [403] * 5, True, id="a refusal that lasts"),
        pytest.param("team", [403] * 3, False, id="a refusal at the start of the API server"),
        pytest.param("team", [403, 403, 500, 403, 403, 503, 403, 403], False, id="refusals between outages"),
        pytest.param("team", [401] * 9, False, id="a token that is not accepted"),
        pytest.param("team", [404] * 9, False, id="a missing CRD"),
        pytest.param("", [403] * 9, False, id="all namespaces"),
    ],
)
async def test_refused_namespace_is_not_waited_for(
    harness: InformerHarness, namespace: str, failures: list[int], settles: bool
) -> None:
    harness.watch_seconds = 10.0
    harness.informer = Informer(harness.kube, SECRET_SYNCS, namespace, harness.store)
    await harness.play(*[error_response(status) for status in failures], FOREVER)
    assert harness.informer.settled.is_set() is settles
    assert not harness.informer.synced.is_set()


async def test_refused_namespace_is_listed_once_its_role_is_restored(
    harness: InformerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    await harness.play(*[error_response(403)] * 3, make_list(make_item("a")), FOREVER)
    assert harness.informer.synced.is_set()
    assert list(harness.store.keys()) == [A]
    assert [text for text in caplog.messages if "restore the release's Role there" in text] == [
        "namespace team is not served until its secretsyncs can be listed, and the others do not wait for it: restore"
        " the release's Role there, or remove the namespace from watchNamespaces"
    ]


# Reports


async def test_missing_crd_is_reported_with_the_next_step(
    harness: InformerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    await harness.play(error_response(404), FOREVER)
    assert harness.informer.problem == (
        "the cluster does not serve secretsyncs (HTTP 404); install their CRD: kubectl apply --filename chart/crds"
    )
    assert caplog.messages == [f"cannot list or watch secretsyncs: {harness.informer.problem}"]


async def test_problem_is_reported_while_it_lasts_and_logged_once(
    harness: InformerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    harness.watch_seconds = 1.0
    await harness.play(*[error_response(403, "secretsyncs is forbidden")] * 3)
    assert harness.informer.problem == "secretsyncs is forbidden"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "secretsyncs is forbidden" in caplog.text
    caplog.clear()
    await harness.play(make_list(), [make_bookmark("11")], FOREVER)
    assert harness.informer.problem == ""
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize(
    "watch",
    [
        pytest.param(ScriptedResponse([make_bookmark("11")], held=True), id="sends an event"),
        pytest.param([], id="ends"),
    ],
)
async def test_problem_ends_when_a_watch_sends_an_event_or_ends(
    harness: InformerHarness, watch: ScriptedResponse | list[Any]
) -> None:
    await harness.play(error_response(500), make_list(), watch, *([FOREVER] if watch == [] else []))
    assert harness.informer.problem == ""


async def test_working_watch_logs_nothing(harness: InformerHarness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert harness.informer.problem == ""
    await harness.play(make_list(make_item("a")), [make_event("ADDED", make_item("b"))], FOREVER)
    assert harness.informer.problem == ""
    assert not caplog.records


async def test_deletion_of_an_unknown_object_is_not_notified(harness: InformerHarness) -> None:
    await harness.play(make_list(), [make_event("DELETED", make_item("a"))], FOREVER)
    assert harness.notified == []


async def test_watch_that_is_always_refused_is_logged_once(
    harness: InformerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    # A Role without `watch` allows lists only.
    caplog.set_level("INFO")
    await harness.play(*[make_list(), error_response(403, "cannot watch")] * 4, make_list(), FOREVER)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# Invalid answers


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(ScriptedResponse(b"<html>Sign in</html>"), id="a page of HTML for a list"),
        pytest.param(ScriptedResponse({"items": []}), id="a list without metadata"),
        pytest.param(ScriptedResponse(b'{"metadata":', broken=True), id="a list that breaks off"),
    ],
)
async def test_invalid_list_is_retried(harness: InformerHarness, broken: ScriptedResponse) -> None:
    await harness.play(broken, make_list(make_item("a")), FOREVER)
    assert list(harness.store.keys()) == [A]
    assert len(harness.pauses) == 1


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param([b"<html>\n"], id="a page of HTML for a watch"),
        pytest.param([{"type": "ADDED"}], id="an event without an object"),
        pytest.param([make_event("ADDED", {"metadata": {"labels": 5}})], id="metadata of another shape"),
        pytest.param(ScriptedResponse([b'{"type":'], broken=True), id="a watch that breaks off"),
    ],
)
async def test_invalid_watch_is_retried(harness: InformerHarness, broken: ScriptedResponse | list[Any]) -> None:
    await harness.play(make_list(), broken, [make_event("ADDED", make_item("a"))], FOREVER)
    assert list(harness.store.keys()) == [A]


async def test_store_is_kept_while_the_server_fails(harness: InformerHarness) -> None:
    await harness.play(make_list(make_item("a")), error_response(410), *[error_response(503)] * 3)
    assert list(harness.store.keys()) == [A]
    assert harness.informer.synced.is_set()
