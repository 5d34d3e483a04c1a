"""Test the resolution of host names in separate threads: hanging names block only their own namespace."""

import asyncio
import socket
import threading
from collections import Counter
from typing import Any

import pytest

from controller.keyvault.resolver import KEEP, LOOKUPS_AT_ONCE, MAX_KEPT, FairResolver, requesting_namespace

TIMEOUT = 5.0
ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443))]


class FakeNameServer:
    """A name server. Names that begin with `hang` wait for the gate, and names that begin with `no` do not exist."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.lookups: Counter[str] = Counter()

    def __call__(self, host: str, port: int, **_: Any) -> Any:
        self.lookups[host] += 1
        if host.startswith("hang"):
            self.gate.wait()
        if host.startswith("no"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return ANSWER


async def resolve(resolver: FairResolver, namespace: str, host: str) -> str:
    requesting_namespace.set(namespace)
    return (await resolver.resolve(host, 443))[0]["host"]


async def test_hanging_lookups_leave_half_of_the_threads_to_others() -> None:
    dns = FakeNameServer()
    resolver = FairResolver(dns)
    hanging = [asyncio.create_task(resolve(resolver, "a", f"hang-{number}")) for number in range(LOOKUPS_AT_ONCE * 3)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(TIMEOUT):
        assert await asyncio.create_task(resolve(resolver, "b", "vault")) == "127.0.0.1"
    assert sum(dns.lookups.values()) <= LOOKUPS_AT_ONCE / 2 + 1
    dns.gate.set()
    await asyncio.gather(*hanging)


async def test_name_that_waits_in_one_namespace_is_resolved_for_another() -> None:
    """Let a namespace with no free thread request the same name before another namespace does."""
    dns = FakeNameServer()
    resolver = FairResolver(dns)
    names = [f"hang-{number}" for number in range(LOOKUPS_AT_ONCE)] + ["vault"]
    waiting = [asyncio.create_task(resolve(resolver, "a", name)) for name in names]
    await asyncio.sleep(0.1)
    assert not dns.lookups["vault"]
    async with asyncio.timeout(TIMEOUT):
        assert await asyncio.create_task(resolve(resolver, "b", "vault")) == "127.0.0.1"
    dns.gate.set()
    await asyncio.gather(*waiting)


async def test_hanging_lookup_times_out_and_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.keyvault.resolver.PATIENCE", 0.05)
    dns = FakeNameServer()
    resolver = FairResolver(dns)
    for _ in range(3):
        with pytest.raises(OSError, match="not resolved in time"):
            await resolver.resolve("hang", 443)
    assert dns.lookups["hang"] == 1
    dns.gate.set()


async def test_resolved_names_are_cached_and_failures_are_not() -> None:
    now, dns = [0.0], FakeNameServer()
    resolver = FairResolver(dns, clock=lambda: now[0])
    for _ in range(3):
        await resolver.resolve("vault", 443)
        with pytest.raises(OSError, match="no such name"):
            await resolver.resolve("no", 443)
    assert dns.lookups == {"vault": 1, "no": 3}
    now[0] += KEEP
    await resolver.resolve("vault", 443)
    assert dns.lookups["vault"] == 2
    for number in range(MAX_KEPT + 10):
        await resolver.resolve(f"vault-{number}", 443)
    assert len(resolver.cached) == MAX_KEPT


async def test_default_resolver_resolves_localhost() -> None:
    assert await resolve(FairResolver(), "a", "localhost") in ("127.0.0.1", "::1")
