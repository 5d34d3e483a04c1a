"""The vault from which a test reads: an emulator in the test's own pod, or an existing vault of the user."""

import contextlib
import hashlib
import json
import secrets
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from controller import errors
from controller.config.settings import TEST_CLOUD
from controller.kube.client import KubeClient
from tools.helm_test import permissions
from tools.helm_test.settings import CLOUDS_FILE, VAULT_PORT, ReleaseTestSettings
from tools.keyvault_emulator import Emulator

VAULT = "helm-test"
OBJECT = "sample"
TENANT = "00000000-0000-0000-0000-00000000000a"
CLIENT = "00000000-0000-0000-0000-000000000001"


class OwnVault:
    """An emulator that this process runs. The controller knows its cloud and trusts its CA only during the test."""

    # The class names a cloud that the controller does not know before the kubelet has updated the ConfigMap's file.
    is_new = True
    rotates = True
    object = OBJECT

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._value = ""
        self.parameters = {
            "cloudName": TEST_CLOUD,
            "keyvaultName": VAULT,
            "clientID": CLIENT,
            "tenantID": TENANT,
            "objects": list_secret(OBJECT),
        }

    def put(self) -> None:
        """Write the next version of the secret. Wrong quoting or encoding would change characters of its value."""
        self._value = f" {secrets.token_urlsafe(24)}\n\t'\"\\ $(x) {{{{ }}}} é € \U0001f511\r\n "
        self._emulator.set_secret(VAULT, OBJECT, self._value)

    def is_equal(self, found: bytes) -> bool:
        """Return whether these are the bytes of the newest version."""
        return found == self._value.encode()


class UsersVault:
    """An existing Key Vault, which the test reads with an existing identity. The test changes nothing in it."""

    is_new = False
    rotates = False

    def __init__(self, settings: ReleaseTestSettings) -> None:
        self.object = settings.secret_name
        self._sha256 = settings.sha256.lower()
        self.parameters = {
            "keyvaultName": settings.keyvault_name,
            "clientID": settings.client_id,
            "tenantID": settings.tenant_id,
            "objects": list_secret(settings.secret_name),
        }

    def put(self) -> None:
        """Write nothing, because the vault belongs to the user."""

    def is_equal(self, found: bytes) -> bool:
        """Return whether these bytes have the SHA-256 in the chart's values. Without a SHA-256, any value passes."""
        return not self._sha256 or hashlib.sha256(found).hexdigest() == self._sha256


Vault = OwnVault | UsersVault


def list_secret(name: str) -> str:
    """Return `parameters.objects` of a SecretProviderClass with one secret."""
    return f"array:\n  - |\n    objectName: {name}\n    objectType: secret\n"


@contextlib.asynccontextmanager
async def open_vault(kube: KubeClient, settings: ReleaseTestSettings) -> AsyncIterator[Vault]:
    """Yield the vault of the chart's values. Afterwards, stop the test's own vault and end the trust in it."""
    if settings.keyvault_name:
        yield UsersVault(settings)
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        Emulator(Path(folder), address=settings.pod_ip, port=VAULT_PORT) as emulator,
    ):
        await _add_credential(kube, settings, emulator)
        try:
            await _write_config(kube, settings, {CLOUDS_FILE: json.dumps({TEST_CLOUD: emulator.cloud})})
            yield OwnVault(emulator)
        finally:
            await _write_config(kube, settings, None)


async def _add_credential(kube: KubeClient, settings: ReleaseTestSettings, emulator: Emulator) -> None:
    """Configure the emulator as SSE's guide configures Azure.

    The cluster's signing keys come from its API server, because the pod possibly cannot reach the issuer's public
    address.
    """
    issuer = (await _read_document(kube, "/.well-known/openid-configuration"))["issuer"]
    emulator.trust_issuer(issuer, None, jwks=await _read_document(kube, "/openid/v1/jwks"))
    emulator.add_vault(VAULT, TENANT)
    emulator.add_identity(CLIENT, TENANT)
    emulator.federate(CLIENT, issuer, f"system:serviceaccount:{settings.sample_namespace}:{settings.service_account}")
    emulator.assign_role(CLIENT, VAULT)


async def _read_document(kube: KubeClient, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await kube.call("GET", path, accept="*/*"))
    return found


async def _write_config(kube: KubeClient, settings: ReleaseTestSettings, data: dict[str, str] | None) -> None:
    """Write the data of the ConfigMap that the controller mounts. If the ConfigMap is gone, so is its cloud."""
    try:
        before = await permissions.CLOUDS.get(kube, settings.namespace, settings.name)
        await permissions.CLOUDS.merge(kube, before, {"data": data})
    except errors.NotFound:
        if data:
            raise
