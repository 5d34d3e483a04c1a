"""Test that each module gets the shared control plane in the state of a new installation, or gets a new one."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.kube.resources import MERGE_PATCH
from tests.support.cluster.harness import InstalledRelease, eventually
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.shared_release import DiffersError, SharedRelease
from tests.support.cluster.token_thief import make_owner
from tools.cli.common import helm
from tools.local_cluster import ControlPlane

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/akvsyncs.secret-sync.x-k8s.io"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLE = f"{RBAC}/namespaces/{helm.RELEASE}/roles/{{}}"
Body = dict[str, Any]
Alter = Callable[[InstalledRelease], Callable[[], object]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRelease]:
    found = SharedRelease(tmp_path_factory.mktemp)
    yield found
    found.close()


def test_garbage_collector_of_a_new_control_plane_knows_the_custom_resources(shared: SharedRelease) -> None:
    """Delete an owner shortly after the start. The garbage collector discovers new kinds only every 30 s."""
    space = Namespace(shared.lend())
    space.apply(space.sync("owner", {"k": "a"}))
    uid = space.get("secretsync", "owner")["metadata"]["uid"]
    owner = make_owner(uid, "owner")
    space.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "owned", "ownerReferences": [owner]}})
    space.kubectl("delete", "secretsync", "owner")
    eventually(lambda: space.get("secret", "owned"), lambda found: not found, patience=15)


def leave_remains(space: Namespace) -> None:
    """Create objects that a module may leave behind."""
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.kubectl("create", "configmap", "left", f"--namespace={space.name}")
    space.installed.emulator.cut_off()


def test_remains_of_a_module_in_namespaces_and_vaults_are_removed(shared: SharedRelease) -> None:
    first = shared.lend()
    replaced = list(shared.replaced)
    space = Namespace(first)
    leave_remains(space)
    second = shared.lend()
    assert (second.plane, second.emulator, shared.replaced) == (first.plane, first.emulator, replaced)
    assert second.plane.request("GET", f"/api/v1/namespaces/{space.name}")[0] == 404
    assert second.plane.kubectl("get", "secretsyncs", "--all-namespaces", "--output", "name") == ""
    assert second.emulator.counters() == {}
    assert space.vault not in str(second.emulator.call("dump"))
    leave_remains(Namespace(second))


def patch_object(path: str, change: Body, undo: Body) -> Alter:
    """Return a change that patches an object of the release. `{}` in the path is the object's name."""

    def alter(installed: InstalledRelease) -> Callable[[], object]:
        def patch(body: Body) -> None:
            object_path = path.format(installed.deployment)
            status, text = installed.plane.request("PATCH", object_path, body, MERGE_PATCH)
            assert status == 200, text

        patch(change)
        return lambda: patch(undo)

    return alter


def create_named_object(path: str, body: Body) -> Alter:
    """Return a change that creates an object with the name in its body."""

    def alter(installed: InstalledRelease) -> Callable[[], object]:
        status, text = installed.plane.request("POST", path, body)
        assert status == 201, text
        name = json.loads(text)["metadata"]["name"]
        return lambda: installed.plane.request("DELETE", f"{path}/{name}")

    return alter


@pytest.mark.parametrize(
    "alter",
    [
        patch_object(ROLE, {"metadata": {"labels": {"x": "y"}}}, {"metadata": {"labels": {"x": None}}}),
        create_named_object(f"{RBAC}/clusterroles", {"metadata": {"name": "more"}}),
        create_named_object("/api/v1/namespaces/default/secrets", {"metadata": {"name": "more"}}),
    ],
    ids=["object of the release", "object of no namespace", "object in a namespace of Kubernetes"],
)
def test_restore_detects_any_other_difference(shared: SharedRelease, alter: Alter) -> None:
    installed = shared.lend()
    undo = alter(installed)
    with pytest.raises(DiffersError, match="not as installed"):
        shared.restore(installed)
    undo()
    shared.restore(installed)


def restart_controller_manager(plane: ControlPlane) -> None:
    plane.stop_controller_manager()
    plane.restart_controller_manager()


def patch_crd_twice(plane: ControlPlane) -> None:
    for value in ("y", None):
        status, text = plane.request("PATCH", CRD, {"metadata": {"labels": {"x": value}}}, MERGE_PATCH)
        assert status == 200, text


@pytest.mark.parametrize(
    ("alter", "why"),
    [
        (restart_controller_manager, "a server was restarted"),
        (patch_crd_twice, "a CustomResourceDefinition was changed"),
    ],
    ids=["server", "CRD"],
)
def test_control_plane_is_replaced_after_a_restart_or_a_change_of_a_crd(
    shared: SharedRelease, alter: Callable[[ControlPlane], None], why: str, tmp_path: Path
) -> None:
    before = shared.lend()
    alter(before.plane)
    after = shared.lend()
    assert shared.replaced[-1] == why
    assert after.plane is not before.plane
    assert after.plane.request("GET", "/readyz")[0] == 200
