"""Send events for `kubectl describe` in the background, so that they never delay a Secret.

An event costs the API server as much as a Secret. So their rate is limited, and while many SecretSyncs are synced at
once, as after a start, the events wait for the end of the Secrets. The namespaces are served in rotation, and each has
a budget: a flood of events in one namespace neither hides the events of another nor delays them for long.

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

from controller import errors
from controller.api.akvsync import AKVSync
from controller.api.conditions import Condition
from controller.api.meta import ObjectMeta
from controller.api.secretsync import SecretSync
from controller.config.settings import FIELD_MANAGER
from controller.kube import permissions
from controller.kube.client import KubeClient
from controller.observability.telemetry import RateLimitedLog
from controller.runtime import budgets
from controller.runtime.budgets import RateBudget

Kind = Literal["Normal", "Warning"]
# Maximum bytes of a note (Kubernetes API reference, Event events.k8s.io/v1).
MAX_NOTE = 1024
REPORTER = f"{SecretSync.group}/{FIELD_MANAGER}"
ACTION = "Sync"
# Number of events that can be sent at once after a pause, and number per second afterwards.
BURST = 50
PER_SECOND = 20.0
# Seconds without a new event after which the waiting ones are sent, and the maximum wait for such a pause.
PAUSE = 0.25
MAX_WAIT = 5.0
log = logging.getLogger(__name__)


class EventRecorder:
    """A queue of events about SecretSyncs and AKVSyncs. `instance` is the controller's own name.

    Without `normal`, only warnings are sent.
    """

    def __init__(
        self, kube: KubeClient, instance: str, clock: Callable[[], float] = time.monotonic, *, normal: bool = True
    ) -> None:
        self._kube = kube
        self._normal = normal
        self._rested = -math.inf  # the event loop's time at which a whole burst can be sent again
        self._last_record = -math.inf  # in the event loop's time
        self._instance = instance[:128]
        self._rates = RateBudget(budgets.EVENTS, clock)
        # By namespace. The namespace of the last sent event comes last.
        self.waiting: dict[str, deque[dict[str, Any]]] = {}
        self._rate_limited_log = RateLimitedLog(log, clock)
        self._news = asyncio.Event()
        self._closed = asyncio.Event()

    def record(
        self, meta: ObjectMeta, kind: Kind, reason: str, text: str, *, about: type[SecretSync | AKVSync] = SecretSync
    ) -> None:
        """Send the event soon. Drop it if its namespace has used its budget: the status has the message, too."""
        if kind == "Normal" and not self._normal:
            return
        if not self._rates.take(meta.namespace):
            return
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {
                "name": f"{meta.name[:230].rstrip('-.')}.{secrets.token_hex(8)}",
                "namespace": meta.namespace,
            },
            "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": REPORTER,
            "reportingInstance": self._instance,
            "action": ACTION,
            "reason": reason,
            "type": kind,
            "note": _shorten_note(text),
            "regarding": {
                "apiVersion": about.api_version(),
                "kind": about.kind,
                "namespace": meta.namespace,
                "name": meta.name,
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
            },
        }
        waiting = self.waiting.setdefault(meta.namespace, deque(maxlen=int(budgets.EVENTS.limit)))
        waiting.append(body)
        self._last_record = asyncio.get_running_loop().time()
        self._news.set()

    async def work(self) -> None:
        """Send the queued events until the recorder is closed and all are sent."""
        while True:
            await self._wait_for_pause()
            while self.waiting:
                await self._wait_for_tokens()
                if not self.waiting:
                    break  # `reset` or `_forget_namespace` emptied the queue
                namespace, body = self._next_event()
                try:
                    await permissions.EVENTS.create(self._kube, namespace, body)
                except errors.NotFound:
                    self._forget_namespace(namespace)
                except errors.KubeError as error:
                    log.debug("an event was not written: %s", error.message)
                except Exception as error:
                    # One event is lost, but the others and all other work continue.
                    self._rate_limited_log.log_unexpected(error)
            if self._closed.is_set():
                return
            self._news.clear()
            await self._news.wait()

    def _next_event(self) -> tuple[str, dict[str, Any]]:
        """Take the oldest event of the namespace that has waited longest."""
        namespace = next(iter(self.waiting))
        waiting = self.waiting.pop(namespace)
        body = waiting.popleft()
        if waiting:
            self.waiting[namespace] = waiting
        return namespace, body

    def _forget_namespace(self, namespace: str) -> None:
        """Drop the events of a namespace that is gone."""
        self.waiting.pop(namespace, None)

    async def _wait_for_pause(self) -> None:
        """Wait while more events are recorded. Do not wait when closed."""
        now = asyncio.get_running_loop().time
        latest = now() + MAX_WAIT
        while (wait := min(self._last_record + PAUSE, latest) - now()) > 0 and not self._closed.is_set():
            await self._wait_until_closed(wait)

    async def _wait_for_tokens(self) -> None:
        """Wait until the next event can be sent. Do not wait when closed."""
        now = asyncio.get_running_loop().time()
        wait = self._rested - (BURST - 1) / PER_SECOND - now
        if wait > 0:
            await self._wait_until_closed(wait)
        self._rested = max(self._rested, now) + 1 / PER_SECOND

    async def _wait_until_closed(self, seconds: float) -> None:
        """Wait until the recorder is closed, at most for these seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    def close(self) -> None:
        """Accept no more events."""
        self._closed.set()
        self._news.set()

    def reset(self) -> None:
        """Drop the queued events. The new leader records its own."""
        self.waiting.clear()


def _shorten_note(text: str) -> str:
    """Return the text cut to `MAX_NOTE` bytes of UTF-8. The API server counts bytes."""
    encoded = text.encode()
    return text if len(encoded) <= MAX_NOTE else encoded[: MAX_NOTE - 3].decode(errors="ignore") + "..."


def announce_condition(
    rate_limited_log: RateLimitedLog,
    events: EventRecorder,
    about: type[SecretSync | AKVSync],
    meta: ObjectMeta,
    ready: Condition,
) -> None:
    """Report a change of an object's Ready condition by a log line and an event."""
    name = f"{meta.namespace}/{meta.name}"
    fields = {"namespace": meta.namespace, about.kind.lower(): name, "reason": ready.reason}
    level = logging.INFO if ready.holds else logging.WARNING
    rate_limited_log.log_message(level, ready.reason, f"{name}: {ready.message}", **fields)
    kind: Kind = "Normal" if ready.holds else "Warning"
    events.record(meta, kind, ready.reason, ready.message, about=about)
