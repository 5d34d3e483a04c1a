"""Test Secrets of Kubernetes' own types with the keys that each type requires."""

import json

import pytest

from tests.support.cluster.harness import CANARY, eventually
from tests.support.cluster.namespace import Namespace

REGISTRY = {"registry.example": {"username": "u", "password": CANARY, "auth": "dTpw"}}


@pytest.mark.parametrize(
    ("kind", "keys", "text"),
    [
        ("kubernetes.io/ssh-auth", ["ssh-privatekey"], CANARY),
        ("kubernetes.io/basic-auth", ["username"], CANARY),
        ("kubernetes.io/basic-auth", ["password", "more"], CANARY),
        ("kubernetes.io/dockercfg", [".dockercfg"], json.dumps(REGISTRY)),
        ("kubernetes.io/dockerconfigjson", [".dockerconfigjson"], json.dumps({"auths": REGISTRY})),
    ],
)
def test_secret_of_each_kubernetes_type_is_written(space: Namespace, kind: str, keys: list[str], text: str) -> None:
    space.installed.emulator.set_secret(space.vault, "a", text)
    space.apply(space.provider_class("a"), space.sync("s", dict.fromkeys(keys, "a"), secretObject={"type": kind}))
    eventually(lambda: space.secret_values("s"), lambda found: found == dict.fromkeys(keys, text))
    assert space.get("secret", "s")["type"] == kind
