"""Resolve host names in threads with fair shares by namespace.

It uses the system's resolver, so /etc/hosts, search domains and nsswitch have the same effect as for other programs in
the pod. A lookup blocks its thread, for minutes if a DNS server does not answer, and an editor can choose the host with
keyvaultName. The shares protect the other namespaces.
"""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult

from controller.runtime import budgets
from controller.runtime.threads import FairThreads

LOOKUPS_AT_ONCE = 2 * int(budgets.LOOKUPS.limit)
# Seconds that a caller waits. The lookup itself continues and keeps its thread until the system ends it.
PATIENCE = 10.0
# Seconds for which an answer is cached, and the maximum number of cached answers.
KEEP = 10.0
MAX_KEPT = 1000

requesting_namespace: ContextVar[str] = ContextVar("requesting_namespace", default="")
"""The namespace of the current task's request. `VaultClient` sets it."""


class _HostLookup(NamedTuple):
    host: str
    port: int
    family: int


class FairResolver(AbstractResolver):
    """The system's resolver. Callers of one namespace that resolve the same name share one lookup."""

    def __init__(
        self, getaddrinfo: Callable[..., Any] = socket.getaddrinfo, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._getaddrinfo = getaddrinfo
        self._clock = clock
        self._threads = FairThreads(LOOKUPS_AT_ONCE, "resolve")
        # Namespaces do not share lookups: a shared one could wait for the threads of a namespace whose share is used.
        self._running: dict[tuple[str, _HostLookup], asyncio.Task[list[ResolveResult]]] = {}
        self.cached: dict[_HostLookup, tuple[float, list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses. Raise `OSError` if there are none, or if the lookup takes too long."""
        wanted = _HostLookup(host, port, family)
        kept = self.cached.get(wanted)
        if kept and self._clock() < kept[0]:
            return kept[1]
        namespace = requesting_namespace.get()
        task = self._running.get((namespace, wanted))
        if task is None:
            task = asyncio.create_task(self._look_up(namespace, wanted))
            self._running[namespace, wanted] = task
            task.add_done_callback(lambda done: self._note_end((namespace, wanted), done))
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(task)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "the name was not resolved in time") from None

    async def _look_up(self, namespace: str, wanted: _HostLookup) -> list[ResolveResult]:
        found = await self._threads.run(namespace, lambda: self._request_addresses(wanted))
        return [
            ResolveResult(
                hostname=wanted.host,
                host=address[0],
                port=address[1],
                family=family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for family, _, protocol, _, address in found
        ]

    def _request_addresses(self, wanted: _HostLookup) -> Any:
        try:
            return self._getaddrinfo(
                wanted.host, wanted.port, family=wanted.family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
        except socket.gaierror:
            # The system's resolver reports an unknown name if it cannot open /etc/hosts. This raises the cause.
            os.close(os.open(os.devnull, os.O_RDONLY))
            raise

    def _note_end(self, key: tuple[str, _HostLookup], task: "asyncio.Task[list[ResolveResult]]") -> None:
        self._running.pop(key, None)
        if task.cancelled() or task.exception():  # the waiting callers have received the error
            return
        self.cached.pop(key[1], None)
        self.cached[key[1]] = (self._clock() + KEEP, task.result())
        if len(self.cached) > MAX_KEPT:
            del self.cached[next(iter(self.cached))]

    async def close(self) -> None:
        """Cancel the lookups. Do not wait for their threads, which are daemons."""
        for task in self._running.values():
            task.cancel()
