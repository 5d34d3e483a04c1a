"""Report outcomes: one status patch if something changed, a log line, and an event for `kubectl describe`.

Source: Kubernetes API conventions, "Typical status properties".
"""

import enum
import logging
from collections.abc import Sequence

import msgspec

from controller import errors
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretsync import SecretSync, SecretSyncStatus
from controller.domain.status import has_same_ready_condition, ready_condition
from controller.kube import permissions
from controller.kube.client import KubeClient
from controller.kube.event_recorder import EventRecorder, announce_condition
from controller.kube.informer import Store
from controller.observability.telemetry import Metrics, RateLimitedLog
from controller.runtime.work_queue import Key

# The reason of an event about a problem of an object that was synced nevertheless.
ATTENTION = "NeedsAttention"
log = logging.getLogger(__name__)


class ReportResult(enum.Enum):
    """The result of reporting a status."""

    DONE = "done"  # the object has this status now, or is deleted
    NOT_WRITTEN = "not written"
    OUTDATED = "outdated"  # the object has changed in the meantime


class StatusReporter:
    """Report the outcomes of SecretSyncs by their status, a log line and an event, and count those not ready."""

    def __init__(self, kube: KubeClient, events: EventRecorder, metrics: Metrics) -> None:
        self._kube = kube
        self._events = events
        self._metrics = metrics
        self._rate_limited_log = RateLimitedLog(log)
        self._unready: set[str] = set()
        self._warned: dict[str, frozenset[str]] = {}

    async def report_status(
        self, syncs: Store[SecretSync], meta: ObjectMeta, before: SecretSyncStatus, after: SecretSyncStatus
    ) -> ReportResult:
        """Patch the status if it changed, update the store `syncs`, and report news by a log line and an event."""
        name, ready = f"{meta.namespace}/{meta.name}", ready_condition(after)
        if ready is None:
            raise ValueError("a status needs the condition Ready")
        (self._unready.discard if ready.holds else self._unready.add)(name)
        self._metrics.not_ready.set(len(self._unready))
        if after == before:
            return ReportResult.DONE
        result = await self._patch_status(syncs, meta, after)
        was = ready_condition(before)
        is_news = not has_same_ready_condition(before, after) and not (
            ready.reason == Reason.UP_TO_DATE and was and was.holds
        )
        if result is ReportResult.DONE and is_news:
            announce_condition(self._rate_limited_log, self._events, SecretSync, meta, ready)
        return result

    def report_warnings(self, meta: ObjectMeta, warnings: Sequence[str]) -> None:
        """Report problems of a synced SecretSync once. A repeated warning is not reported again."""
        name = f"{meta.namespace}/{meta.name}"
        news = [text for text in warnings if text not in self._warned.get(name, ())]
        if warnings:
            self._warned[name] = frozenset(warnings)
        else:
            self._warned.pop(name, None)
        if news:
            text = "; ".join(news)
            about = {"namespace": meta.namespace, "secretsync": name}
            self._rate_limited_log.log_message(logging.WARNING, ATTENTION, f"{name}: {text}", **about, reason=ATTENTION)
            self._events.record(meta, "Warning", ATTENTION, text)

    def add_warning(self, meta: ObjectMeta, text: str) -> None:
        """Report this warning once, in addition to those of `report_warnings`."""
        known = self._warned.get(f"{meta.namespace}/{meta.name}", frozenset())
        self.report_warnings(meta, (*known, text))

    def forget(self, namespace: str, name: str) -> None:
        """Forget a deleted SecretSync."""
        self._warned.pop(f"{namespace}/{name}", None)
        self._unready.discard(f"{namespace}/{name}")
        self._metrics.not_ready.set(len(self._unready))

    def flush_logs(self) -> None:
        """Log how many lines of one kind were suppressed."""
        self._rate_limited_log.flush_minutes()

    async def _patch_status(self, syncs: Store[SecretSync], meta: ObjectMeta, status: SecretSyncStatus) -> ReportResult:
        # Every field is named, so that the merge also removes fields that have become empty.
        body = {
            "conditions": msgspec.to_builtins(status.conditions),
            "lastSuccessfulSyncTime": status.last_successful_sync_time,
            "lastGroupPoll": msgspec.to_builtins(status.last_group_poll),
            "syncHash": status.sync_hash,
            "observedGeneration": status.observed_generation,
            "objects": msgspec.to_builtins(status.objects),
        }
        is_readable = not isinstance(syncs.get(Key(meta.namespace, meta.name)), Unreadable)
        if not is_readable:
            # The stored values of the other fields are unknown. They are needed if the object becomes readable.
            body = {name: body[name] for name in ("conditions", "observedGeneration")}
        try:
            kept = await permissions.SECRET_SYNC_STATUS.patch_status(self._kube, meta, body)
        except errors.NotFound:
            self.forget(meta.namespace, meta.name)  # deleted in the meantime
            return ReportResult.DONE
        except errors.Conflict:
            return ReportResult.OUTDATED
        except errors.KubeError as error:
            text = f"cannot write a status: {error.message}"
            self._rate_limited_log.log_message(logging.WARNING, "status", text, namespace=meta.namespace)
            return ReportResult.NOT_WRITTEN
        if is_readable and kept:
            syncs.update_from_write(meta, kept)
        if status.objects and kept and not kept.status.objects:
            text = (
                "the served SecretSync CRD drops status.objects: apply this chart's CRDs, or each restart of the"
                " controller reads every value again"
            )
            self._rate_limited_log.log_message(logging.WARNING, "crd", text)
        return ReportResult.DONE
