"""The image of a pod's sandbox, which no registry is asked for: one program, written as `docker save` would."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from tools.local_cluster.programs import cache


def archive(program: Path, name: str) -> bytes:
    """An image `name` that runs `program`, which needs nothing beside it."""
    layer = _tar_of({"pause": program.read_bytes()})
    config = {
        "architecture": cache.architecture(),
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
