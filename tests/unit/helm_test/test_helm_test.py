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


class FakeEmulator:
    """A fake emulator that keeps the last value."""

    value = ""

    def set_secret(self, vault: str, name: str, value: str) -> None:
        self.value = value


class FakeCluster:
    """A fake Kubernetes API. The reason in the SecretSync's status and the Secret's value are functions of time.

    It counts the patches of the SecretSync.
    """

    def __init__(self, reason_at: Callable[[float], str], value_at: Callable[[float], bytes | None]) -> None:
        self.reason_at, self.value_at = reason_at, value_at
        self.clock: Callable[[], float] = lambda: 0.0
        self.patch_count = 0

    async def call(self, method: str, path: str, **_: Any) -> bytes:
        if path.endswith("/secrets/n"):
            value = self.value_at(self.clock())
            if value is None:
                raise errors.NotFound("no")
            return msgspec.json.encode({"data": {KEY: base64.b64encode(value).decode()}})
        self.patch_count += method == "PATCH"
        return msgspec.json.encode(make_sync_object(self.reason_at(self.clock())))


def make_sync_object(reason: str) -> Mapping[str, Any]:
    condition = {"type": "Ready", "status": "False", "reason": reason, "message": "why", "lastTransitionTime": ""}
    return {
        "metadata": {"name": "n", "namespace": "shop", "generation": 1},
        "spec": {"secretProviderClassName": "n", "serviceAccountName": "sa", "secretObject": {"type": "", "data": []}},
        "status": {"conditions": [condition], "observedGeneration": 1} if reason else {},
    }


def measure_wait(cluster: FakeCluster, vault: Vault) -> float:
    """Return the seconds until the Secret has the value of the vault."""

    async def main(clock: Callable[[], float]) -> float:
        cluster.clock = clock
        await SampleObjects(cast("KubeClient", cluster), SETTINGS).wait_until_synced(vault)
        return clock()

    return run_virtual(main)


def make_own_vault() -> tuple[OwnVault, FakeEmulator]:
    emulator = FakeEmulator()
    vault = OwnVault(cast("Emulator", emulator))
    vault.put()
    return vault, emulator


def test_sync_is_retried_until_the_kubelet_has_delivered_the_cloud() -> None:
    vault, emulator = make_own_vault()
    late = CLOUD_SECONDS - 10
    cluster = FakeCluster(
        lambda now: Reason.SPC_ERROR if now < late else Reason.WRITTEN,
        lambda now: emulator.value.encode() if now > late + 5 else None,
    )
    assert measure_wait(cluster, vault) == pytest.approx(late + 6, abs=1)
    assert cluster.patch_count > 100


@pytest.mark.parametrize(
    ("reason", "seconds", "cause"),
    [
        (Reason.SPC_ERROR, CLOUD_SECONDS, "the SecretSync's status is ControllerSpcError: why"),
        (Reason.PROVIDER_ERROR, SYNC_SECONDS, "the SecretSync's status is ProviderError: why"),
        ("", SYNC_SECONDS, "the controller has written no status of the SecretSync, which jitterSeconds delays, too"),
    ],
)
def test_missing_result_is_reported_with_the_status_message(reason: str, seconds: float, cause: str) -> None:
    vault, emulator = make_own_vault()
    cluster = FakeCluster(lambda _: reason, lambda _: emulator.value.strip().encode())
    with pytest.raises(
        FailedError, match=rf"^the Secret shop/n does not equal the vault after {seconds + 1:.0f} s: {cause}$"
    ):
        measure_wait(cluster, vault)


def test_invalid_user_class_ends_the_test_at_once() -> None:
    vault = UsersVault(SETTINGS)
    with pytest.raises(FailedError, match=rf"after {SYNC_SECONDS + 1:.0f} s"):
        measure_wait(FakeCluster(lambda _: Reason.SPC_ERROR, lambda _: None), vault)


def test_each_put_changes_the_value_and_every_byte_is_compared() -> None:
    vault, emulator = make_own_vault()
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
