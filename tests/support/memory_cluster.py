"""An API server in memory that replaces `KubeClient`. Tests inject its failures."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from controller import errors
from controller.config.settings import FIELD_MANAGER
from controller.kube.client import KubeClient, Query

# The duration of a request.
SECONDS = 0.005
# A failure ends a running watch after this time at the latest.
MAX_SILENCE = 20
Object = dict[str, Any]


class MemoryCluster(KubeClient):
    """Objects by plural, namespace and name. `on_request` gets the method and path of each request and may raise."""

    def __init__(self) -> None:
        self.request_counts: Counter[str] = Counter()
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.on_request: Callable[[str, str], None] = lambda *_: None
        # Change a Secret before it is stored, as a mutating webhook does.
        self.on_secret_write: Callable[[Object], None] = lambda _: None
        self.writes: Counter[str] = Counter()
        self._version = 0
        self._watches: dict[asyncio.Queue[Object], str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def with_fence(self, check: Callable[[], None]) -> Self:
        return self

    def put(self, plural: str, manifest: Object, manager: str = "") -> Object:
        """Create or replace an object, and send it to the watches. `manager` is the manager of its fields."""
        meta = manifest["metadata"]
        key = (plural, meta["namespace"], meta["name"])
        known = self.objects.get(key)
        self._version += 1
        meta |= {"resourceVersion": str(self._version), "generation": 1}
        meta["uid"] = known["metadata"]["uid"] if known else f"uid-{self._version}"
        if manager:
            names: Object = {f"f:{name}": {} for name in manifest.get("data", {})}
            labels: Object = {f"f:{name}": {} for name in meta.get("labels", {})}
            fields = {"f:data": names, "f:metadata": {"f:labels": labels}, "f:type": {}}
            time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            entry = {"manager": manager, "operation": "Update", "time": time, "fieldsV1": fields}
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
        self.request_counts[method] += 1
        await asyncio.sleep(SECONDS)
        self.on_request(method, path)
        namespace, plural, name, below = split_path(path)
        if method == "GET":
            items = [item for key, item in self.objects.items() if key[0] == plural]
            return encode_json({"metadata": {"resourceVersion": str(self._version)}, "items": items})
        if below == "token":
            return encode_json({"status": {"token": "a.b.c", "expirationTimestamp": "2100-01-01T00:00:00Z"}})
        dry_run = "dryRun" in (query or {})
        if method == "POST":
            return self._create(plural, namespace, body, dry_run=dry_run)
        return self._patch((plural, namespace, name), body, below, dry_run=dry_run)

    def _create(self, plural: str, namespace: str, body: Object, *, dry_run: bool) -> bytes:
        if (plural, namespace, body["metadata"]["name"]) in self.objects:
            raise errors.Conflict("it exists", status=409)
        if dry_run:
            return encode_json(body)
        made = json.loads(encode_json(body))
        made["metadata"]["namespace"] = namespace
        self.writes[plural] += 1
        if plural == "secrets":
            self.on_secret_write(made)
        return encode_json(self.put(plural, made, FIELD_MANAGER))

    def _patch(self, key: tuple[str, str, str], body: Object, below: str, *, dry_run: bool) -> bytes:
        if key not in self.objects:
            raise errors.NotFound("there is none", status=404)
        found = self.objects[key]
        patch = json.loads(encode_json(body))
        meta = patch.pop("metadata", {})
        if meta.pop("resourceVersion", None) not in (None, found["metadata"]["resourceVersion"]):
            raise errors.Conflict("it has changed", status=409)
        if dry_run:
            return encode_json(found)
        merged = merge_patch(found, patch | {"metadata": meta})
        if body:
            self.writes[key[0]] += not below
        if key[0] == "secrets":
            self.on_secret_write(merged)
        if merged != found:
            found = self.put(key[0], merged, "" if below else FIELD_MANAGER)
        return encode_json(found)

    async def watch_lines(self, path: str, query: Query, quiet: float) -> AsyncIterator[bytes]:
        self.request_counts["WATCH"] += 1
        self.on_request("WATCH", path)
        queue: asyncio.Queue[Object] = asyncio.Queue()
        self._watches[queue] = split_path(path)[1]
        try:
            while True:
                try:
                    yield encode_json(await asyncio.wait_for(queue.get(), MAX_SILENCE))
                except TimeoutError:
                    self.on_request("WATCH", path)
        finally:
            del self._watches[queue]

    def values(self, key: tuple[str, str, str]) -> dict[str, str]:
        """Return the values of a Secret."""
        return {name: base64.b64decode(text).decode() for name, text in self.objects[key].get("data", {}).items()}


def encode_json(what: object) -> bytes:
    return msgspec.json.encode(what)


def merge_patch(before: Object, patch: Object) -> Object:
    """Apply a JSON merge patch (RFC 7396)."""
    merged = dict(before)
    for name, new in patch.items():
        if new is None:
            merged.pop(name, None)
        elif isinstance(new, dict):
            merged[name] = merge_patch(before[name] if isinstance(before.get(name), dict) else {}, new)
        else:
            merged[name] = new
    return merged


def split_path(path: str) -> tuple[str, str, str, str]:
    """Return the namespace, plural, name and subresource of a path."""
    words = path.split("/")[3 if path.startswith("/api/") else 4 :]
    namespace, words = (words[1], words[2:]) if words[0] == "namespaces" else ("", words)
    plural, name, below = [*words, "", ""][:3]
    return namespace, plural, name, below
