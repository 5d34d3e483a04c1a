"""Test that canary values of every kind, valid and invalid, appear in no output except the Secrets."""

import base64
import secrets
from typing import Any

import pytest

from controller.api.conditions import Reason
from controller.domain.decode_values import PEM, PFX
from tests.support.certificates import encode_pem_bundle, encode_pfx, generate_key, issue_certificate
from tests.support.cluster.harness import InstalledRelease, eventually
from tests.support.cluster.leaks import find_leaks
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.process_memory import key_fragment
from tools.pods.pod_process import PodProcess

TLS = {"type": "kubernetes.io/tls"}
PAIR = {"tls.crt": "{}/tls.crt", "tls.key": "{}/tls.key"}
PASSWORD = f"canary-{secrets.token_hex(8)}"


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """Use a proxy with a password for requests to other machines. Nothing listens at the proxy's address."""
    return {
        "HTTPS_PROXY": f"http://user:{PASSWORD}@127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
        "LOG_LEVEL": "debug",
        "ROTATION_POLL_INTERVAL": "5",
    }


def test_no_output_contains_a_canary(space: Namespace, installed: InstalledRelease, controller: PodProcess) -> None:
    issuer = issue_certificate("issuer", ca=True)
    leaves = {
        name: issue_certificate("web", issuer, key=generate_key("RSA"))
        for name in ("pem", "pfx", "imported", "strange", "cut")
    }
    marks = {name: secrets.token_hex(12) for name in ("text", "made", "json", "base64", "hex", "large", "key", "old")}
    emulator, vault = installed.emulator, space.vault

    def set_value(name: str, text: str, kind: str | None = None) -> None:
        emulator.set_secret(vault, name, text, content_type=kind)

    set_value("text", marks["old"])
    for name in ("text", "made"):
        set_value(name, marks[name])
    set_value("json", f'{{"auths": "{marks["json"]}"')
    for name in ("base64", "hex"):
        set_value(name, f"!{marks[name]}")
    set_value("large", marks["large"] * 1000)
    set_value("pem", encode_pem_bundle(leaves["pem"], issuer).decode(), PEM)
    set_value("pfx", encode_pfx(leaves["pfx"].key, [leaves["pfx"], issuer]), PFX)
    set_value("strange", leaves["strange"].key_pem + issuer.pem, PEM)
    set_value(
        "cut", base64.b64encode(base64.b64decode(encode_pfx(leaves["cut"].key, [leaves["cut"]]))[:-9]).decode(), PFX
    )
    emulator.import_certificate(vault, "imported", encode_pem_bundle(leaves["imported"], issuer))
    emulator.create_key(vault, "public")
    emulator.assign_role(space.client, vault, "Key Vault Reader")

    names = ["text", "json", "large", "pem", "pfx", "strange", "cut", "imported"]
    items = [f"objectName: {name}\n    objectType: secret\n" for name in names]
    items += [f"objectName: {name}\n    objectType: secret\n    objectEncoding: {name}\n" for name in ("base64", "hex")]
    items += ["objectName: public\n    objectType: key\n"]
    text = "array:\n" + "".join(f"  - |\n    {item}" for item in items)

    def make_pair_sync(name: str) -> dict[str, Any]:
        return space.sync(name, {key: path.format(name) for key, path in PAIR.items()}, secretObject=TLS)

    docker = {"type": "kubernetes.io/dockerconfigjson"}
    large = {f"k{number}": "large" for number in range(50)}
    synced = [space.sync(name, {"k": name}) for name in ("text", "public")]
    synced += [make_pair_sync(name) for name in ("pem", "pfx", "imported")]
    failing = [space.sync(name, {"k": name}) for name in ("base64", "hex")]
    failing += [make_pair_sync("strange"), make_pair_sync("cut"), space.sync("large", large)]
    failing += [space.sync("json", {".dockerconfigjson": "json"}, secretObject=docker)]
    failing += [space.sync("proxied", {"k": "text"}, secretProviderClassName="elsewhere")]
    elsewhere = space.provider_class("text", name="elsewhere", cloudName="nowhere")
    made = space.akv_sync({"secretInAKV": "made", "kubernetesSecretName": "made-secret"})
    space.apply(space.provider_class(objects=text), elsewhere, made, *synced, *failing)

    for item in [*synced, {"metadata": {"name": "made-secret"}}]:
        eventually(lambda item=item: space.secret_values(item["metadata"]["name"]), bool)  # type: ignore[misc]
    for item in failing:
        space.wait_reason(item["metadata"]["name"], Reason.PROVIDER_ERROR, Reason.INPUT_INVALID, Reason.SPC_ERROR)
    assert "proxy" in space.ready_condition("proxied")[1]
    set_value("text", marks["key"])
    eventually(lambda: space.secret_values("text"), lambda found: found == {"k": marks["key"]})

    hidden = [mark.encode() for mark in marks.values()] + [key_fragment(leaf) for leaf in leaves.values()]
    assert find_leaks(installed, controller, [*hidden, PASSWORD.encode()]) == []
