"""Test that helm installs, upgrades and removes a packaged release from a registry."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart import registry
from tests.support.oci_archive import write_archive
from tools.cli.common import helm
from tools.images import image
from tools.local_cluster import ControlPlane
from tools.release import layout, package

HOME = "from-registry"


@pytest.fixture(scope="module")
def chart_registry() -> Iterator[registry.Registry]:
    with registry.running() as running:
        yield running


@pytest.fixture(scope="module")
def packaged(chart_registry: registry.Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    options = ["--registry", f"{chart_registry.address}/akv", "--image", str(write_archive(folder / "image.tar"))]
    assert package.main(["--changed", "--output", str(folder / "release"), *options]) == 0
    chart = folder / "release" / "oci" / "chart"
    chart_registry.push(
        f"akv/{layout.CHART}",
        {str(path.relative_to(chart)): path.read_bytes() for path in chart.rglob("*") if path.is_file()},
    )
    return folder / "release"


def test_chart_installs_from_a_registry(packaged: Path, chart_registry: registry.Registry, plane: ControlPlane) -> None:
    chart = [
        f"oci://{chart_registry.address}/akv/{layout.CHART}",
        "--plain-http",
        "--version",
        image.chart_version(),
        "--no-hooks",
    ]
    at = ["--namespace", HOME, "--kubeconfig", str(plane.kubeconfig)]
    settings = ["--set-string", f"watchNamespaces={HOME}", "--set-string"]
    helm.run(["install", HOME, *chart, *at, "--create-namespace", *settings, "replicaCount=1"])
    assert list_deployed_images(plane) == [(packaged / "images.txt").read_text().strip()]
    helm.run(["upgrade", HOME, *chart, *at, *settings, "replicaCount=2"])
    listed = json.loads(plane.kubectl("get", "deployments", "--namespace", HOME, "--output", "json"))["items"]
    assert [deployment["spec"]["replicas"] for deployment in listed] == [2]
    helm.run(["uninstall", HOME, *at])
    assert list_deployed_images(plane) == []
    plane.kubectl("delete", "namespace", HOME, "--wait=false")


def list_deployed_images(plane: ControlPlane) -> list[str]:
    """Return the images of the containers in the release's Deployments."""
    listed = json.loads(plane.kubectl("get", "deployments", "--namespace", HOME, "--output", "json"))["items"]
    specs = [deployment["spec"]["template"]["spec"] for deployment in listed]
    return [container["image"] for spec in specs for container in spec["containers"]]
