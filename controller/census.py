"""What Prometheus hears of each SecretSync, read from the store when it asks: nothing is kept, so nothing stays behind.

A follower's store tells the same as the leader's: take the maximum over the pods.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

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
DESCRIBED = (LAST_SYNC, EXPIRY)


class Census(Collector):
    """Counts `syncs()`; register it with a registry."""

    def __init__(self, syncs: Callable[[], Iterable[SecretSync]]) -> None:
        self._syncs = syncs

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The families without samples."""
        return (_family(item) for item in DESCRIBED)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families, as of now."""
        last_sync, expiry = _family(LAST_SYNC), _family(EXPIRY)
        for sync in self._syncs():
            who = [sync.metadata.namespace, sync.metadata.name]
            last_sync.add_metric(who, _seconds(sync.status.last_successful_sync_time))
            for item in sync.status.objects:
                if item.expires:
                    expiry.add_metric([*who, item.target_key], _seconds(item.expires))
        yield last_sync
        yield expiry


def _family(item: Described) -> GaugeMetricFamily:
    return GaugeMetricFamily(item.name, item.meaning, labels=item.labels)


def _seconds(text: str | None) -> float:
    moment = parse_time(text)
    return moment.timestamp() if moment else 0.0
