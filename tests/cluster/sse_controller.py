"""SSE's own controller, as far as a Secret tells of it."""

import base64
import json
from collections.abc import Mapping

from tests.cluster.world import LABEL, Namespace, value
from tools.handover import SSE_MANAGER


def apply_as_sse(space: Namespace, name: str, values: Mapping[str, str]) -> None:
    """Makes or changes the Secret of a SecretSync as SSE does: by a server-side apply, without force."""
    sync = space.get("secretsync", name)
    owner = {"apiVersion": sync["apiVersion"], "kind": "SecretSync", "name": name, "uid": sync["metadata"]["uid"]}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": LABEL, "ownerReferences": [owner]},
        "type": "Opaque",
        "data": {key: base64.b64encode(value(text).encode()).decode() for key, text in values.items()},
    }
    arguments = ["apply", "--server-side", f"--field-manager={SSE_MANAGER}", "--filename", "-"]
    space.kubectl(*arguments, stdin=json.dumps(secret))
