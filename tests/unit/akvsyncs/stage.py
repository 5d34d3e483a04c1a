"""AKVSyncs in virtual time, before an API server that keeps what it is given and tells the watches of it."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from controller import akvsyncs, errors
from controller.akvsyncs import AKVSyncs
from controller.api.akvsync import AKVSync
from controller.api.conditions import Condition, Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.events import Events
from controller.kube import Kube
from controller.queue import Key
from controller.reflector import Store
from tests.unit.dice import Dice
from tests.unit.virtual import VirtualLoop

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
KINDS: dict[str, Any] = {"akvsyncs": AKVSync, "secretsyncs": SecretSync, "secretproviderclasses": SecretProviderClass}
A, B = {"secretInAKV": "a"}, {"secretInAKV": "b"}
FRESH = ["POST secretproviderclasses shop", "POST secretsyncs a", "POST secretsyncs b"]


class Stage:
    """The stores, the workers and the API server; the watch brings everything `lag` seconds later."""

    lag = 0.01

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.asked: list[tuple[float, str]] = []
        self.events: list[tuple[str, str, str]] = []
        self.fails: dict[str, errors.KubeError] = {}
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self._version = 0
        self.syncs: Store[SecretSync] = Store()
        self.classes: Store[SecretProviderClass] = Store()
        self.akv_syncs = AKVSyncs(cast("Kube", self), cast("Events", self), self.syncs, self.classes)
        self.akv_syncs._dice = Dice(1.0)
        self._stores: dict[str, Store[Any]] = {
            "akvsyncs": self.akv_syncs.store,
            "secretsyncs": self.syncs,
            "secretproviderclasses": self.classes,
        }
        self.working = self.loop.create_task(self.akv_syncs.work())

    def say(self, meta: ObjectMeta, kind: str, reason: str, _text: str, *, about: Any) -> None:
        """Stand in for `Events`."""
        assert about is AKVSync
        self.events.append((meta.name, kind, reason))

    # What stands in for the API server

    async def call(self, method: str, path: str, *, body: Any = None, **_: Any) -> bytes:
        plural, *rest = path.partition("/namespaces/team/")[2].split("/")
        name = rest[0] if rest else str(body["metadata"]["name"])
        await asyncio.sleep(0.001)
        what = f"{method} {plural} {'/'.join(rest) or name}"
        self.asked.append((self.loop.time(), what))
        if error := self.fails.get(what):
            raise error.with_traceback(None)
        there = self.objects.get((plural, name))
        if method == "POST" and there:
            raise errors.Conflict("exists", status=409)
        if method != "POST":
            if not there:
                raise errors.NotFound("gone", status=404)
            wanted = (body.get("preconditions") or body["metadata"])["resourceVersion"]
            if wanted != there["metadata"]["resourceVersion"]:
                raise errors.Conflict("it has been modified", status=409)
        if method == "DELETE":
            self.remove(plural, name)
            return b"{}"
        return json.dumps(self.put(plural, name, body)).encode()

    def put(self, plural: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Creates or merges, as the API server does; the watch tells of what changed."""
        there = self.objects.get((plural, name), {})
        merged: dict[str, Any] = merge(there, json.loads(msgspec.json.encode(body)))
        if merged == there:
            return there
        if plural == "secretsyncs":
            merged["spec"]["secretObject"].setdefault("type", "Opaque")
        self._version += 1
        meta = {"name": name, "namespace": "team", "uid": f"uid-{self._version}", "generation": 0}
        merged["metadata"] = meta | merged["metadata"] | {"resourceVersion": str(self._version)}
        merged["metadata"]["generation"] += merged.get("spec") != there.get("spec")
        self.objects[plural, name] = merged
        item = msgspec.json.decode(msgspec.json.encode(merged), type=KINDS[plural])
        self.loop.call_later(self.lag, self._stores[plural].put, item)
        return merged

    def remove(self, plural: str, name: str) -> None:
        del self.objects[plural, name]
        self.loop.call_later(self.lag, self._stores[plural].drop, Key("team", name))

    # What a test does

    def has(self, objects: list[dict[str, Any]], name: str = "shop") -> None:
        """Applies an AKVSync."""
        spec = {
            "keyvaultName": "shop-vault",
            "clientID": "client",
            "tenantID": "tenant",
            "serviceAccountName": "robot",
            "objects": objects,
        }
        self.put("akvsyncs", name, {"metadata": {}, "spec": spec})

    def synced(self, name: str, *, reason: Reason = Reason.WRITTEN, message: str = "1 key", keys: int = 1) -> None:
        """What the Reconciler would tell of a SecretSync."""
        ready = Condition(
            type="Ready",
            status="True" if reason in (Reason.WRITTEN, Reason.UP_TO_DATE) else "False",
            reason=reason,
            message=message,
            last_transition_time="2030-01-01T12:00:00Z",
            observed_generation=self.objects["secretsyncs", name]["metadata"]["generation"],
        )
        versions = [ObjectVersion(target_key=f"v{n}", object="secret/a", version="1") for n in range(keys)]
        self.put(
            "secretsyncs",
            name,
            {"status": msgspec.to_builtins(SecretSyncStatus(conditions=[ready], objects=versions))},
        )

    def passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert not self.working.done(), f"the workers have ended: {self.working}"

    def next_term(self) -> None:
        """This process leads no more, and then again."""
        self.working.cancel()
        self.loop.run_until_complete(asyncio.gather(self.working, return_exceptions=True))
        self.akv_syncs.reset()
        self.working = self.loop.create_task(self.akv_syncs.work())

    @property
    def did(self) -> list[str]:
        """What was asked, without the status patches; forgotten afterwards."""
        found = [what for _, what in self.asked if not what.endswith("/status")]
        self.asked.clear()
        return found

    def names(self, plural: str = "secretsyncs") -> list[str]:
        return sorted(name for kind, name in self.objects if kind == plural)

    def ready(self, name: str = "shop") -> tuple[str, str, str]:
        [found] = self.objects["akvsyncs", name]["status"]["conditions"]
        return found["status"], found["reason"], found["message"]

    def unreadable(self, name: str = "shop") -> None:
        """An edit that an older CRD let through."""
        merged = self.objects["akvsyncs", name]
        self._version += 1
        merged["metadata"] |= {"generation": 9, "resourceVersion": str(self._version)}
        meta = msgspec.convert(merged, AKVSync).metadata
        self.akv_syncs.store.put(Unreadable(meta, "Expected `array` - at `$.spec.objects`"))


def merge(old: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def parts(stage: Stage) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in stage.objects["akvsyncs", "shop"]["status"]["parts"]}


def foreign(stage: Stage, plural: str, name: str, /, *, owners: int = 1, **owner: str) -> None:
    """Somebody else's object."""
    spec = {
        "serviceAccountName": "x",
        "secretProviderClassName": "x",
        "secretObject": {"data": [{"sourcePath": "x", "targetKey": "x"}]},
    }
    listed = [{"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "AKVSync", **owner}] * owners if owner else []
    stage.put(plural, name, {"metadata": {"ownerReferences": listed}, "spec": spec if plural == "secretsyncs" else {}})


def staged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage, taken down afterwards."""
    loop = VirtualLoop()
    monkeypatch.setattr(akvsyncs, "time", SimpleNamespace(monotonic=loop.time))
    stage = Stage(loop)
    now = SimpleNamespace(now=lambda _zone: NOON + timedelta(seconds=stage.loop.time()))
    monkeypatch.setattr(akvsyncs, "datetime", now)
    yield stage
    stage.working.cancel()
    stage.loop.run_until_complete(asyncio.gather(stage.working, return_exceptions=True))
    stage.loop.close()
