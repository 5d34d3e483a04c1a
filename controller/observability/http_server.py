"""Run two HTTP servers: probes for the kubelet, and metrics for Prometheus. Their clients are untrusted.

Each server has its own port, so that probes never wait behind metrics. A connection serves one request. The number of
simultaneous connections, of connections from one address, and of new ones per second have limits, and so do their
duration and their size. Further connections wait in the kernel, where they cost the controller nothing.
"""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

# `aiohttp.web` also imports routes and files, which take 1.3 MiB.
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from controller.observability.server_certificate import ServerCertificate
from controller.observability.telemetry import Metrics

# Maximum simultaneous connections, and those from one address. `BACKLOG` more wait in the kernel.
MAX_CONNECTIONS, MAX_FROM_ONE = 32, 8
BACKLOG = 128
# Maximum seconds from the first byte of the request to the last byte of the response.
MAX_SECONDS = 10.0
# Maximum bytes of a request. Prometheus sends less than one KiB.
MAX_REQUEST = 16 * 2**10
# Seconds between two accepted connections.
ACCEPT_PAUSE = 0.01
# A text is written in pieces, so that a client that does not read keeps only about one piece in memory.
PIECE = 64 * 2**10
# A text of metrics is served to all clients for a second, or for this many times the time of its generation, up to a
# minute.
FRESH_SECONDS, FRESH_TIMES, MAX_FRESH_SECONDS = 1.0, 10, 60.0
Handler = Callable[[BaseRequest], Awaitable[StreamResponse]]
Check = Callable[[str, str], Awaitable[HTTPStatus]]
"""Decide about a request by its Authorization header and the client's address."""


class BoundedConnection(asyncio.Protocol):
    """Pass all data to aiohttp's protocol, up to a limit. `lost` is set at the end."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self._inner = inner
        self._received = 0
        self._transport: asyncio.BaseTransport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport, and pass the call."""
        self._transport = transport
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass the data, unless the request is too large."""
        self._received += len(data)
        if self._received > MAX_REQUEST:
            self.abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass the end of the request."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Report that the client reads slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Report that the client has read."""
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """Pass the call, and set `lost`."""
        self._transport = None  # a lost transport cannot be aborted
        self._inner.connection_lost(error)
        self.lost.set()

    @property
    def buffered_bytes(self) -> int:
        """Return how many bytes wait in memory for the client to read them."""
        return self._transport.get_write_buffer_size() if isinstance(self._transport, asyncio.WriteTransport) else 0

    @property
    def is_closing(self) -> bool:
        """Return whether the connection ends as soon as the client has read what waits in memory."""
        return self._transport is not None and self._transport.is_closing()

    def abort(self) -> None:
        """Close the connection at once, and drop data that was not sent yet."""
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()


def _address(peer: str) -> str:
    """Return the address of a client. A socket of both families shows an IPv4 address as ::ffff:10.0.0.1."""
    return peer.removeprefix("::ffff:")


def _listening(address: str, port: int) -> socket.socket:
    """Return a listening socket. Without an address it accepts IPv4 and IPv6, if the kernel has both."""
    if address:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # the kernel has no IPv6; the next line reports a port in use
            return socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", port), backlog=BACKLOG)  # noqa: S104


class BoundedListener:
    """A listening port with limits on its connections."""

    def __init__(self, handler: Handler, certificate: ServerCertificate | None = None) -> None:
        self._certificate = certificate
        # A handler ends with its connection. Otherwise handlers that wait for the API server would have no bound.
        self._server = Server(handler, access_log=None, lingering_time=0, handler_cancellation=True)
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        self.connection_counts: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepted: set[socket.socket] = set()
        self.connections: set[BoundedConnection] = set()
        self._socket: socket.socket | None = None

    def start(self, address: str, port: int) -> int:
        """Listen, and return the port (a free one for 0). Raise `OSError` if that fails."""
        self._socket = _listening(address, port)
        self._socket.setblocking(False)
        self._begin_task(self._accept_connections(self._socket))
        return int(self._socket.getsockname()[1])

    def _begin_task(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept_connections(self, listening: socket.socket) -> None:
        while True:
            await self._free.acquire()
            try:
                accepted, (peer, *_) = await asyncio.get_running_loop().sock_accept(listening)
            except OSError:  # no descriptor is left, or the client is gone
                self._free.release()
                await asyncio.sleep(1)
                continue
            address = _address(peer)
            if self.connection_counts[address] >= MAX_FROM_ONE:
                accepted.close()
                self._free.release()
            else:
                self.connection_counts[address] += 1
                self._accepted.add(accepted)
                self._begin_task(self._serve_connection(accepted, address))
            await asyncio.sleep(ACCEPT_PAUSE)

    async def _serve_connection(self, accepted: socket.socket, address: str) -> None:
        connection = BoundedConnection(self._server())
        self.connections.add(connection)
        try:
            async with asyncio.timeout(MAX_SECONDS):
                tls = self._certificate.tls_context() if self._certificate else None
                await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted, ssl=tls)
                await connection.lost.wait()
        except (OSError, TimeoutError):
            pass
        finally:
            connection.abort()
            accepted.close()  # it has no transport yet if the task was cancelled early
            self._accepted.discard(accepted)
            self.connections.discard(connection)
            self._free.release()
            self.connection_counts[address] -= 1
            if not self.connection_counts[address]:
                del self.connection_counts[address]

    async def stop(self) -> None:
        """Stop listening, and end every connection."""
        if self._socket:
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # A task that was cancelled before its first step did nothing.
            for accepted in self._accepted:
                accepted.close()
            self._socket.close()
            await self._server.shutdown(0)


class MetricsText:
    """The text of all metrics, shared by all clients. A thread generates it at most once a second."""

    def __init__(self, metrics: Metrics, prepare: Callable[[], None] = lambda: None) -> None:
        self._metrics = metrics
        self._prepare = prepare
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._text = b""
        self.fresh_until = float("-inf")
        self.generated = 0

    async def get(self) -> bytes:
        """Return the text, which is at most a moment old."""
        # A client that leaves does not end the generation. Otherwise the next client would begin another one.
        return await asyncio.shield(self._get_fresh())

    async def _get_fresh(self) -> bytes:
        async with self._lock:
            if time.monotonic() >= self.fresh_until:
                began = time.monotonic()
                self._prepare()
                loop = asyncio.get_running_loop()
                self._text = await loop.run_in_executor(self._thread, generate_latest, self._metrics.registry)
                self.generated += 1
                now = time.monotonic()
                self.fresh_until = now + min(MAX_FRESH_SECONDS, max(FRESH_SECONDS, FRESH_TIMES * (now - began)))
            return self._text

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class HttpServers:
    """/healthz and /readyz on one port, /metrics on another one.

    `problems` returns why the controller is not ready. `prepare` is called before metrics are collected.
    """

    def __init__(
        self,
        metrics: Metrics,
        problems: Callable[[], list[str]],
        prepare: Callable[[], None] = lambda: None,
        *,
        certificate: ServerCertificate | None = None,
        check: Check | None = None,
    ) -> None:
        self._problems = problems
        self.text = MetricsText(metrics, prepare)
        self._check = check
        self.metrics_listener, self.health_listener = (
            BoundedListener(self._serve_metrics, certificate),
            BoundedListener(self._serve_health),
        )

    def start(self, address: str, port: int, health_port: int) -> tuple[int, int]:
        """Listen, and return the ports of metrics and of probes."""
        return self.metrics_listener.start(address, port), self.health_listener.start(address, health_port)

    async def stop(self) -> None:
        """Stop listening."""
        await self.metrics_listener.stop()
        await self.health_listener.stop()
        self.text.close()

    async def _serve_health(self, request: BaseRequest) -> StreamResponse:
        # The answer itself is the proof: the event loop that does the work also runs this code.
        if request.path == "/healthz":
            return _close_after(Response(text="ok\n"))
        if request.path == "/readyz":
            problems = self._problems()
            text = "\n".join(problems or ["ok"]) + "\n"
            return _close_after(Response(text=text, status=503 if problems else 200))
        return _close_after(Response(text="not found\n", status=404))

    async def _serve_metrics(self, request: BaseRequest) -> StreamResponse:
        if request.path != "/metrics":
            return _close_after(Response(text="not found\n", status=404))
        if self._check:
            status = await self._check(request.headers.get("Authorization", ""), _address(request.remote or ""))
            if status != HTTPStatus.OK:
                headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
                return _close_after(Response(text=f"{status.phrase.lower()}\n", status=status, headers=headers))
        text = memoryview(await self.text.get())
        response = _close_after(StreamResponse(headers={"Content-Type": CONTENT_TYPE_LATEST}))
        response.content_length = len(text)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            for begin in range(0, len(text), PIECE):
                await response.write(text[begin : begin + PIECE])
            await response.write_eof()
        return response


def _close_after(response: StreamResponse) -> StreamResponse:
    """End the connection with this response, because a connection serves one request."""
    response.force_close()
    return response
