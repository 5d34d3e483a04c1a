"""A proxy between a controller and the API server, which forwards requests and injects faults."""

import asyncio
import io
import shutil
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from tests.support.cluster.harness import InstalledRelease
from tools.local_cluster import ControlPlane
from tools.local_cluster.pki import ClusterAuthority
from tools.pods.pod_process import PodProcess

LOOPBACK = "127.0.0.1"
VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
# Headers of one hop only (RFC 9110, 7.6.1), and those that each sender sets itself.
_HOP = {"host", "connection", "transfer-encoding", "content-length", "keep-alive"}
T = TypeVar("T")

RequestPhase = Literal["before the request", "before the response", "after the response"]


class ProxiedRequest(NamedTuple):
    """One request as a Role names it, such as `patch` `secretsyncs/status`. An empty patch has the verb `probe`."""

    verb: str
    resource: str

    @property
    def is_write(self) -> bool:
        """Return whether the request may change an object."""
        return self.verb not in ("get", "list", "watch")


@dataclass
class ProxyFault:
    """A failure of the requests that match.

    - answer: the proxy answers with `status`, and with `retry_after` if it is set
    - drop: the proxy resets the connection and forwards nothing
    - lose: the proxy forwards the request and resets the connection instead of answering
    - hang: the proxy does not answer until the fault is over
    - gone: each watch is answered, and its first event says that its resourceVersion has expired
    """

    kind: Literal["answer", "drop", "lose", "hang", "gone"] = "answer"
    status: int = 503
    retry_after: int | None = None
    matches: Callable[[ProxiedRequest], bool] = lambda _: True
    over: asyncio.Event = field(default_factory=asyncio.Event)


class FaultProxy:
    """A context manager with its own thread and event loop. `requests` are all requests, in their order."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.requests: list[ProxiedRequest] = []
        self._plane = plane
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._failure: ProxyFault | None = None
        self._interrupts: Callable[[RequestPhase, ProxiedRequest], bool] = lambda *_: False
        self._watched: set[asyncio.Transport] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear_fault()
        self._wait(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def workload(self, installed: InstalledRelease, **settings: str) -> PodProcess:
        """Return the release's controller, not started yet, which uses this proxy as its API server."""
        workload = installed.workload(**settings)
        where = urlsplit(self._url)
        workload.env |= {"KUBERNETES_SERVICE_HOST": str(where.hostname), "KUBERNETES_SERVICE_PORT": str(where.port)}
        shutil.copy(self._ca, Path(workload.env["SERVICE_ACCOUNT_FOLDER"], "ca.crt"))
        return workload

    def inject(self, failure: ProxyFault) -> None:
        """Inject a fault from now on, and reset running watches."""
        self.clear_fault()
        self._failure = failure
        self.cut_watches()

    def clear_fault(self) -> None:
        """Forward all requests from now on."""
        failure, self._failure = self._failure, None
        if failure:
            self._loop.call_soon_threadsafe(failure.over.set)

    def cut_watches(self) -> None:
        """Reset the connections of all watches."""
        self._wait(self._cut_watches())

    def interrupt_when(self, when: Callable[[RequestPhase, ProxiedRequest], bool]) -> None:
        """Call `when` at each phase of each request from now on, and reset the connection if it returns True."""
        self._interrupts = when

    def count_verbs(self) -> Counter[str]:
        """Return how many requests had each verb. Events are left out, because their number depends on time."""
        return Counter(asked.verb for asked in self.requests if asked.resource != "events")

    def _wait(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)

    async def _start(self) -> None:
        authority = ClusterAuthority(self._folder, "proxy-ca")
        pair = authority.issue("proxy", user="proxy", hosts=[LOOPBACK])
        self._ca = authority.pair.cert
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pair.cert, pair.key)
        trust = ssl.create_default_context(cafile=self._plane.ca_file)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # If a client disconnects, for example because the controller was killed, its watches end.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, LOOPBACK, 0, ssl_context=tls).start()
        self._url = f"https://{LOOPBACK}:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _cut_watches(self) -> None:
        for transport in self._watched:
            transport.abort()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        asked = parse_request(request, await request.read())
        self.requests.append(asked)
        failure = self._failure
        if not failure or not failure.matches(asked):
            return await self._pass_on(request, asked)
        match failure.kind:
            case "answer":
                return refuse_request(failure.status, failure.retry_after)
            case "gone" if asked.verb == "watch":
                return web.json_response({"type": "ERROR", "object": make_status(410)})
            case "lose":
                await self._forward(request)
                return reset_connection(request)
            case "hang":
                await failure.over.wait()
        return reset_connection(request) if failure.kind in ("drop", "hang") else await self._pass_on(request, asked)

    async def _pass_on(self, request: web.Request, asked: ProxiedRequest) -> web.StreamResponse:
        if self._interrupts("before the request", asked):
            return reset_connection(request)
        if asked.verb == "watch":
            return await self._watch(request)
        status, headers, body = await self._forward(request)
        if not status or self._interrupts("before the response", asked):
            return reset_connection(request)
        response = web.Response(status=status, headers=headers, body=body)
        await response.prepare(request)
        await response.write_eof()
        self._interrupts("after the response", asked)
        return response

    def _send(self, request: web.Request, body: bytes) -> Any:
        headers = {name: text for name, text in request.headers.items() if name.lower() not in _HOP}
        data = io.BytesIO(body) if body else None  # aiohttp warns if `bytes` have more than 1 MiB
        return self._session.request(request.method, self._plane.url + request.path_qs, data=data, headers=headers)

    async def _forward(self, request: web.Request) -> tuple[int, dict[str, str], bytes]:
        """Return the status, headers and body of the API server's answer. The status is 0 if there is none."""
        try:
            async with self._send(request, await request.read()) as answer:
                return answer.status, keep_headers(answer.headers), await answer.read()
        except (aiohttp.ClientError, ConnectionError):
            return 0, {}, b""

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        assert request.transport
        transport = request.transport
        self._watched.add(transport)
        try:
            async with self._send(request, b"") as answer:
                response = web.StreamResponse(status=answer.status, headers=keep_headers(answer.headers))
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                return response
        except (aiohttp.ClientError, ConnectionError):
            return reset_connection(request)
        finally:
            self._watched.discard(transport)


def parse_request(request: web.Request, body: bytes) -> ProxiedRequest:
    """Return the verb and resource of a request to /api/v1 or /apis/GROUP/VERSION."""
    parts = request.path.split("/")[3 if request.path.startswith("/api/") else 4 :]
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    verb = VERBS[request.method]
    if verb == "get" and len(parts) == 1:
        verb = "watch" if request.query.get("watch") else "list"
    if verb == "patch" and body == b"{}":
        verb = "probe"
    return ProxiedRequest(verb, "/".join(parts[::2]))


def keep_headers(headers: Any) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name.lower() not in _HOP}


def reset_connection(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.abort()
    return web.Response()


def make_status(code: int) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "the proxy's", "code": code}


def refuse_request(status: int, retry_after: int | None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response(make_status(status), status=status, headers=headers)
