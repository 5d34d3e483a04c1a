"""An HTTPS port that can be closed and opened again with the same number."""

import asyncio
import socket
import ssl

from aiohttp import web
from aiohttp.typedefs import Handler

from tools.keyvault_emulator.errors import EmulatorError


class HttpsListener:
    """An HTTPS port that can be closed and opened again.

    A second socket is bound to the port and never listens, so that no other process gets the port in the meantime.
    aiohttp does not know a connection before the end of its handshake. Such a connection is reset at its first request
    if the port was closed, or got another context, after its handshake began.
    """

    def __init__(self, app: web.Application, address: str, port: int, context: ssl.SSLContext) -> None:
        app.middlewares.append(self._reset_outdated)
        # An answer that is still being sent, perhaps slowly on purpose, does not delay the end.
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=3600, shutdown_timeout=0.1)
        self._context = context
        self._selector = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._selector.sni_callback = self._select_context
        self._reserved = reserve(address, port)
        self._address = address
        self.port: int = self._reserved.getsockname()[1]
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Start to accept connections. Raise `EmulatorError` if the port is taken."""
        if self._runner.server is None:
            await self._runner.setup()
        if self._server is None:
            assert self._runner.server is not None  # noqa: S101 - setup() made it
            self._server = await asyncio.get_running_loop().create_server(
                self._runner.server, sock=reserve(self._address, self.port), ssl=self._selector, backlog=1024
            )

    def close(self) -> None:
        """Refuse connections, and reset the existing ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset_connections()

    def replace_context(self, context: ssl.SSLContext) -> None:
        """Use this context from the next handshake on, and reset the existing connections."""
        self._context = context
        self._reset_connections()

    def _reset_connections(self) -> None:
        for connection in self._runner.server.connections if self._runner.server else []:
            if connection.transport is not None:
                connection.transport.abort()

    def _select_context(self, handshake: ssl.SSLObject, _name: str | None, _selector: ssl.SSLContext) -> None:
        handshake.context = self._context

    @web.middleware
    async def _reset_outdated(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        handshake = request.get_extra_info("ssl_object")
        if request.transport is not None and (self._server is None or handshake.context is not self._context):
            request.transport.abort()
            return web.Response(status=500)
        return await handler(request)

    async def stop(self) -> None:
        """Close the port, and release its number."""
        self.close()
        await self._runner.cleanup()
        self._reserved.close()


def url_of(address: str, port: int) -> str:
    """Return the https URL of an IP address or host name and a port."""
    return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"


def reserve(address: str, port: int) -> socket.socket:
    """Return a socket that is bound to the port (0: a free one). Only processes of the same user can bind it, too."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
    except OSError as problem:
        sock.close()
        raise EmulatorError(f"cannot listen on {address} port {port}: {problem.strerror}") from problem
    return sock
