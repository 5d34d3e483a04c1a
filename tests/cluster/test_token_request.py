"""Test that `tokenRequest.serviceAccounts` limits the controller, and a thief of its token, to the listed accounts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from controller.api.conditions import Reason
from controller.config.settings import TOKEN_AUDIENCE, TOKEN_SECONDS
from tests.support.cluster.harness import InstalledRelease, create_object, install_release, running_controller
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.token_thief import TokenThief
from tools.cli.common import helm
from tools.cli.doctor import doctor
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.pods.pod_process import PodProcess

pytestmark = pytest.mark.own_plane

LISTED, OTHER = "listed-shop", "unlisted-shop"


@dataclass
class ClusterWithoutRelease:
    """A cluster and its vaults before the installation. The chart's Roles need the namespaces to exist."""

    plane: ControlPlane
    emulator: Emulator


@pytest.fixture(scope="module")
def namespaces(plane: ControlPlane, emulator: Emulator) -> Iterator[dict[str, Namespace]]:
    found = {name: Namespace(ClusterWithoutRelease(plane, emulator), name) for name in (LISTED, OTHER)}
    yield found
    for space in found.values():
        space.remove()


@pytest.fixture(scope="module")
def installed(
    plane: ControlPlane,
    emulator: Emulator,
    namespaces: dict[str, Namespace],
    tmp_path_factory: pytest.TempPathFactory,
) -> InstalledRelease:
    settings = {"serviceAccounts": [f"{LISTED}/shop", "everywhere"]}
    return install_release(plane, emulator, tmp_path_factory.mktemp("release"), helm.RELEASE, tokenRequest=settings)


@pytest.fixture(scope="module")
def controller(installed: InstalledRelease) -> Iterator[PodProcess]:
    with running_controller(installed.workload()) as workload:
        yield workload


@pytest.fixture(scope="module")
def spaces(
    installed: InstalledRelease, controller: PodProcess, namespaces: dict[str, Namespace]
) -> dict[str, Namespace]:
    """Provide two namespaces with the same federated ServiceAccounts.

    The chart's values list `shop` in the first namespace, and `everywhere` in every namespace.
    """
    for name, space in namespaces.items():
        space.set_secret("a", "1")
        create_object(installed.plane, f"namespaces/{name}/serviceaccounts", "everywhere")
        subject = f"system:serviceaccount:{name}:everywhere"
        installed.emulator.federate(space.client, installed.plane.issuer, subject)
        syncs = (space.sync(account, {"k": "a"}, serviceAccountName=account) for account in ("shop", "everywhere"))
        space.apply(space.provider_class("a"), *syncs)
    return namespaces


def test_listed_accounts_sync_and_others_get_the_setting_in_the_status(spaces: dict[str, Namespace]) -> None:
    for space, name in ((spaces[LISTED], "shop"), (spaces[LISTED], "everywhere"), (spaces[OTHER], "everywhere")):
        space.wait_secret(name, {"k": "1"})
    message = spaces[OTHER].wait_reason("shop", Reason.PROVIDER_ERROR)
    assert f"may not request a token of ServiceAccount shop in namespace {OTHER}" in message
    assert "tokenRequest.serviceAccounts" in message
    assert spaces[OTHER].secret_values("shop") == {}


def test_stolen_token_gets_tokens_of_listed_accounts_only(
    installed: InstalledRelease, spaces: dict[str, Namespace]
) -> None:
    _, _, home, account = installed.user.split(":")
    thief = TokenThief(installed.plane, home, account)
    spec = {"audiences": [TOKEN_AUDIENCE], "expirationSeconds": TOKEN_SECONDS}

    def request_token(namespace: str, name: str) -> int:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return thief.send("POST", path, body).status

    assert request_token(LISTED, "shop") == 201
    assert request_token(OTHER, "everywhere") == 201
    for namespace, name in ((OTHER, "shop"), (LISTED, "default"), (OTHER, "default"), (home, "default")):
        assert request_token(namespace, name) == 403, (namespace, name)


def test_doctor_names_the_missing_permission(
    installed: InstalledRelease, spaces: dict[str, Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    def list_missing_permissions(namespace: str) -> list[str]:
        words = ["--namespace", namespace, "--kubeconfig", str(installed.plane.kubeconfig), "-o", "json"]
        doctor.main(words)
        checks = json.loads(capsys.readouterr().out)["checks"]
        return [f"{check['subject']} {check['fix']}" for check in checks if check["name"] == "right"]

    assert list_missing_permissions(LISTED) == []
    assert list_missing_permissions(OTHER) == [
        f"{OTHER}/shop add {OTHER}/shop to the chart's tokenRequest.serviceAccounts"
    ]
