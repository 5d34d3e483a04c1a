"""The AKVSync reconciler in virtual time, with a fake API server that stores objects and informs the watches."""

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
from controller.domain.vault_objects import ListItem
from controller.keyvault.pool import VaultPool
from controller.kube.client import KubeClient
from controller.kube.event_recorder import EventRecorder
from controller.kube.informer import Store
from controller.polling.poller import Poller
from controller.runtime.work_queue import Key
from tests.support.fixed_random import FixedRandom
from tests.support.virtual_time import VirtualLoop

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
KINDS: dict[str, Any] = {"akvsyncs": AKVSync, "secretsyncs": SecretSync, "secretproviderclasses": SecretProviderClass}
A, B = {"secretInAKV": "a"}, {"secretInAKV": "b"}
FRESH = ["POST secretproviderclasses shop", "POST secretsyncs a", "POST secretsyncs b"]


class AKVSyncHarness:
    """The stores, the workers and the API server. A watch delivers each change `lag` seconds later."""

    lag = 0.01

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.requests: list[tuple[float, str]] = []
        self.events: list[tuple[str, str, str]] = []
        self.failures: dict[str, errors.KubeError] = {}
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
            partial(SelectionTracker, Settings(), cast("VaultPool", self), self.poller, clock=loop.time),
        )
        self.akv_syncs.rng = FixedRandom(1.0)
        self.akv_syncs.selections.rng = FixedRandom(0.0)
        self.vault_items: list[ListItem] = []
        self.vault_error: errors.ControllerError | None = None
        self.confirmed_gone: frozenset[str] | None = None
        self.list_calls: list[tuple[float, str]] = []
        self._stores: dict[str, Store[Any]] = {
            "akvsyncs": self.akv_syncs.store,
            "secretsyncs": self.syncs,
            "secretproviderclasses": self.classes,
        }
        self.work_task = self.loop.create_task(self.akv_syncs.work())
        self.poll_task = self.loop.create_task(self.poller.work())

    # Act as VaultPool and VaultReader

    def reader(self, *_: object) -> "AKVSyncHarness":
        return self

    async def select(self, queries: Sequence[Query]) -> VaultSnapshot:
        return self._listed("select", queries)

    async def take_snapshot(
        self, _wanted: object, _since: float, queries: Sequence[Query] = (), _on_listed: object = None
    ) -> VaultSnapshot:
        return self._listed("poll", queries)

    def _listed(self, call: str, queries: Sequence[Query]) -> VaultSnapshot:
        self.list_calls.append((round(self.loop.time()), call))
        if self.vault_error:
            raise self.vault_error
        sightings = []
        compared = 0
        for query in queries:
            collector = SelectionCollector(query)
            for item in self.vault_items:
                collector.add(item)
            compared += collector.compared
            missing = collector.missing_names
            sightings.append(
                collector.to_sighting(missing if self.confirmed_gone is None else missing & self.confirmed_gone)
            )
        return VaultSnapshot(listed={"secret": {}}, sightings=tuple(sightings), compared=compared)

    def record(self, meta: ObjectMeta, kind: str, reason: str, _text: str, *, about: Any) -> None:
        """Act as `EventRecorder`."""
        assert about is AKVSync
        self.events.append((meta.name, kind, reason))

    # Act as the API server

    async def call(self, method: str, path: str, *, body: Any = None, **_: Any) -> bytes:
        plural, *rest = path.partition("/namespaces/team/")[2].split("/")
        name = rest[0] if rest else str(body["metadata"]["name"])
        await asyncio.sleep(0.001)
        request = f"{method} {plural} {'/'.join(rest) or name}"
        self.requests.append((self.loop.time(), request))
        if error := self.failures.get(request):
            raise error.with_traceback(None)
        existing = self.objects.get((plural, name))
        if method == "POST" and existing:
            raise errors.Conflict("exists", status=409)
        if method != "POST":
            if not existing:
                raise errors.NotFound("gone", status=404)
            wanted = (body.get("preconditions") or body["metadata"])["resourceVersion"]
            if wanted != existing["metadata"]["resourceVersion"]:
                raise errors.Conflict("it has been modified", status=409)
        if method == "DELETE":
            self.remove(plural, name)
            return b"{}"
        return json.dumps(self.put(plural, name, body)).encode()

    def put(self, plural: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create or merge, as the API server does. The watch delivers the change."""
        existing = self.objects.get((plural, name), {})
        merged: dict[str, Any] = merge(existing, json.loads(msgspec.json.encode(body)))
        if merged == existing:
            return existing
        if plural == "secretsyncs":
            merged["spec"]["secretObject"].setdefault("type", "Opaque")
        self._version += 1
        meta = {"name": name, "namespace": "team", "uid": f"uid-{self._version}", "generation": 0}
        merged["metadata"] = meta | merged["metadata"] | {"resourceVersion": str(self._version)}
        merged["metadata"]["generation"] += merged.get("spec") != existing.get("spec")
        self.objects[plural, name] = merged
        try:
            item = msgspec.json.decode(msgspec.json.encode(merged), type=KINDS[plural])
        except msgspec.ValidationError as error:
            item = Unreadable(msgspec.convert(merged["metadata"], ObjectMeta), str(error))
        self.loop.call_later(self.lag, self._stores[plural].set, item)
        return merged

    def remove(self, plural: str, name: str) -> None:
        del self.objects[plural, name]
        self.loop.call_later(self.lag, self._stores[plural].delete, Key("team", name))

    # Methods for the tests

    def apply(self, objects: list[dict[str, Any]], name: str = "shop") -> None:
        """Apply an AKVSync."""
        spec = {
            "keyvaultName": "shop-vault",
            "clientID": "client",
            "tenantID": "tenant",
            "serviceAccountName": "robot",
            "objects": objects,
        }
        self.put("akvsyncs", name, {"metadata": {}, "spec": spec})

    def report_all_synced(self) -> None:
        """Report all SecretSyncs as synced, with the objects and versions of each key."""
        for name in self.list_names():
            self.report_synced(name)

    def report_synced(
        self, name: str, *, reason: Reason = Reason.WRITTEN, message: str = "1 key", keys: int = 1
    ) -> None:
        """Write the status of a SecretSync, as its reconciler does."""
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

    def advance(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert not self.work_task.done(), f"the workers have ended: {self.work_task}"

    def regain_leadership(self) -> None:
        """Let this process lose the leadership and become leader again."""
        self.work_task.cancel()
        self.loop.run_until_complete(asyncio.gather(self.work_task, return_exceptions=True))
        self.akv_syncs.reset()
        self.poller.reset()
        self.work_task = self.loop.create_task(self.akv_syncs.work())

    def take_writes(self) -> list[str]:
        """Return the requests except status patches, and delete the record of all requests."""
        found = [request for _, request in self.requests if not request.endswith("/status")]
        self.requests.clear()
        return found

    def list_names(self, plural: str = "secretsyncs") -> list[str]:
        return sorted(name for kind, name in self.objects if kind == plural)

    def get_ready(self, name: str = "shop") -> tuple[str, str, str]:
        conditions = self.objects["akvsyncs", name]["status"]["conditions"]
        [found] = [item for item in conditions if item["type"] == "Ready"]
        return found["status"], found["reason"], found["message"]

    def make_unreadable(self, name: str = "shop") -> None:
        """Edit the AKVSync in a way that only an older CRD accepted."""
        self.put("akvsyncs", name, {"spec": {"objects": "text"}, "metadata": {}})


def merge(old: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def read_parts(harness: AKVSyncHarness) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in harness.objects["akvsyncs", "shop"]["status"]["parts"]}


def put_foreign_object(harness: AKVSyncHarness, plural: str, name: str, /, *, owners: int = 1, **owner: str) -> None:
    """Create an object of another owner, or without one."""
    spec = {
        "serviceAccountName": "x",
        "secretProviderClassName": "x",
        "secretObject": {"data": [{"sourcePath": "x", "targetKey": "x"}]},
    }
    owner_references = (
        [{"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "AKVSync", **owner}] * owners if owner else []
    )
    harness.put(
        plural,
        name,
        {"metadata": {"ownerReferences": owner_references}, "spec": spec if plural == "secretsyncs" else {}},
    )


def make_harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[AKVSyncHarness]:
    """Yield a harness, and stop its workers afterwards."""
    loop = VirtualLoop()
    monkeypatch.setattr(reconciler, "time", SimpleNamespace(monotonic=loop.time))
    harness = AKVSyncHarness(loop)
    now = SimpleNamespace(now=lambda _zone: NOON + timedelta(seconds=harness.loop.time()))
    monkeypatch.setattr(reconciler, "datetime", now)
    try:
        yield harness
    finally:
        harness.poll_task.cancel()
        harness.loop.run_until_complete(asyncio.gather(harness.poll_task, return_exceptions=True))
        harness.work_task.cancel()
        harness.loop.run_until_complete(asyncio.gather(harness.work_task, return_exceptions=True))
        harness.loop.close()
