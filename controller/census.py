"""What Prometheus hears of each SecretSync, read from the store when it asks: nothing is kept, so nothing stays behind.

A follower's store tells the same as the leader's: take the maximum over the pods.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from controller import budgets
from controller.api.secretsync import SecretSync
from controller.schedule import parse_time
from controller.telemetry import PREFIX, Described

LAST_SYNC = Described(
    PREFIX + "last_successful_sync_timestamp_seconds",
    ("namespace", "name"),
    "When the SecretSync's Secret was last known to equal the vault, as its status says once an hour; 0: never",
)
EXPIRY = Described(
    PREFIX + "expiry_timestamp_seconds",
    ("namespace", "name", "key"),
    "When what the key of the SecretSync's Secret holds expires, by the vault's or the certificate's word; else none",
)
DROPPED = Described(
    PREFIX + "series_dropped",
    ("namespace",),
    "SecretSyncs that have no series of their own, because their namespace has used up its budget; else none",
)
DESCRIBED = (LAST_SYNC, EXPIRY, DROPPED)


class Census(Collector):
    """Counts `syncs()`; register it with a registry."""

    def __init__(self, syncs: Callable[[], Iterable[SecretSync]]) -> None:
        self._syncs = syncs
        self._prepared: list[SecretSync] | None = None

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The families without samples."""
        return (_family(item) for item in DESCRIBED)

    def prepare(self) -> None:
        """Take what there is now, so that `collect` may run in another thread."""
        self._prepared = list(self._syncs())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the families: as of now, or as of the last `prepare`."""
        syncs, self._prepared = self._prepared, None
        last_sync, expiry, dropped = _family(LAST_SYNC), _family(EXPIRY), _family(DROPPED)
        used: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        for sync in self._syncs() if syncs is None else syncs:
            namespace = sync.metadata.namespace
            expiring = [item for item in sync.status.objects if item.expires]
            if used[namespace] + 1 + len(expiring) > budgets.OBJECT_SERIES.most:
                left_out[namespace] += 1
                continue
            used[namespace] += 1 + len(expiring)
            labels = [namespace, sync.metadata.name]
            last_sync.add_metric(labels, _seconds(sync.status.last_successful_sync_time))
            for item in expiring:
                expiry.add_metric([*labels, item.target_key], _seconds(item.expires))
        for namespace, count in left_out.items():
            dropped.add_metric([namespace], count)
        yield last_sync
        yield expiry
        yield dropped


def _family(item: Described) -> GaugeMetricFamily:
    return GaugeMetricFamily(item.name, item.meaning, labels=item.labels)


def _seconds(text: str | None) -> float:
    moment = parse_time(text)
    return moment.timestamp() if moment else 0.0
