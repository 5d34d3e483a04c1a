"""List, watch, and what happens where either breaks; the API server is a script over real HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from controller import reflector
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretproviderclass import MOST_PARAMETERS, SecretProviderClass
from controller.api.secretsync import REFRESH_INTERVAL, SecretSync
from controller.kube import Kube
from controller.permissions import CLASSES, SECRET_SYNCS
from controller.queue import Key
from controller.reflector import LONGEST_PAUSE, Reflector, Store, same_version
from tests.unit.api_server import Answer, ApiServer, connected, refusal

A, B, C = (Key("team", name) for name in "abc")
FOREVER = Answer(held=True)


def item(name: str, generation: int = 1, version: str = "1", uid: str = "", **metadata: Any) -> dict[str, Any]:
    """A SecretSync as the API server sends it."""
    meta = {"name": name, "namespace": "team", "uid": uid or f"uid-{name}", "generation": generation}
    spec = {
        "secretProviderClassName": "class",
        "serviceAccountName": "robot",
        "secretObject": {"data": [{"sourcePath": "x", "targetKey": "x"}]},
    }
    return {"metadata": meta | {"resourceVersion": version} | metadata, "spec": spec}


def listed(*items: dict[str, Any], version: str = "10", more: str = "") -> Answer:
    return Answer({"metadata": {"resourceVersion": version, "continue": more}, "items": list(items)})


def event(kind: str, about: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": about}


def bookmark(version: str) -> dict[str, Any]:
    return event("BOOKMARK", {"kind": "SecretSync", "metadata": {"resourceVersion": version}})


class Scene:
    """A reflector at work, the server it asks, the pauses it made, and what it told.

    Each look at the clock moves it by `lasts` seconds: so a watch lasts, unless a test says that it ends at once.
    """

    lasts = 60.0

    def __init__(self, server: ApiServer, kube: Kube) -> None:
        self.server = server
        self.told: list[tuple[Key, str | None]] = []
        self.store: Store[SecretSync] = Store()
        self.store.listen(self._changed)
        self.reflector = Reflector(kube, SECRET_SYNCS, "team", self.store)
        self.pauses: list[float] = []
        self.now = 0.0

    def _changed(self, key: Key, before: SecretSync | Unreadable | None) -> None:
        self.told.append((key, f"generation {before.metadata.generation}" if before else None))

    async def pause(self, seconds: float) -> None:
        """Stands for `asyncio.sleep` in the reflector."""
        if seconds:
            self.pauses.append(seconds)
        await asyncio.sleep(0)

    def clock(self) -> float:
        """Stands for `time.monotonic` in the reflector."""
        self.now += self.lasts
        return self.now

    async def plays(self, *answers: Answer | list[Any]) -> None:
        """Lets the reflector go through these answers, to the end of the last one."""
        self.server.will_answer(*answers)
        running = asyncio.create_task(self.reflector.run())
        idle = asyncio.create_task(self.server.idle.wait())
        try:
            async with asyncio.timeout(20):
                await asyncio.wait([running, idle], return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
                await idle
        finally:
            for task in (running, idle):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    @property
    def asked(self) -> list[str]:
        """What was asked for, in short: `list`, or `watch <resourceVersion>`."""
        return [f"watch {one.query['resourceVersion']}" if one.watch else "list" for one in self.server.asked]


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with connected() as (server, kube):
        scene = Scene(server, kube)
        monkeypatch.setattr(reflector, "asyncio", SimpleNamespace(Event=asyncio.Event, sleep=scene.pause))
        monkeypatch.setattr(reflector, "time", SimpleNamespace(monotonic=scene.clock))
        yield scene


# The way of things


async def test_a_list_in_pages_then_a_watch_from_where_it_ended(scene: Scene) -> None:
    assert not scene.reflector.synced.is_set()
    await scene.plays(
        listed(item("a"), item("b"), more="token-1"), listed(item("c"), version="12"), [event("ADDED", item("d"))]
    )
    assert scene.asked[:3] == ["list", "list", "watch 12"]
    assert [one.query.get("continue") for one in scene.server.asked[:3]] == [None, "token-1", None]
    assert sorted(scene.store.keys()) == [Key("team", name) for name in "abcd"]
    assert scene.reflector.synced.is_set()


async def test_events_move_the_store(scene: Scene) -> None:
    await scene.plays(
        listed(item("a")),
        [
            event("ADDED", item("b")),
            event("MODIFIED", item("a", generation=2)),
            event("MODIFIED", item("a", generation=2, version="15")),
            event("DELETED", item("b")),
        ],
    )
    assert scene.told == [(A, None), (B, None), (A, "generation 1"), (B, "generation 1")]
    found = scene.store.get(A)
    assert isinstance(found, SecretSync)
    assert found.metadata.resource_version == "15"
    assert scene.store.get(B) is None


@pytest.mark.parametrize(
    ("then", "news"),
    [
        pytest.param(item("a", version="2"), False, id="a status write of ours"),
        pytest.param(item("a", labels={"x": "y"}), False, id="a label"),
        pytest.param(item("a", annotations={"x": "y"}), False, id="an annotation"),
        pytest.param(item("a", annotations={REFRESH_INTERVAL: "60"}), True, id="the annotation that is as a field"),
        pytest.param(item("a", generation=2), True, id="an edited spec"),
        pytest.param(item("a", uid="another"), True, id="another object of that name"),
        pytest.param(item("a", deletionTimestamp="2030-01-01T00:00:00Z"), True, id="about to be deleted"),
    ],
)
async def test_only_news_is_told(scene: Scene, then: dict[str, Any], news: bool) -> None:
    await scene.plays(listed(item("a")), [event("MODIFIED", then)])
    assert scene.told == [(A, None), *([(A, "generation 1")] if news else [])]


@pytest.mark.parametrize(
    ("then", "news"),
    [
        pytest.param(item("a"), False, id="the same, listed again"),
        pytest.param(item("a", version="2"), True, id="a status write"),
        pytest.param(item("a", version="2", labels={"x": "y"}), True, id="a label"),
        pytest.param(item("a", uid="another"), True, id="another object of that name"),
    ],
)
async def test_a_listener_may_want_every_change(scene: Scene, then: dict[str, Any], news: bool) -> None:
    heard: list[Key] = []
    scene.store.listen(lambda key, _: heard.append(key), same_version)
    await scene.plays(listed(item("a")), [event("MODIFIED", then), event("DELETED", then)])
    assert heard == [A] * (3 if news else 2)


async def test_bookmarks_move_the_version_and_nothing_else(scene: Scene) -> None:
    await scene.plays(listed(item("a")), [bookmark("20"), bookmark("30")], [bookmark("40")], FOREVER)
    assert scene.asked == ["list", "watch 10", "watch 30", "watch 40"]
    assert scene.told == [(A, None)]
    assert len(scene.store) == 1


async def test_a_watch_that_ends_goes_on_from_its_last_event(scene: Scene) -> None:
    await scene.plays(listed(item("a")), [event("MODIFIED", item("a", version="17"))], FOREVER)
    assert scene.asked == ["list", "watch 10", "watch 17"]


# Bad items


async def test_a_bad_item_fails_neither_list_nor_watch(scene: Scene) -> None:
    bad = item("b")
    del bad["spec"]["secretObject"]
    worse = item("c") | {"spec": ["no", "object"]}
    await scene.plays(listed(item("a"), bad), [event("ADDED", worse), event("MODIFIED", item("b", generation=2))])
    assert isinstance(scene.store.get(A), SecretSync)
    assert isinstance(scene.store.get(B), SecretSync)  # it was mended
    found = scene.store.get(C)
    assert isinstance(found, Unreadable)
    assert found.metadata == ObjectMeta(
        name="c", namespace="team", uid="uid-c", generation=1, resource_version="1", managed_fields=[]
    )
    assert "spec" in found.problem
    assert scene.told == [(A, None), (B, None), (C, None), (B, "generation 1")]


async def test_a_bad_item_names_its_field(scene: Scene) -> None:
    bad = item("b")
    bad["spec"]["secretObject"]["data"][0]["targetKey"] = 7
    await scene.plays(listed(bad), FOREVER)
    found = scene.store.get(B)
    assert isinstance(found, Unreadable)
    assert "$.spec.secretObject.data[0].targetKey" in found.problem


# What is kept


async def test_of_annotations_and_managers_nothing_is_kept_but_what_is_asked(scene: Scene) -> None:
    annotations = {REFRESH_INTERVAL: "60", "kubectl.kubernetes.io/last-applied-configuration": "x" * 1000}
    managers = [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}}]
    bad = item("b", annotations=annotations, managedFields=managers) | {"spec": 5}
    await scene.plays(listed(item("a", annotations=annotations, managedFields=managers), bad), FOREVER)
    found, unreadable = scene.store.get(A), scene.store.get(B)
    assert found
    assert unreadable
    assert found.metadata.annotations == {REFRESH_INTERVAL: "60"}
    assert not unreadable.metadata.annotations
    assert not found.metadata.managed_fields + unreadable.metadata.managed_fields


@pytest.mark.parametrize(("size", "read"), [(MOST_PARAMETERS - 5, True), (MOST_PARAMETERS - 4, False)])
def test_of_a_class_that_is_too_large_nothing_is_kept_but_why(size: int, read: bool) -> None:
    spec = {"provider": "azure", "parameters": {"objects": "x" * size, "clientID": "robot"}}
    mounted = {"secretObjects": [{"secretName": "the driver's"}]}
    raw = msgspec.Raw(msgspec.json.encode({"metadata": {"name": "a", "namespace": "team"}, "spec": spec | mounted}))
    store: Store[SecretProviderClass] = Store()
    found = Reflector(cast("Kube", None), CLASSES, "", store)._decode(raw)
    if read:
        assert isinstance(found, SecretProviderClass)
        assert found.spec.parameters["clientID"] == "robot"
        assert not found.spec.secret_objects
    else:
        assert isinstance(found, Unreadable)
        assert f"{MOST_PARAMETERS + 1} characters, and {MOST_PARAMETERS} at most" in found.problem
        assert "into another class" in found.problem


# Lists again


@pytest.mark.parametrize(
    "expired",
    [
        pytest.param(refusal(410, "too old"), id="as an HTTP status"),
        pytest.param([event("ERROR", {"kind": "Status", "code": 410, "message": "too old"})], id="as an event"),
    ],
)
async def test_after_410_it_lists_again_and_sees_what_went_away(scene: Scene, expired: Answer | list[Any]) -> None:
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
    await scene.plays(listed(item("a"), more="token-1"), refusal(410), listed(item("a"), version="11"), FOREVER)
    assert scene.asked == ["list", "list", "list", "watch 11"]


async def test_what_was_seen_on_one_page_only_is_dropped_by_the_next_list(scene: Scene) -> None:
    # The second page failed, and until the next list the object was deleted.
    await scene.plays(listed(item("a"), more="token-1"), refusal(410), listed(item("b")), FOREVER)
    assert list(scene.store.keys()) == [B]


async def test_reflectors_of_several_namespaces_share_a_store(scene: Scene) -> None:
    scene.store.put(SECRET_SYNCS.decode(raw(item("x", namespace="elsewhere"))))
    await scene.plays(listed(item("a")), refusal(410), listed(), FOREVER)
    assert list(scene.store.keys()) == [Key("elsewhere", "x")]


def raw(about: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(about))


# Storms


async def test_410_again_and_again_is_not_a_hot_loop(scene: Scene) -> None:
    scene.lasts = 0
    await scene.plays(*[listed(), refusal(410)] * 5, listed(), FOREVER)
    assert len(scene.pauses) >= 4
    assert sum(scene.pauses) > 1


async def test_a_watch_that_ends_at_once_is_not_a_hot_loop(scene: Scene) -> None:
    scene.lasts = 0
    await scene.plays(listed(), *[[]] * 6, FOREVER)
    assert len(scene.pauses) >= 5


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_server_is_not_asked_for_the_list_again(scene: Scene, status: int) -> None:
    await scene.plays(listed(), *[refusal(status)] * 4, FOREVER)
    assert scene.asked == ["list", *["watch 10"] * 5]
    assert len(scene.pauses) == 4


async def test_retry_after_is_kept(scene: Scene) -> None:
    await scene.plays(refusal(429, Retry_After="17"), listed(), FOREVER)
    assert len(scene.pauses) == 1
    assert scene.pauses[0] >= 17


async def test_pauses_grow_up_to_a_bound(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.reflector._dice, "uniform", lambda _least, most: most)
    await scene.plays(*[refusal(500)] * 9, listed(), FOREVER)
    assert scene.pauses == sorted(scene.pauses)
    assert scene.pauses[:3] == [1, 2, 4]
    assert scene.pauses[-1] == LONGEST_PAUSE


async def test_after_a_success_the_pauses_begin_small_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.reflector._dice, "uniform", lambda _least, most: most)
    await scene.plays(*[refusal(500)] * 3, listed(), [bookmark("11")], refusal(500), FOREVER)
    assert scene.pauses == [1, 2, 4, 1]


@pytest.mark.parametrize(("lasts", "pause"), [(60.0, 1), (0.0, 8)], ids=["after a while", "at once"])
async def test_a_watch_that_breaks_begins_the_pauses_anew_if_it_lasted(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, lasts: float, pause: float
) -> None:
    monkeypatch.setattr(scene.reflector._dice, "uniform", lambda _least, most: most)
    scene.lasts = lasts
    cut = Answer([msgspec.json.encode(bookmark("11")) + b"\n"], broken=True)
    await scene.plays(*[refusal(500)] * 3, listed(), cut, FOREVER)
    assert scene.pauses == [1, 2, 4, pause]


# What is told about it


async def test_a_problem_is_shown_while_it_lasts_and_logged_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await scene.plays(*[refusal(403, "secretsyncs is forbidden")] * 3)
    assert scene.reflector.problem == "secretsyncs is forbidden"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "secretsyncs is forbidden" in caplog.text
    caplog.clear()
    await scene.plays(listed(), [bookmark("11")], FOREVER)
    assert scene.reflector.problem == ""
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def test_a_watch_that_is_refused_for_ever_is_logged_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    # Lists work, watches do not: a Role without `watch`.
    caplog.set_level("INFO")
    await scene.plays(*[listed(), refusal(403, "cannot watch")] * 4, listed(), FOREVER)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# What is no answer at all


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(Answer(b"<html>Sign in</html>"), id="a page of HTML for a list"),
        pytest.param(Answer({"items": []}), id="a list without metadata"),
        pytest.param(Answer(b'{"metadata":', broken=True), id="a list that breaks off"),
    ],
)
async def test_a_list_that_makes_no_sense_is_tried_again(scene: Scene, broken: Answer) -> None:
    await scene.plays(broken, listed(item("a")), FOREVER)
    assert list(scene.store.keys()) == [A]
    assert len(scene.pauses) == 1


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param([b"<html>\n"], id="a page of HTML for a watch"),
        pytest.param([{"type": "ADDED"}], id="an event without an object"),
        pytest.param([event("ADDED", {"metadata": {"labels": 5}})], id="metadata of another shape"),
        pytest.param(Answer([b'{"type":'], broken=True), id="a watch that breaks off"),
    ],
)
async def test_a_watch_that_makes_no_sense_is_tried_again(scene: Scene, broken: Answer | list[Any]) -> None:
    await scene.plays(listed(), broken, [event("ADDED", item("a"))], FOREVER)
    assert list(scene.store.keys()) == [A]


async def test_the_store_stays_while_nobody_answers(scene: Scene) -> None:
    await scene.plays(listed(item("a")), refusal(410), *[refusal(503)] * 3)
    assert list(scene.store.keys()) == [A]
    assert scene.reflector.synced.is_set()
