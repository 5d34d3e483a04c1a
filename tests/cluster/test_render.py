"""What tools/render writes can be applied to a real API server, file after file, as its --help says."""

from pathlib import Path

import pytest

from tests.chart.rendering import FILES, version_for
from tests.cluster.world import for_version
from tools import render
from tools.local_cluster import ControlPlane


def test_the_files_apply_in_their_order(tmp_path: Path) -> None:
    with ControlPlane() as plane:
        version = ["--kube-version", plane.version, *for_version(plane)]
        assert render.main(["--create-namespace", *version, "--output", str(tmp_path)]) == 0
        for path in sorted(tmp_path.iterdir()):
            assert plane.kubectl("apply", "--filename", str(path)).endswith(" created\n")
        # The API server keeps everything as it was written: a tool that compares will find no difference.
        assert plane.kubectl("diff", "--filename", str(tmp_path)) == ""


@pytest.mark.parametrize("values", FILES, ids=lambda path: path.stem)
def test_whatever_is_given_the_api_server_knows_every_field(values: Path, plane: ControlPlane) -> None:
    chosen = render.Options(
        values=(("--values", str(values)),), kube_version=version_for(values), include_crds=False, create_namespace=True
    )
    manifests = render.render(chosen)
    homes = {item.namespace for item in manifests if item.namespace}
    for namespace in homes:
        made = f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}"
        plane.kubectl("apply", "--filename", "-", stdin=made)
    # The Prometheus Operator's kinds are not served here, and admission policies not before 1.30.
    served = plane.kubectl("api-versions").split()
    stream = "---\n".join(item.text for item in manifests if item.object["apiVersion"] in served)
    applied = plane.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", "-", stdin=stream)
    assert "deployment.apps/" in applied
