"""What a list and a watch bring, what of it is kept, and what is told."""

from typing import Any, cast

import pytest

from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretproviderclass import MOST_PARAMETERS, SecretProviderClass
from controller.api.secretsync import REFRESH_INTERVAL, SecretSync
from controller.kube.client import KubeClient
from controller.kube.informer import Informer, Store, same_version
from controller.kube.permissions import CLASSES
from controller.runtime.work_queue import Key
from tests.unit.kube.informer.stage import FOREVER, A, B, C, Scene, bookmark, event, item, listed, raw

# The way of things


async def test_a_list_in_pages_then_a_watch_from_where_it_ended(scene: Scene) -> None:
    assert not scene.reflector.synced.is_set()
    await scene.plays(
        listed(item("a"), item("b"), more="token-1"), listed(item("c"), version="12"), [event("ADDED", item("d"))]
    )
    assert scene.asked[:3] == ["list", "list", "watch 12"]
    assert [one.query.get("continue") for one in scene.server.requests[:3]] == [None, "token-1", None]
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
    scene.store.add_handler(lambda key, _: heard.append(key), same_version)
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


@pytest.mark.parametrize(("size", "read"), [(MOST_PARAMETERS - 200, True), (MOST_PARAMETERS - 4, False)])
def test_of_a_class_that_is_too_large_nothing_is_kept_but_why(size: int, read: bool) -> None:
    spec = {"provider": "azure", "parameters": {"objects": "x" * size, "clientID": "robot"}}
    mounted = {"secretObjects": [{"secretName": "the driver's"}]}
    sent = raw({"metadata": {"name": "a", "namespace": "team"}, "spec": spec | mounted})
    store: Store[SecretProviderClass] = Store()
    found = Informer(cast("KubeClient", None), CLASSES, "", store).decode_object(sent)
    if read:
        assert isinstance(found, SecretProviderClass)
        assert found.spec.parameters["clientID"] == "robot"
        assert not found.spec.secret_objects
    else:
        assert isinstance(found, Unreadable)
        assert f"{MOST_PARAMETERS + 1} characters, and at most {MOST_PARAMETERS} are read" in found.problem
        assert "into another class" in found.problem
