"""The API server fails, is cut off, or refuses; the controller reaches it through a relay (`tests.ledger.closes`)."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.fleet import LEADING, POLL, Fleet
from tests.cluster.relay import Failure, Relay
from tests.cluster.world import Installed, Namespace, at_work, eventually, none_is_ending
from tools.local_cluster.errors import ClusterError
from tools.workload import Workload


@pytest.fixture(scope="module")
def controller(installed: Installed, relay: Relay) -> Iterator[Workload]:
    """With its lease: it is nobody else's in this module, and has to be renewed the same way."""
    none_is_ending(installed.plane)  # its calls would be counted here
    with at_work(relay.workload(installed, **LEADING)) as workload:
        yield workload


SECONDS = 2.5
FAILURES = {
    "unreachable": Failure("drop"),
    "silent": Failure("hang"),
    "500": Failure(status=500),
    "503": Failure(status=503),
    "429 with Retry-After": Failure(status=429, retry_after=2),
    "409 to every write": Failure(status=409, matches=lambda asked: asked.writes),
    "410 to every watch": Failure(status=410, matches=lambda asked: asked.verb == "watch"),
    "410 in every watch": Failure("gone"),
    "410 to every list and watch": Failure(status=410, matches=lambda asked: asked.verb in ("list", "watch")),
    "watches cut": Failure("drop", matches=lambda asked: asked.verb == "watch"),
    "answers to writes lost": Failure("lose", matches=lambda asked: asked.writes),
}


@pytest.mark.parametrize("failure", [pytest.param(failure, id=name) for name, failure in FAILURES.items()])
def test_the_api_server_fails(shops: Fleet, relay: Relay, failure: Failure) -> None:
    before = relay.counts()
    relay.fail(failure)
    shops.endures(SECONDS)
    asked = relay.counts() - before
    relay.heal()
    # Lists and watches of three kinds, and what each of six SecretSyncs tries, less and less.
    assert asked["list"] + asked["watch"] <= 3 * (6 + 2 * SECONDS), asked
    assert asked.total() - asked["list"] - asked["watch"] <= 6 * (6 + 4 * SECONDS), asked
    shops.closes()


def test_the_api_server_restarts_in_the_middle_of_a_rotation(shops: Fleet) -> None:
    plane = shops.installed.plane
    shops.rotate()
    time.sleep(POLL / 2)
    plane.stop_apiserver()  # every watch is cut
    shops.rotate()
    time.sleep(POLL)
    plane.start_apiserver()
    shops.closes()


def test_etcd_has_no_space_left(shops: Fleet) -> None:
    plane, space = shops.installed.plane, shops.spaces["one"]
    plane.fill_etcd()
    try:
        with pytest.raises(ClusterError, match="database space exceeded"):
            space.kubectl("create", "configmap", "more")
        shops.endures(SECONDS)
    finally:
        plane.free_etcd()
    shops.closes()


def test_the_controllers_rights_are_taken_and_given_back(shops: Fleet) -> None:
    plane = shops.installed.plane
    taken = json.dumps({"apiVersion": "v1", "kind": "List", "items": bindings(shops.installed)})
    before = shops.calls()
    plane.kubectl("delete", "--filename", "-", stdin=taken)
    try:
        shops.endures(4)
        took = max(now - before[name] for name, now in shops.calls().items())
    finally:
        plane.kubectl("create", "--filename", "-", stdin=taken)
    assert took <= 50
    shops.closes()


def bindings(installed: Installed) -> list[dict[str, Any]]:
    """What gives the controller its rights, as it can be applied again."""
    found = []
    for kind in ("clusterrolebindings", "rolebindings"):
        for item in json.loads(installed.plane.kubectl("get", kind, "--all-namespaces", "-o", "json"))["items"]:
            users = {f"system:serviceaccount:{s.get('namespace')}:{s['name']}" for s in item.get("subjects", [])}
            if installed.user in users:
                for name in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
                    item["metadata"].pop(name, None)
                found.append(item)
    return found


def test_the_classes_kind_is_removed_and_comes_back(shops: Fleet) -> None:
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
    shops.endures(SECONDS)
    plane.kubectl("create", "--filename", "-", stdin=json.dumps(crd))
    plane.kubectl("wait", "--for=condition=Established", f"customresourcedefinition/{name}")

    def applied(space: Namespace) -> bool:
        try:
            space.apply(space.provider_class("a", "b"))
        except ClusterError:  # discovery has not heard of it yet
            return False
        return True

    for space in shops.spaces.values():
        eventually(lambda space=space: applied(space), bool)  # type: ignore[misc]
    shops.closes()
