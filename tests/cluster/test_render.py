"""Test that a real API server accepts the files of tools/render in the order that its --help describes."""

from pathlib import Path

from tests.support.cluster.harness import version_flags
from tools.cli.render import render
from tools.local_cluster import ControlPlane


def test_rendered_files_apply_in_their_order(tmp_path: Path) -> None:
    with ControlPlane() as plane:
        version = ["--kube-version", plane.version, *version_flags(plane)]
        assert render.main(["--create-namespace", *version, "--output", str(tmp_path)]) == 0
        for path in sorted(tmp_path.iterdir()):
            assert plane.kubectl("apply", "--filename", str(path)).endswith(" created\n")
        # The API server stores the manifests unchanged, so a GitOps tool finds no difference.
        assert plane.kubectl("diff", "--filename", str(tmp_path)) == ""
