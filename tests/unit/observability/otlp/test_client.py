"""Test mutual TLS with a collector over real connections: accepted and refused certificates, and their renewal."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import threading
import time
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
        self.requests: list[tuple[str, str, bytes]] = []
        self.serial_numbers: list[int] = []
        self.connections: set[object] = set()

    async def logs(self, request: web.Request) -> web.StreamResponse:
        assert request.transport
        certificate = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.serial_numbers.append(x509.load_der_x509_certificate(certificate).serial_number)
        self.connections.add(request.transport)
        self.requests.append((request.path, request.headers["Content-Type"], await request.read()))
        answer = web.StreamResponse(status=429, headers={"Retry-After": "3"})
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):  # the client does not read a long answer to its end
            for part in self.answer:
                await answer.write(part)
                await asyncio.sleep(0)
        return answer


def read_serial_number(pair: KeyPair) -> int:
    return x509.load_pem_x509_certificate(pair.cert.read_bytes()).serial_number


class ClientHarness:
    """An authority, a collector that requires its certificates, and the folder of a client."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.other = (
            ClusterAuthority(self.make_folder(folder / name), name) for name in ("ca", "other")
        )
        self.folder = self.make_folder(folder / "client")
        self.collector = Collector()

    @staticmethod
    def make_folder(folder: Path) -> Path:
        folder.mkdir()
        return folder

    def write_files(self, pair: KeyPair, trusted: ClusterAuthority) -> None:
        """Write these files into the folder of the client."""
        for source, name in ((pair.cert, CERTIFICATE), (pair.key, KEY), (trusted.pair.cert, CA)):
            shutil.copyfile(source, self.folder / name)

    @contextlib.asynccontextmanager
    async def run_collector(self, host: str = "", address: str = "127.0.0.1") -> AsyncIterator[CollectorClient]:
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
        collector_client = CollectorClient(f"https://{authority}:{runner.addresses[0][1]}/", self.folder)
        try:
            yield collector_client
        finally:
            await collector_client.close()
            await runner.cleanup()


@pytest.fixture
def harness(tmp_path: Path) -> ClientHarness:
    return ClientHarness(tmp_path)


async def catch_refusal(collector_client: CollectorClient) -> str:
    with pytest.raises(UnsentError) as raised:
        await collector_client.post_body(b"{}")
    return str(raised.value)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_request_is_sent_with_the_client_certificate(address: str, harness: ClientHarness) -> None:
    own = harness.authority.issue("own", user="controller")
    harness.write_files(own, harness.authority)
    async with harness.run_collector(address=address) as collector_client:
        answer = await collector_client.post_body(b'{"a":1}')
        await collector_client.post_body(b"{}")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert answer.body == b"{}"
    assert harness.collector.requests == [
        ("/v1/logs", "application/json", b'{"a":1}'),
        ("/v1/logs", "application/json", b"{}"),
    ]
    assert set(harness.collector.serial_numbers) == {read_serial_number(own)}


async def test_endless_answer_is_read_up_to_a_limit(harness: ClientHarness) -> None:
    harness.write_files(harness.authority.issue("own", user="controller"), harness.authority)
    harness.collector.answer = [b"x" * 2**14] * 1000
    async with harness.run_collector() as collector_client:
        answer = await collector_client.post_body(b"{}")
    assert 2**16 < len(answer.body) < 2**20


@pytest.mark.parametrize("endpoint", ["https://c:4318", "https://c:4318/", "https://c:4318/v1/logs"])
def test_path_of_otlp_is_added_if_it_is_missing(endpoint: str) -> None:
    assert CollectorClient(endpoint, Path()).url == "https://c:4318/v1/logs"


async def test_renewed_client_certificate_is_used_at_once(harness: ClientHarness) -> None:
    pairs = [harness.authority.issue(name, user="controller") for name in ("first", "second")]
    async with harness.run_collector() as collector_client:
        for pair in pairs:
            harness.write_files(pair, harness.authority)
            await collector_client.post_body(b"{}")
        assert harness.collector.serial_numbers == [read_serial_number(pair) for pair in pairs]
        # The next request trusts only the new CA.
        harness.write_files(pairs[1], harness.other)
        assert "the collector's certificate is not trusted" in await catch_refusal(collector_client)
    assert len(harness.collector.requests) == 2


async def test_client_certificate_of_another_ca_is_refused(harness: ClientHarness) -> None:
    harness.write_files(harness.other.issue("stranger", user="controller"), harness.authority)
    async with harness.run_collector() as collector_client:
        message = await catch_refusal(collector_client)
    assert "the collector ends the connection" in message
    assert f"check that it trusts the CA of {CERTIFICATE}" in message
    assert not harness.collector.requests


async def test_collector_with_another_name_is_not_trusted(harness: ClientHarness) -> None:
    harness.write_files(harness.authority.issue("own", user="controller"), harness.authority)
    async with harness.run_collector(host="elsewhere.example") as collector_client:
        message = await catch_refusal(collector_client)
    assert "the collector's certificate is not trusted" in message
    assert "127.0.0.1" in message
    assert not harness.collector.requests


@pytest.mark.parametrize("missing", [CERTIFICATE, KEY, CA])
async def test_missing_file_is_reported_and_read_later(harness: ClientHarness, missing: str) -> None:
    own = harness.authority.issue("own", user="controller")
    harness.write_files(own, harness.authority)
    (harness.folder / missing).unlink()
    async with harness.run_collector() as collector_client:
        message = await catch_refusal(collector_client)
        assert str(harness.folder / missing) in message
        assert "No such file" in message
        assert "Certificate" in message
        harness.write_files(own, harness.authority)
        await collector_client.post_body(b"{}")
    assert len(harness.collector.requests) == 1


@pytest.mark.parametrize("defect", ["another key", "an encrypted key", "not PEM"])
async def test_unusable_key_is_reported_and_read_again(harness: ClientHarness, defect: str) -> None:
    own, other = (harness.authority.issue(name, user="controller") for name in ("own", "new"))
    harness.write_files(own, harness.authority)
    key = serialization.load_pem_private_key(own.key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    encrypted = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    keys = {"another key": other.key.read_bytes(), "an encrypted key": encrypted, "not PEM": b"no key"}
    (harness.folder / KEY).write_bytes(keys[defect])
    async with harness.run_collector() as collector_client:
        assert "cannot be used" in await catch_refusal(collector_client)
        harness.write_files(other, harness.authority)
        await collector_client.post_body(b"{}")
    assert harness.collector.serial_numbers == [read_serial_number(other)]


async def test_closed_port_is_reported_as_unreachable(harness: ClientHarness) -> None:
    harness.write_files(harness.authority.issue("own", user="controller"), harness.authority)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{reserved.getsockname()[1]}"
        collector_client = CollectorClient(url, harness.folder)
        message = await catch_refusal(collector_client)
        await collector_client.close()
    assert message.startswith(f"{url}/v1/logs cannot be reached")


async def test_name_that_does_not_resolve_is_reported(harness: ClientHarness) -> None:
    harness.write_files(harness.authority.issue("own", user="controller"), harness.authority)
    collector_client = CollectorClient("https://collector.invalid:4318", harness.folder)
    message = await catch_refusal(collector_client)
    await collector_client.close()
    assert "collector.invalid does not resolve; check logs.otlp.endpoint" in message


def test_hanging_lookup_does_not_delay_the_end_of_the_process(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network, a lookup can take longer than the grace period after SIGTERM."""
    ended = threading.Event()
    monkeypatch.setattr(client, "SECONDS", 1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(20))
    harness.write_files(harness.authority.issue("client", user="client"), harness.authority)

    async def main() -> None:
        sender = CollectorClient("https://collector.example:4318", harness.folder)
        with pytest.raises(UnsentError, match="did not answer within 1 s"):
            await sender.post_body(b"{}")
        await sender.close()

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 10
    ended.set()


async def test_silent_collector_is_reported_after_the_timeout(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SECONDS", 0.1)
    harness.write_files(harness.authority.issue("own", user="controller"), harness.authority)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        collector_client = CollectorClient(f"https://127.0.0.1:{silent.getsockname()[1]}", harness.folder)
        message = await catch_refusal(collector_client)
        await collector_client.close()
    assert "did not answer within 0.1 s" in message
