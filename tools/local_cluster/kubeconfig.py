"""Write kubeconfig files."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, url: str, ca_file: Path, name: str, user: Mapping[str, str]) -> Path:
    """Write a kubeconfig with one cluster and one user, which only the file's owner can read.

    `user` is the value of `users[].user`. A rename puts the finished file in place, because another process can be
    reading the previous one.
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
