"""An HTTPS port that can be closed and opened again without losing its number."""

import asyncio
import socket
import ssl

from aiohttp import web

from tools.keyvault_emulator.errors import EmulatorError


class Listener:
    """An HTTPS port that can stop accepting and come back.

    A second socket, bound and never listening, keeps the port from being given to another process meanwhile.
    """

    def __init__(self, app: web.Application, address: str, port: int, context: ssl.SSLContext) -> None:
        # Whoever is still being answered (slowly, on purpose, perhaps) does not delay the end.
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=3600, shutdown_timeout=0.1)
        self._context = context
        self._reserved = reserve(address, port)
        self._address = address
        self.port: int = self._reserved.getsockname()[1]
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Accepts connections."""
        if self._runner.server is None:
            await self._runner.setup()
        if self._server is None:
            assert self._runner.server is not None  # noqa: S101 - setup() made it
            self._server = await asyncio.get_running_loop().create_server(
                self._runner.server, sock=reserve(self._address, self.port), ssl=self._context, backlog=1024
            )

    def close(self) -> None:
        """Refuses connections and resets those that exist."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()

    def reset(self) -> None:
        """Resets the connections that exist."""
        for connection in self._runner.server.connections if self._runner.server else []:
            if connection.transport is not None:
                connection.transport.abort()

    async def stop(self) -> None:
        """Ends for good."""
        self.close()
        await self._runner.cleanup()
        self._reserved.close()


def url_of(address: str, port: int) -> str:
    """The https URL of an IP address or name and a port."""
    return f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"


def reserve(address: str, port: int) -> socket.socket:
    """A socket bound to the port (0: a free one), in a way that only processes of the same user can bind it too."""
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
