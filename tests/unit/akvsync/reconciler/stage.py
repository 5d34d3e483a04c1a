"""AKVSyncs in virtual time, before an API server that keeps what it is given and tells the watches of it."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from controller import errors
from controller.akvsync import reconciler
from controller.akvsync.reconciler import AKVSyncReconciler
from controller.akvsync.selections import SelectionTracker
from controller.api.akvsync import AKVSync
from controller.api.conditions import Condition, Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.config.settings import Settings
from controller.domain.selection import Query, SelectionCollector
from controller.domain.snapshot import VaultSnapshot
from controller.domain.vault_objects import Item
from controller.keyvault.pool import VaultPool
from controller.kube.client import KubeClient
from controller.kube.event_recorder import EventRecorder
from controller.kube.informer import Store
from controller.runtime.work_queue import Key
from controller.secretsync.poller import Poller
from tests.support.fixed_random import FixedRandom
from tests.support.virtual_time import VirtualLoop

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
        self.poller = Poller(0.0, cast("VaultPool", self), lambda *_: True, FixedRandom(0.0), loop.time)
        self.akv_syncs = AKVSyncReconciler(
            cast("KubeClient", self),
            cast("EventRecorder", self),
            self.syncs,
            self.classes,
            partial(
                SelectionTracker, Settings(), Settings().clouds(), cast("VaultPool", self), self.poller, clock=loop.time
            ),
        )
        self.akv_syncs.rng = FixedRandom(1.0)
        self.akv_syncs.selections.rng = FixedRandom(0.0)
        self.vault: list[Item] = []
        self.vault_fails: errors.ControllerError | None = None
        self.gone: frozenset[str] | None = None
        self.lists: list[tuple[float, str]] = []
        self._stores: dict[str, Store[Any]] = {
            "akvsyncs": self.akv_syncs.store,
            "secretsyncs": self.syncs,
            "secretproviderclasses": self.classes,
        }
        self.working = self.loop.create_task(self.akv_syncs.work())
        self.polling = self.loop.create_task(self.poller.work())

    # What stands in for the vault

    def reader(self, *_: object) -> "Stage":
        return self

    async def select(self, queries: Sequence[Query]) -> VaultSnapshot:
        return self._listed("select", queries)

    async def survey(
        self, _wanted: object, _since: float, queries: Sequence[Query] = (), _on_listed: object = None
    ) -> VaultSnapshot:
        return self._listed("poll", queries)

    def _listed(self, what: str, queries: Sequence[Query]) -> VaultSnapshot:
        self.lists.append((round(self.loop.time()), what))
        if self.vault_fails:
            raise self.vault_fails
        sightings = []
        compared = 0
        for query in queries:
            collector = SelectionCollector(query)
            for item in self.vault:
                collector.add(item)
            compared += collector.compared
            missing = collector.missing_names
            sightings.append(collector.to_sighting(missing if self.gone is None else missing & self.gone))
        return VaultSnapshot(listed={"secret": {}}, sightings=tuple(sightings), compared=compared)

    def say(self, meta: ObjectMeta, kind: str, reason: str, _text: str, *, about: Any) -> None:
        """Stand in for `EventRecorder`."""
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
        """Create or merge, as the API server does; the watch reports the change."""
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
        """Apply an AKVSync."""
        spec = {
            "keyvaultName": "shop-vault",
            "clientID": "client",
            "tenantID": "tenant",
            "serviceAccountName": "robot",
            "objects": objects,
        }
        self.put("akvsyncs", name, {"metadata": {}, "spec": spec})

    def all_synced(self) -> None:
        """Report all SecretSyncs as the Reconciler does, with the objects and versions of each key."""
        for name in self.names():
            self.synced(name)

    def synced(self, name: str, *, reason: Reason = Reason.WRITTEN, message: str = "1 key", keys: int = 1) -> None:
        """Report a SecretSync as the Reconciler does."""
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
        """Let this process lose the leadership and gain it again."""
        self.working.cancel()
        self.loop.run_until_complete(asyncio.gather(self.working, return_exceptions=True))
        self.akv_syncs.reset()
        self.poller.reset()
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
        conditions = self.objects["akvsyncs", name]["status"]["conditions"]
        [found] = [item for item in conditions if item["type"] == "Ready"]
        return found["status"], found["reason"], found["message"]

    def unreadable(self, name: str = "shop") -> None:
        """Make an edit that an older CRD accepted."""
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
    """Yield a stage, taken down afterwards."""
    loop = VirtualLoop()
    monkeypatch.setattr(reconciler, "time", SimpleNamespace(monotonic=loop.time))
    stage = Stage(loop)
    now = SimpleNamespace(now=lambda _zone: NOON + timedelta(seconds=stage.loop.time()))
    monkeypatch.setattr(reconciler, "datetime", now)
    try:
        yield stage
    finally:
        stage.polling.cancel()
        stage.loop.run_until_complete(asyncio.gather(stage.polling, return_exceptions=True))
        stage.working.cancel()
        stage.loop.run_until_complete(asyncio.gather(stage.working, return_exceptions=True))
        stage.loop.close()
