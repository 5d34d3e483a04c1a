"""Test that the controller recovers after the API server failed, was unreachable or refused requests.

A proxy in front of the API server injects most of these faults.

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

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def controller(installed: InstalledRelease, proxy: FaultProxy) -> Iterator[PodProcess]:
    """Run a controller with leader election, so that it also renews a lease. No other controller uses this lease."""
    wait_for_deleted_namespaces(installed.plane)  # this module would count calls for them
    with running_controller(proxy.workload(installed, **CONTROLLER_SETTINGS)) as workload:
        yield workload


SECONDS = 2.5
FAILURES = {
    "unreachable": ProxyFault("drop"),
    "silent": ProxyFault("hang"),
    "500": ProxyFault(status=500),
    "503": ProxyFault(status=503),
    "429 with Retry-After": ProxyFault(status=429, retry_after=2),
    "409 to every write": ProxyFault(status=409, matches=lambda request: request.is_write),
    "410 to every watch": ProxyFault(status=410, matches=lambda request: request.verb == "watch"),
    "410 in every watch": ProxyFault("gone", matches=lambda request: request.verb == "watch"),
    "410 to every list and watch": ProxyFault(status=410, matches=lambda request: request.verb in ("list", "watch")),
    "watches cut": ProxyFault("drop", matches=lambda request: request.verb == "watch"),
    "answers to writes lost": ProxyFault("lose", matches=lambda request: request.is_write),
}


@pytest.mark.parametrize("failure", [pytest.param(failure, id=name) for name, failure in FAILURES.items()])
def test_controller_recovers_after_failures_of_the_api_server(
    harness: FaultHarness, proxy: FaultProxy, failure: ProxyFault
) -> None:
    before, began = proxy.count_verbs(), time.monotonic()
    proxy.inject(failure)
    seen = len(proxy.requests)
    harness.rotate_during(SECONDS)
    # The proxy records a request before it applies the fault.
    eventually(lambda: any(map(failure.matches, proxy.requests[seen:])), bool)
    requests = proxy.count_verbs() - before
    seconds = time.monotonic() - began  # more than SECONDS on a busy machine
    proxy.clear_fault()
    # The controller lists and watches three kinds. Each of six SecretSyncs retries with a growing delay.
    assert requests["list"] + requests["watch"] <= 3 * (6 + 2 * seconds), requests
    assert requests.total() - requests["list"] - requests["watch"] <= 6 * (6 + 4 * seconds), requests
    harness.assert_recovered()


def test_rotation_completes_after_a_restart_of_the_api_server(harness: FaultHarness) -> None:
    plane = harness.installed.plane
    harness.rotate_values()
    time.sleep(POLL_INTERVAL / 2)
    plane.stop_apiserver()  # this cuts every watch
    harness.rotate_values()
    time.sleep(POLL_INTERVAL)
    plane.start_apiserver()
    harness.assert_recovered()


def test_controller_recovers_after_etcd_had_no_space_left(harness: FaultHarness) -> None:
    plane, space = harness.installed.plane, harness.namespaces["one"]
    plane.fill_etcd()
    try:
        with pytest.raises(ClusterError, match="database space exceeded"):
            space.kubectl("create", "configmap", "more")
        harness.rotate_during(SECONDS)
    finally:
        plane.free_etcd()
    harness.assert_recovered()


def test_controller_recovers_after_its_rights_were_revoked(harness: FaultHarness) -> None:
    plane = harness.installed.plane
    revoked = json.dumps({"apiVersion": "v1", "kind": "List", "items": list_bindings(harness.installed)})
    before, began = harness.count_vault_calls(), time.monotonic()
    plane.kubectl("delete", "--filename", "-", stdin=revoked)
    try:
        harness.rotate_during(4)
        calls = max(now - before[name] for name, now in harness.count_vault_calls().items())
        seconds = time.monotonic() - began  # more than 4 on a busy machine
    finally:
        plane.kubectl("create", "--filename", "-", stdin=revoked)
    assert calls <= 10 + 10 * seconds
    harness.assert_recovered()


def list_bindings(installed: InstalledRelease) -> list[dict[str, Any]]:
    """Return the bindings that give the controller its rights, without the fields that the API server sets."""
    found = []
    for kind in ("clusterrolebindings", "rolebindings"):
        for item in json.loads(installed.plane.kubectl("get", kind, "--all-namespaces", "-o", "json"))["items"]:
            users = {f"system:serviceaccount:{s.get('namespace')}:{s['name']}" for s in item.get("subjects", [])}
            if installed.user in users:
                for name in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
                    item["metadata"].pop(name, None)
                found.append(item)
    return found


def test_controller_recovers_after_the_class_crd_was_removed(harness: FaultHarness) -> None:
    """Keep the CRD of SecretSyncs, because its removal deletes all SecretSyncs and therefore all their Secrets."""
    plane = harness.installed.plane
    name = "secretproviderclasses.secrets-store.csi.x-k8s.io"
    crd = json.loads(plane.kubectl("get", "customresourcedefinition", name, "-o", "json"))
    crd = {
        **crd,
        "metadata": {key: crd["metadata"][key] for key in ("name", "labels", "annotations") if key in crd["metadata"]},
    }
    crd.pop("status")
    plane.kubectl("delete", "customresourcedefinition", name)
    harness.rotate_during(SECONDS)
    plane.kubectl("create", "--filename", "-", stdin=json.dumps(crd))
    plane.kubectl("wait", "--for=condition=Established", f"customresourcedefinition/{name}")

    def is_applied(space: Namespace) -> bool:
        try:
            space.apply(space.provider_class("a", "b"))
        except ClusterError:  # the API server's discovery does not list the kind yet
            return False
        return True

    for space in harness.namespaces.values():
        eventually(lambda space=space: is_applied(space), bool)  # type: ignore[misc]
    harness.assert_recovered()
