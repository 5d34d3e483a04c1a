"""An API server in memory, as far as the controller asks it, which fails as a test says. It stands for `Kube`."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from controller import errors
from controller.kube import Kube, Query
from controller.settings import FIELD_MANAGER

# What a request takes.
SECONDS = 0.005
# What fails cuts a watch that is under way after this.
LONGEST_SILENCE = 20
Object = dict[str, Any]


class MemoryCluster(Kube):
    """Objects by plural, namespace and name. `fails` gets each request's method and path and may raise."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.fails: Callable[[str, str], None] = lambda *_: None
        # Changes a Secret on its way in, as a mutating webhook does.
        self.mutates: Callable[[Object], None] = lambda _: None
        self.writes: Counter[str] = Counter()
        self._version = 0
        self._watches: dict[asyncio.Queue[Object], str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def fenced(self, check: Callable[[], None]) -> Self:
        return self

    def put(self, plural: str, manifest: Object, hand: str = "") -> Object:
        """Creates or replaces an object, and tells who watches; `hand` is the manager of its fields."""
        meta = manifest["metadata"]
        key = (plural, meta["namespace"], meta["name"])
        known = self.objects.get(key)
        self._version += 1
        meta |= {"resourceVersion": str(self._version), "generation": 1}
        meta["uid"] = known["metadata"]["uid"] if known else f"uid-{self._version}"
        if hand:
            names: Object = {f"f:{name}": {} for name in manifest.get("data", {})}
            labels: Object = {f"f:{name}": {} for name in meta.get("labels", {})}
            fields = {"f:data": names, "f:metadata": {"f:labels": labels}, "f:type": {}}
            time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            entry = {"manager": hand, "operation": "Update", "time": time, "fieldsV1": fields}
            meta["managedFields"] = [entry]
        self.objects[key] = manifest
        for queue, watched in self._watches.items():
            if watched == plural:
                queue.put_nowait({"type": "MODIFIED" if known else "ADDED", "object": manifest})
        return manifest

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        accept: str = "application/json",
        content_type: str = "application/json",
    ) -> bytes:
        self.asked[method] += 1
        await asyncio.sleep(SECONDS)
        self.fails(method, path)
        namespace, plural, name, below = _parts(path)
        if method == "GET":
            items = [item for key, item in self.objects.items() if key[0] == plural]
            return _encode({"metadata": {"resourceVersion": str(self._version)}, "items": items})
        if below == "token":
            return _encode({"status": {"token": "a.b.c", "expirationTimestamp": "2100-01-01T00:00:00Z"}})
        if method == "POST":
            return self._create(plural, namespace, body)
        return self._patch((plural, namespace, name), body, below)

    def _create(self, plural: str, namespace: str, body: Object) -> bytes:
        if (plural, namespace, body["metadata"]["name"]) in self.objects:
            raise errors.Conflict("it exists", status=409)
        made = json.loads(_encode(body))
        made["metadata"]["namespace"] = namespace
        self.writes[plural] += 1
        if plural == "secrets":
            self.mutates(made)
        return _encode(self.put(plural, made, FIELD_MANAGER))

    def _patch(self, key: tuple[str, str, str], body: Object, below: str) -> bytes:
        if key not in self.objects:
            raise errors.NotFound("there is none", status=404)
        found = self.objects[key]
        patch = json.loads(_encode(body))
        meta = patch.pop("metadata", {})
        if meta.pop("resourceVersion", None) not in (None, found["metadata"]["resourceVersion"]):
            raise errors.Conflict("it has changed", status=409)
        merged = _merge(found, patch | {"metadata": meta})
        if body:
            self.writes[key[0]] += not below
        if key[0] == "secrets":
            self.mutates(merged)
        if merged != found:
            found = self.put(key[0], merged, "" if below else FIELD_MANAGER)
        return _encode(found)

    async def lines(self, path: str, query: Query, quiet: float) -> AsyncIterator[bytes]:
        self.asked["WATCH"] += 1
        self.fails("WATCH", path)
        queue: asyncio.Queue[Object] = asyncio.Queue()
        self._watches[queue] = _parts(path)[1]
        try:
            while True:
                try:
                    yield _encode(await asyncio.wait_for(queue.get(), LONGEST_SILENCE))
                except TimeoutError:
                    self.fails("WATCH", path)
        finally:
            del self._watches[queue]

    def values(self, key: tuple[str, str, str]) -> dict[str, str]:
        """What a Secret holds."""
        return {name: base64.b64decode(text).decode() for name, text in self.objects[key].get("data", {}).items()}


def _encode(what: object) -> bytes:
    return msgspec.json.encode(what)


def _merge(before: Object, patch: Object) -> Object:
    """RFC 7396."""
    merged = dict(before)
    for name, new in patch.items():
        if new is None:
            merged.pop(name, None)
        elif isinstance(new, dict):
            merged[name] = _merge(before[name] if isinstance(before.get(name), dict) else {}, new)
        else:
            merged[name] = new
    return merged


def _parts(path: str) -> tuple[str, str, str, str]:
    """Namespace, plural, name and what is asked for below."""
    words = path.split("/")[3 if path.startswith("/api/") else 4 :]
    namespace, words = (words[1], words[2:]) if words[0] == "namespaces" else ("", words)
    plural, name, below = [*words, "", ""][:3]
    return namespace, plural, name, below
