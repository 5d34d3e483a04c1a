"""Build AKVSyncs for tests, and read the SecretSyncs that are generated for them."""

from typing import Any

import msgspec

from controller.api.akvsync import AKVSync
from controller.api.secretsync import SecretSync
from tools.cli.common import sse_guide

EXAMPLE = msgspec.yaml.decode(sse_guide.AKV_SYNC)["spec"]["objects"]


def akv_sync(objects: str | list[dict[str, Any]]) -> AKVSync:
    """Return the AKVSync `team/shop` with these objects."""
    made = {
        "metadata": {"name": "shop", "namespace": "team", "uid": "uid-of-the-akvsync"},
        "spec": {
            "keyvaultName": "shop-vault",
            "clientID": "the-client",
            "tenantID": "the-tenant",
            "serviceAccountName": "robot",
            "objects": msgspec.yaml.decode(objects) if isinstance(objects, str) else objects,
        },
    }
    return msgspec.convert(made, AKVSync)


def source_paths(sync: SecretSync) -> dict[str, str]:
    return {pair.target_key: pair.source_path for pair in sync.spec.secret_object.data}


def type_and_keys(sync: SecretSync) -> tuple[str, dict[str, str]]:
    return sync.spec.secret_object.type, source_paths(sync)
