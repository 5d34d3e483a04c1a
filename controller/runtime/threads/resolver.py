"""Resolve host names with the system's resolver, in daemon threads.

With the system's resolver, /etc/hosts, search domains and nsswitch have the same effect as for other programs. A lookup
blocks its thread, for minutes if a DNS server does not answer. aiohttp's own resolver uses threads of the event loop,
for which a process waits at its end. The kubelet would kill the controller after its grace period.
"""

import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from controller.runtime.threads.fair_threads import FairThreads


class SystemResolver(AbstractResolver):
    """The system's resolver, with a number of threads. One namespace uses at most half of them, or the only one."""

    def __init__(self, threads: int, getaddrinfo: Callable[..., Any] | None = None) -> None:
        self._threads = FairThreads(threads, "resolve")
        self._getaddrinfo = getaddrinfo or socket.getaddrinfo

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses for a caller without a namespace. Raise `OSError` if there are none."""
        return await self.resolve_for("", host, port, family)

    async def resolve_for(self, namespace: str, host: str, port: int, family: int) -> list[ResolveResult]:
        """Return the addresses, as soon as the namespace gets a thread. Raise `OSError` if there are none."""
        found = await self._threads.run(namespace, lambda: self._request_addresses(host, port, family))
        return [
            ResolveResult(
                hostname=host,
                host=_to_numeric_host(address),
                port=address[1],
                family=found_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, _, protocol, _, address in found
        ]

    def _request_addresses(self, host: str, port: int, family: int) -> Any:
        try:
            return self._getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        except socket.gaierror:
            # The system's resolver reports an unknown name if it cannot open /etc/hosts. This raises the cause.
            os.close(os.open(os.devnull, os.O_RDONLY))
            raise
        except UnicodeError:  # such as an empty part between two dots, or one of more than 63 characters
            raise OSError(errno.EINVAL, "it is not a host name") from None

    async def close(self) -> None:
        """Do nothing: the threads are daemons."""


def _to_numeric_host(address: tuple[Any, ...]) -> str:
    """Return the address as text. A link-local IPv6 address can only be reached with its interface."""
    interface = address[3] if len(address) == 4 else 0  # address, port, flow label and interface of IPv6
    return f"{address[0]}%{interface}" if interface else str(address[0])
