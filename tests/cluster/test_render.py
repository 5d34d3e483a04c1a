"""Apply the files of tools/render to a real API server in their order, as its --help says."""

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
        # The API server keeps everything as it was written: a tool that compares will find no difference.
        assert plane.kubectl("diff", "--filename", str(tmp_path)) == ""
