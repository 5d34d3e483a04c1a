"""Test objects that could stop the informer, or make other objects appear deleted."""

import logging
from typing import Any, cast

import msgspec
import pytest

from controller.api.meta import MAX_SPEC, ObjectMeta, Unreadable
from controller.api.secretsync import SecretSync
from controller.kube import informer
from controller.kube.client import KubeClient
from controller.kube.informer import MAX_METADATA, Informer, Kept, Store, read_identity
from controller.kube.permissions import SECRET_SYNCS
from controller.kube.resources import PAGE
from controller.runtime import budgets
from controller.runtime.budgets import TotalBudget
from controller.runtime.work_queue import Key
from tests.support.fixed_random import FixedRandom
from tests.support.scripted_api_server import ScriptedResponse
from tests.unit.kube.informer.informer_harness import (
    FOREVER,
    A,
    B,
    InformerHarness,
    encode_object,
    make_bookmark,
    make_event,
    make_item,
    make_list,
)


def make_deep_item(name: str) -> dict[str, Any]:
    return make_item(name, managedFields=[{"fieldsV1": {"PLACE": 1}}])


def encode_with_depth(answer: Any) -> bytes:
    nested = b'{"f:x":' * 9900 + b"{}" + b"}" * 9900
    return msgspec.json.encode(answer).replace(b'{"PLACE":1}', nested)


async def test_deep_objects_are_listed_and_watched_like_any_other(harness: InformerHarness) -> None:
    page = {"metadata": {"resourceVersion": "10"}, "items": [make_deep_item("a"), make_item("b")]}
    lines = [encode_with_depth(make_event("ADDED", make_deep_item("c"))) + b"\n"]
    await harness.play(ScriptedResponse(encode_with_depth(page)), ScriptedResponse(lines, held=True))
    assert {key.name for key in harness.store.keys()} == {"a", "b", "c"}  # noqa: SIM118
    assert not any(isinstance(harness.store.get(key), Unreadable) for key in harness.store.keys())  # noqa: SIM118


@pytest.mark.parametrize("bad", [{"metadata": {"name": 5}}, {"metadata": None}, {}, None, 7])
async def test_object_without_a_readable_name_removes_no_other_object(harness: InformerHarness, bad: Any) -> None:
    await harness.play(
        make_list(make_item("a"), make_item("b")),
        [make_event("ERROR", {"code": 410})],
        make_list(make_item("a"), bad),
        [make_event("MODIFIED", bad), make_event("MODIFIED", make_item("a", generation=2))],
        FOREVER,
    )
    assert set(harness.store.keys()) == {A, B}
    assert (A, "generation 1") in harness.notified


async def test_object_without_a_readable_name_does_not_hide_later_objects(harness: InformerHarness) -> None:
    await harness.play(make_list({"metadata": {"name": 5}}, make_item("a")), FOREVER)
    assert list(harness.store.keys()) == [A]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            make_item("a", annotations={"x": "y"}),
            ObjectMeta(name="a", namespace="team", uid="uid-a", resource_version="1", generation=1),
        ),
        ({"metadata": {"name": "a", "labels": 5}}, ObjectMeta(name="a")),
        ({"metadata": {"name": 5}}, None),
        ([], None),
    ],
)
def test_identity_has_the_readable_fields_of_the_metadata(content: Any, expected: ObjectMeta | None) -> None:
    assert read_identity(encode_object(content)) == expected


class RecordedLog:
    """A log that records its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []

    def log_message(self, *line: object) -> None:
        self.lines.append(line)


def make_informer(kept: Kept | None = None) -> Informer[SecretSync]:
    store: Store[SecretSync] = Store()
    return Informer(cast("KubeClient", None), SECRET_SYNCS, "", store, kept)


def test_object_without_a_readable_name_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = RecordedLog()
    monkeypatch.setattr(informer, "RateLimitedLog", lambda _: recorded)
    assert make_informer().decode_object(encode_object({"metadata": {"name": 5}})) is None
    problem = "Expected `str`, got `int` - at `$.metadata.name`"
    assert recorded.lines == [(logging.WARNING, "unreadable", f"ignored an unreadable SecretSync: {problem}")]


def test_informers_share_a_budget() -> None:
    kept: Kept = TotalBudget(budgets.KEPT)
    assert make_informer(kept).kept_bytes is kept
    assert make_informer().kept_bytes is not make_informer().kept_bytes


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        (131_071, ""),
        (131_072, ""),
        (131_073, "its spec has 131073 bytes as JSON, and at most 131072 are read: split it into several"),
    ],
)
def test_spec_is_stored_up_to_128_kib(size: int, problem: str) -> None:
    large = make_item("a")
    note = large["spec"]["secretObject"]["annotations"] = {"note": ""}
    decoded = SECRET_SYNCS.decode_object(encode_object(large))
    note["note"] = "x" * (size - len(msgspec.json.encode(decoded.spec)))
    found = make_informer().decode_object(encode_object(large))
    assert (found.problem if isinstance(found, Unreadable) else "") == problem


def test_object_that_becomes_unreadable_uses_no_budget() -> None:
    kept: Kept = TotalBudget(budgets.KEPT)
    checked = make_informer(kept)
    checked.decode_object(encode_object(make_item("a")))
    assert kept.total("team") > 0
    assert isinstance(checked.decode_object(encode_object(make_item("a") | {"spec": 5})), Unreadable)
    assert kept.total("team") == 0


async def test_object_with_invalid_metadata_is_stored_as_unreadable(harness: InformerHarness) -> None:
    await harness.play(make_list(make_item("a", labels=5), make_item("b")), FOREVER)
    assert isinstance(harness.store.get(A), Unreadable)
    assert not isinstance(harness.store.get(B), Unreadable)


async def test_spec_that_is_too_large_is_not_stored(harness: InformerHarness) -> None:
    large = make_item("a")
    large["spec"]["secretObject"]["annotations"] = {"note": "x" * MAX_SPEC}
    await harness.play(make_list(large, make_item("b", annotations={"note": "x" * MAX_SPEC})), FOREVER)
    found = harness.store.get(A)
    assert isinstance(found, Unreadable)
    assert "at most 131072 are read" in found.problem
    assert not isinstance(harness.store.get(B), Unreadable)  # only the metadata is large, and it is not stored


async def test_objects_of_one_namespace_are_stored_up_to_its_budget(
    harness: InformerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exceed the budget with the sixth object, which fits at the next list after the deletion of another one."""
    size = len(msgspec.json.encode(SECRET_SYNCS.decode_object(encode_object(make_item("a")))))
    small = budgets.KEPT._replace(limit=5 * size)
    monkeypatch.setattr(budgets, "KEPT", small)
    harness.informer.kept_bytes = TotalBudget(small)
    others = [make_item(name) | {"metadata": make_item(name)["metadata"] | {"namespace": "other"}} for name in "xyz"]
    await harness.play(
        make_list(*(make_item(name) for name in "abcdef"), *others),
        [make_event("MODIFIED", make_item("f", generation=2)), make_event("DELETED", make_item("a"))],
        make_list(*(make_item(name) for name in "bcdef"), *others),
        [make_bookmark("11")],
        FOREVER,
    )
    assert harness.requested == ["list", "watch 10", "list", "watch 10", "watch 11"]
    assert (Key("team", "f"), "generation 1") in harness.notified
    assert not any(isinstance(harness.store.get(key), Unreadable) for key in harness.store.keys())  # noqa: SIM118


async def test_object_beyond_the_budget_is_read_later_although_each_watch_breaks(
    harness: InformerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy can cut each watch before its end."""
    size = len(msgspec.json.encode(SECRET_SYNCS.decode_object(encode_object(make_item("a")))))
    small = budgets.KEPT._replace(limit=size)
    monkeypatch.setattr(budgets, "KEPT", small)
    harness.informer.kept_bytes = TotalBudget(small)
    await harness.play(
        make_list(make_item("a"), make_item("b")),
        [make_event("DELETED", make_item("a", version="11")), b"<html>\n"],
        make_list(make_item("b")),
        [b"<html>\n"],
        FOREVER,
    )
    assert harness.requested == ["list", "watch 10", "list", "watch 10", "watch 10"]
    assert not isinstance(harness.store.get(B), Unreadable)


async def test_status_reports_an_object_beyond_the_budget(
    harness: InformerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = budgets.KEPT._replace(limit=100)
    monkeypatch.setattr(budgets, "KEPT", small)
    harness.informer.kept_bytes = TotalBudget(small)
    await harness.play(make_list(make_item("a")), FOREVER)
    found = harness.store.get(A)
    assert isinstance(found, Unreadable)
    assert found.problem == (
        "the objects of namespace team have more than 100 bytes together, and no more are read: delete some, or spread"
        " them over several namespaces"
    )


LABELS = {f"{number}": "x" * 50 for number in range(2000)}
OWNERS = [{"apiVersion": "v1", "kind": "Pod", "name": "x" * 100_000, "uid": "u"}]


@pytest.mark.parametrize("metadata", [{"labels": LABELS}, {"ownerReferences": OWNERS}], ids=["labels", "owners"])
@pytest.mark.parametrize("limit", [budgets.KEPT.limit, 0], ids=["too large", "beyond the budget"])
def test_object_that_is_not_read_uses_little_memory(
    monkeypatch: pytest.MonkeyPatch, metadata: dict[str, Any], limit: float
) -> None:
    small = budgets.KEPT._replace(limit=limit)
    monkeypatch.setattr(budgets, "KEPT", small)
    large = make_item("a", **metadata)
    large["spec"]["secretObject"]["annotations"] = {"note": "x" * (MAX_SPEC if limit else 1)}
    found = make_informer(TotalBudget(small)).decode_object(encode_object(large))
    assert isinstance(found, Unreadable)
    assert len(msgspec.json.encode(found.metadata)) <= MAX_METADATA
    assert (found.metadata.uid, found.metadata.resource_version, found.metadata.generation) == ("uid-a", "1", 1)


def test_object_that_is_not_read_keeps_its_owner() -> None:
    owner = {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "AKVSync", "name": "x", "uid": "u"}
    found = make_informer().decode_object(encode_object(make_item("a", ownerReferences=[owner]) | {"spec": 5}))
    assert isinstance(found, Unreadable)
    assert [each.uid for each in found.metadata.owner_references] == ["u"]


@pytest.mark.parametrize("recovers", [True, False])
async def test_unexpected_failure_is_followed_by_a_list(
    harness: InformerHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, recovers: bool
) -> None:
    caplog.set_level("INFO")
    harness.informer.rng = FixedRandom(1.0)
    decode, failures = harness.informer.decode_object, [ZeroDivisionError(), MemoryError(), ZeroDivisionError()]

    def decode_or_fail(content: Any) -> Any:
        if failures and b'"b"' in bytes(content):
            raise failures.pop()
        return decode(content)

    monkeypatch.setattr(harness.informer, "decode_object", decode_or_fail)
    both = make_list(make_item("a"), make_item("b"))
    rest: list[Any] = [both, [make_bookmark("11")], FOREVER] if recovers else []
    await harness.play(make_list(make_item("a")), [make_event("ADDED", make_item("b"))], both, both, *rest)
    assert harness.pauses == [1, 2, 4]
    assert harness.requested[:4] == ["list", "watch 10", "list", "list"]
    problem = "unexpected ZeroDivisionError: the log has the traceback; the controller lists again"
    assert harness.informer.problem == ("" if recovers else problem)
    assert set(harness.store.keys()) == ({A, B} if recovers else {A})
    logged = [record.getMessage() for record in caplog.records]
    assert logged == [
        "unexpected ZeroDivisionError",
        "unexpected MemoryError",
        "unexpected ZeroDivisionError",
        *(["listing and watching secretsyncs again"] if recovers else []),
    ]


async def test_failing_handler_does_not_hide_other_objects(
    harness: InformerHarness, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_for_a(key: Key, _: object) -> None:
        if key == A:
            raise ZeroDivisionError

    harness.store.add_handler(fail_for_a)
    await harness.play(make_list(make_item("a"), make_item("b")), FOREVER)
    assert set(harness.store.keys()) == {A, B}
    assert [record.getMessage() for record in caplog.records] == ["unexpected ZeroDivisionError"]


async def test_pages_of_large_objects_become_smaller(harness: InformerHarness) -> None:
    note = {"note": "x" * 2**20}
    await harness.play(
        ScriptedResponse(b"[" + b" " * (9 * 2**20)),
        make_list(make_item("a", annotations=note), make_item("b", annotations=note), more="t"),
        make_list(make_item("c")),
        FOREVER,
    )
    assert [request.query["limit"] for request in harness.server.requests if not request.is_watch] == ["50", "6", "3"]
    assert PAGE == 50
    assert len(harness.store) == 3
