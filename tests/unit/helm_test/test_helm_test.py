"""Test the waits and the verdict of `helm test` in virtual time, with a scripted API server."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
import pytest

from controller import errors
from controller.api.conditions import Reason
from controller.kube.client import KubeClient
from tests.support.virtual_time import run_virtual
from tools.helm_test.sample import CLOUD_SECONDS, KEY, SYNC_SECONDS, FailedError, SampleObjects
from tools.helm_test.settings import ReleaseTestSettings
from tools.helm_test.vaults import OwnVault, UsersVault, Vault
from tools.keyvault_emulator import Emulator

SETTINGS = ReleaseTestSettings(
    namespace="home", deployment="d", name="n", pod_ip="::1", sample_namespace="shop", service_account="sa"
)


class EmulatorStandIn:
    """Keeps the value that it is given."""

    value = ""

    def set_secret(self, vault: str, name: str, value: str) -> None:
        self.value = value


class Cluster:
    """A SecretSync whose status, and a Secret whose value, are functions of time; every nudge is counted."""

    def __init__(self, says: Callable[[float], str], holds: Callable[[float], bytes | None]) -> None:
        self.says, self.holds = says, holds
        self.clock: Callable[[], float] = lambda: 0.0
        self.nudges = 0

    async def call(self, method: str, path: str, **_: Any) -> bytes:
        if path.endswith("/secrets/n"):
            value = self.holds(self.clock())
            if value is None:
                raise errors.NotFound("no")
            return msgspec.json.encode({"data": {KEY: base64.b64encode(value).decode()}})
        self.nudges += method == "PATCH"
        return msgspec.json.encode(sync(self.says(self.clock())))


def sync(reason: str) -> Mapping[str, Any]:
    condition = {"type": "Ready", "status": "False", "reason": reason, "message": "why", "lastTransitionTime": ""}
    return {
        "metadata": {"name": "n", "namespace": "shop", "generation": 1},
        "spec": {"secretProviderClassName": "n", "serviceAccountName": "sa", "secretObject": {"type": "", "data": []}},
        "status": {"conditions": [condition], "observedGeneration": 1} if reason else {},
    }


def waits(cluster: Cluster, vault: Vault) -> float:
    """Seconds until it has arrived."""

    async def main(clock: Callable[[], float]) -> float:
        cluster.clock = clock
        await SampleObjects(cast("KubeClient", cluster), SETTINGS).wait_until_synced(vault)
        return clock()

    return run_virtual(main)


def own() -> tuple[OwnVault, EmulatorStandIn]:
    emulator = EmulatorStandIn()
    vault = OwnVault(cast("Emulator", emulator))
    vault.put()
    return vault, emulator


def test_sync_is_retried_until_the_kubelet_has_delivered_the_cloud() -> None:
    vault, emulator = own()
    late = CLOUD_SECONDS - 10
    cluster = Cluster(
        lambda now: Reason.SPC_ERROR if now < late else Reason.WRITTEN,
        lambda now: emulator.value.encode() if now > late + 5 else None,
    )
    assert waits(cluster, vault) == pytest.approx(late + 6, abs=1)
    assert cluster.nudges > 100


@pytest.mark.parametrize(
    ("reason", "seconds", "says"),
    [
        (Reason.SPC_ERROR, CLOUD_SECONDS, "the SecretSync's status is ControllerSpcError: why"),
        (Reason.PROVIDER_ERROR, SYNC_SECONDS, "the SecretSync's status is ProviderError: why"),
        ("", SYNC_SECONDS, "the controller has written no status of the SecretSync"),
    ],
)
def test_missing_result_is_reported_with_the_status_message(reason: str, seconds: float, says: str) -> None:
    vault, emulator = own()
    cluster = Cluster(lambda _: reason, lambda _: emulator.value.strip().encode())
    with pytest.raises(
        FailedError, match=rf"^the Secret shop/n does not equal the vault after {seconds + 1:.0f} s: {says}$"
    ):
        waits(cluster, vault)


def test_invalid_user_class_ends_the_test_at_once() -> None:
    vault = UsersVault(SETTINGS)
    with pytest.raises(FailedError, match=rf"after {SYNC_SECONDS + 1:.0f} s"):
        waits(Cluster(lambda _: Reason.SPC_ERROR, lambda _: None), vault)


def test_each_version_of_its_own_vault_is_another_and_every_byte_counts() -> None:
    vault, emulator = own()
    first = emulator.value.encode()
    assert vault.is_equal(first)
    assert not vault.is_equal(first.strip())
    vault.put()
    assert not vault.is_equal(first)


@pytest.mark.parametrize(
    ("sha256", "equal"),
    [("", True), (hashlib.sha256(b"x").hexdigest().upper(), True), (hashlib.sha256(b"y").hexdigest(), False)],
)
def test_user_value_is_compared_only_by_its_digest(sha256: str, equal: bool) -> None:
    assert UsersVault(msgspec.structs.replace(SETTINGS, sha256=sha256)).is_equal(b"x") is equal
