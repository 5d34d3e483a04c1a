"""Serve an API server that answers from a script over real HTTP on loopback, and records the requests.

A script is a list of responses. Each request takes the next one. When the script is over, the server sets `idle`, and
further requests get `default_response` or wait. A test that awaits `idle` knows that each scripted response was read to
its end.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from controller.kube.client import KubeClient
from controller.kube.config import ApiServerConfig


async def _anonymous() -> str:
    return ""


class ReceivedRequest(msgspec.Struct):
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def is_watch(self) -> bool:
        """Return whether the request is for a watch."""
        return self.query.get("watch") == "true"


class ScriptedResponse(msgspec.Struct):
    """One response. A `body` of bytes is sent unchanged, a list as JSON lines, anything else as one JSON value.

    The server sends it after `delay` seconds. It never ends a `held` response. It resets the connection in the middle
    of a `broken` one.
    """

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = {}
    held: bool = False
    broken: bool = False
    delay: float = 0.0

    def chunks(self) -> list[bytes]:
        """Return the body in the chunks in which it is sent."""
        if isinstance(self.body, bytes):
            return [self.body]
        if isinstance(self.body, list):
            return [line if isinstance(line, bytes) else msgspec.json.encode(line) + b"\n" for line in self.body]
        return [msgspec.json.encode(self.body)]


def error_response(status: int, message: str = "no", **headers: str) -> ScriptedResponse:
    """Return an error as the API server sends it (meta/v1 Status)."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status}
    return ScriptedResponse(
        body, status=status, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


class ScriptedApiServer:
    """A server with its received requests and its remaining responses."""

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.script: list[ScriptedResponse] = []
        self.default_response: Callable[[ReceivedRequest], ScriptedResponse] | None = None
        self.idle = asyncio.Event()
        self.url = ""

    def add_responses(self, *answers: ScriptedResponse | dict[str, Any] | Sequence[Any]) -> None:
        """Append to the script. An item that is not a `ScriptedResponse` becomes the body of one."""
        self.script += [item if isinstance(item, ScriptedResponse) else ScriptedResponse(item) for item in answers]
        self.idle.clear()

    def client_config(self, ca_file: Path | None = None) -> ApiServerConfig:
        """Return the configuration of a client of this server."""
        tls = ssl.create_default_context(cafile=ca_file)
        return ApiServerConfig(self.url, lambda: tls, _anonymous)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked = ReceivedRequest(
            request.method, request.path, dict(request.query), dict(request.headers), await request.read()
        )
        self.requests.append(asked)
        if self.script:
            answer = self.script.pop(0)
        else:
            self.idle.set()
            answer = self.default_response(asked) if self.default_response else ScriptedResponse(held=True)
        await asyncio.sleep(answer.delay)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        await response.prepare(request)
        for chunk in answer.chunks():
            await response.write(chunk)
        if answer.held:
            if not self.script:
                self.idle.set()
            await asyncio.Event().wait()
        if answer.broken:
            assert request.transport
            request.transport.abort()
        return response


@contextlib.asynccontextmanager
async def run_api_server(
    tls: ssl.SSLContext | None = None, address: str = "127.0.0.1"
) -> AsyncIterator[ScriptedApiServer]:
    """Run a server on a free port of that address."""
    server = ScriptedApiServer()
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, address, 0, ssl_context=tls).start()
    host = f"[{address}]" if ":" in address else address
    server.url = f"{'https' if tls else 'http'}://{host}:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def connect_to_api_server() -> AsyncIterator[tuple[ScriptedApiServer, KubeClient]]:
    """Run a server, and connect a client to it."""
    async with run_api_server() as server, KubeClient(server.client_config()) as kube:
        yield server, kube


def write_kubeconfig(folder: Path, url: str) -> str:
    """Write a kubeconfig for the server at this URL. Return its path."""
    file = folder / "config"
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": url}}],
                "users": [{"name": "x", "user": {"token": "t"}}],
            }
        )
    )
    return str(file)
