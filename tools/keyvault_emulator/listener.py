"""An HTTPS port that can be closed and opened again with the same number."""

import asyncio
import socket
import ssl

from aiohttp import web

from tools.keyvault_emulator.errors import EmulatorError


class HttpsListener:
    """An HTTPS port that can be closed and opened again.

    A second socket is bound to the port and never listens, so that no other process gets the port in the meantime.
    """

    def __init__(self, app: web.Application, address: str, port: int, context: ssl.SSLContext) -> None:
        # An answer that is still being sent, perhaps slowly on purpose, does not delay the end.
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=3600, shutdown_timeout=0.1)
        self._context = context
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
                self._runner.server, sock=reserve(self._address, self.port), ssl=self._context, backlog=1024
            )

    def close(self) -> None:
        """Refuse connections, and reset the existing ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()

    def reset(self) -> None:
        """Reset the existing connections."""
        for connection in self._runner.server.connections if self._runner.server else []:
            if connection.transport is not None:
                connection.transport.abort()

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
