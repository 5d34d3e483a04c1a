"""Test a drain of the node and an eviction of the leader with two replicas and a disruption budget."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from controller.kube.leader_election import RETRY_PERIOD
from tests.node.conftest import figures
from tests.node.release import PATIENCE, Pod, Release, assert_rotates, is_ready, list_watch_events
from tests.support.cluster.harness import eventually
from tests.support.cluster.namespace import Namespace
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.errors import ClusterError


@pytest.fixture(scope="module")
def pair(plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    release = Release(plane, emulator, tmp_path_factory.mktemp("pair"), "pair")
    release.make_namespace()
    release.install("--set", "replicaCount=2,podDisruptionBudget.enabled=true,podDisruptionBudget.minAvailable=1")
    yield release
    plane.kubectl("uncordon", "node")
    release.uninstall()
    plane.kubectl("delete", "namespace", release.namespace)


@pytest.fixture(scope="module")
def shop(pair: Release) -> Iterator[Namespace]:
    namespace = Namespace(pair)
    namespace.set_secret("db", "first")
    namespace.apply(namespace.provider_class("db"), namespace.sync("db", {"password": "db"}))
    namespace.wait_secret("db", {"password": "first"})
    yield namespace
    namespace.remove()


def wait_both_ready(pair: Release) -> list[Pod]:
    return eventually(pair.list_pods, lambda found: [is_ready(pod) for pod in found] == [True, True], PATIENCE)


def read_lease(pair: Release) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pair.kubectl("get", "lease", pair.full_name, "--output", "json"))["spec"]
    return found


def find_leader(pair: Release) -> str:
    """Return the name of the pod that leads."""
    names = [str(pod["metadata"]["name"]) for pod in pair.list_pods()]
    [found] = [name for name in names if read_lease(pair).get("holderIdentity", "").startswith(name)]
    return found


def test_drain_evicts_one_pod_but_not_the_last_one(pair: Release, shop: Namespace) -> None:
    wait_both_ready(pair)
    drain = ["drain", "node", "--ignore-daemonsets", f"--pod-selector={pair.selector}", "--timeout=15s"]
    with pytest.raises(ClusterError, match="violate the pod's disruption budget"):
        pair.plane.kubectl(*drain)
    # The replacement stays pending, because there is no second node.
    left = eventually(
        pair.list_pods, lambda found: [is_ready(pod) for pod in found].count(True) == 1 and len(found) == 2
    )
    assert {pod["status"]["phase"] for pod in left} == {"Running", "Pending"}
    assert_rotates(shop, "drained", PATIENCE)
    pair.plane.kubectl("uncordon", "node")
    wait_both_ready(pair)
    assert_rotates(shop, "uncordoned", PATIENCE)


def test_other_pod_leads_after_an_eviction_of_the_leader(pair: Release, shop: Namespace) -> None:
    wait_both_ready(pair)
    old, before = find_leader(pair), read_lease(pair)
    stored = shop.get("secret", "db")["metadata"]["resourceVersion"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": old, "namespace": pair.namespace}}
    path = f"/api/v1/namespaces/{pair.namespace}/pods/{old}/eviction"
    pair.plane.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction))
    # The value arrives within the retry period of a follower, with or without a leader.
    assert_rotates(shop, "evicted", RETRY_PERIOD + 3)
    after = eventually(lambda: read_lease(pair), lambda found: found["leaseTransitions"] > before["leaseTransitions"])
    gap = datetime.fromisoformat(after["acquireTime"]) - datetime.fromisoformat(before["renewTime"])
    wait_both_ready(pair)
    new = find_leader(pair)
    assert new != old
    assert_rotates(shop, "after", PATIENCE)
    assert list_watch_events(shop, stored) == ["MODIFIED", "MODIFIED"]
    assert list_writers_since(pair, after["acquireTime"]) == {new}
    figures.append(f"leader evicted: another led {gap.total_seconds():.1f} s after its last renewal")
    assert gap < timedelta(seconds=2 * RETRY_PERIOD + 3)


def list_writers_since(pair: Release, moment: str) -> set[str]:
    """Return the pods that sent a request to change a Secret after this time, except dry runs."""
    found = set()
    for line in pair.plane.audit_log.read_text().splitlines():
        entry = json.loads(line)
        request = (entry["user"]["username"], entry["verb"], entry.get("objectRef", {}).get("resource"))
        if request == (pair.user, "patch", "secrets") and entry["requestReceivedTimestamp"] > moment:
            found.update(entry["user"]["extra"]["authentication.kubernetes.io/pod-name"])
    return found
