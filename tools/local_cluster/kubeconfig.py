"""kubeconfig files."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, url: str, ca_file: Path, name: str, user: Mapping[str, str]) -> Path:
    """A kubeconfig of one cluster and one user, `user` as in its `users[].user`; readable by the owner alone.

    The name of the file never stands for a half-written one: somebody may be reading the previous.
    """
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": "local", "user": name}}],
        "clusters": [{"name": "local", "cluster": {"server": url, "certificate-authority": str(ca_file)}}],
        "users": [{"name": name, "user": dict(user)}],
    }
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.touch(mode=0o600)
    part.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return part.replace(path)
