"""Install the chart beside SSE and the CSI driver. Their CRDs keep their metadata, and their objects still work."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.api.conditions import Reason
from tests.node.release import Release, assert_rotates
from tests.support import upstream_crds
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.sse_controller import apply_as_sse
from tools.cli.common import helm
from tools.codegen import crds
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.programs import assets

SYNCS, CLASSES = (crd["metadata"]["name"] for crd in upstream_crds.build_upstream_crds())
Manifest = dict[str, Any]


@pytest.fixture
def foreign_crds(plane: ControlPlane) -> Iterator[list[Manifest]]:
    """Provide the CRDs of SSE and the CSI driver with their own labels, annotations and field managers."""
    every = [crd["metadata"]["name"] for crd in crds.build_all()]
    plane.kubectl("delete", "crd", *every, "--ignore-not-found")
    upstream = upstream_crds.build_upstream_crds()
    for crd, release, manager in zip(upstream, ("sse", "csi-driver"), ("helm", "csi-installer"), strict=True):
        crd["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": release}
        crd["metadata"]["annotations"] = {"meta.helm.sh/release-name": release, "helm.sh/resource-policy": "keep"}
        apply = ["apply", "--server-side", f"--field-manager={manager}", "--filename", "-"]
        plane.kubectl(*apply, stdin=json.dumps(crd))
        plane.kubectl("wait", "--for=condition=Established", f"crd/{crd['metadata']['name']}", "--timeout=30s")
    yield upstream
    plane.kubectl("delete", "crd", *every)


def read_crd(plane: ControlPlane, name: str) -> Manifest:
    found: Manifest = json.loads(plane.kubectl("get", "crd", name, "--output=json", "--show-managed-fields"))
    return found


def test_installation_beside_sse_keeps_its_crds_and_objects(
    plane: ControlPlane, emulator: Emulator, foreign_crds: list[Manifest], tmp_path: Path
) -> None:
    release = Release(plane, emulator, tmp_path, "over-sse")
    shop = Namespace(release)
    shop.set_secret("db", "sse")
    shop.apply(shop.provider_class("db"), shop.sync("db", {"password": "db"}, theirOwn="kept"))
    apply_as_sse(shop, "db", {"password": "sse"})
    secret = shop.get("secret", "db")
    syncs, classes = read_crd(plane, SYNCS), read_crd(plane, CLASSES)

    release.make_namespace()
    release.install()
    shop.wait_reason("db", Reason.UP_TO_DATE)
    assert shop.get("secret", "db") == secret
    assert shop.get("secretsync", "db")["spec"]["theirOwn"] == "kept"
    assert read_crd(plane, CLASSES) == classes
    widened = read_crd(plane, SYNCS)
    assert widened["spec"] != syncs["spec"]
    for part in ("labels", "annotations", "uid"):
        assert widened["metadata"][part] == syncs["metadata"][part]
    assert "helm" in {each["manager"] for each in widened["metadata"]["managedFields"]}
    assert_rotates(shop, "ours")

    # Install another release with the other helm. The CRDs of the first release still exist.
    before = shop.get("secret", "db")
    release.uninstall()
    release.name, release.executable = "over-sse-again", assets.tool("helm")
    assert read_crd(plane, SYNCS)["metadata"]["annotations"] == syncs["metadata"]["annotations"]
    # helm 4 uses server-side apply for CRDs, and the API server reports a conflict. With this option, helm leaves
    # existing CRDs unchanged.
    with pytest.raises(helm.HelmError, match=r'conflict with "csi-installer"'):
        release.install()
    release.install("--server-side=false")
    assert shop.get("secret", "db") == before
    assert_rotates(shop, "ours-again")
    release.uninstall()
    assert (read_crd(plane, CLASSES), shop.get("secretsync", "db")["spec"]["theirOwn"]) == (classes, "kept")
    shop.wait_secret("db", {"password": "ours-again"})
    shop.remove()
    plane.kubectl("delete", "namespace", release.namespace, "--wait=false")
