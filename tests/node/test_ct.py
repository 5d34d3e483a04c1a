"""chart-testing installs the chart with its defaults, waits for the Deployment, runs `helm test` and removes it all."""

import os
import subprocess
from pathlib import Path

from tools import helm
from tools.local_cluster import ControlPlane, assets

REPOSITORY = Path(__file__).parents[2]


def test_ct_install(plane: ControlPlane) -> None:
    programs = (helm.program().parent, plane.kubectl_path.parent)
    done = subprocess.run(
        [assets.tool("ct"), "install", f"--charts={helm.CHART}", "--helm-extra-args=--timeout 2m"],
        env={
            **os.environ,
            "KUBECONFIG": str(plane.kubeconfig),
            "PATH": os.pathsep.join(map(str, [*programs, os.environ["PATH"]])),
        },
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All charts installed successfully" in done.stdout
    assert "Phase:          Succeeded" in done.stdout
    assert (
        plane.kubectl(
            "get",
            "deployments",
            "--all-namespaces",
            "--selector=app.kubernetes.io/part-of=akv-secret-store",
            "--output=name",
        )
        == ""
    )
