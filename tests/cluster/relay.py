"""What stands between a controller and the API server: passes on what it is asked, and fails where a test says so."""

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

from tests.cluster.world import Installed
from tools.local_cluster import ControlPlane
from tools.local_cluster.pki import Authority
from tools.workload import Workload

LOOPBACK = "127.0.0.1"
VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
# Of one hop only (RFC 9110, 7.6.1), or made anew by whoever sends.
_HOP = {"host", "connection", "transfer-encoding", "content-length", "keep-alive"}
T = TypeVar("T")

Moment = Literal["before the request", "before the response", "after the response"]


class Asked(NamedTuple):
    """One request as a Role would name it, `patch`, `secretsyncs/status`; but a patch of nothing is a `look`."""

    verb: str
    resource: str

    @property
    def writes(self) -> bool:
        """Whether it may change something."""
        return self.verb not in ("get", "list", "watch")


@dataclass
class Failure:
    """How requests that match fail.

    - answer: by `status`, with `retry_after` where it is given
    - drop: the connection is reset, and nothing is passed on
    - lose: it is passed on, and the connection is reset in place of an answer
    - hang: nothing comes until the failure is over
    - gone: a watch begins, and its first word is that it has expired
    """

    kind: Literal["answer", "drop", "lose", "hang", "gone"] = "answer"
    status: int = 503
    retry_after: int | None = None
    matches: Callable[[Asked], bool] = lambda _: True
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Relay:
    """A context manager, with a thread and a loop of its own. `asked` is what it was asked, in that order."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.asked: list[Asked] = []
        self._plane = plane
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._failure: Failure | None = None
        self._interrupts: Callable[[Moment, Asked], bool] = lambda *_: False
        self._watched: set[asyncio.Transport] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()
        self._wait(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def workload(self, installed: Installed, **settings: str) -> Workload:
        """The release's controller, not started yet, which reaches the API server by this way."""
        workload = installed.workload(**settings)
        where = urlsplit(self._url)
        workload.env |= {"KUBERNETES_SERVICE_HOST": str(where.hostname), "KUBERNETES_SERVICE_PORT": str(where.port)}
        shutil.copy(self._ca, Path(workload.env["SERVICE_ACCOUNT_FOLDER"], "ca.crt"))
        return workload

    def fail(self, failure: Failure) -> None:
        """From now on what matches fails so; watches under way are cut."""
        self.heal()
        self._failure = failure
        self.cut_watches()

    def heal(self) -> None:
        """From now on everything is passed on."""
        failure, self._failure = self._failure, None
        if failure:
            self._loop.call_soon_threadsafe(failure.over.set)

    def cut_watches(self) -> None:
        """Resets the connections of all watches."""
        self._wait(self._cut_watches())

    def interrupts(self, when: Callable[[Moment, Asked], bool]) -> None:
        """From now on `when` is asked at each moment of each request, and where it says so, that was the end of it."""
        self._interrupts = when

    def counts(self) -> Counter[str]:
        """How often each verb was asked for; but for events, which come at a pace of their own."""
        return Counter(asked.verb for asked in self.asked if asked.resource != "events")

    def _wait(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)

    async def _start(self) -> None:
        authority = Authority(self._folder, "relay-ca")
        pair = authority.issue("relay", user="relay", hosts=[LOOPBACK])
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
        # Who goes away, as a killed controller does, takes its watches along.
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
        asked = _understand(request, await request.read())
        self.asked.append(asked)
        failure = self._failure
        if not failure or not failure.matches(asked):
            return await self._pass_on(request, asked)
        match failure.kind:
            case "answer":
                return _refusal(failure.status, failure.retry_after)
            case "gone" if asked.verb == "watch":
                return web.json_response({"type": "ERROR", "object": _status(410)})
            case "lose":
                await self._forward(request)
                return _reset(request)
            case "hang":
                await failure.over.wait()
        return _reset(request) if failure.kind in ("drop", "hang") else await self._pass_on(request, asked)

    async def _pass_on(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        if self._interrupts("before the request", asked):
            return _reset(request)
        if asked.verb == "watch":
            return await self._watch(request)
        status, headers, body = await self._forward(request)
        if not status or self._interrupts("before the response", asked):
            return _reset(request)
        response = web.Response(status=status, headers=headers, body=body)
        await response.prepare(request)
        await response.write_eof()
        self._interrupts("after the response", asked)
        return response

    def _send(self, request: web.Request, body: bytes) -> Any:
        headers = {name: text for name, text in request.headers.items() if name.lower() not in _HOP}
        data = io.BytesIO(body) if body else None  # aiohttp warns of more than a mebibyte of bytes
        return self._session.request(request.method, self._plane.url + request.path_qs, data=data, headers=headers)

    async def _forward(self, request: web.Request) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the API server's answer; 0 where none came."""
        try:
            async with self._send(request, await request.read()) as answer:
                return answer.status, _kept(answer.headers), await answer.read()
        except (aiohttp.ClientError, ConnectionError):
            return 0, {}, b""

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        assert request.transport
        transport = request.transport
        self._watched.add(transport)
        try:
            async with self._send(request, b"") as answer:
                response = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                return response
        except (aiohttp.ClientError, ConnectionError):
            return _reset(request)
        finally:
            self._watched.discard(transport)


def _understand(request: web.Request, body: bytes) -> Asked:
    """Verb and resource out of a path: /api/v1 or /apis/GROUP/VERSION, a namespace perhaps, then what is asked for."""
    parts = request.path.split("/")[3 if request.path.startswith("/api/") else 4 :]
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    verb = VERBS[request.method]
    if verb == "get" and len(parts) == 1:
        verb = "watch" if request.query.get("watch") else "list"
    if verb == "patch" and body == b"{}":
        verb = "look"
    return Asked(verb, "/".join(parts[::2]))


def _kept(headers: Any) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name.lower() not in _HOP}


def _reset(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.abort()
    return web.Response()


def _status(code: int) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "the relay's", "code": code}


def _refusal(status: int, retry_after: int | None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response(_status(status), status=status, headers=headers)
