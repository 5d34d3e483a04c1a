"""Test that chart-testing installs the chart with its defaults, runs `helm test` and uninstalls the chart."""

import os
import subprocess

from tests.support.cluster.harness import version_flags
from tools.cli.common import helm
from tools.local_cluster import ControlPlane
from tools.local_cluster.programs import assets


def test_chart_testing_installs_and_tests_the_chart(plane: ControlPlane) -> None:
    programs = (str(helm.find_executable().parent), str(plane.kubectl_path.parent), os.environ["PATH"])
    done = subprocess.run(
        [
            assets.tool("ct"),
            "install",
            f"--charts={helm.CHART.name}",
            "--helm-extra-args=--timeout 2m",
            f"--helm-extra-set-args={' '.join(version_flags(plane))}",
        ],
        env={**os.environ, "KUBECONFIG": str(plane.kubeconfig), "PATH": os.pathsep.join(programs)},
        cwd=helm.CHART.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All charts installed successfully" in done.stdout
    assert "Phase:          Succeeded" in done.stdout
    selector = "--selector=app.kubernetes.io/part-of=akv-secret-store"
    assert plane.kubectl("get", "deployments", "--all-namespaces", selector, "--output=name") == ""
