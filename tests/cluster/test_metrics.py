"""Test the metrics of a working controller as Prometheus scrapes them."""

import time
from datetime import UTC, datetime, timedelta

from tests.support.cluster.harness import eventually
from tests.support.cluster.metric_series import read_series
from tests.support.cluster.namespace import Namespace
from tools.pods.pod_process import PodProcess


def test_metrics_follow_a_secretsync_from_its_first_failure_to_its_deletion(
    space: Namespace, controller: PodProcess
) -> None:
    about = {"namespace": space.name, "name": "s"}
    expires = int((datetime.now(UTC) + timedelta(days=30)).timestamp())
    space.set_secret("a", "1", expires=expires)
    space.set_secret("b", "1")
    space.apply(space.provider_class("a", "b", "missing"), space.sync("s", {"k": "missing"}))
    space.wait_reason("s", "ProviderError")

    def read_last_sync() -> list[float]:
        return [value for _, value in read_series(controller, "last_successful_sync_timestamp_seconds", **about)]

    assert read_last_sync() == [0]
    assert read_series(controller, "vault_calls_total", vault=space.vault, operation="secrets.get", outcome="404")
    assert read_series(controller, "not_ready")[0][1] >= 1
    space.apply(space.sync("s", {"x": "a", "y": "b"}))
    space.wait_secret("s", {"x": "1", "y": "1"})
    # The collector reads the time from the object, so it changes after the watch has delivered the status.
    (moment,) = eventually(read_last_sync, lambda found: found[0] > 0)
    assert abs(time.time() - moment) < 60
    assert read_series(controller, "expiry_timestamp_seconds", **about) == [({**about, "key": "x"}, expires)]
    assert read_series(controller, "reconciles_total", reason="UpdateValueChangeOrForceUpdateSucceeded")
    assert read_series(controller, "queue_due")
    assert read_series(controller, "leader") == [({}, 1)]
    space.kubectl("delete", "secretsync", "s")
    eventually(read_last_sync, lambda found: not found)
    assert not read_series(controller, "expiry_timestamp_seconds", **about)
