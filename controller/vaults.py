"""All Key Vaults that are read: one reader per identity and vault, one pool of connections per set of trusted roots."""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

import msgspec
from azure.core.pipeline.transport import AioHttpTransport

from controller import budgets, errors
from controller.budgets import Recent
from controller.calls import AT_ONCE, Calls
from controller.identity import FederatedCredential, Identity
from controller.network import new_session, new_transport
from controller.pace import Pace
from controller.refusals import VaultAddress
from controller.resolver import FairResolver
from controller.settings import Cloud
from controller.shares import Slots
from controller.vault import VaultReader

# Of all namespaces together: 50 KiB each.
MAX_READERS = 1024


class _Reach(NamedTuple):
    """Who reaches which vault. A cloud is kept by its meaning: one that was removed and came back may be elsewhere."""

    identity: Identity
    cloud: Cloud
    vault: str

    @property
    def url(self) -> str:
        """Where the vault is."""
        return self.cloud.vault_url.replace("{vault}", self.vault.lower())


class _Entry(msgspec.Struct):
    """A reader, and when it was asked for last (monotonic clock)."""

    reader: VaultReader
    used: float


class Vaults:
    """All readers: one per identity, cloud and vault, so many for each namespace. Close it to end every connection."""

    def __init__(
        self,
        clouds: Mapping[str, Cloud],
        assertion: Callable[[Identity], Awaitable[str]],
        count: Callable[[str, str, str, str], None],
        check: Callable[[], None] = lambda: None,
        count_no_token: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._count_no_token = count_no_token
        self._clouds = clouds
        self._check = check
        self._assertion = assertion
        self._count = count
        self._slots = Slots(AT_ONCE)
        self._resolver = FairResolver()
        self._transports: dict[str, AioHttpTransport] = {}
        self._paces: dict[str, Pace] = {}
        self._credentials: dict[tuple[Identity, Cloud], FederatedCredential] = {}
        self._entries: Recent[_Reach, _Entry] = Recent(budgets.READERS, MAX_READERS)

    def reader(self, identity: Identity, cloud: str, vault: str) -> VaultReader:
        """Return the reader of that vault as that identity. Raise `errors.ClassError` for a cloud that is not known."""
        where = self._clouds.get(cloud)
        if not where:
            raise errors.ClassError(f"cloud {cloud[:60]!r} is gone; known are {', '.join(sorted(self._clouds))}")
        reach = _Reach(identity, where, vault)
        entry = self._entries.get(identity.namespace, reach)
        if entry is None:
            entry = _Entry(self._new_reader(reach, cloud), 0.0)
            for evicted, _ in self._entries.put(identity.namespace, reach, entry):
                self._forget(evicted)
        entry.used = time.monotonic()
        return entry.reader

    def _new_reader(self, reach: _Reach, cloud: str) -> VaultReader:
        identity, where = reach.identity, reach.cloud
        transport = self._transport(where.ca)
        credential = self._credentials.get((identity, where))
        if not credential:
            credential = FederatedCredential(
                identity, where, transport, lambda: self._assertion(identity), self._count_no_token
            )
            self._credentials[identity, where] = credential
        pace = self._paces.setdefault(reach.url, Pace(time.monotonic))
        count = partial(self._count, identity.namespace)
        address = VaultAddress(reach.vault, reach.url, cloud, where.api_version)
        calls = Calls(address, identity, credential, transport, self._slots, pace, count)
        return VaultReader(calls)

    def _forget(self, evicted: _Reach) -> None:
        """Drop what only the evicted reader has used.

        A request of it may be in flight, so nothing is closed: the clients do not own their connections.
        """
        left = [reach for _, reach, _ in self._entries.items()]
        if not any(reach[:2] == evicted[:2] for reach in left):
            self._credentials.pop(evicted[:2], None)
        # What a vault has refused is remembered for a while: else a new reader would ask it at the full pace again.
        if not any(reach.url == evicted.url for reach in left) and not self._paces[evicted.url].slowed:
            del self._paces[evicted.url]

    def names(self) -> set[str]:
        """Return the vaults that there are readers of."""
        return {reach.vault for _, reach, _ in self._entries.items()}

    async def drop_unused(self, seconds: float) -> None:
        """Close readers that nothing has asked for in that time, and forget their identities' tokens."""
        now = time.monotonic()
        for namespace, reach, entry in self._entries.items():
            if now - entry.used > seconds:
                self._entries.drop(namespace, reach)
                await entry.reader.close()
        left = [reach for _, reach, _ in self._entries.items()]
        for credential in self._credentials.keys() - {reach[:2] for reach in left}:
            await self._credentials.pop(credential).close()
        for url in self._paces.keys() - {reach.url for reach in left}:
            if not self._paces[url].closed():
                del self._paces[url]
        for ca in self._transports.keys() - {reach.cloud.ca for reach in left}:
            await _close(self._transports.pop(ca))

    def _transport(self, ca: str) -> AioHttpTransport:
        if ca not in self._transports:
            self._transports[ca] = new_transport(new_session(ca, self._resolver), self._check)
        return self._transports[ca]

    async def close(self) -> None:
        """Closes every connection and forgets every token."""
        for _, _, entry in self._entries.items():
            await entry.reader.close()
        for credential in self._credentials.values():
            await credential.close()
        for transport in self._transports.values():
            await _close(transport)
        await self._resolver.close()


async def _close(transport: AioHttpTransport) -> None:
    if transport.session:
        await transport.session.close()
