"""Test that edits of generated classes are compared in a thread, once a second, within the budget of a namespace."""

import asyncio
import logging
import threading
from typing import Any

import msgspec
import pytest

from controller.akvsync.expand import expand_akvsync
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.domain.generated import ClassItem, as_objects
from controller.errors import ParsingDeferred
from controller.observability.telemetry import RateLimitedLog
from controller.runtime.threads.parsing import ParsingPool
from controller.runtime.work_queue import Key
from controller.secretsync import class_edits
from controller.secretsync.class_edits import AffectedKeys, ClassEdits
from controller.secretsync.sync_resolver import Class
from tests.support.akv_syncs import akv_sync
from tests.support.process_stats import thread_seconds

CLASS = Key("shop", "shop")
ITEMS = 2_000


def make_class(*names: str, generation: int = 1) -> SecretProviderClass:
    """Return a class as an AKVSync generates it, with these items."""
    source = expand_akvsync(akv_sync("[{secretInAKV: a}]")).source
    assert source
    items = {name: ClassItem(name, name, f"    objectName: {name}\n    objectType: secret\n") for name in names}
    parameters = {**source.spec.parameters, "objects": as_objects(items)}
    metadata = msgspec.structs.replace(source.metadata, namespace="shop", uid="class", generation=generation)
    return msgspec.structs.replace(
        source, metadata=metadata, spec=msgspec.structs.replace(source.spec, parameters=parameters)
    )


def make_sync(name: str, *keys: str) -> SecretSync:
    spec: dict[str, Any] = {
        "secretProviderClassName": "shop",
        "serviceAccountName": "shop",
        "secretObject": {"data": [{"sourcePath": key, "targetKey": key} for key in keys]},
    }
    return msgspec.convert({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}, SecretSync)


NAMES = [f"item-{number}" for number in range(ITEMS)]


class ClassEditsHarness:
    """A class, the SecretSyncs that use it, and the keys that its edits affect."""

    def __init__(self, source: Class, *users: SecretSync, pool: ParsingPool | None = None) -> None:
        self.current = source
        self.found: list[AffectedKeys] = []
        self._added = asyncio.Event()
        self.syncs: dict[Key, SecretSync | Unreadable] = {Key("shop", user.metadata.name): user for user in users}
        log = RateLimitedLog(logging.getLogger(__name__))
        self.edits = ClassEdits(pool or ParsingPool(), lambda _: self.current, lambda _: self.syncs, self._add, log)

    def edit(self, after: Class) -> None:
        before, self.current = self.current, after
        self.edits.handle_edit(CLASS, before)

    def _add(self, affected_keys: AffectedKeys) -> None:
        self.found.append(affected_keys)
        self._added.set()

    async def wait_for_results(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.found) < count:
                self._added.clear()
                await self._added.wait()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of each thread that compares an edit."""
    found: list[str] = []
    real = class_edits.affected_keys

    def affected_keys(*given: Any) -> AffectedKeys:
        found.append(threading.current_thread().name)
        return real(*given)

    monkeypatch.setattr(class_edits, "affected_keys", affected_keys)
    return found


async def test_small_edit_is_compared_at_once() -> None:
    harness = ClassEditsHarness(make_class("a", "b"), make_sync("one", "a", "b"), make_sync("other", "b"))
    odd = Key("shop", "odd")
    harness.syncs[odd] = Unreadable(ObjectMeta(name="odd", namespace="shop"), "spec is no object")
    harness.edit(make_class("a", "c", generation=2))
    affected_keys = frozenset({"b", "b/*"})
    assert harness.found == [{Key("shop", "one"): affected_keys, Key("shop", "other"): affected_keys, odd: None}]


@pytest.mark.parametrize("large", ["class", "users"])
async def test_large_edit_is_compared_in_a_thread(large: str, threads: list[str]) -> None:
    names = NAMES if large == "class" else NAMES[:2]
    users = [make_sync(f"s{number}", *NAMES) for number in range(1 if large == "class" else 50)]
    harness = ClassEditsHarness(make_class(*names), *users)
    assert thread_seconds(lambda: harness.edit(make_class(*names[:-1], generation=2))) < 0.05
    assert harness.found == []
    await harness.wait_for_results(1)
    assert threads == ["parse"]
    affected_keys = frozenset({names[-1], f"{names[-1]}/*"})
    assert harness.found == [dict.fromkeys(harness.syncs, affected_keys)]


async def test_edits_within_a_second_are_compared_together(threads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_edits, "EDIT_INTERVAL", 0.3)
    harness = ClassEditsHarness(make_class(*NAMES), make_sync("s", *NAMES))
    for after in [make_class(*NAMES[number:], generation=1 + number) for number in range(1, 31)]:
        harness.edit(after)
        await asyncio.sleep(0.001)
    await harness.wait_for_results(2)
    assert len(threads) == 2
    keys = [keys for found in harness.found for keys in found.values()]
    # No edit is lost: the first comparison begins with the class before the first edit.
    assert frozenset().union(*(each or () for each in keys)) == {
        key for name in NAMES[:30] for key in (name, f"{name}/*")
    }


async def test_edit_after_the_end_of_a_comparison_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_edits, "EDIT_INTERVAL", 0.01)
    harness = ClassEditsHarness(make_class(*NAMES), make_sync("s", *NAMES))
    for number in (1, 2):
        harness.edit(make_class(*NAMES[number:], generation=1 + number))
        await harness.wait_for_results(number)
        await asyncio.sleep(0.1)
    assert [found[Key("shop", "s")] for found in harness.found] == [
        frozenset({name, f"{name}/*"}) for name in NAMES[:2]
    ]


class FailingPool(ParsingPool):
    """A pool that runs nothing."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self._failure = failure

    async def run(self, *_: object, **__: object) -> Any:
        raise self._failure


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(ParsingDeferred("the budget is spent", retry_after=30.0), id="spent budget"),
        pytest.param(RuntimeError("can't start new thread"), id="limit of threads or memory"),
    ],
)
async def test_edit_that_cannot_be_compared_affects_all_keys(
    threads: list[str], failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    harness = ClassEditsHarness(make_class(*NAMES), make_sync("s", *NAMES), pool=FailingPool(failure))
    harness.edit(make_class(*NAMES[1:], generation=2))
    await harness.wait_for_results(1)
    assert (threads, harness.found) == ([], [{Key("shop", "s"): None}])
    assert ("unexpected RuntimeError" in caplog.text) == isinstance(failure, RuntimeError)


async def test_deleted_class_and_hand_written_class_affect_all_keys() -> None:
    harness = ClassEditsHarness(make_class(*NAMES), make_sync("s", "item-1"))
    hand_written = msgspec.structs.replace(
        make_class("a"), metadata=ObjectMeta(name="shop", namespace="shop", uid="class", generation=2)
    )
    harness.edits.handle_edit(CLASS, None)
    harness.edit(hand_written)
    await harness.wait_for_results(2)
    harness.edit(None)
    assert harness.found == [{Key("shop", "s"): None}] * 3
