"""Test the metric series of SecretSyncs and of their objects."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.runtime import budgets
from controller.runtime.clock import latest, parse_time
from controller.secretsync.collector import DROPPED, EXPIRY, LAST_SYNC, SecretSyncCollector
from tests.support.builders import make_sync

NOON = 1_893_499_200.0


def last_sync(item: SecretSync) -> datetime | None:
    """Return the time in the status. For an object named "polled", return the time of a later poll."""
    polled = datetime.fromtimestamp(NOON + 5, UTC) if item.metadata.name == "polled" else None
    return latest(polled, parse_time(item.status.last_successful_sync_time))


def collect_series(syncs: list[SecretSync]) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(SecretSyncCollector(lambda: syncs, last_sync))
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def make_sync_with_status(name: str, **status: Any) -> SecretSync:
    return msgspec.structs.replace(make_sync(name=name), status=SecretSyncStatus(**status))


def test_series_have_the_last_sync_and_the_expiry_of_objects() -> None:
    objects = [
        ObjectVersion(target_key="a", object="secret/a", version="1", expires="2030-01-01T12:00:01Z"),
        ObjectVersion(target_key="b", object="secret/b", version="1"),
    ]
    found = collect_series(
        [
            make_sync_with_status("new"),
            make_sync_with_status("old", last_successful_sync_time="2030-01-01T12:00:00Z", objects=objects),
            make_sync_with_status("odd", last_successful_sync_time="yesterday"),
            make_sync_with_status("polled", last_successful_sync_time="2030-01-01T12:00:00Z"),
        ]
    )
    assert found == {
        (LAST_SYNC.name, "new", "team"): 0,
        (LAST_SYNC.name, "old", "team"): NOON,
        (LAST_SYNC.name, "odd", "team"): 0,
        (LAST_SYNC.name, "polled", "team"): NOON + 5,
        (EXPIRY.name, "a", "old", "team"): NOON + 1,
    }
    assert collect_series([]) == {}


def test_series_of_one_namespace_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "OBJECT_SERIES", budgets.OBJECT_SERIES._replace(limit=10))
    expires = "2030-01-01T12:00:01Z"
    objects = [ObjectVersion(target_key=key, object="secret/a", version="1", expires=expires) for key in "ab"]
    many = [make_sync_with_status(f"s{number}", objects=objects) for number in range(20)]
    other = make_sync(name="shop")
    other = msgspec.structs.replace(other, metadata=msgspec.structs.replace(other.metadata, namespace="neighbour"))
    found = collect_series([*many, other])
    assert len([1 for name, *labels in found if name in (LAST_SYNC.name, EXPIRY.name) and "team" in labels]) == 9
    assert found[LAST_SYNC.name, "shop", "neighbour"] == 0
    assert found[DROPPED.name, "team"] == 17
    assert (DROPPED.name, "neighbour") not in found


def test_prepared_syncs_are_collected_once() -> None:
    syncs = [make_sync(name="before")]
    collector = SecretSyncCollector(lambda: syncs, last_sync)
    collector.take_syncs()
    syncs[0] = make_sync(name="after")
    names = [[sample.labels["name"] for sample in next(iter(collector.collect())).samples] for _ in range(2)]
    assert names == [["before"], ["after"]]
