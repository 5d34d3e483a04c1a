"""Test failed connections to a vault, most of them on loopback, and the message for each."""

import gzip
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from azure.core.exceptions import AzureError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import HttpRequest

from controller.errors import NotLeading
from controller.keyvault.resolver import FairResolver
from controller.keyvault.transport import (
    MAX_ANSWER,
    MAX_HOSTS,
    explain_connection,
    new_session,
    new_transport,
    proxy_for,
)
from tests.support.scripted_api_server import ScriptedApiServer, ScriptedResponse, run_api_server
from tools.keyvault_emulator.tls import Flaw, LocalAuthority
from tools.local_cluster.pki import ClusterAuthority

VAULT = "Key Vault shop"
CONNECTION_KEY = ConnectionKey("shop.vault.example.com", 443, True, True, None, None, None)


async def catch_error(url: str, ca: str = "", seconds: float = 5) -> AzureError:
    """Return the error of the SDK's transport for a GET of this address."""
    async with new_session(ca) as session:
        with pytest.raises(AzureError) as caught:
            await new_transport(session).send(HttpRequest("GET", url), connection_timeout=seconds, read_timeout=seconds)
    return caught.value


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClusterAuthority:
    return ClusterAuthority(tmp_path_factory.mktemp("pki"), "vaults")


@pytest.fixture
async def vault(authority: ClusterAuthority) -> AsyncIterator[ScriptedApiServer]:
    pair = authority.issue("server", user="server", hosts=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    async with run_api_server(tls) as server:
        yield server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


# Real failures


@pytest.mark.parametrize("has_own_ca", [False, True], ids=["system roots", "caBundle"])
async def test_certificate_of_an_unknown_authority_is_reported(
    vault: ScriptedApiServer, has_own_ca: bool, tmp_path: Path
) -> None:
    ca = ClusterAuthority(tmp_path, "another").pair.cert.read_text() if has_own_ca else ""
    text = explain_connection(await catch_error(vault.url, ca), VAULT)
    assert text.startswith(f"{VAULT}: the TLS certificate is not trusted")
    assert "chart's `caBundle`" in text
    assert not vault.requests


async def test_authority_of_the_cloud_is_trusted(vault: ScriptedApiServer, authority: ClusterAuthority) -> None:
    vault.add_responses(ScriptedResponse(b"yes"))
    async with new_session(authority.pair.cert.read_text()) as session:
        response = await new_transport(session).send(HttpRequest("GET", vault.url))
        await response.load_body()
    assert response.status_code == 200
    assert vault.requests[0].path == "/"


async def test_endless_answer_does_not_fill_the_memory(vault: ScriptedApiServer, authority: ClusterAuthority) -> None:
    """Send 100 MB, because a pod with 256 MiB could not hold two such answers."""
    part = b"x" * 2**16
    vault.add_responses(ScriptedResponse([part] * (100 * 16)), ScriptedResponse(b"yes"))
    async with new_session(authority.pair.cert.read_text()) as session:
        transport, request = new_transport(session), HttpRequest("GET", vault.url)
        tracemalloc.start()
        try:
            with pytest.raises(AzureError):
                await transport.send(request)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4 * MAX_ANSWER
        answer = await transport.send(request)  # the next request uses a new connection
        assert answer.body() == b"yes"
    assert {request.headers["Accept-Encoding"] for request in vault.requests} == {
        "identity"
    }  # the SDK decompresses without a limit


async def test_failed_check_prevents_the_request(vault: ScriptedApiServer, authority: ClusterAuthority) -> None:
    def check() -> None:
        raise NotLeading("another leads")

    async with new_session(authority.pair.cert.read_text()) as session:
        with pytest.raises(NotLeading):
            await new_transport(session, check).send(HttpRequest("GET", vault.url))
    assert not vault.requests


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_certificate_for_another_name_is_reported(host: str, tmp_path: Path) -> None:
    authority = LocalAuthority(tmp_path)
    async with run_api_server(authority.server_context(tmp_path, [], "wrong-name")) as server:
        error = await catch_error(server.url.replace("127.0.0.1", host), authority.file.read_text())
    assert explain_connection(error, VAULT) == (
        f"{VAULT}: the TLS certificate is for another name; check which server the cluster's DNS or a proxy connects to"
    )


async def test_server_without_tls_is_reported() -> None:
    async with run_api_server() as server:
        error = await catch_error(server.url.replace("http://", "https://"))
    assert explain_connection(error, VAULT) == (
        f"{VAULT}: the TLS handshake failed; check which server the cluster's DNS or a proxy connects to"
    )


@pytest.mark.parametrize("flaw", ["expired", "not-yet-valid"])
async def test_certificate_outside_its_valid_time_is_reported(flaw: Flaw, tmp_path: Path) -> None:
    """A node without a battery has the wrong time after a power failure."""
    authority = LocalAuthority(tmp_path)
    async with run_api_server(authority.server_context(tmp_path, ["127.0.0.1"], flaw)) as server:
        text = explain_connection(await catch_error(server.url, authority.file.read_text()), VAULT)
    assert text == (
        f"{VAULT}: the TLS certificate is outside its valid time; check the clock of the cluster's nodes, and a proxy's"
        " certificate if one inspects TLS"
    )


@pytest.mark.parametrize("unreachable", [[], [(socket.AF_INET, "127.0.0.9")]], ids=["IPv6 only", "IPv4 unreachable"])
async def test_vault_is_reached_by_ipv6(unreachable: list[tuple[int, str]], authority: ClusterAuthority) -> None:
    pair = authority.issue("server6", user="server", hosts=["shop.vault.example.com"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    async with run_api_server(tls, "::1") as server:
        server.add_responses(ScriptedResponse(b"yes"))
        port = urlsplit(server.url).port

        def resolve(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
            assert host == "shop.vault.example.com"
            found = [*unreachable, (socket.AF_INET6, "::1")]
            return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in found]

        async with new_session(authority.pair.cert.read_text(), FairResolver(resolve)) as session:
            request = HttpRequest("GET", f"https://shop.vault.example.com:{port}")
            response = await new_transport(session).send(request)
    assert (response.status_code, [request.path for request in server.requests]) == (200, ["/"])


async def test_closed_port_is_reported() -> None:
    async with run_api_server() as server:
        url = server.url
    text = explain_connection(await catch_error(url), VAULT)
    assert text == f"{VAULT} cannot be reached (ClientConnectorError); the controller tries again by itself"


async def test_missing_answer_is_reported_as_a_timeout(vault: ScriptedApiServer, authority: ClusterAuthority) -> None:
    error = await catch_error(vault.url, authority.pair.cert.read_text(), seconds=0.1)
    assert explain_connection(error, VAULT) == f"{VAULT} did not answer in time; check the route and firewall to it"


async def test_missing_proxy_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_api_server() as server:
        url = server.url
    monkeypatch.setenv("HTTPS_PROXY", url)
    text = explain_connection(await catch_error("https://shop.vault.example.com"), VAULT)
    assert "the proxy refuses the connection; check HTTPS_PROXY" in text


async def test_proxy_that_refuses_the_connection_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_api_server() as proxy:
        proxy.add_responses(ScriptedResponse(b"", status=407))
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        text = explain_connection(await catch_error("https://shop.vault.example.com"), VAULT)
    assert "the proxy refuses the connection; check HTTPS_PROXY" in text


# Failures that loopback cannot cause


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (
            aiohttp.ClientConnectorDNSError(CONNECTION_KEY, OSError(-2, "Name or service not known")),
            ["shop.vault.example.com does not resolve", "DNS"],
        ),
        (
            aiohttp.ClientConnectorDNSError(CONNECTION_KEY, OSError(24, "Too many open files")),
            ["no more files", "nofile"],
        ),
        (aiohttp.ClientConnectorError(CONNECTION_KEY, OSError(23, "Too many open files in system")), ["no more files"]),
        (
            aiohttp.ClientConnectorCertificateError(CONNECTION_KEY, ssl.SSLCertVerificationError("x")),
            ["certificate is not trusted", "caBundle"],
        ),
        (aiohttp.ClientConnectorSSLError(CONNECTION_KEY, ssl.SSLError("x")), ["TLS handshake failed", "proxy"]),
        (aiohttp.ServerTimeoutError(), ["did not answer in time", "firewall"]),
        (TimeoutError(), ["did not answer in time"]),
        (aiohttp.ServerDisconnectedError(), ["cannot be reached (ServerDisconnectedError)", "tries again"]),
    ],
)
@pytest.mark.parametrize("kind", [ServiceRequestError, ServiceResponseError])
def test_message_for_each_cause_has_a_next_step(cause: Exception, words: list[str], kind: type[AzureError]) -> None:
    text = explain_connection(kind("canary", error=cause), VAULT)
    for word in [VAULT, *words]:
        assert word in text
    assert "canary" not in text


def test_failure_without_a_cause_is_named_by_its_kind() -> None:
    assert "(ServiceRequestError)" in explain_connection(ServiceRequestError("canary"), VAULT)


def test_cause_of_the_error_is_used_without_an_inner_exception() -> None:
    error = ServiceRequestError("x")
    error.inner_exception = None
    error.__cause__ = TimeoutError()
    assert "in time" in explain_connection(error, VAULT)


async def test_invalid_ca_is_refused_before_any_connection() -> None:
    with pytest.raises(ssl.SSLError):
        new_session("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("host", "proxy"),
    [
        ("shop.vault.azure.net", "http://proxy:3128"),
        ("shop.vault.azure.net:443", "http://proxy:3128"),
        ("vault.corp.example", None),
        ("10.0.0.1", None),
        ("10.0.0.2", "http://proxy:3128"),
        ("10.1.255.7", None),
        ("10.1.255.7:8443", None),
        ("10.2.0.1", "http://proxy:3128"),
        ("[fd00::7]:443", None),
        ("[fe00::7]:443", "http://proxy:3128"),
        ("corp.example.org", "http://proxy:3128"),
    ],
)
def test_proxy_is_used_unless_no_proxy_has_the_host(
    host: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.1,.corp.example, 10.1.0.0/16,fd00::/8,no/network")
    assert proxy_for("https", host) == proxy


@pytest.mark.parametrize(
    ("item", "covered", "others"),
    [
        ("*", ["shop.vault.azure.net", "[fd00::1]"], []),
        ("*.corp.example", ["a.corp.example", "a.b.corp.example:8443"], ["acorp.example"]),
        ("Corp.Example", ["CORP.example", "a.corp.example"], ["acorp.example"]),
        ("corp.example.", ["corp.example"], ["example"]),
        ("corp.example:443", ["corp.example", "corp.example:443"], ["corp.example:8443"]),
        ("corp.example:8443", ["corp.example:8443"], ["corp.example"]),
        ("[fd00::1]", ["[fd00::1]", "[fd00::1]:8443"], ["[fd00::2]"]),
        ("[fd00::1]:8443", ["[fd00::1]:8443"], ["[fd00::1]"]),
        ("fd00::1", ["[fd00::1]:8443"], ["[fd00::2]"]),
        ("10.0.0.7/8", ["10.1.2.3"], ["11.0.0.1"]),
        ("", [], ["corp.example"]),
        (".", [], ["corp.example"]),
        ("example/x", [], ["corp.example"]),
        ("10.0.0.0/99", [], ["10.0.0.0"]),
        ("corp.example:port", [], ["corp.example"]),
        ("[fd00::1", [], ["[fd00::1]"]),
    ],
)
def test_forms_of_no_proxy_are_those_of_curl_and_go(
    item: str, covered: list[str], others: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", f"other.example, {item} ")
    assert [host for host in covered + others if proxy_for("https", host) is None] == covered


async def test_direct_transport_uses_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    async with new_session("") as session:
        assert new_transport(session).choose_proxy("https", "10.0.0.1") == "http://proxy:3128"
        assert new_transport(session, direct=True).choose_proxy("https", "10.0.0.1") is None


def test_no_proxy_is_used_without_the_variables() -> None:
    assert proxy_for("https", "shop.vault.azure.net") is None


async def test_cached_proxies_of_hosts_are_bounded() -> None:
    """Use many hosts, because editors choose the names of vaults and so of hosts."""
    async with new_session("") as session:
        transport = new_transport(session)
        for number in range(3 * MAX_HOSTS):
            transport.choose_proxy("https", f"v{number}.vault.azure.net")
        assert transport.choose_proxy.cache_info().currsize == MAX_HOSTS


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x"])
async def test_compressed_answer_is_not_decompressed(encoding: str) -> None:
    """Reject the answer, because the SDK decompresses without a limit."""
    async with run_api_server() as server:
        server.add_responses(ScriptedResponse(gzip.compress(b"0" * 2**20), headers={"Content-Encoding": encoding}))
        error = await catch_error(server.url)
    assert "Key Vault shop sent a compressed answer" in explain_connection(error, VAULT)
