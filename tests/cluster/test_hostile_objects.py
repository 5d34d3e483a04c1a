"""Test objects that an editor of one namespace creates to stop the controller or to fill its memory.

The editor has only the ClusterRole `edit` in one namespace. After each attack the same process still runs, a new value
of another namespace is synced in time, and a restart succeeds.
"""

from typing import Any

import pytest

from controller.api.conditions import Reason
from controller.api.meta import MAX_SPEC
from controller.api.secretsync import MAX_TEXT
from controller.runtime import budgets
from tests.support.cluster.harness import KIND_PATHS, assert_running, canary_value, eventually
from tests.support.cluster.hostile_inputs import akv_sync_with_notes, nest_managed_fields
from tests.support.cluster.namespace import Namespace, measure_propagation
from tests.support.cluster.token_thief import TokenThief
from tests.support.process_stats import resident_mebibytes
from tools.pods.pod_process import PodProcess

pytestmark = pytest.mark.long

POLL = 2
# The seconds within which a new value of another namespace is synced during an attack.
MAX_DELAY = POLL + 10.0
MEMORY_MIB = 256
DEPTHS = (1_500, 9_900)


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": str(POLL)}


@pytest.fixture
def editor(space: Namespace) -> TokenThief:
    """Return a client with a ServiceAccount that can edit one namespace."""
    space.add_editor("editor")
    found = TokenThief(space.installed.plane, space.name, "editor")
    path = KIND_PATHS["secretsync"].format(space.name)
    eventually(lambda: found.send("GET", path).status, lambda status: status == 200)
    return found


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", ["secretsync", "secretproviderclass", "akvsync"])
def test_deeply_nested_object_stops_neither_the_process_nor_a_sync(
    kind: str, depth: int, space: Namespace, neighbour: Namespace, editor: TokenThief, controller: PodProcess
) -> None:
    space.set_secret("a", "1")
    pid = controller.pid
    manifests = {
        "secretproviderclass": space.provider_class("a"),
        "secretsync": space.sync("s", {"k": "a"}),
        "akvsync": space.akv_sync({"secretInAKV": "a"}),
    }
    for each, manifest in manifests.items():
        body = nest_managed_fields(manifest, depth) if each == kind else manifest
        answer = editor.send("POST", KIND_PATHS[each].format(space.name), body)
        assert answer.status == 201, answer.text[:500]

    def read_values() -> list[dict[str, str]]:
        assert_running(controller, pid)
        return [space.secret_values("s"), space.secret_values("a")]

    value = canary_value("1")
    eventually(read_values, lambda found: found == [{"k": value}, {"v0": value}], patience=40)
    assert measure_propagation(neighbour, f"{kind} {depth}") < MAX_DELAY
    assert_running(controller, pid)
    # After a restart the controller lists the object.
    controller.kill()
    controller.start()
    controller.wait_ready()
    space.set_secret("a", "2")
    space.wait_secret("s", {"k": "2"}, patience=60)
    assert measure_propagation(neighbour, f"{kind} {depth} again") < 60


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (100_000, f"all annotations with their keys have more than {MAX_TEXT} characters together"),
        (260_000, "Too long"),
    ],
)
def test_large_akvsync_is_refused_by_the_crd(size: int, why: str, space: Namespace, editor: TokenThief) -> None:
    answer = editor.send("POST", KIND_PATHS["akvsync"].format(space.name), akv_sync_with_notes(space, 5, size))
    assert answer.status == 422
    assert why in answer.message


def test_large_secretsync_is_refused_by_the_crd(space: Namespace, editor: TokenThief) -> None:
    for field in ("annotations", "labels"):
        text = {f"{number}-{'k' * 300}": "v" * 63 for number in range(MAX_TEXT // 360)}
        body = space.sync("s", {"k": "a"}, secretObject={field: text})
        answer = editor.send("POST", KIND_PATHS["secretsync"].format(space.name), body)
        assert answer.status == 422
        assert f"all {field} with their keys have more than {MAX_TEXT} characters together" in answer.message


def test_akvsync_that_would_generate_many_bytes_generates_nothing(
    space: Namespace, neighbour: Namespace, editor: TokenThief, controller: PodProcess
) -> None:
    """100 KB of annotations in each of 256 SecretSyncs would be 26 MB in etcd, and in every watch."""
    before = resident_mebibytes(controller.pid)
    answer = editor.send("POST", KIND_PATHS["akvsync"].format(space.name), akv_sync_with_notes(space, 1, 100_000))
    assert answer.status == 201, answer.text

    def read_ready() -> dict[str, Any]:
        conditions = space.get("akvsync", "made").get("status", {}).get("conditions", [])
        return next((dict(item) for item in conditions if item["type"] == "Ready"), {})

    found = eventually(read_ready, bool)
    assert found["reason"] == Reason.INPUT_INVALID
    assert found["message"].startswith("the 256 SecretSyncs that this makes have more than 2097152 bytes together")
    assert measure_propagation(neighbour, "1") < MAX_DELAY
    assert space.list_names("secretsync") == []
    assert resident_mebibytes(controller.pid) - before < 20


@pytest.mark.timeout(600)
def test_namespace_fills_only_its_own_memory_budget(
    space: Namespace, neighbour: Namespace, editor: TokenThief, controller: PodProcess
) -> None:
    """Create SecretSyncs of the maximum size that the controller reads, in total 1.5 times the namespace's budget."""
    path = KIND_PATHS["secretsync"].format(space.name)
    note = {"note": "x" * (MAX_SPEC - 2_000)}
    count = int(1.5 * budgets.KEPT.limit / MAX_SPEC)
    for number in range(count):
        body = space.sync(f"s{number:03}", {"k": "a"}, secretObject={"annotations": note})
        assert editor.send("POST", path, body).status == 201
    waits = [measure_propagation(neighbour, "1")]

    def count_refused() -> int:
        status, text = space.installed.plane.request("GET", path)
        assert status == 200
        return text.count("no more are read: delete some")

    eventually(count_refused, lambda found: found >= count // 4, patience=120)
    waits.append(measure_propagation(neighbour, "2"))
    controller.kill()
    controller.start()
    controller.wait_ready()
    waits.append(measure_propagation(neighbour, "3"))
    assert max(waits) < 60
    assert resident_mebibytes(controller.pid) < MEMORY_MIB
