"""Names of hosts, looked up in threads with fair shares by namespace.

The system's resolver is used, so /etc/hosts, search domains and nsswitch mean here what they mean to every program in
the pod. It blocks, for minutes where a DNS server does not answer, and an editor chooses names: keyvaultName.
"""

import asyncio
import errno
import socket
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult

from controller import budgets
from controller.threads import FairThreads

LOOKUPS_AT_ONCE = 2 * int(budgets.LOOKUPS.most)
# Seconds that a caller waits. The lookup itself goes on, and keeps its thread, for as long as the system lets it.
PATIENCE = 10.0
# Seconds for which an answer is used again, and how many answers.
KEEP = 10.0
MAX_KEPT = 1000

requesting_namespace: ContextVar[str] = ContextVar("requesting_namespace", default="")
"""Whose request the present task sends; the callers of vaults set it."""


class _Lookup(NamedTuple):
    host: str
    port: int
    family: int


class FairResolver(AbstractResolver):
    """The system's resolver. Callers of one namespace that ask for the same name share one lookup."""

    def __init__(
        self, getaddrinfo: Callable[..., Any] = socket.getaddrinfo, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._getaddrinfo = getaddrinfo
        self._clock = clock
        self._threads = FairThreads(LOOKUPS_AT_ONCE, "resolve")
        # Not shared among namespaces: one whose share is spent would have the others wait in its line.
        self._running: dict[tuple[str, _Lookup], asyncio.Task[list[ResolveResult]]] = {}
        self._kept: dict[_Lookup, tuple[float, list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses. Raise `OSError` where there are none, or none are told in time."""
        wanted = _Lookup(host, port, family)
        kept = self._kept.get(wanted)
        if kept and self._clock() < kept[0]:
            return kept[1]
        namespace = requesting_namespace.get()
        task = self._running.get((namespace, wanted))
        if task is None:
            task = asyncio.create_task(self._look_up(namespace, wanted))
            self._running[namespace, wanted] = task
            task.add_done_callback(lambda done: self._ended((namespace, wanted), done))
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(task)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "the name was not resolved in time") from None

    async def _look_up(self, namespace: str, wanted: _Lookup) -> list[ResolveResult]:
        found = await self._threads.run(
            namespace,
            lambda: self._getaddrinfo(
                wanted.host, wanted.port, family=wanted.family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            ),
        )
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

    def _ended(self, key: tuple[str, _Lookup], task: "asyncio.Task[list[ResolveResult]]") -> None:
        self._running.pop(key, None)
        if task.cancelled() or task.exception():  # the callers have it, as far as they still wait
            return
        self._kept.pop(key[1], None)
        self._kept[key[1]] = (self._clock() + KEEP, task.result())
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    async def close(self) -> None:
        """Wait for nothing: threads that hang are daemons."""
        for task in self._running.values():
            task.cancel()
