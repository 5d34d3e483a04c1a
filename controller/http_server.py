"""The two HTTP servers: probes for the kubelet and metrics for Prometheus. No client is trusted.

Each has a port of its own, so that probes never wait behind metrics. A connection serves one request; how many there
are at once, from one address, in a second, how long each lasts and how much it may send, all have a bound. Connections
beyond it wait in the kernel, where they cost the controller nothing.
"""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from controller.telemetry import Metrics

# Connections at once, and from one address. The kernel keeps so many more waiting.
MAX_CONNECTIONS, MAX_FROM_ONE = 32, 8
BACKLOG = 128
# Seconds that a connection may last, from the first byte of the request to the last one of the response.
MAX_SECONDS = 10.0
# Bytes of a request: Prometheus sends less than one KiB.
MAX_REQUEST = 16 * 2**10
# Seconds between two connections that are accepted.
ACCEPT_PAUSE = 0.01
# A text is written in pieces, so that a client that does not read has little more than one of them kept for it.
PIECE = 64 * 2**10
# A text of metrics serves everybody for a second, and for so many times as long as it took to generate.
FRESH_SECONDS, FRESH_TIMES = 1.0, 10
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Connection(asyncio.Protocol):
    """Hands everything on to aiohttp's protocol, up to so many bytes; `lost` is set at the end."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self._inner = inner
        self._received = 0
        self._transport: asyncio.BaseTransport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Hand on what came, unless it is more than any request has."""
        self._received += len(data)
        if self._received > MAX_REQUEST:
            self.abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Hand on the end of the request."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Hand on that the client reads slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Hand on that the client has read."""
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        self._inner.connection_lost(error)
        self.lost.set()

    def abort(self) -> None:
        """End now; what was not sent yet is dropped."""
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()


class Listener:
    """One port whose connections are bounded."""

    def __init__(self, handler: Handler) -> None:
        self._server = web.Server(handler, access_log=None, lingering_time=0)
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        self._from: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepted: set[socket.socket] = set()
        self._socket: socket.socket | None = None

    def start(self, address: str, port: int) -> int:
        """Listen, and return the port (a free one where 0 was asked for). Raise `OSError` where that cannot be."""
        self._socket = socket.create_server((address, port), backlog=BACKLOG)
        self._socket.setblocking(False)
        self._begin(self._accept(self._socket))
        return int(self._socket.getsockname()[1])

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            await self._free.acquire()
            try:
                accepted, (address, *_) = await asyncio.get_running_loop().sock_accept(listening)
            except OSError:  # no descriptor is left, or the client has gone
                self._free.release()
                await asyncio.sleep(1)
                continue
            if self._from[address] >= MAX_FROM_ONE:
                accepted.close()
                self._free.release()
            else:
                self._from[address] += 1
                self._accepted.add(accepted)
                self._begin(self._serve(accepted, address))
            await asyncio.sleep(ACCEPT_PAUSE)

    async def _serve(self, accepted: socket.socket, address: str) -> None:
        connection = _Connection(self._server())
        try:
            async with asyncio.timeout(MAX_SECONDS):
                await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
                await connection.lost.wait()
        except (OSError, TimeoutError):
            pass
        finally:
            connection.abort()
            accepted.close()  # it has no transport yet where this was cancelled early
            self._accepted.discard(accepted)
            self._free.release()
            self._from[address] -= 1
            if not self._from[address]:
                del self._from[address]

    async def stop(self) -> None:
        """Listen no more, and end every connection."""
        if self._socket:
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # Of a task that was cancelled before its first step nothing ran.
            for accepted in self._accepted:
                accepted.close()
            self._socket.close()
            await self._server.shutdown(0)


class MetricsText:
    """The text of all metrics: one for all clients, generated in a thread of its own, at most once a second."""

    def __init__(self, metrics: Metrics, prepare: Callable[[], None] = lambda: None) -> None:
        self._metrics = metrics
        self._prepare = prepare
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._text = b""
        self._until = float("-inf")
        self.generated = 0

    async def get(self) -> bytes:
        """Return the text, generated a moment ago at most."""
        async with self._lock:
            if time.monotonic() >= self._until:
                began = time.monotonic()
                self._prepare()
                loop = asyncio.get_running_loop()
                self._text = await loop.run_in_executor(self._thread, generate_latest, self._metrics.registry)
                self.generated += 1
                now = time.monotonic()
                self._until = now + max(FRESH_SECONDS, FRESH_TIMES * (now - began))
            return self._text

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class Servers:
    """/healthz and /readyz on one port, /metrics on another one.

    `problems` says what keeps the controller from being ready; `prepare` is called before metrics are collected.
    """

    def __init__(
        self, metrics: Metrics, problems: Callable[[], list[str]], prepare: Callable[[], None] = lambda: None
    ) -> None:
        self._problems = problems
        self.text = MetricsText(metrics, prepare)
        self._metrics, self._health = Listener(self._serve_metrics), Listener(self._serve_health)

    def start(self, address: str, port: int, health_port: int) -> tuple[int, int]:
        """Listen, and return both ports: of metrics and of probes."""
        return self._metrics.start(address, port), self._health.start(address, health_port)

    async def stop(self) -> None:
        """Listen no more."""
        await self._metrics.stop()
        await self._health.stop()
        self.text.close()

    async def _serve_health(self, request: web.BaseRequest) -> web.StreamResponse:
        # Answering at all is the point: the event loop that does the work runs this too.
        if request.path == "/healthz":
            return _last(web.Response(text="ok\n"))
        if request.path == "/readyz":
            problems = self._problems()
            text = "\n".join(problems or ["ok"]) + "\n"
            return _last(web.Response(text=text, status=503 if problems else 200))
        return _last(web.Response(text="not found\n", status=404))

    async def _serve_metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/metrics":
            return _last(web.Response(text="not found\n", status=404))
        text = memoryview(await self.text.get())
        response = _last(web.StreamResponse(headers={"Content-Type": CONTENT_TYPE_LATEST}))
        response.content_length = len(text)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            for begin in range(0, len(text), PIECE):
                await response.write(text[begin : begin + PIECE])
            await response.write_eof()
        return response


def _last(response: web.StreamResponse) -> web.StreamResponse:
    """End the connection with this response: its bound is one request."""
    response.force_close()
    return response
