"""Test that the manifests of SSE's guide and reference work unchanged."""

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec

from tests.support.certificates import encode_pem_bundle, issue_certificate
from tests.support.cluster.harness import MANAGED_LABEL, TENANT, InstalledRelease, eventually
from tests.support.cluster.sse_cases import (
    ISSUER,
    TODAY,
    covers_rows,
    encode_bundle,
    encode_chain,
    encode_traditional_key,
)
from tools.cli.common import sse_guide
from tools.pods.pod_process import PodProcess


@contextlib.contextmanager
def named_environment(
    installed: InstalledRelease, namespace: str, account: str, vault: str, client: str
) -> Iterator[None]:
    """Create a namespace, a vault and an identity with these names. `Namespace` would generate other names."""
    emulator, plane = installed.emulator, installed.plane
    emulator.add_vault(vault, TENANT)
    emulator.add_identity(client, TENANT)
    emulator.federate(client, plane.issuer, f"system:serviceaccount:{namespace}:{account}")
    for role in ("Key Vault Reader", "Key Vault Secrets User"):
        emulator.assign_role(client, vault, role)
    plane.kubectl("create", "namespace", namespace)
    yield
    plane.kubectl("delete", "namespace", namespace, "--wait=false")


@covers_rows(
    "guide: ServiceAccount",
    "guide: SecretProviderClass",
    "guide: SecretSync",
    "guide: kubectl get secrets",
    "guide: kubectl get secret -o jsonpath",
)
def test_manifests_of_the_sse_guide_work_unchanged(installed: InstalledRelease, controller: PodProcess) -> None:
    fill = sse_guide.VARIABLES
    namespace, secret = fill["KUBERNETES_NAMESPACE"], fill["KEYVAULT_SECRET_NAME"]
    account, vault, client = (
        fill[name] for name in ("SERVICE_ACCOUNT_NAME", "KEYVAULT_NAME", "USER_ASSIGNED_CLIENT_ID")
    )
    kubectl = installed.plane.kubectl
    with named_environment(installed, namespace, account, vault, client):
        for second, text in enumerate(("Hello!", "Hello2")):
            installed.emulator.set_clock(-10 + second)
            installed.emulator.set_secret(vault, secret, text)
        installed.emulator.set_clock(0)
        for manifest in (sse_guide.SERVICE_ACCOUNT, sse_guide.PROVIDER_CLASS, sse_guide.SECRET_SYNC):
            kubectl("apply", "--filename", "-", stdin=sse_guide.substitute_variables(manifest))
        kubectl("wait", "secretsync", sse_guide.SYNC_NAME, "-n", namespace, "--for=condition=Ready", "--timeout=20s")
        assert sse_guide.SYNC_NAME in kubectl("get", "secrets", "-n", namespace)
        # Run the guide's two commands that show the values of its two `az keyvault secret set` commands.
        for number, text in enumerate(("Hello2", "Hello!")):
            path = f"jsonpath={{.data.v{number}}}"
            encoded = kubectl("get", "secret", sse_guide.SYNC_NAME, "-n", namespace, "-o", path)
            assert base64.b64decode(encoded).decode() == text
        found = json.loads(kubectl("get", "secret", sse_guide.SYNC_NAME, "-n", namespace, "-o", "json"))
        assert (found["type"], found["metadata"]["labels"], len(found["data"])) == ("Opaque", MANAGED_LABEL, 2)
        (owner,) = found["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("SecretSync", sse_guide.SYNC_NAME)
        assert "blockOwnerDeletion" not in owner


@covers_rows(
    "AKVSync: manifest",
    "AKVSync: secretInAKV",
    "AKVSync: certInAKV",
    "AKVSync: mapping",
    "AKVSync: kubernetesSecretName",
    "AKVSync: kubernetesSecretType",
    "AKVSync: versionHistory",
    "AKVSync: versionHistory of TLS",
    "AKVSync: version",
    "AKVSync: status of every part",
    "AKVSync: deleting it",
)
def test_akvsync_of_the_sse_reference_works_unchanged(installed: InstalledRelease, controller: PodProcess) -> None:
    spec = msgspec.yaml.decode(sse_guide.AKV_SYNC)["spec"]
    vault, client, emulator = spec["keyvaultName"], spec["clientID"], installed.emulator
    # Replace the placeholder by the emulator's only tenant.
    manifest = sse_guide.AKV_SYNC.replace(spec["tenantID"], TENANT)
    leaves = {
        name: [issue_certificate(name, ISSUER, start=TODAY) for _ in range(2)] for name in ("web", "web-old", "edge")
    }
    with named_environment(installed, "shop", spec["serviceAccountName"], vault, client):
        for second, text in enumerate(("oldest", "old", "new")):
            emulator.set_clock(-10 + second)
            emulator.set_secret(vault, "db-password", text)
            for name, versions in leaves.items():
                if second:
                    emulator.import_certificate(vault, name, encode_pem_bundle(versions[2 - second], ISSUER))
        emulator.set_clock(0)
        for name in ("api-token", "deploy-key", "db-user"):
            emulator.set_secret(vault, name, f"the {name}")
        installed.plane.kubectl("create", "serviceaccount", spec["serviceAccountName"], "--namespace", "shop")
        installed.plane.kubectl("apply", "--filename", "-", stdin=manifest)

        def get(kind: str) -> dict[str, dict[str, Any]]:
            found = json.loads(installed.plane.kubectl("get", kind, "--namespace", "shop", "--output", "json"))
            return {item["metadata"]["name"]: item for item in found["items"]}

        status = eventually(
            lambda: get("akvsync")["shop"].get("status", {}), lambda found: found.get("summary") == "8/8"
        )
        web, old, edge = leaves.values()
        wanted: dict[str, tuple[str, dict[str, str]]] = {
            "api-token": ("Opaque", {"v0": "the api-token"}),
            "db": ("Opaque", {"v0": "new", "v1": "old", "v2": "oldest"}),
            "web": ("kubernetes.io/tls", {"tls.crt": encode_chain(web[0]), "tls.key": encode_traditional_key(web[0])}),
            "web-old": ("Opaque", {"v0": encode_bundle(old[0]), "v1": encode_bundle(old[1])}),
            "edge-v0": (
                "kubernetes.io/tls",
                {"tls.crt": encode_chain(edge[0]), "tls.key": encode_traditional_key(edge[0])},
            ),
            "edge-v1": (
                "kubernetes.io/tls",
                {"tls.crt": encode_chain(edge[1]), "tls.key": encode_traditional_key(edge[1])},
            ),
            "deploy-key": ("kubernetes.io/ssh-auth", {"ssh-privatekey": "the deploy-key"}),
            "bundle": ("Opaque", {"user": "the db-user", "previous": "old", "chain": encode_bundle(web[0])}),
        }
        secrets = get("secrets")
        assert {
            name: (item["type"], {key: base64.b64decode(text).decode() for key, text in item["data"].items()})
            for name, item in secrets.items()
        } == wanted
        assert secrets["db"]["metadata"]["labels"] == MANAGED_LABEL | {"tier": "data"}
        assert secrets["db"]["metadata"]["annotations"] == {"note": "rotated-weekly"}
        assert {part["name"]: part["ready"] for part in status["parts"]} == dict.fromkeys(wanted, True)
        installed.plane.kubectl("delete", "akvsync", "shop", "--namespace", "shop")
        eventually(lambda: [*get("secretsync"), *get("secretproviderclass"), *get("secrets")], lambda left: not left)
