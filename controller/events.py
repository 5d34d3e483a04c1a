"""Events for `kubectl describe`, sent one after the other behind the work: news must not keep a Secret waiting.

To the API server an event costs as much as a Secret, so of many that come at once most are sent later. Namespaces take
turns, and each has a budget: a flood of one neither hides nor delays the events of another.

Source: Kubernetes API reference, Event v1 events.k8s.io.
"""

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from controller import budgets, errors, permissions
from controller.api.akvsync import AKVSync
from controller.api.meta import ObjectMeta
from controller.api.secretsync import SecretSync
from controller.budgets import Rates
from controller.kube import Kube
from controller.settings import FIELD_MANAGER

Kind = Literal["Normal", "Warning"]
MOST_NOTE = 1024
REPORTER = f"{SecretSync.group}/{FIELD_MANAGER}"
ACTION = "Sync"
# What may be sent at once after a rest, and events per second from then on.
BURST = 50
PER_SECOND = 20.0
log = logging.getLogger(__name__)


class Events:
    """Events about SecretSyncs and AKVSyncs. `instance` is the controller's own name."""

    def __init__(self, kube: Kube, instance: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._rested = -math.inf  # when, by the event loop's clock, a whole burst may be sent again
        self._instance = instance[:128]
        self._rates = Rates(budgets.EVENTS, clock)
        # By namespace; the one whose event was sent last comes last.
        self._waiting: dict[str, deque[dict[str, Any]]] = {}
        self._news = asyncio.Event()
        self._closed = asyncio.Event()

    def say(
        self, meta: ObjectMeta, kind: Kind, reason: str, text: str, *, about: type[SecretSync | AKVSync] = SecretSync
    ) -> None:
        """Send the event soon, unless its namespace has had its share: the status has the message, too."""
        if not self._rates.take(meta.namespace):
            return
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{meta.name[:230]}.{secrets.token_hex(8)}", "namespace": meta.namespace},
            "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": REPORTER,
            "reportingInstance": self._instance,
            "action": ACTION,
            "reason": reason,
            "type": kind,
            "note": text if len(text) <= MOST_NOTE else text[: MOST_NOTE - 3] + "...",
            "regarding": {
                "apiVersion": about.api_version(),
                "kind": about.kind,
                "namespace": meta.namespace,
                "name": meta.name,
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
            },
        }
        waiting = self._waiting.setdefault(meta.namespace, deque(maxlen=int(budgets.EVENTS.most)))
        waiting.append(body)
        self._news.set()

    async def work(self) -> None:
        """Sends what was said, until closed and all was sent."""
        while True:
            while self._waiting:
                await self._pause()
                if not self._waiting:
                    break  # forgotten meanwhile
                namespace, body = self._next()
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

    def _next(self) -> tuple[str, dict[str, Any]]:
        """Take the oldest event of the namespace that waits longest for its turn."""
        namespace = next(iter(self._waiting))
        waiting = self._waiting.pop(namespace)
        body = waiting.popleft()
        if waiting:
            self._waiting[namespace] = waiting
        return namespace, body

    def _forget(self, namespace: str) -> None:
        """Drop the events of a namespace that is gone."""
        self._waiting.pop(namespace, None)

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
