"""Expose metrics of each SecretSync. They are read from the store at each scrape, so deleted ones disappear.

A follower's store has the same data as the leader's: use the maximum over the pods.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from controller.api.secretsync import SecretSync
from controller.observability.telemetry import PREFIX, MetricDescription
from controller.runtime import budgets
from controller.runtime.clock import parse_time

LAST_SYNC = MetricDescription(
    PREFIX + "last_successful_sync_timestamp_seconds",
    ("namespace", "name"),
    "Time at which the SecretSync's Secret was last known to equal the vault, by a sync or a poll (the status has polls"
    " only once a day); 0 if never",
)
EXPIRY = MetricDescription(
    PREFIX + "expiry_timestamp_seconds",
    ("namespace", "name", "key"),
    "Expiry time of the value of a key, as the vault or the certificate states it; no series if neither does",
)
DROPPED = MetricDescription(
    PREFIX + "series_dropped",
    ("namespace",),
    "SecretSyncs without series of their own, because their namespace has used up its budget; no series if there are"
    " none",
)
DESCRIBED = (LAST_SYNC, EXPIRY, DROPPED)


class SecretSyncCollector(Collector):
    """A collector for a registry that reads `syncs()`. `last_equal` also knows polls that no status has."""

    def __init__(
        self, syncs: Callable[[], Iterable[SecretSync]], last_equal: Callable[[SecretSync], datetime | None]
    ) -> None:
        self._syncs = syncs
        self._last_equal = last_equal
        self._prepared: list[tuple[SecretSync, datetime | None]] | None = None

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families without samples."""
        return (_metric_family(item) for item in DESCRIBED)

    def take_syncs(self) -> None:
        """Copy the current SecretSyncs, so that `collect` can run in another thread."""
        self._prepared = [(sync, self._last_equal(sync)) for sync in self._syncs()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families of the SecretSyncs that `take_syncs` copied, or else of the current ones."""
        if self._prepared is None:
            self.take_syncs()
        syncs, self._prepared = self._prepared or [], None
        last_sync, expiry, dropped = _metric_family(LAST_SYNC), _metric_family(EXPIRY), _metric_family(DROPPED)
        used: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        for sync, equal_at in syncs:
            namespace = sync.metadata.namespace
            expiring = [item for item in sync.status.objects if item.expires]
            if used[namespace] + 1 + len(expiring) > budgets.OBJECT_SERIES.limit:
                left_out[namespace] += 1
                continue
            used[namespace] += 1 + len(expiring)
            labels = [namespace, sync.metadata.name]
            last_sync.add_metric(labels, equal_at.timestamp() if equal_at else 0.0)
            for item in expiring:
                expiry.add_metric([*labels, item.target_key], _to_timestamp(item.expires))
        for namespace, count in left_out.items():
            dropped.add_metric([namespace], count)
        yield last_sync
        yield expiry
        yield dropped


def _metric_family(item: MetricDescription) -> GaugeMetricFamily:
    return GaugeMetricFamily(item.name, item.meaning, labels=item.labels)


def _to_timestamp(text: str | None) -> float:
    moment = parse_time(text)
    return moment.timestamp() if moment else 0.0
