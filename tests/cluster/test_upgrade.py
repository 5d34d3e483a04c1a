"""Test that helm upgrades the chart from each release in `tests/chart/old-releases/`."""

import json
from pathlib import Path

import pytest

from tests.chart.rendering import OLD_RELEASES
from tests.support.cluster.harness import create_object, version_flags
from tools.cli.common import helm
from tools.local_cluster import ControlPlane


@pytest.mark.parametrize("old", OLD_RELEASES, ids=lambda path: path.stem)
def test_upgrade_with_reuse_values_from_an_old_release(old: Path, plane: ControlPlane) -> None:
    """Upgrade without hooks, because the hook Job needs a node. tests/node tests the hook."""
    name = f"old-{OLD_RELEASES.index(old)}"
    create_object(plane, "namespaces", name)
    at = ["--namespace", name, "--kubeconfig", str(plane.kubeconfig), "--no-hooks"]
    chosen = ["--set", "logLevel=warning,rotationPollIntervalInSeconds=77", *version_flags(plane)]
    helm.run(["install", name, str(old), *at, *chosen])
    helm.run(["upgrade", name, str(helm.CHART), *at, "--reuse-values"])
    found = plane.kubectl("get", "deployment", f"{name}-akv-secret-store", "--namespace", name, "--output", "json")
    [container] = json.loads(found)["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert (environment["LOG_LEVEL"], environment["ROTATION_POLL_INTERVAL"]) == ("warning", "77")


def test_upgrade_without_a_crd_prints_the_command(plane: ControlPlane) -> None:
    create_object(plane, "namespaces", "lacking")
    at = ["--namespace", "lacking", "--kubeconfig", str(plane.kubeconfig), "--no-hooks", *version_flags(plane)]
    helm.run(["install", "lacking", str(helm.CHART), *at])
    plane.kubectl("delete", "crd", "akvsyncs.secret-sync.x-k8s.io")
    with pytest.raises(helm.BadValues) as refused:
        helm.run(["upgrade", "lacking", str(helm.CHART), *at])
    message = str(refused.value)
    assert "the cluster does not serve secret-sync.x-k8s.io/v1alpha1/AKVSync" in message
    assert "`helm show crds <chart> | kubectl create --filename -`" in message
    # kubectl prints an error for each CRD that already exists.
    plane.kubectl("create", "--filename", "-", stdin=helm.run(["show", "crds", str(helm.CHART)]), check=False)
    plane.kubectl("wait", "--for=condition=Established", "crd", "akvsyncs.secret-sync.x-k8s.io", "--timeout=20s")
    helm.run(["upgrade", "lacking", str(helm.CHART), *at])
