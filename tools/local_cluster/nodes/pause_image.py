"""Build the image of a pod's sandbox, so that the node needs no registry for it. It has the form of `docker save`."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from tools.local_cluster.programs import cache


def build_archive(program: Path, name: str) -> bytes:
    """Return an archive with the image `name`. It contains only `program`, a static binary, and runs it."""
    layer = _tar_of({"pause": program.read_bytes()})
    config = {
        "architecture": cache.machine_architecture(),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    return _tar_of(
        {
            "config.json": json.dumps(config).encode(),
            "manifest.json": json.dumps(manifest).encode(),
            "layer.tar": layer,
        }
    )


def _tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()
