"""What Prometheus hears of a controller at work."""

import time
from datetime import UTC, datetime, timedelta

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.world import Namespace, eventually, metrics
from tools.workload import Workload


def series(controller: Workload, name: str, /, **labels: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of the series of that name with those labels."""
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(metrics(controller))
        for sample in family.samples
        if sample.name == f"akv_secret_store_{name}" and labels.items() <= sample.labels.items()
    ]


def test_a_secretsync_from_its_first_sync_to_its_end(space: Namespace, controller: Workload) -> None:
    about = {"namespace": space.name, "name": "s"}
    expires = int((datetime.now(UTC) + timedelta(days=30)).timestamp())
    space.put("a", "1", expires=expires)
    space.put("b", "1")
    space.apply(space.provider_class("a", "b", "missing"), space.sync("s", {"k": "missing"}))
    space.wait_reason("s", "ProviderError")

    def last_sync() -> list[float]:
        return [value for _, value in series(controller, "last_successful_sync_timestamp_seconds", **about)]

    assert last_sync() == [0]
    assert series(controller, "vault_calls_total", vault=space.vault, operation="secrets.get", outcome="404")
    assert series(controller, "not_ready")[0][1] >= 1
    space.apply(space.sync("s", {"x": "a", "y": "b"}))
    space.wait_secret("s", {"x": "1", "y": "1"})
    # Read from the object, so it is there once the watch has brought the status.
    (moment,) = eventually(last_sync, lambda found: found[0] > 0)
    assert abs(time.time() - moment) < 60
    assert series(controller, "expiry_timestamp_seconds", **about) == [({**about, "key": "x"}, expires)]
    assert series(controller, "reconciles_total", reason="UpdateValueChangeOrForceUpdateSucceeded")
    assert series(controller, "queue_due")
    assert series(controller, "leader") == [({}, 1)]
    space.kubectl("delete", "secretsync", "s")
    eventually(last_sync, lambda found: not found)
    assert not series(controller, "expiry_timestamp_seconds", **about)
