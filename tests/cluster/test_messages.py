"""For each cause that people meet, the status names it and the next step. The vault's own: test_failures.py."""

import socket
from collections.abc import Iterator

import pytest

from controller.api.conditions import Reason
from tests.cluster.world import Installed, Namespace
from tools.workload import Workload

ONE = {"k": "a"}


def message(space: Namespace, **parameters: str) -> str:
    """What a fresh SecretSync says in the end."""
    space.put("a", "1")
    space.apply(space.provider_class("a", **parameters), space.sync("s", ONE))
    said = space.wait_reason("s", Reason.PROVIDER_ERROR)
    assert space.secret("s") == {}
    return said


@pytest.mark.parametrize(
    ("issuer", "subject", "audience", "words"),
    [
        ("https://another.example", "{right}", None, ["names this cluster's issuer", "issuer {issuer}", "700211"]),
        (
            "{issuer}",
            "system:serviceaccount:other:shop",
            None,
            ["names this ServiceAccount", "subject {right}", "700213"],
        ),
        ("{issuer}", "{shouted}", None, ["letter case", "subject {right}", "7002138"]),
        ("{issuer}", "{right}", "api://other", ["another audience", "audience api://AzureADTokenExchange", "700212"]),
    ],
)
def test_the_federated_credential_does_not_fit(
    space: Namespace, issuer: str, subject: str, audience: str | None, words: list[str]
) -> None:
    emulator, real = space.installed.emulator, space.installed.plane.issuer
    right = f"system:serviceaccount:{space.name}:{space.account}"
    fill = {"issuer": real, "right": right, "shouted": right.replace("shop", "Shop")}
    emulator.unfederate(space.client, real, right)
    more = {"audience": audience} if audience else {}
    emulator.federate(space.client, issuer.format(**fill), subject.format(**fill), **more)
    said = message(space)
    for word in words:
        assert word.format(**fill) in said


def test_the_clock_is_wrong(space: Namespace) -> None:
    space.installed.emulator.set_clock(3600)
    try:
        said = message(space)
    finally:
        space.installed.emulator.set_clock(0)
    assert "set the clock" in said
    assert "700024" in said


def test_the_vaults_name_does_not_resolve(space: Namespace) -> None:
    said = message(space, cloudName="nowhere")
    assert f"the name {space.vault}.invalid does not resolve" in said


def test_a_proxy_inspects_tls(space: Namespace) -> None:
    space.installed.emulator.certificate_flaw("unknown-ca")
    try:
        said = message(space)
    finally:
        space.installed.emulator.certificate_flaw("none")
    assert "certificate is not trusted" in said
    assert "add its CA to the cloud" in said


@pytest.fixture
def refusing_proxy() -> Iterator[str]:
    """An address on which nobody listens; the port is held meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_proxy_refuses(installed: Installed, space: Namespace, refusing_proxy: str) -> None:
    space.put("a", "1")
    settings = {"WATCH_NAMESPACES": space.name, "CONTROLLER_NAME": "proxied", "LEASE_NAME": ""}
    workload = installed.workload(**settings, HTTPS_PROXY=refusing_proxy)
    installed.logs.append(workload.log)
    with workload:
        workload.wait_ready()
        space.apply(space.provider_class("a"), space.sync("s", ONE, secretSyncControllerName="proxied"))
        said = space.wait_reason("s", Reason.PROVIDER_ERROR)
        assert workload.stop() == 0
    assert "the proxy refuses the connection" in said
    assert "HTTPS_PROXY" in said


def test_a_redirect_is_not_followed(space: Namespace, controller: Workload) -> None:
    elsewhere = f"{space.installed.emulator.url}/elsewhere/secrets/a"
    space.installed.emulator.add_vault("elsewhere", "00000000-0000-0000-0000-00000000000a")
    space.installed.emulator.fail(status=307, where=space.vault, headers={"Location": elsewhere})
    said = message(space)
    assert "HTTP 307" in said
    assert not any(name.startswith("elsewhere/") for name in space.installed.emulator.counters())
