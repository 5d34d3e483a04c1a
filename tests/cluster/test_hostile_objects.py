"""Objects that an editor of one namespace creates to stop the controller or to fill its memory.

The editor has the ClusterRole `edit` in one namespace and nothing else. After each attack the same process is at work,
a neighbour's new value arrives in time, and a restart works, too.
"""

import json
from typing import Any

import pytest

from controller import budgets
from controller.api.conditions import Reason
from controller.api.secretsync import MAX_TEXT
from controller.reflector import MAX_SPEC
from tests.cluster.thief import Thief
from tests.cluster.world import PATHS, Namespace, arrival, eventually, resident
from tools.workload import Workload

POLL = 2
# Seconds after which a neighbour's new value has arrived, whatever the editor does.
IN_TIME = POLL + 10.0
MEMORY_MIB = 256
DEPTHS = (1_500, 9_900)


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": str(POLL)}


@pytest.fixture
def editor(space: Namespace) -> Thief:
    """A ServiceAccount that may edit one namespace."""
    space.add_editor("editor")
    found = Thief(space.installed.plane, space.name, "editor")
    path = PATHS["secretsync"].format(space.name)
    eventually(lambda: found.send("GET", path).status, lambda status: status == 200)
    return found


def deep(manifest: dict[str, Any], depth: int) -> str:
    """Return the manifest as JSON with managed fields that are nested so deep."""
    entry = {"manager": "editor", "operation": "Update", "apiVersion": manifest["apiVersion"], "fieldsType": "FieldsV1"}
    managed = {"metadata": {**manifest["metadata"], "managedFields": [entry | {"fieldsV1": "PLACE"}]}}
    nested = '{"f:x":' * depth + "{}" + "}" * depth
    return json.dumps(manifest | managed).replace('"PLACE"', nested)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", ["secretsync", "secretproviderclass", "akvsync"])
def test_deeply_nested_object_stops_nothing(
    kind: str, depth: int, space: Namespace, neighbour: Namespace, editor: Thief, controller: Workload
) -> None:
    space.put("a", "1")
    pid = controller.pid
    manifests = {
        "secretproviderclass": space.provider_class("a"),
        "secretsync": space.sync("s", {"k": "a"}),
        "akvsync": space.akv_sync({"secretInAKV": "a"}),
    }
    for each, manifest in manifests.items():
        body = deep(manifest, depth) if each == kind else manifest
        answer = editor.send("POST", PATHS[each].format(space.name), body)
        assert answer.status == 201, answer.text[:500]
    space.wait_secret("s", {"k": "1"})
    space.wait_secret("a", {"v0": "1"})
    assert arrival(neighbour, f"{kind} {depth}") < IN_TIME
    assert controller.pid == pid
    # The list after a restart has the object, too.
    controller.kill()
    controller.start()
    controller.wait_ready()
    space.put("a", "2")
    space.wait_secret("s", {"k": "2"}, patience=60)
    assert arrival(neighbour, f"{kind} {depth} again") < 60


def akv_sync_with_notes(space: Namespace, notes: int, size: int) -> dict[str, Any]:
    annotations = {f"note-{number}": "x" * size for number in range(notes)}
    wish = {"secretInAKV": "a", "kubernetesSecretType": "kubernetes.io/tls", "versionHistory": 256}
    return space.akv_sync({**wish, "annotations": annotations})


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (100_000, f"all annotations with their keys have more than {MAX_TEXT} characters together"),
        (260_000, "Too long"),
    ],
)
def test_large_akvsync_is_refused_by_the_crd(size: int, why: str, space: Namespace, editor: Thief) -> None:
    answer = editor.send("POST", PATHS["akvsync"].format(space.name), akv_sync_with_notes(space, 5, size))
    assert answer.status == 422
    assert why in answer.message


def test_large_secretsync_is_refused_by_the_crd(space: Namespace, editor: Thief) -> None:
    for what in ("annotations", "labels"):
        text = {f"{number}-{'k' * 300}": "v" * 63 for number in range(MAX_TEXT // 360)}
        body = space.sync("s", {"k": "a"}, secretObject={what: text})
        answer = editor.send("POST", PATHS["secretsync"].format(space.name), body)
        assert answer.status == 422
        assert f"all {what} with their keys have more than {MAX_TEXT} characters together" in answer.message


def test_akvsync_that_would_generate_many_bytes_generates_nothing(
    space: Namespace, neighbour: Namespace, editor: Thief, controller: Workload
) -> None:
    """100 KB of annotations in each of 256 SecretSyncs would be 26 MB in etcd, and in every watch."""
    before = resident(controller)
    answer = editor.send("POST", PATHS["akvsync"].format(space.name), akv_sync_with_notes(space, 1, 100_000))
    assert answer.status == 201, answer.text

    def ready() -> dict[str, Any]:
        conditions = space.get("akvsync", "made").get("status", {}).get("conditions", [])
        return next((dict(item) for item in conditions if item["type"] == "Ready"), {})

    found = eventually(ready, bool)
    assert found["reason"] == Reason.INPUT_INVALID
    assert found["message"].startswith("the 256 SecretSyncs that this makes have more than 2097152 bytes together")
    assert arrival(neighbour, "1") < IN_TIME
    assert space.names("secretsync") == []
    assert resident(controller) - before < 20


@pytest.mark.timeout(600)
def test_namespace_fills_its_own_budget_of_memory_only(
    space: Namespace, neighbour: Namespace, editor: Thief, controller: Workload
) -> None:
    """SecretSyncs that are each as large as is read, for half as much again as a namespace may keep."""
    path = PATHS["secretsync"].format(space.name)
    note = {"note": "x" * (MAX_SPEC - 2_000)}
    count = int(1.5 * budgets.KEPT.most / MAX_SPEC)
    for number in range(count):
        body = space.sync(f"s{number:03}", {"k": "a"}, secretObject={"annotations": note})
        assert editor.send("POST", path, body).status == 201
    waits = [arrival(neighbour, "1")]

    def refused() -> int:
        status, text = space.installed.plane.request("GET", path)
        assert status == 200
        return text.count("no more are read: delete some")

    eventually(refused, lambda found: found >= count // 4, patience=120)
    waits.append(arrival(neighbour, "2"))
    controller.kill()
    controller.start()
    controller.wait_ready()
    waits.append(arrival(neighbour, "3"))
    assert max(waits) < 60
    assert resident(controller) < MEMORY_MIB
