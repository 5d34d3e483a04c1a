"""Test lists and watches: their requests, the store's contents, and the notifications."""

from typing import Any, cast

import pytest

from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretproviderclass import MAX_PARAMETERS, SecretProviderClass
from controller.api.secretsync import REFRESH_INTERVAL, SecretSync
from controller.kube.client import KubeClient
from controller.kube.informer import Informer, Store, same_version
from controller.kube.permissions import CLASSES, SECRET_SYNCS
from controller.runtime.work_queue import Key
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

# The usual sequence


async def test_list_in_pages_is_followed_by_a_watch_from_its_version(harness: InformerHarness) -> None:
    assert not harness.informer.synced.is_set()
    await harness.play(
        make_list(make_item("a"), make_item("b"), more="token-1"),
        make_list(make_item("c"), version="12"),
        [make_event("ADDED", make_item("d"))],
    )
    assert harness.requested[:3] == ["list", "list", "watch 12"]
    assert [request.query.get("continue") for request in harness.server.requests[:3]] == [None, "token-1", None]
    assert sorted(harness.store.keys()) == [Key("team", name) for name in "abcd"]
    assert harness.informer.synced.is_set()


async def test_events_update_the_store(harness: InformerHarness) -> None:
    await harness.play(
        make_list(make_item("a")),
        [
            make_event("ADDED", make_item("b")),
            make_event("MODIFIED", make_item("a", generation=2)),
            make_event("MODIFIED", make_item("a", generation=2, version="15")),
            make_event("DELETED", make_item("b")),
        ],
    )
    assert harness.notified == [(A, None), (B, None), (A, "generation 1"), (B, "generation 1")]
    found = harness.store.get(A)
    assert isinstance(found, SecretSync)
    assert found.metadata.resource_version == "15"
    assert harness.store.get(B) is None
    assert harness.informer.own_keys == {A}
    assert harness.informer.count() == ("secretsyncs", 1)


@pytest.mark.parametrize(
    ("after", "relevant"),
    [
        pytest.param(make_item("a", version="2"), False, id="a status write of the controller"),
        pytest.param(make_item("a", labels={"x": "y"}), False, id="a label"),
        pytest.param(make_item("a", annotations={"x": "y"}), False, id="an annotation"),
        pytest.param(
            make_item("a", annotations={REFRESH_INTERVAL: "60"}), True, id="the annotation for the refresh interval"
        ),
        pytest.param(make_item("a", generation=2), True, id="an edited spec"),
        pytest.param(make_item("a", uid="another"), True, id="another object of that name"),
        pytest.param(make_item("a", deletionTimestamp="2030-01-01T00:00:00Z"), True, id="about to be deleted"),
    ],
)
async def test_handler_is_notified_only_of_relevant_changes(
    harness: InformerHarness, after: dict[str, Any], relevant: bool
) -> None:
    await harness.play(make_list(make_item("a")), [make_event("MODIFIED", after)])
    assert harness.notified == [(A, None), *([(A, "generation 1")] if relevant else [])]


@pytest.mark.parametrize(
    ("after", "relevant"),
    [
        pytest.param(make_item("a"), False, id="the same, listed again"),
        pytest.param(make_item("a", version="2"), True, id="a status write"),
        pytest.param(make_item("a", version="2", labels={"x": "y"}), True, id="a label"),
        pytest.param(make_item("a", uid="another"), True, id="another object of that name"),
    ],
)
async def test_handler_with_same_version_is_notified_of_every_change(
    harness: InformerHarness, after: dict[str, Any], relevant: bool
) -> None:
    notified: list[Key] = []
    harness.store.add_handler(lambda key, _: notified.append(key), same_version)
    await harness.play(make_list(make_item("a")), [make_event("MODIFIED", after), make_event("DELETED", after)])
    assert notified == [A] * (3 if relevant else 2)


async def test_bookmark_updates_only_the_version(harness: InformerHarness) -> None:
    await harness.play(
        make_list(make_item("a")), [make_bookmark("20"), make_bookmark("30")], [make_bookmark("40")], FOREVER
    )
    assert harness.requested == ["list", "watch 10", "watch 30", "watch 40"]
    assert harness.notified == [(A, None)]
    assert len(harness.store) == 1


@pytest.mark.parametrize(("version", "after"), [("17", "watch 17"), ("", "watch 10")])
async def test_watch_that_ends_continues_from_its_last_version(
    harness: InformerHarness, version: str, after: str
) -> None:
    await harness.play(make_list(make_item("a")), [make_event("MODIFIED", make_item("a", version=version))], FOREVER)
    assert harness.requested == ["list", "watch 10", after]


async def test_event_of_an_unknown_type_changes_only_the_version(harness: InformerHarness) -> None:
    await harness.play(make_list(), [make_event("MOVED", make_item("a", version="17"))], FOREVER)
    assert harness.requested == ["list", "watch 10", "watch 17"]
    assert not len(harness.store)


# The store


def make_stored_sync(name: str = "a", **metadata: Any) -> SecretSync:
    return SECRET_SYNCS.decode_object(encode_object(make_item(name, **metadata)))


@pytest.mark.parametrize(("is_same", "calls"), [(True, 1), (False, 2)])
def test_handler_is_called_for_a_change_that_is_not_the_same(is_same: bool, calls: int) -> None:
    store: Store[SecretSync] = Store()
    called: list[tuple[Key, object]] = []
    compared: list[tuple[int, int]] = []

    def same(old: ObjectMeta, new: ObjectMeta) -> bool:
        compared.append((old.generation, new.generation))
        return is_same

    store.add_handler(lambda key, before: called.append((key, before)), same)
    for generation in (1, 1, 2):
        assert store.set(make_stored_sync(generation=generation)) == A
    assert called == [(A, None), (A, make_stored_sync(generation=1))][:calls]
    assert compared == [(1, 2)]


def test_handlers_are_called_for_the_deletion_of_a_known_object_only() -> None:
    store: Store[SecretSync] = Store()
    called: list[tuple[Key, object]] = []
    store.set(make_stored_sync())
    store.add_handler(lambda key, before: called.append((key, before)))
    store.delete(B)
    assert not called
    store.delete(A)
    assert called == [(A, make_stored_sync())]


def test_stored_objects_share_equal_texts() -> None:
    store: Store[SecretSync] = Store()
    keys = [store.set(make_stored_sync(name)) for name in "ab"]
    first_object, second_object = (store.get(key) for key in keys)
    assert first_object
    assert second_object
    assert first_object.metadata.namespace is second_object.metadata.namespace
    assert keys[0].namespace is keys[1].namespace


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param(make_stored_sync(version="1"), "2", id="the written object"),
        pytest.param(make_stored_sync(version="9"), "9", id="a newer object"),
        pytest.param(make_stored_sync(version="1", uid="other"), "1", id="another object of that name"),
        pytest.param(None, None, id="no object"),
    ],
)
def test_result_of_a_write_replaces_only_the_written_object(known: SecretSync | None, expected: str | None) -> None:
    store: Store[SecretSync] = Store()
    if known:
        store.set(known)
    store.update_from_write(make_stored_sync(version="1").metadata, make_stored_sync(version="2"))
    found = store.get(A)
    assert (found.metadata.resource_version if found else None) == expected


# Invalid items


async def test_invalid_item_fails_neither_list_nor_watch(harness: InformerHarness) -> None:
    bad = make_item("b")
    del bad["spec"]["secretObject"]
    worse = make_item("c") | {"spec": ["no", "object"]}
    await harness.play(
        make_list(make_item("a"), bad),
        [make_event("ADDED", worse), make_event("MODIFIED", make_item("b", generation=2))],
    )
    assert isinstance(harness.store.get(A), SecretSync)
    assert isinstance(harness.store.get(B), SecretSync)  # a later event repaired it
    found = harness.store.get(C)
    assert isinstance(found, Unreadable)
    assert found.metadata == ObjectMeta(
        name="c", namespace="team", uid="uid-c", generation=1, resource_version="1", managed_fields=[]
    )
    assert "spec" in found.problem
    assert harness.notified == [(A, None), (B, None), (C, None), (B, "generation 1")]


async def test_problem_of_an_invalid_item_names_the_field(harness: InformerHarness) -> None:
    bad = make_item("b")
    bad["spec"]["secretObject"]["data"][0]["targetKey"] = 7
    await harness.play(make_list(bad), FOREVER)
    found = harness.store.get(B)
    assert isinstance(found, Unreadable)
    assert "$.spec.secretObject.data[0].targetKey" in found.problem


# The store's contents


async def test_store_keeps_only_used_annotations_and_no_managed_fields(harness: InformerHarness) -> None:
    annotations = {REFRESH_INTERVAL: "60", "kubectl.kubernetes.io/last-applied-configuration": "x" * 1000}
    managers = [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}}]
    bad = make_item("b", annotations=annotations, managedFields=managers) | {"spec": 5}
    await harness.play(make_list(make_item("a", annotations=annotations, managedFields=managers), bad), FOREVER)
    found, unreadable = harness.store.get(A), harness.store.get(B)
    assert found
    assert unreadable
    assert found.metadata.annotations == {REFRESH_INTERVAL: "60"}
    assert not unreadable.metadata.annotations
    assert not found.metadata.managed_fields + unreadable.metadata.managed_fields


@pytest.mark.parametrize(("size", "read"), [(MAX_PARAMETERS - 200, True), (MAX_PARAMETERS - 4, False)])
def test_only_a_class_within_the_size_limit_is_stored(size: int, read: bool) -> None:
    spec = {"provider": "azure", "parameters": {"objects": "x" * size, "clientID": "robot"}}
    mounted = {"secretObjects": [{"secretName": "the driver's"}]}
    sent = encode_object({"metadata": {"name": "a", "namespace": "team"}, "spec": spec | mounted})
    store: Store[SecretProviderClass] = Store()
    found = Informer(cast("KubeClient", None), CLASSES, "", store).decode_object(sent)
    if read:
        assert isinstance(found, SecretProviderClass)
        assert found.spec.parameters["clientID"] == "robot"
        assert not found.spec.secret_objects
    else:
        assert isinstance(found, Unreadable)
        assert f"{MAX_PARAMETERS + 1} characters, and at most {MAX_PARAMETERS} are read" in found.problem
        assert "into another class" in found.problem
