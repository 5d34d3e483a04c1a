"""The API server fails, is unreachable or refuses requests. A proxy in front of it injects these faults.

Each test ends with `tests.support.invariants.assert_recovered`.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster.fault_harness import CONTROLLER_SETTINGS, POLL_INTERVAL, FaultHarness
from tests.support.cluster.fault_proxy import FaultProxy, ProxyFault
from tests.support.cluster.harness import InstalledRelease, eventually, running_controller, wait_for_deleted_namespaces
from tests.support.cluster.namespace import Namespace
from tools.local_cluster.errors import ClusterError
from tools.pods.pod_process import PodProcess


@pytest.fixture(scope="module")
def controller(installed: InstalledRelease, relay: FaultProxy) -> Iterator[PodProcess]:
    """With leader election: no other controller of this module uses the lease, which must be renewed as well."""
    wait_for_deleted_namespaces(installed.plane)  # its calls would be counted here
    with running_controller(relay.workload(installed, **CONTROLLER_SETTINGS)) as workload:
        yield workload


SECONDS = 2.5
FAILURES = {
    "unreachable": ProxyFault("drop"),
    "silent": ProxyFault("hang"),
    "500": ProxyFault(status=500),
    "503": ProxyFault(status=503),
    "429 with Retry-After": ProxyFault(status=429, retry_after=2),
    "409 to every write": ProxyFault(status=409, matches=lambda asked: asked.is_write),
    "410 to every watch": ProxyFault(status=410, matches=lambda asked: asked.verb == "watch"),
    "410 in every watch": ProxyFault("gone"),
    "410 to every list and watch": ProxyFault(status=410, matches=lambda asked: asked.verb in ("list", "watch")),
    "watches cut": ProxyFault("drop", matches=lambda asked: asked.verb == "watch"),
    "answers to writes lost": ProxyFault("lose", matches=lambda asked: asked.is_write),
}


@pytest.mark.parametrize("failure", [pytest.param(failure, id=name) for name, failure in FAILURES.items()])
def test_controller_recovers_after_failures_of_the_api_server(
    shops: FaultHarness, relay: FaultProxy, failure: ProxyFault
) -> None:
    before, began = relay.count_verbs(), time.monotonic()
    relay.inject(failure)
    shops.rotate_during(SECONDS)
    asked = relay.count_verbs() - before
    seconds = time.monotonic() - began  # more than SECONDS where the machine is busy
    relay.clear_fault()
    # Lists and watches of three kinds, and what each of six SecretSyncs tries, less and less.
    assert asked["list"] + asked["watch"] <= 3 * (6 + 2 * seconds), asked
    assert asked.total() - asked["list"] - asked["watch"] <= 6 * (6 + 4 * seconds), asked
    shops.assert_recovered()


def test_rotation_completes_although_the_api_server_restarts(shops: FaultHarness) -> None:
    plane = shops.installed.plane
    shops.rotate_values()
    time.sleep(POLL_INTERVAL / 2)
    plane.stop_apiserver()  # every watch is cut
    shops.rotate_values()
    time.sleep(POLL_INTERVAL)
    plane.start_apiserver()
    shops.assert_recovered()


def test_etcd_has_no_space_left(shops: FaultHarness) -> None:
    plane, space = shops.installed.plane, shops.namespaces["one"]
    plane.fill_etcd()
    try:
        with pytest.raises(ClusterError, match="database space exceeded"):
            space.kubectl("create", "configmap", "more")
        shops.rotate_during(SECONDS)
    finally:
        plane.free_etcd()
    shops.assert_recovered()


def test_controller_recovers_after_its_rights_were_revoked(shops: FaultHarness) -> None:
    plane = shops.installed.plane
    taken = json.dumps({"apiVersion": "v1", "kind": "List", "items": bindings(shops.installed)})
    before, began = shops.count_vault_calls(), time.monotonic()
    plane.kubectl("delete", "--filename", "-", stdin=taken)
    try:
        shops.rotate_during(4)
        took = max(now - before[name] for name, now in shops.count_vault_calls().items())
        seconds = time.monotonic() - began  # more than 4 where the machine is busy
    finally:
        plane.kubectl("create", "--filename", "-", stdin=taken)
    assert took <= 10 + 10 * seconds
    shops.assert_recovered()


def bindings(installed: InstalledRelease) -> list[dict[str, Any]]:
    """Return what gives the controller its rights, as it can be applied again."""
    found = []
    for kind in ("clusterrolebindings", "rolebindings"):
        for item in json.loads(installed.plane.kubectl("get", kind, "--all-namespaces", "-o", "json"))["items"]:
            users = {f"system:serviceaccount:{s.get('namespace')}:{s['name']}" for s in item.get("subjects", [])}
            if installed.user in users:
                for name in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
                    item["metadata"].pop(name, None)
                found.append(item)
    return found


def test_controller_recovers_after_the_class_crd_was_removed(shops: FaultHarness) -> None:
    """The SecretSyncs' own cannot be: with it Kubernetes collects what they own, as SSE's guide says."""
    plane = shops.installed.plane
    name = "secretproviderclasses.secrets-store.csi.x-k8s.io"
    crd = json.loads(plane.kubectl("get", "customresourcedefinition", name, "-o", "json"))
    crd = {
        **crd,
        "metadata": {key: crd["metadata"][key] for key in ("name", "labels", "annotations") if key in crd["metadata"]},
    }
    crd.pop("status")
    plane.kubectl("delete", "customresourcedefinition", name)
    shops.rotate_during(SECONDS)
    plane.kubectl("create", "--filename", "-", stdin=json.dumps(crd))
    plane.kubectl("wait", "--for=condition=Established", f"customresourcedefinition/{name}")

    def applied(space: Namespace) -> bool:
        try:
            space.apply(space.provider_class("a", "b"))
        except ClusterError:  # discovery has not heard of it yet
            return False
        return True

    for space in shops.namespaces.values():
        eventually(lambda space=space: applied(space), bool)  # type: ignore[misc]
    shops.assert_recovered()
