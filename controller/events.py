"""Events for `kubectl describe`, sent one after the other behind the work: news must not keep a Secret waiting.

To the API server an event is as dear as a Secret, so of many that come at once most are sent later.

Source: Kubernetes API reference, Event v1 events.k8s.io.
"""

import asyncio
import contextlib
import logging
import math
import secrets
from collections import deque
from datetime import UTC, datetime
from typing import Any, Literal

from controller import errors, permissions
from controller.api.meta import ObjectMeta
from controller.api.secretsync import SecretSync
from controller.kube import Kube
from controller.settings import FIELD_MANAGER

Kind = Literal["Normal", "Warning"]
MOST_NOTE = 1024
# Of more that wait the oldest are dropped: the status has it all.
MOST_WAITING = 2000
# What may be sent at once after a rest, and events per second from then on.
BURST = 50
PER_SECOND = 20.0
log = logging.getLogger(__name__)


class Events:
    """Events about SecretSyncs. `instance` is the controller's own name."""

    def __init__(self, kube: Kube, instance: str) -> None:
        self._kube = kube
        self._rested = -math.inf  # when, by the event loop's clock, a whole burst may be sent again
        self._instance = instance[:128]
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque(maxlen=MOST_WAITING)
        self._news = asyncio.Event()
        self._closed = asyncio.Event()

    def say(self, meta: ObjectMeta, kind: Kind, reason: str, text: str) -> None:
        """Will be sent soon."""
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{meta.name[:230]}.{secrets.token_hex(8)}", "namespace": meta.namespace},
            "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": f"{SecretSync.group}/{FIELD_MANAGER}",
            "reportingInstance": self._instance,
            "action": "Sync",
            "reason": reason,
            "type": kind,
            "note": text if len(text) <= MOST_NOTE else text[: MOST_NOTE - 3] + "...",
            "regarding": {
                "apiVersion": SecretSync.api_version(),
                "kind": SecretSync.kind,
                "namespace": meta.namespace,
                "name": meta.name,
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
            },
        }
        self._waiting.append((meta.namespace, body))
        self._news.set()

    async def work(self) -> None:
        """Sends what was said, until closed and all was sent."""
        while True:
            while self._waiting:
                await self._pause()
                if not self._waiting:
                    break  # forgotten meanwhile
                namespace, body = self._waiting.popleft()
                try:
                    await permissions.EVENTS.create(self._kube, namespace, body)
                except errors.NotFound:
                    self._forget(namespace)
                except errors.KubeError as error:
                    log.debug("event not written: %s", error.message)
            if self._closed.is_set():
                return
            self._news.clear()
            await self._news.wait()

    def _forget(self, namespace: str) -> None:
        """It is gone, and what was to be told of it tells nobody anything."""
        self._waiting = deque((each for each in self._waiting if each[0] != namespace), maxlen=MOST_WAITING)

    async def _pause(self) -> None:
        """Until the next one may be sent; who is closed has no time for that."""
        now = asyncio.get_running_loop().time()
        wait = self._rested - (BURST - 1) / PER_SECOND - now
        if wait > 0 and not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._closed.wait()
        self._rested = max(self._rested, now) + 1 / PER_SECOND

    def close(self) -> None:
        """Nothing more will be said."""
        self._closed.set()
        self._news.set()

    def reset(self) -> None:
        """Forgets what waits: another process leads, and tells by itself."""
        self._waiting.clear()
