"""Mutual TLS with a collector, over real connections: who is let in, what is said otherwise, and renewal."""

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
    """Keeps what it was sent, and the serial numbers of the certificates that it was shown."""

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
        with contextlib.suppress(ConnectionError):  # what is too long is not read to its end
            for part in self.answer:
                await answer.write(part)
                await asyncio.sleep(0)
        return answer


def serial(pair: KeyPair) -> int:
    return x509.load_pem_x509_certificate(pair.cert.read_bytes()).serial_number


class Scene:
    """An authority, a collector that asks for its certificates, and the folder of a client."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.other = (ClusterAuthority(self.made(folder / name), name) for name in ("ca", "other"))
        self.folder = self.made(folder / "client")
        self.collector = Collector()

    @staticmethod
    def made(folder: Path) -> Path:
        folder.mkdir()
        return folder

    def show(self, pair: KeyPair, trusted: ClusterAuthority) -> None:
        """Put these into the client's folder."""
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
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def refused(shipping: CollectorClient) -> str:
    with pytest.raises(UnsentError) as raised:
        await shipping.post_body(b"{}")
    return str(raised.value)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_request_and_its_answer(address: str, scene: Scene) -> None:
    own = scene.authority.issue("own", user="controller")
    scene.show(own, scene.authority)
    async with scene.serving(address=address) as shipping:
        answer = await shipping.post_body(b'{"a":1}')
        await shipping.post_body(b"{}")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert answer.body == b"{}"
    assert scene.collector.got == [
        ("/v1/logs", "application/json", b'{"a":1}'),
        ("/v1/logs", "application/json", b"{}"),
    ]
    assert set(scene.collector.shown) == {serial(own)}


async def test_an_answer_without_end_is_not_read_to_it(scene: Scene) -> None:
    scene.show(scene.authority.issue("own", user="controller"), scene.authority)
    scene.collector.answer = [b"x" * 2**14] * 1000
    async with scene.serving() as shipping:
        answer = await shipping.post_body(b"{}")
    assert 2**16 < len(answer.body) < 2**20


@pytest.mark.parametrize("given", ["https://c:4318", "https://c:4318/", "https://c:4318/v1/logs"])
def test_the_path_is_otlps_whether_it_is_given_or_not(given: str) -> None:
    assert CollectorClient(given, Path()).url == "https://c:4318/v1/logs"


async def test_a_renewed_certificate_is_used_at_once(scene: Scene) -> None:
    pairs = [scene.authority.issue(name, user="controller") for name in ("first", "second")]
    async with scene.serving() as shipping:
        for pair in pairs:
            scene.show(pair, scene.authority)
            await shipping.post_body(b"{}")
        assert scene.collector.shown == [serial(pair) for pair in pairs]
        # Another CA is trusted from the next request on, and the old one no longer.
        scene.show(pairs[1], scene.other)
        assert "the collector's certificate is not trusted" in await refused(shipping)
    assert len(scene.collector.got) == 2


async def test_a_certificate_of_another_ca_is_not_let_in(scene: Scene) -> None:
    scene.show(scene.other.issue("stranger", user="controller"), scene.authority)
    async with scene.serving() as shipping:
        said = await refused(shipping)
    assert "the collector ends the connection" in said
    assert f"does it trust the CA of {CERTIFICATE}?" in said
    assert not scene.collector.got


async def test_another_name_is_another_collector(scene: Scene) -> None:
    scene.show(scene.authority.issue("own", user="controller"), scene.authority)
    async with scene.serving(host="elsewhere.example") as shipping:
        said = await refused(shipping)
    assert "the collector's certificate is not trusted" in said
    assert "127.0.0.1" in said
    assert not scene.collector.got


@pytest.mark.parametrize("missing", [CERTIFICATE, KEY, CA])
async def test_a_file_that_is_not_there_yet(scene: Scene, missing: str) -> None:
    own = scene.authority.issue("own", user="controller")
    scene.show(own, scene.authority)
    (scene.folder / missing).unlink()
    async with scene.serving() as shipping:
        said = await refused(shipping)
        assert str(scene.folder / missing) in said
        assert "No such file" in said
        assert "Certificate" in said
        scene.show(own, scene.authority)
        await shipping.post_body(b"{}")
    assert len(scene.collector.got) == 1


@pytest.mark.parametrize("how", ["another key", "an encrypted key", "not PEM"])
async def test_files_that_do_not_fit_are_told_and_read_again(scene: Scene, how: str) -> None:
    own, other = (scene.authority.issue(name, user="controller") for name in ("own", "new"))
    scene.show(own, scene.authority)
    key = serialization.load_pem_private_key(own.key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    encrypted = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    keys = {"another key": other.key.read_bytes(), "an encrypted key": encrypted, "not PEM": b"no key"}
    (scene.folder / KEY).write_bytes(keys[how])
    async with scene.serving() as shipping:
        assert "cannot be used" in await refused(shipping)
        scene.show(other, scene.authority)
        await shipping.post_body(b"{}")
    assert scene.collector.shown == [serial(other)]


async def test_nobody_listens(scene: Scene) -> None:
    scene.show(scene.authority.issue("own", user="controller"), scene.authority)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{reserved.getsockname()[1]}"
        shipping = CollectorClient(url, scene.folder)
        said = await refused(shipping)
        await shipping.close()
    assert said.startswith(f"{url}/v1/logs cannot be reached")


async def test_no_such_name(scene: Scene) -> None:
    scene.show(scene.authority.issue("own", user="controller"), scene.authority)
    shipping = CollectorClient("https://collector.invalid:4318", scene.folder)
    said = await refused(shipping)
    await shipping.close()
    assert "collector.invalid does not resolve; check logs.otlp.endpoint" in said


async def test_one_that_does_not_answer_is_left(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SECONDS", 0.1)
    scene.show(scene.authority.issue("own", user="controller"), scene.authority)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        shipping = CollectorClient(f"https://127.0.0.1:{silent.getsockname()[1]}", scene.folder)
        said = await refused(shipping)
        await shipping.close()
    assert "did not answer within 0.1 s" in said
