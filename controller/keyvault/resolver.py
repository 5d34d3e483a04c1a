"""Resolve the host names of vaults and of Entra, with fair shares by namespace.

A lookup can block its thread for minutes, and an editor can choose the host with keyvaultName. The shares protect the
other namespaces.
"""

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult

from controller.runtime import budgets
from controller.runtime.threads.resolver import SystemResolver

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
    """The system's resolver with a cache. Callers of one namespace that resolve the same name share one lookup."""

    def __init__(
        self, getaddrinfo: Callable[..., Any] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._system = SystemResolver(LOOKUPS_AT_ONCE, getaddrinfo)
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
        return await self._system.resolve_for(namespace, *wanted)

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
