"""The sample: a SecretProviderClass, a SecretSync, and the Secret that the controller creates from them."""

import asyncio
import base64
import contextlib
import secrets
from typing import Any, TypeVar

import msgspec

from controller import errors
from controller.api.conditions import Condition, ConditionType, Reason
from controller.api.meta import ObjectMeta, OwnerReference, Resource
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.kube.client import KubeClient
from controller.kube.resources import DeleteAccess, GetAccess
from tools.helm_test import permissions
from tools.helm_test.settings import ReleaseTestSettings
from tools.helm_test.vaults import Vault

KEY = "value"
# The kubelet updates the file with the test's cloud about once a minute. The test waits this many seconds for it.
CLOUD_SECONDS = 150.0
# Seconds to wait for all other steps: a sync, a sync of the next version, the garbage collection.
SYNC_SECONDS = 30.0
POLL_SECONDS = 1.0
_NO_STATUS = "the controller has written no status of the SecretSync, which jitterSeconds delays, too"
R = TypeVar("R", bound=Resource)


class FailedError(Exception):
    """The release does not sync as expected. The message describes what the test observed."""


class SampleObjects:
    """The objects of one test, in the namespace that the chart chooses."""

    def __init__(self, kube: KubeClient, settings: ReleaseTestSettings) -> None:
        self._kube = kube
        self._settings = settings
        self._at = settings.sample_namespace, settings.name

    async def create_objects(self, vault: Vault) -> None:
        """Create the SecretProviderClass and the SecretSync. Their owner is the test's Role.

        If the test is killed, they are deleted with that Role: by the next test or by `helm uninstall`.
        """
        role = await permissions.OWNER.get(self._kube, *self._at)
        source = {"provider": "azure", "parameters": vault.parameters}
        await permissions.NEW_CLASS.create(self._kube, self._at[0], _build_object(SecretProviderClass, role, source))
        sync = {
            "secretProviderClassName": self._settings.name,
            "serviceAccountName": self._settings.service_account,
            "secretSyncControllerName": self._settings.controller_name,
            "secretObject": {"type": "Opaque", "data": [{"sourcePath": vault.object, "targetKey": KEY}]},
        }
        await permissions.NEW_SYNC.create(self._kube, self._at[0], _build_object(SecretSync, role, sync))

    async def wait_until_synced(self, vault: Vault) -> None:
        """Wait until the Secret equals the vault. Raise `FailedError` with the SecretSync's status if it does not."""
        began = since = _loop_time()
        while (value := await self._read_value()) is None or not vault.is_equal(value):
            sync = await permissions.SYNC.get(self._kube, *self._at)
            ready = _ready_message(sync)
            now = _loop_time()
            waits = vault.is_new and ready is not None and ready.reason == Reason.SPC_ERROR
            since = now if waits else since
            if now > (began + CLOUD_SECONDS if waits else since + SYNC_SECONDS):
                status = f"the SecretSync's status is {ready.reason}: {ready.message}" if ready else _NO_STATUS
                raise FailedError(
                    f"the Secret {'/'.join(self._at)} does not equal the vault after {now - began:.0f} s: {status}"
                )
            if ready:
                with contextlib.suppress(errors.Conflict):
                    force = {"spec": {"forceSynchronization": secrets.token_hex(8)}}
                    await permissions.SYNC.merge(self._kube, sync, force)
            await asyncio.sleep(POLL_SECONDS)

    async def _read_value(self) -> bytes | None:
        try:
            secret = await permissions.SECRET.get(self._kube, *self._at)
        except errors.NotFound:
            return None
        return base64.b64decode(secret.data.get(KEY, ""))

    async def remove_objects(self) -> list[str]:
        """Delete the objects of this test or an earlier one. The garbage collector deletes the Secret.

        Return the kinds and names of those that existed.
        """
        deleted = []
        where = "/".join(self._at)
        if await self._delete_object(permissions.SYNC, permissions.SYNC_GONE):
            deleted.append(f"SecretSync {where}")
            deadline = _loop_time() + SYNC_SECONDS
            while await self._read_value() is not None:
                if _loop_time() > deadline:
                    raise FailedError(
                        f"the Secret {where} still exists after its SecretSync was deleted; check its owner"
                    )
                await asyncio.sleep(POLL_SECONDS)
        if await self._delete_object(permissions.CLASS, permissions.CLASS_GONE):
            deleted.append(f"SecretProviderClass {where}")
        return deleted

    async def _delete_object(self, there: GetAccess[R], gone: DeleteAccess[R]) -> bool:
        """Delete an object. Return whether it existed."""
        while True:
            try:
                found = await there.get(self._kube, *self._at)
                await gone.delete(self._kube, found.metadata)
            except errors.NotFound:
                return False
            except errors.Conflict:
                continue  # the controller wrote a status in the meantime
            return True


def _build_object(kind: type[Resource], owner: Resource, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a new object with the owner's name."""
    name = owner.metadata.name
    reference = OwnerReference(api_version=owner.api_version(), kind=owner.kind, name=name, uid=owner.metadata.uid)
    metadata = msgspec.to_builtins(ObjectMeta(name=name, owner_references=[reference]))
    return {"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": metadata, "spec": spec}


def _ready_message(sync: SecretSync) -> Condition | None:
    """Return the condition Ready if the status belongs to the SecretSync's latest edit, or None."""
    if sync.status.observed_generation != sync.metadata.generation:
        return None
    return next((each for each in sync.status.conditions if each.type == ConditionType.READY), None)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
