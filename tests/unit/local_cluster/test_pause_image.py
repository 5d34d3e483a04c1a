"""Test the archive of the sandbox's image, which has the format of `docker save`."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from tools.local_cluster.nodes import pause_image
from tools.local_cluster.programs import cache


def read_files(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]  # all are files


def test_pause_image_runs_the_program_on_this_architecture(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    files = read_files(pause_image.build_archive(program, "localhost/pause:1"))
    [image] = json.loads(files["manifest.json"])
    assert image == {"Config": "config.json", "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}
    config = json.loads(files["config.json"])
    assert config["architecture"] == cache.machine_architecture()
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(files['layer.tar']).hexdigest()}"]
    assert read_files(files["layer.tar"]) == {config["config"]["Entrypoint"][0].removeprefix("/"): b"\x7fELF"}
