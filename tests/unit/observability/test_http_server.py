"""Test the servers of probes and metrics, and their limits for hostile clients."""

import asyncio
import contextlib
import errno
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, TypeVar

import aiohttp
import pytest
from prometheus_client import Gauge

from controller.observability import http_server
from controller.observability.http_server import (
    MAX_CONNECTIONS,
    MAX_FRESH_SECONDS,
    MAX_FROM_ONE,
    MAX_REQUEST,
    BoundedListener,
    HttpServers,
    MetricsText,
)
from controller.observability.telemetry import Metrics

T = TypeVar("T")
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


class ServersHarness:
    """Running servers, and requests to them."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.metrics = Metrics()
        self.problems: list[str] = []
        self.prepared = 0
        self.servers = HttpServers(self.metrics, lambda: self.problems, self._prepare)
        self.port, self.health_port = self.servers.start(address, 0, 0)

    def _prepare(self) -> None:
        self.prepared += 1

    async def get(self, path: str, port: int = 0, host: str = "127.0.0.1") -> tuple[int, str, str]:
        url = f"http://{host}:{port or self.health_port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, response.headers["Content-Type"], await response.text()

    async def scrape(self) -> str:
        return (await self.get("/metrics", self.port))[2]

    async def connect(self, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0), limit=2**12)

    async def enlarge_metrics(self, bytes_: int) -> None:
        """Make the text of metrics at least that long."""
        gauge = Gauge("many", "", ["x"], registry=self.metrics.registry)
        for number in range(bytes_ // 1000 + 1):
            gauge.labels(f"{number}" + "x" * 1000).set(1)


@pytest.fixture
async def harness() -> AsyncIterator[ServersHarness]:
    harness = ServersHarness()
    yield harness
    await harness.servers.stop()


async def eventually(read: Callable[[], T | None]) -> T:
    """Call `read` until it returns something. Fail after 10 seconds."""
    async with asyncio.timeout(10):
        while not (found := read()):  # noqa: ASYNC110 -- no event shows this state
            await asyncio.sleep(0.01)
    return found


async def is_closed_within(reader: asyncio.StreamReader, seconds: float) -> bool:
    """Return whether the server closes the connection within that time."""
    try:
        async with asyncio.timeout(seconds):
            while await reader.read(2**16):
                pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


# Probes and metrics


async def test_healthz_succeeds_while_the_controller_is_not_ready(harness: ServersHarness) -> None:
    harness.problems = ["listing"]
    assert (await harness.get("/healthz"))[0::2] == (200, "ok\n")


async def test_readyz_lists_the_problems(harness: ServersHarness) -> None:
    assert (await harness.get("/readyz"))[0::2] == (200, "ok\n")
    harness.problems = ["listing", "the admission policies are not in force yet"]
    assert (await harness.get("/readyz"))[0::2] == (503, "listing\nthe admission policies are not in force yet\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_without_an_address_both_families_are_served(host: str) -> None:
    harness = ServersHarness("")
    assert (await harness.get("/healthz", host=host))[0] == 200
    assert "akv_secret_store_leader" in (await harness.get("/metrics", harness.port, host))[2]
    await harness.servers.stop()


@pytest.mark.parametrize(("address", "host"), [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1")])
async def test_both_address_families_are_served(address: str, host: str) -> None:
    harness = ServersHarness(address)
    assert (await harness.get("/healthz", host=host))[0] == 200
    await harness.servers.stop()


@pytest.mark.parametrize("gap", ["no sockets for both", "no address ::"])
async def test_without_ipv6_in_the_kernel_ipv4_is_served(gap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def refuse_ipv6(address: tuple[str, int], **options: Any) -> socket.socket:
        if ":" in address[0]:
            raise OSError(errno.EADDRNOTAVAIL, "no such address")
        return create(address, **options)

    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: gap == "no address ::")
    monkeypatch.setattr(socket, "create_server", refuse_ipv6)
    harness = ServersHarness("")
    assert (await harness.get("/healthz"))[0] == 200
    await harness.servers.stop()


async def test_metrics_are_served_only_at_their_port(harness: ServersHarness) -> None:
    status, content_type, text = await harness.get("/metrics", harness.port)
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert "akv_secret_store_queue_due 0.0" in text
    assert (await harness.get("/metrics"))[0] == 404
    for path in ("/healthz", "/", "/debug"):
        assert (await harness.get(path, harness.port))[0] == 404
    assert (await harness.get("/"))[0] == 404


async def test_stopped_servers_close_all_connections(harness: ServersHarness) -> None:
    reader, writer = await harness.connect()
    await harness.servers.stop()
    assert await is_closed_within(reader, 1)
    writer.close()
    for port in (harness.port, harness.health_port):
        with pytest.raises(aiohttp.ClientConnectorError):
            await harness.get("/healthz", port)


async def test_stop_without_a_start_succeeds() -> None:
    await HttpServers(Metrics(), list).stop()


# The cached text


async def test_metrics_text_is_generated_once_per_second(harness: ServersHarness) -> None:
    texts = await asyncio.gather(*(harness.scrape() for _ in range(MAX_FROM_ONE)))
    assert len(set(texts)) == 1
    assert harness.servers.text.generated == harness.prepared == 1
    await asyncio.sleep(1.2)
    await harness.scrape()
    assert harness.servers.text.generated == 2


async def test_slow_metrics_text_is_kept_longer_and_blocks_no_task(
    harness: ServersHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate_slowly(_: object) -> bytes:
        time.sleep(0.3)
        return b"slow"

    monkeypatch.setattr(http_server, "generate_latest", generate_slowly)
    scrape = asyncio.create_task(harness.scrape())
    gaps, last = [], time.monotonic()
    while not scrape.done():
        await asyncio.sleep(0.01)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()
    assert len(gaps) > 5
    assert harness.servers.text.fresh_until - time.monotonic() > 2  # ten times the generation time


async def test_metrics_text_is_soon_generated_again_after_a_pause_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process stops for an hour while it generates the text."""
    now = [1000.0]
    text = MetricsText(Metrics(), prepare=lambda: now.__setitem__(0, now[0] + 3600))
    monkeypatch.setattr(http_server, "time", SimpleNamespace(monotonic=lambda: now[0]))
    await text.get()
    assert text.fresh_until - now[0] == MAX_FRESH_SECONDS
    text.close()


# Hostile clients


def find_buffered(harness: ServersHarness) -> http_server.BoundedConnection | None:
    """Return the connection for which a part of a response waits in memory, if there is one."""
    return next((each for each in harness.servers.metrics_listener.connections if each.buffered_bytes), None)


async def test_client_that_does_not_read_is_closed_with_a_small_buffer(
    harness: ServersHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "MAX_SECONDS", 2.0)
    await harness.enlarge_metrics(20_000_000)
    await harness.scrape()  # so that the generation of the text does not use the client's time
    reader, writer = await harness.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(GET)
    connection = await eventually(lambda: find_buffered(harness))
    assert connection.buffered_bytes <= 3 * http_server.PIECE
    await eventually(lambda: not harness.servers.metrics_listener.connection_counts)
    writer.close()
    del reader


async def test_client_that_reads_the_last_bytes_late_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server closes the connection while the end of the text still waits in memory."""
    create = socket.create_server

    def create_with_small_buffers(address: tuple[str, int], **options: Any) -> socket.socket:
        listening = create(address, **options)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**12)
        return listening

    monkeypatch.setattr(socket, "create_server", create_with_small_buffers)
    harness = ServersHarness()
    await harness.enlarge_metrics(http_server.PIECE // 2)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**12)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", harness.port))
    await loop.sock_sendall(client, GET)
    connection = await eventually(lambda: find_buffered(harness))
    await eventually(lambda: connection.is_closing)
    text = b""
    while piece := await loop.sock_recv(client, 2**16):
        text += piece
    client.close()
    head, _, body = text.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head
    await eventually(lambda: not harness.servers.metrics_listener.connection_counts)
    await harness.servers.stop()


async def test_client_that_leaves_during_a_review_keeps_nothing_in_memory() -> None:
    """The API server does not answer, and clients connect and leave faster than reviews end."""
    waiting: set[int] = set()
    asked = 0

    async def hang(_: str, __: str) -> HTTPStatus:
        nonlocal asked
        asked += 1
        waiting.add(number := asked)
        try:
            await asyncio.Event().wait()
        finally:
            waiting.discard(number)
        return HTTPStatus.OK

    servers = HttpServers(Metrics(), list, check=hang)
    port, _ = servers.start("127.0.0.1", 0, 0)
    for number in range(1, 4):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await eventually(lambda number=number: asked == number)  # type: ignore[misc]
        writer.close()
    await eventually(lambda: not servers.metrics_listener.connection_counts)
    await eventually(lambda: not waiting)
    await servers.stop()


async def test_client_that_leaves_does_not_end_the_generation_of_the_text(
    harness: ServersHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise clients that leave at once would cause one generation after another."""
    began, gate = threading.Event(), threading.Event()

    def generate(_: object) -> bytes:
        began.set()
        gate.wait()
        return b"text"

    monkeypatch.setattr(http_server, "generate_latest", generate)
    _, writer = await harness.connect()
    writer.write(GET)
    await asyncio.to_thread(began.wait)
    writer.close()
    await eventually(lambda: not harness.servers.metrics_listener.connection_counts)
    gate.set()
    assert await harness.scrape() == "text"
    assert harness.servers.text.generated == harness.prepared == 1


@pytest.mark.parametrize(
    "begin",
    [b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n", b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n"],
    ids=["silent", "half a head", "half a body"],
)
async def test_client_that_is_slow_is_closed(
    harness: ServersHarness, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(http_server, "MAX_SECONDS", 1.0)
    reader, writer = await harness.connect()
    start = time.monotonic()
    writer.write(begin)
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - start < 0.8:
            writer.write(b"X" if begin else b"")
            await asyncio.sleep(0.1)
    assert await is_closed_within(reader, 3)
    writer.close()


@pytest.mark.parametrize(
    "endless",
    [b"x" * 1000, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 9999],
    ids=["garbage", "pipelining", "headers"],
)
async def test_client_that_sends_without_end_is_closed(harness: ServersHarness, endless: bytes) -> None:
    reader, writer = await harness.connect()
    with contextlib.suppress(ConnectionError):
        for _ in range(10 * MAX_REQUEST // len(endless) + 1):
            writer.write(endless)
            await writer.drain()
    assert await is_closed_within(reader, 3)
    assert harness.servers.text.generated <= 1
    writer.close()


async def test_request_that_is_too_long_is_closed_at_once(harness: ServersHarness) -> None:
    """Each header is within the limits of aiohttp, and the request never ends."""
    reader, writer = await harness.connect()
    writer.write(b"GET /metrics HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (each, b"y" * 4000) for each in range(9)))
    assert await is_closed_within(reader, 3)
    writer.close()


@pytest.mark.parametrize("address", ["127.0.0.1", ""])
async def test_one_address_leaves_connections_to_others(address: str) -> None:
    harness = ServersHarness(address)
    held = [await harness.connect("127.0.0.2") for _ in range(2 * MAX_CONNECTIONS)]
    await asyncio.sleep(1)
    assert harness.servers.metrics_listener.connection_counts == {"127.0.0.2": MAX_FROM_ONE}
    assert "akv_secret_store_leader" in await harness.scrape()
    for _, writer in held:
        writer.close()
    await harness.servers.stop()


async def test_connections_are_bounded_by_address_and_together(
    harness: ServersHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "MAX_SECONDS", 3.0)
    held = []
    for number in range(200):
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(0.2):
                held.append(await harness.connect(f"127.0.0.{2 + number % 10}"))
        listener = harness.servers.metrics_listener
        assert sum(listener.connection_counts.values()) <= MAX_CONNECTIONS
        assert all(count <= MAX_FROM_ONE for count in listener.connection_counts.values())
    start = time.monotonic()
    for _ in range(10):
        assert (await harness.get("/healthz"))[0] == 200
    assert time.monotonic() - start < 2
    for _, writer in held:
        writer.close()
    await asyncio.sleep(0.5)


@pytest.mark.parametrize("address", ["127.0.0.1", ""])
async def test_port_in_use_is_an_error(address: str) -> None:
    async def handler(_: object) -> None: ...

    first, second = BoundedListener(handler), BoundedListener(handler)  # type: ignore[arg-type]
    port = first.start(address, 0)
    with pytest.raises(OSError, match="in use"):
        second.start(address, port)
    await first.stop()
    await second.stop()
