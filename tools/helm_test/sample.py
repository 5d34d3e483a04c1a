"""The sample: a SecretProviderClass, a SecretSync, and the Secret that comes of them."""

import asyncio
import base64
import contextlib
import secrets
from typing import Any, TypeVar

from controller import errors
from controller.api.conditions import Condition, ConditionType, Reason
from controller.api.meta import Resource
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.kube.client import KubeClient
from controller.kube.resources import DeleteAccess, GetAccess
from tools.helm_test import permissions
from tools.helm_test.settings import ReleaseTestSettings
from tools.helm_test.vaults import Vault

KEY = "value"
# Seconds that the kubelet may take to bring the test's cloud to the controller: it looks about once a minute.
CLOUD_SECONDS = 150.0
# Seconds for everything else: to sync, to rotate, to be collected.
SYNC_SECONDS = 30.0
BETWEEN_LOOKS = 1.0
_SILENCE = "the controller says nothing of its SecretSync"
R = TypeVar("R", bound=Resource)


class FailedError(Exception):
    """The release does not do what it should; the message says what was seen."""


class SampleObjects:
    """The objects of one test, in the namespace that the chart gives it."""

    def __init__(self, kube: KubeClient, settings: ReleaseTestSettings) -> None:
        self._kube = kube
        self._settings = settings
        self._at = settings.sample_namespace, settings.name

    async def make(self, vault: Vault) -> None:
        """The class and the SecretSync."""
        source = {"provider": "azure", "parameters": vault.parameters}
        await permissions.NEW_CLASS.create(self._kube, self._at[0], self._build_object(SecretProviderClass, source))
        sync = {
            "secretProviderClassName": self._settings.name,
            "serviceAccountName": self._settings.service_account,
            "secretSyncControllerName": self._settings.controller_name,
            "secretObject": {"type": "Opaque", "data": [{"sourcePath": vault.object, "targetKey": KEY}]},
        }
        await permissions.NEW_SYNC.create(self._kube, self._at[0], self._build_object(SecretSync, sync))

    def _build_object(self, kind: type[Resource], spec: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": self._settings.name}
        return {"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": metadata, "spec": spec}

    async def arrives(self, vault: Vault) -> None:
        """Waits until the Secret equals the vault. `FailedError` with the controller's own word where it does not."""
        began = since = _now_text()
        while (value := await self._read_value()) is None or not vault.is_equal(value):
            sync = await permissions.SYNC.get(self._kube, *self._at)
            ready = _ready_message(sync)
            now = _now_text()
            waits = vault.is_new and ready is not None and ready.reason == Reason.SPC_ERROR
            since = now if waits else since
            if now > (began + CLOUD_SECONDS if waits else since + SYNC_SECONDS):
                says = f"the SecretSync says {ready.reason}: {ready.message}" if ready else _SILENCE
                raise FailedError(
                    f"the Secret {'/'.join(self._at)} does not equal the vault after {now - began:.0f} s: {says}"
                )
            if ready:
                with contextlib.suppress(errors.Conflict):
                    force = {"spec": {"forceSynchronization": secrets.token_hex(8)}}
                    await permissions.SYNC.merge(self._kube, sync, force)
            await asyncio.sleep(BETWEEN_LOOKS)

    async def _read_value(self) -> bytes | None:
        try:
            secret = await permissions.SECRET.get(self._kube, *self._at)
        except errors.NotFound:
            return None
        return base64.b64decode(secret.data.get(KEY, ""))

    async def remove(self) -> None:
        """Deletes what this test, or one before it, made; the garbage collector takes the Secret away."""
        if await self._delete_object(permissions.SYNC, permissions.SYNC_GONE):
            deadline = _now_text() + SYNC_SECONDS
            while await self._read_value() is not None:
                if _now_text() > deadline:
                    raise FailedError(f"the Secret {'/'.join(self._at)} outlives its SecretSync; see who owns it")
                await asyncio.sleep(BETWEEN_LOOKS)
        await self._delete_object(permissions.CLASS, permissions.CLASS_GONE)

    async def _delete_object(self, there: GetAccess[R], gone: DeleteAccess[R]) -> bool:
        """Whether it was there."""
        while True:
            try:
                found = await there.get(self._kube, *self._at)
                await gone.delete(self._kube, found.metadata)
            except errors.NotFound:
                return False
            except errors.Conflict:
                continue  # the controller wrote a status meanwhile
            return True


def _ready_message(sync: SecretSync) -> Condition | None:
    """What the controller says of the SecretSync as it is now; None where it has not said it yet."""
    if sync.status.observed_generation != sync.metadata.generation:
        return None
    return next((each for each in sync.status.conditions if each.type == ConditionType.READY), None)


def _now_text() -> float:
    return asyncio.get_running_loop().time()
