"""An API server that answers from a script, over real HTTP on loopback, and keeps what it was asked.

A script is a list of answers, taken one after the other by whoever asks; when it is over, `idle` is set and whoever
asks next waits, or hears what `otherwise` says. So a test that awaits `idle` knows that every scripted answer was read
to its end.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from controller.access import Access
from controller.kube import Kube


async def _anonymous() -> str:
    return ""


class Asked(msgspec.Struct):
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def watch(self) -> bool:
        """Whether it asks for a watch."""
        return self.query.get("watch") == "true"


class Answer(msgspec.Struct):
    """One answer. `body` is sent as it is where it is bytes, as JSON lines where it is a list, else as one JSON value.

    A `held` one is never ended by the server; a `broken` one ends in the middle, without the end that HTTP asks for.
    """

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = {}
    held: bool = False
    broken: bool = False

    def chunks(self) -> list[bytes]:
        """The body in the pieces in which it is sent."""
        if isinstance(self.body, bytes):
            return [self.body]
        if isinstance(self.body, list):
            return [line if isinstance(line, bytes) else msgspec.json.encode(line) + b"\n" for line in self.body]
        return [msgspec.json.encode(self.body)]


def refusal(status: int, message: str = "no", **headers: str) -> Answer:
    """An error as the API server words it (meta/v1 Status)."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status}
    return Answer(body, status=status, headers={name.replace("_", "-"): text for name, text in headers.items()})


class ApiServer:
    """What was asked, and what will be answered."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script: list[Answer] = []
        self.otherwise: Callable[[Asked], Answer] | None = None
        self.idle = asyncio.Event()
        self.url = ""

    def will_answer(self, *answers: Answer | dict[str, Any] | Sequence[Any]) -> None:
        """Appends to the script; what is not an `Answer` is one with that body."""
        self.script += [item if isinstance(item, Answer) else Answer(item) for item in answers]
        self.idle.clear()

    def access(self, ca_file: Path | None = None) -> Access:
        """How a client finds it."""
        return Access(self.url, ssl.create_default_context(cafile=ca_file), _anonymous)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.method, request.path, dict(request.query), dict(request.headers), await request.read())
        self.asked.append(asked)
        if self.script:
            answer = self.script.pop(0)
        else:
            self.idle.set()
            answer = self.otherwise(asked) if self.otherwise else Answer(held=True)
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
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[ApiServer]:
    """A running server, on a free port of 127.0.0.1."""
    server = ApiServer()
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", server._answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[ApiServer, Kube]]:
    """A running server and a client of it."""
    async with serving() as server, Kube(server.access()) as kube:
        yield server, kube
