"""Count the watch events of a Secret. A controller such as Reloader restarts workloads at each of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from tests.support.cluster.audit import count_probes
from tests.support.cluster.harness import KIND_PATHS, canary_value, create_object, eventually
from tests.support.cluster.namespace import Namespace
from tools.pods.pod_process import PodProcess

INTERVAL = 3


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": str(INTERVAL), "DRIFT_INTERVAL": "2"}


@contextmanager
def count_changes(space: Namespace, *names: str) -> Iterator[dict[str, int]]:
    """Provide the number of changes of each of these Secrets. The numbers are complete after the block."""
    plane, path = space.installed.plane, KIND_PATHS["secret"].format(space.name)
    since = json.loads(plane.request("GET", path)[1])["metadata"]["resourceVersion"]
    changes = dict.fromkeys(names, 0)
    yield changes
    # The API server sends all events since that resource version in their order. The last one is that of the marker.
    marker = f"marker-{since}"
    create_object(plane, f"namespaces/{space.name}/secrets", marker)
    status, text = eventually(
        lambda: plane.request("GET", f"{path}?watch=1&resourceVersion={since}&timeoutSeconds=1"),
        lambda answer: marker in answer[1],
    )
    assert status == 200, text
    for line in text.splitlines():
        event = json.loads(line)
        assert event["type"] in ("ADDED", "MODIFIED", "DELETED"), event
        if (name := event["object"]["metadata"]["name"]) in names:
            changes[name] += 1


def set_properties(space: Namespace, **properties: str) -> None:
    space.installed.emulator.set_secret(space.vault, "config", json.dumps(properties))


def wait_checks(space: Namespace, *names: str) -> None:
    """Wait until the controller has polled the vault twice more, and probed each of these Secrets twice more."""

    def count_checks() -> tuple[int, int]:
        return count_probes(space), space.count_calls("secrets.list")

    probes, polls = count_checks()
    eventually(count_checks, lambda found: found[0] >= probes + 2 * len(names) and found[1] >= polls + 2, patience=40)


def test_secret_changes_once_at_a_rotation_and_never_otherwise(space: Namespace, controller: PodProcess) -> None:
    set_properties(space, user=canary_value("me"), password=canary_value("old"))
    objects = "[{kubernetesSecretName: app, mapping: [{dataKey: user, secretInAKV: config, property: user},"
    objects += " {dataKey: password, secretInAKV: config, property: password}]}, {secretInAKV: config, expand: true}]"
    space.apply(space.akv_sync(*msgspec.yaml.decode(objects), name="shop"))
    names = ("app", "config")
    for name in names:
        space.wait_secret(name, {"user": "me", "password": "old"})
    with count_changes(space, *names) as changes:
        wait_checks(space, *names)
        assert controller.stop() == 0
        controller.start()
        wait_checks(space, *names)
    assert changes == {"app": 0, "config": 0}
    with count_changes(space, *names) as changes:
        set_properties(space, user=canary_value("you"), password=canary_value("new"))
        for name in names:
            space.wait_secret(name, {"user": "you", "password": "new"})
        wait_checks(space, *names)
    assert changes == {"app": 1, "config": 1}
