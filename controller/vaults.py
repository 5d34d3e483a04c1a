"""All Key Vaults that are read: one reader per identity and vault, one pool of connections per set of trusted roots."""

import time
from collections.abc import Awaitable, Callable, Mapping

from azure.core.pipeline.transport import AioHttpTransport

from controller import errors
from controller.calls import AT_ONCE, Calls
from controller.identity import FederatedCredential, Identity
from controller.network import new_session, new_transport
from controller.pace import Pace
from controller.refusals import VaultAddress
from controller.settings import Cloud
from controller.shares import Slots
from controller.vault import VaultReader


class Vaults:
    """All readers there are: one per identity, cloud and vault. Close it to let go of every connection."""

    def __init__(
        self,
        clouds: Mapping[str, Cloud],
        assertion: Callable[[Identity], Awaitable[str]],
        count: Callable[[str, str, str], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._clouds = clouds
        self._check = check
        self._assertion = assertion
        self._count = count
        self._slots = Slots(AT_ONCE)
        self._transports: dict[str, AioHttpTransport] = {}
        self._paces: dict[str, Pace] = {}
        self._credentials: dict[tuple[Identity, Cloud], FederatedCredential] = {}
        # By what the cloud's name means: one that was taken away and brought back may be elsewhere.
        self._readers: dict[tuple[Identity, Cloud, str], VaultReader] = {}
        self._used: dict[tuple[Identity, Cloud, str], float] = {}

    def reader(self, identity: Identity, cloud: str, vault: str) -> VaultReader:
        """The reader of that vault as that identity. `errors.ClassError` where there is no such cloud, or no more."""
        where = self._clouds.get(cloud)
        if not where:
            raise errors.ClassError(f"cloud {cloud[:60]!r} is gone; known are {', '.join(sorted(self._clouds))}")
        found = self._readers.get((identity, where, vault))
        if not found:
            transport = self._transport(where.ca)
            credential = self._credentials.get((identity, where))
            if not credential:
                credential = FederatedCredential(identity, where, transport, lambda: self._assertion(identity))
                self._credentials[identity, where] = credential
            url = where.vault_url.replace("{vault}", vault.lower())
            pace = self._paces.setdefault(url, Pace(time.monotonic))
            calls = Calls(
                VaultAddress(vault, url, cloud, where.api_version),
                identity,
                credential,
                transport,
                self._slots,
                pace,
                self._count,
            )
            found = VaultReader(calls)
            self._readers[identity, where, vault] = found
        self._used[identity, where, vault] = time.monotonic()
        return found

    def names(self) -> set[str]:
        """The vaults that there are readers of."""
        return {vault for _, _, vault in self._readers}

    async def drop_unused(self, seconds: float) -> None:
        """Lets go of readers that nobody asked for in that time, and of their identities' tokens."""
        now = time.monotonic()
        for key in [key for key, used in self._used.items() if now - used > seconds]:
            del self._used[key]
            await self._readers.pop(key).close()
        for credential in self._credentials.keys() - {key[:2] for key in self._readers}:
            await self._credentials.pop(credential).close()
        for ca in self._transports.keys() - {where.ca for _, where, _ in self._readers}:
            await _close(self._transports.pop(ca))

    def _transport(self, ca: str) -> AioHttpTransport:
        if ca not in self._transports:
            self._transports[ca] = new_transport(new_session(ca), self._check)
        return self._transports[ca]

    async def close(self) -> None:
        """Closes every connection and forgets every token."""
        for reader in self._readers.values():
            await reader.close()
        for credential in self._credentials.values():
            await credential.close()
        for transport in self._transports.values():
            await _close(transport)


async def _close(transport: AioHttpTransport) -> None:
    if transport.session:
        await transport.session.close()
