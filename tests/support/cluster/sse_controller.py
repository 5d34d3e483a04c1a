"""Write Secrets as SSE's own controller does."""

import base64
import json
from collections.abc import Mapping

from controller.domain.managed_fields import SSE_MANAGER
from tests.support.cluster.harness import MANAGED_LABEL, canary_value
from tests.support.cluster.namespace import Namespace


def apply_as_sse(space: Namespace, name: str, values: Mapping[str, str]) -> None:
    """Create or change the Secret of a SecretSync as SSE does: by server-side apply, without force."""
    sync = space.get("secretsync", name)
    owner = {"apiVersion": sync["apiVersion"], "kind": "SecretSync", "name": name, "uid": sync["metadata"]["uid"]}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": MANAGED_LABEL, "ownerReferences": [owner]},
        "type": "Opaque",
        "data": {key: base64.b64encode(canary_value(text).encode()).decode() for key, text in values.items()},
    }
    arguments = ["apply", "--server-side", f"--field-manager={SSE_MANAGER}", "--filename", "-"]
    space.kubectl(*arguments, stdin=json.dumps(secret))
