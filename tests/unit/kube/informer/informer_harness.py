"""Provide an informer and a scripted API server over real HTTP."""

import asyncio
import contextlib
from typing import Any

import msgspec

from controller.api.meta import Unreadable
from controller.api.secretsync import SecretSync
from controller.kube.client import KubeClient
from controller.kube.informer import Informer, Store
from controller.kube.permissions import SECRET_SYNCS
from controller.runtime.work_queue import Key
from tests.support.scripted_api_server import ScriptedApiServer, ScriptedResponse

A, B, C = (Key("team", name) for name in "abc")
FOREVER = ScriptedResponse(held=True)


def make_item(name: str, generation: int = 1, version: str = "1", uid: str = "", **metadata: Any) -> dict[str, Any]:
    """Return a SecretSync as the API server sends it."""
    meta = {"name": name, "namespace": "team", "uid": uid or f"uid-{name}", "generation": generation}
    spec = {
        "secretProviderClassName": "class",
        "serviceAccountName": "robot",
        "secretObject": {"data": [{"sourcePath": "x", "targetKey": "x"}]},
    }
    return {"metadata": meta | {"resourceVersion": version} | metadata, "spec": spec}


def make_list(*items: dict[str, Any], version: str = "10", more: str = "") -> ScriptedResponse:
    return ScriptedResponse({"metadata": {"resourceVersion": version, "continue": more}, "items": list(items)})


def make_event(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": content}


def make_bookmark(version: str) -> dict[str, Any]:
    return make_event("BOOKMARK", {"kind": "SecretSync", "metadata": {"resourceVersion": version}})


def encode_object(content: dict[str, Any]) -> msgspec.Raw:
    """Return an object as it is in a list or an event."""
    return msgspec.Raw(msgspec.json.encode(content))


class InformerHarness:
    """A running informer, its scripted API server, its pauses and its notifications.

    Each read of the clock advances it by `watch_seconds`. So a watch lasts that long, unless a test sets zero.
    """

    watch_seconds = 60.0

    def __init__(self, server: ScriptedApiServer, kube: KubeClient) -> None:
        self.server = server
        self.kube = kube
        self.notified: list[tuple[Key, str | None]] = []
        self.store: Store[SecretSync] = Store()
        self.store.add_handler(self._record)
        self.informer = Informer(kube, SECRET_SYNCS, "team", self.store)
        self.pauses: list[float] = []
        self.now = 0.0

    def _record(self, key: Key, before: SecretSync | Unreadable | None) -> None:
        self.notified.append((key, f"generation {before.metadata.generation}" if before else None))

    async def pause(self, seconds: float) -> None:
        """Replace `asyncio.sleep` in the informer."""
        if seconds:
            self.pauses.append(seconds)
        await asyncio.sleep(0)

    def clock(self) -> float:
        """Replace `time.monotonic` in the informer."""
        self.now += self.watch_seconds
        return self.now

    async def play(self, *answers: ScriptedResponse | list[Any]) -> None:
        """Run the informer with these answers until it has read the last one."""
        self.server.add_responses(*answers)
        running = asyncio.create_task(self.informer.run())
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
    def requested(self) -> list[str]:
        """Return the requests in short: `list`, or `watch <resourceVersion>`."""
        return [
            f"watch {request.query['resourceVersion']}" if request.is_watch else "list"
            for request in self.server.requests
        ]
