"""Telling it: one status patch where something changed, a log line, and an event for `kubectl describe`.

Source: Kubernetes API conventions, "Typical status properties".
"""

import logging
from collections.abc import Sequence

import msgspec

from controller import errors, permissions
from controller.api.akvsync import AKVSync
from controller.api.conditions import Condition, Reason
from controller.api.meta import ObjectMeta
from controller.api.secretsync import SecretSync, SecretSyncStatus
from controller.events import Events, Kind
from controller.kube import Kube
from controller.reflector import Store
from controller.status import ready_condition, same_news
from controller.sync import Again
from controller.telemetry import Chorus, Metrics

# The reason of an event about what was synced all the same.
ATTENTION = "NeedsAttention"
log = logging.getLogger(__name__)


class Reporter:
    """Tells what came of SecretSyncs."""

    def __init__(self, kube: Kube, events: Events, metrics: Metrics) -> None:
        self._kube = kube
        self._events = events
        self._metrics = metrics
        self._chorus = Chorus(log)
        self._unready: set[str] = set()
        self._warned: dict[str, frozenset[str]] = {}

    async def report(
        self, syncs: Store[SecretSync], meta: ObjectMeta, before: SecretSyncStatus, after: SecretSyncStatus
    ) -> bool:
        """Writes the status unless it is the same, into `syncs` too, and tells a person what is news to one.

        Answers whether the status now stands; raises `Again` where the object has changed meanwhile.
        """
        name, ready = f"{meta.namespace}/{meta.name}", ready_condition(after)
        if ready is None:
            raise ValueError("a status without Ready tells nothing")
        (self._unready.discard if ready.holds else self._unready.add)(name)
        self._metrics.not_ready.set(len(self._unready))
        if after == before:
            return True
        if not await self._patch(syncs, meta, after):
            return False
        was = ready_condition(before)
        if same_news(before, after) or (ready.reason == Reason.UP_TO_DATE and was and was.holds):
            return True
        announce(self._chorus, self._events, SecretSync, meta, ready)
        return True

    def warn(self, meta: ObjectMeta, warnings: Sequence[str]) -> None:
        """Tells, once, what a person should look at though it was synced; what is told again is no news."""
        name = f"{meta.namespace}/{meta.name}"
        news = [text for text in warnings if text not in self._warned.get(name, ())]
        if warnings:
            self._warned[name] = frozenset(warnings)
        else:
            self._warned.pop(name, None)
        if news:
            text = "; ".join(news)
            about = {"namespace": meta.namespace, "secretsync": name}
            self._chorus.say(logging.WARNING, ATTENTION, f"{name}: {text}", **about, reason=ATTENTION)
            self._events.say(meta, "Warning", ATTENTION, text)

    def warn_also(self, meta: ObjectMeta, text: str) -> None:
        """Tell this once, beside what `warn` has told."""
        known = self._warned.get(f"{meta.namespace}/{meta.name}", frozenset())
        self.warn(meta, (*known, text))

    def forget(self, namespace: str, name: str) -> None:
        """The SecretSync is gone."""
        self._warned.pop(f"{namespace}/{name}", None)
        self._unready.discard(f"{namespace}/{name}")
        self._metrics.not_ready.set(len(self._unready))

    def flush(self) -> None:
        """Says how many lines of one kind were held back."""
        self._chorus.flush()

    async def _patch(self, syncs: Store[SecretSync], meta: ObjectMeta, status: SecretSyncStatus) -> bool:
        # Every field is named, so that the merge also takes away what has become empty.
        body = {
            "conditions": msgspec.to_builtins(status.conditions),
            "lastSuccessfulSyncTime": status.last_successful_sync_time,
            "syncHash": status.sync_hash,
            "observedGeneration": status.observed_generation,
            "objects": msgspec.to_builtins(status.objects),
        }
        try:
            kept = await permissions.SECRET_SYNC_STATUS.patch(self._kube, meta, body)
        except errors.NotFound:
            self.forget(meta.namespace, meta.name)  # deleted meanwhile: nobody is left to tell
            return True
        except errors.Conflict as error:
            raise Again(0.1) from error
        except errors.KubeError as error:
            text = f"cannot write a status: {error.message}"
            self._chorus.say(logging.WARNING, "status", text, namespace=meta.namespace)
            return False
        syncs.wrote(meta, kept)
        if status.objects and not kept.status.objects:
            text = (
                "the served SecretSync CRD drops status.objects: apply this chart's CRDs, or every restart costs a poll"
            )
            self._chorus.say(logging.WARNING, "crd", text)
        return True


def announce(
    chorus: Chorus, events: Events, about: type[SecretSync | AKVSync], meta: ObjectMeta, ready: Condition
) -> None:
    """Tell what is new in an object's Ready condition, by a log line and an event."""
    name = f"{meta.namespace}/{meta.name}"
    fields = {"namespace": meta.namespace, about.kind.lower(): name, "reason": ready.reason}
    level = logging.INFO if ready.holds else logging.WARNING
    chorus.say(level, ready.reason, f"{name}: {ready.message}", **fields)
    kind: Kind = "Normal" if ready.holds else "Warning"
    events.say(meta, kind, ready.reason, ready.message, about=about)
