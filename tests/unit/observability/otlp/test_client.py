"""Mutual TLS with a collector, over real connections: accepted and refused certificates, messages, and renewal."""

import asyncio
import contextlib
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controller.observability.otlp import client
from controller.observability.otlp.client import CA, CERTIFICATE, KEY, CollectorClient, UnsentError
from tools.local_cluster.pki import ClusterAuthority, KeyPair


class Collector:
    """A collector that records requests and the serial numbers of the client certificates."""

    def __init__(self) -> None:
        self.answer = [b"{", b"}"]
        self.got: list[tuple[str, str, bytes]] = []
        self.shown: list[int] = []
        self.connections: set[object] = set()

    async def logs(self, request: web.Request) -> web.StreamResponse:
        assert request.transport
        shown = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.shown.append(x509.load_der_x509_certificate(shown).serial_number)
        self.connections.add(request.transport)
        self.got.append((request.path, request.headers["Content-Type"], await request.read()))
        answer = web.StreamResponse(status=429, headers={"Retry-After": "3"})
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client does not read a long answer to its end
            for part in self.answer:
                await answer.write(part)
                await asyncio.sleep(0)
        return answer


def serial(pair: KeyPair) -> int:
    return x509.load_pem_x509_certificate(pair.cert.read_bytes()).serial_number


class ClientHarness:
    """An authority, a collector that requires its certificates, and the folder of a client."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.other = (ClusterAuthority(self.made(folder / name), name) for name in ("ca", "other"))
        self.folder = self.made(folder / "client")
        self.collector = Collector()

    @staticmethod
    def made(folder: Path) -> Path:
        folder.mkdir()
        return folder

    def show(self, pair: KeyPair, trusted: ClusterAuthority) -> None:
        """Write these files into the folder of the client."""
        for source, name in ((pair.cert, CERTIFICATE), (pair.key, KEY), (trusted.pair.cert, CA)):
            shutil.copyfile(source, self.folder / name)

    @contextlib.asynccontextmanager
    async def serving(self, host: str = "", address: str = "127.0.0.1") -> AsyncIterator[CollectorClient]:
        server = self.authority.issue("server", user="collector", hosts=[host or address])
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self.authority.pair.cert))
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_cert_chain(server.cert, server.key)
        app = web.Application()
        app.router.add_post("/v1/logs", self.collector.logs)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, address, 0, ssl_context=tls).start()
        authority = f"[{address}]" if ":" in address else address
        shipping = CollectorClient(f"https://{authority}:{runner.addresses[0][1]}/", self.folder)
        try:
            yield shipping
        finally:
            await shipping.close()
            await runner.cleanup()


@pytest.fixture
def harness(tmp_path: Path) -> ClientHarness:
    return ClientHarness(tmp_path)


async def refused(shipping: CollectorClient) -> str:
    with pytest.raises(UnsentError) as raised:
        await shipping.post_body(b"{}")
    return str(raised.value)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_request_is_sent_with_the_client_certificate(address: str, harness: ClientHarness) -> None:
    own = harness.authority.issue("own", user="controller")
    harness.show(own, harness.authority)
    async with harness.serving(address=address) as shipping:
        answer = await shipping.post_body(b'{"a":1}')
        await shipping.post_body(b"{}")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert answer.body == b"{}"
    assert harness.collector.got == [
        ("/v1/logs", "application/json", b'{"a":1}'),
        ("/v1/logs", "application/json", b"{}"),
    ]
    assert set(harness.collector.shown) == {serial(own)}


async def test_endless_answer_is_read_up_to_a_limit(harness: ClientHarness) -> None:
    harness.show(harness.authority.issue("own", user="controller"), harness.authority)
    harness.collector.answer = [b"x" * 2**14] * 1000
    async with harness.serving() as shipping:
        answer = await shipping.post_body(b"{}")
    assert 2**16 < len(answer.body) < 2**20


@pytest.mark.parametrize("given", ["https://c:4318", "https://c:4318/", "https://c:4318/v1/logs"])
def test_path_of_otlp_is_added_if_it_is_missing(given: str) -> None:
    assert CollectorClient(given, Path()).url == "https://c:4318/v1/logs"


async def test_renewed_client_certificate_is_used_at_once(harness: ClientHarness) -> None:
    pairs = [harness.authority.issue(name, user="controller") for name in ("first", "second")]
    async with harness.serving() as shipping:
        for pair in pairs:
            harness.show(pair, harness.authority)
            await shipping.post_body(b"{}")
        assert harness.collector.shown == [serial(pair) for pair in pairs]
        # The next request trusts only the new CA.
        harness.show(pairs[1], harness.other)
        assert "the collector's certificate is not trusted" in await refused(shipping)
    assert len(harness.collector.got) == 2


async def test_client_certificate_of_another_ca_is_refused(harness: ClientHarness) -> None:
    harness.show(harness.other.issue("stranger", user="controller"), harness.authority)
    async with harness.serving() as shipping:
        said = await refused(shipping)
    assert "the collector ends the connection" in said
    assert f"check that it trusts the CA of {CERTIFICATE}" in said
    assert not harness.collector.got


async def test_collector_with_another_name_is_not_trusted(harness: ClientHarness) -> None:
    harness.show(harness.authority.issue("own", user="controller"), harness.authority)
    async with harness.serving(host="elsewhere.example") as shipping:
        said = await refused(shipping)
    assert "the collector's certificate is not trusted" in said
    assert "127.0.0.1" in said
    assert not harness.collector.got


@pytest.mark.parametrize("missing", [CERTIFICATE, KEY, CA])
async def test_missing_file_is_reported_and_read_later(harness: ClientHarness, missing: str) -> None:
    own = harness.authority.issue("own", user="controller")
    harness.show(own, harness.authority)
    (harness.folder / missing).unlink()
    async with harness.serving() as shipping:
        said = await refused(shipping)
        assert str(harness.folder / missing) in said
        assert "No such file" in said
        assert "Certificate" in said
        harness.show(own, harness.authority)
        await shipping.post_body(b"{}")
    assert len(harness.collector.got) == 1


@pytest.mark.parametrize("how", ["another key", "an encrypted key", "not PEM"])
async def test_unusable_key_is_reported_and_read_again(harness: ClientHarness, how: str) -> None:
    own, other = (harness.authority.issue(name, user="controller") for name in ("own", "new"))
    harness.show(own, harness.authority)
    key = serialization.load_pem_private_key(own.key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    encrypted = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    keys = {"another key": other.key.read_bytes(), "an encrypted key": encrypted, "not PEM": b"no key"}
    (harness.folder / KEY).write_bytes(keys[how])
    async with harness.serving() as shipping:
        assert "cannot be used" in await refused(shipping)
        harness.show(other, harness.authority)
        await shipping.post_body(b"{}")
    assert harness.collector.shown == [serial(other)]


async def test_closed_port_is_reported_as_unreachable(harness: ClientHarness) -> None:
    harness.show(harness.authority.issue("own", user="controller"), harness.authority)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{reserved.getsockname()[1]}"
        shipping = CollectorClient(url, harness.folder)
        said = await refused(shipping)
        await shipping.close()
    assert said.startswith(f"{url}/v1/logs cannot be reached")


async def test_name_that_does_not_resolve_is_reported(harness: ClientHarness) -> None:
    harness.show(harness.authority.issue("own", user="controller"), harness.authority)
    shipping = CollectorClient("https://collector.invalid:4318", harness.folder)
    said = await refused(shipping)
    await shipping.close()
    assert "collector.invalid does not resolve; check logs.otlp.endpoint" in said


async def test_silent_collector_is_reported_after_the_timeout(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SECONDS", 0.1)
    harness.show(harness.authority.issue("own", user="controller"), harness.authority)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        shipping = CollectorClient(f"https://127.0.0.1:{silent.getsockname()[1]}", harness.folder)
        said = await refused(shipping)
        await shipping.close()
    assert "did not answer within 0.1 s" in said
