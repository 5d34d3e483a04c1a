"""Keep the Key Vault readers: one per identity and vault. They share one connection pool per set of trusted roots."""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

import msgspec
from azure.core.pipeline.transport import AioHttpTransport

from controller import errors
from controller.config.settings import TEST_CLOUD, Cloud
from controller.keyvault.client import AT_ONCE, VaultClient
from controller.keyvault.credentials import FederatedCredential, Identity
from controller.keyvault.errors import VaultAddress
from controller.keyvault.reader import VaultReader
from controller.keyvault.resolver import FairResolver
from controller.keyvault.transport import new_session, new_transport
from controller.runtime import budgets
from controller.runtime.budgets import RecentEntries
from controller.runtime.fair_share import FairSemaphore
from controller.runtime.rate_limiter import AdaptiveRateLimiter

# Maximum number of readers of all namespaces. Each takes 50 KiB.
MAX_READERS = 1024


class _ReaderKey(NamedTuple):
    """An identity, a cloud and a vault.

    It has the cloud's settings and not only its name, because an administrator can change them.
    """

    identity: Identity
    cloud: Cloud
    vault: str

    @property
    def vault_url(self) -> str:
        """Return the vault's URL."""
        return self.cloud.vault_url.replace("{vault}", self.vault.lower())


class _ReaderEntry(msgspec.Struct):
    """A reader, and the time of its last use (monotonic clock)."""

    reader: VaultReader
    used: float


class VaultPool:
    """All readers, one per identity, cloud and vault. Their number per namespace is limited.

    `assertion` returns the token of an identity's ServiceAccount. `check` raises if no request may be sent. `count`
    receives namespace, vault, operation and outcome of each request, and `count_no_token` the host of a failed
    exchange.
    """

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
        self._slots = FairSemaphore(AT_ONCE)
        self._resolver = FairResolver()
        self.transports: dict[str, AioHttpTransport] = {}
        self.rate_limiters: dict[str, AdaptiveRateLimiter] = {}
        self.credentials: dict[tuple[Identity, Cloud], FederatedCredential] = {}
        self.entries: RecentEntries[_ReaderKey, _ReaderEntry] = RecentEntries(budgets.READERS, MAX_READERS)

    def reader(self, identity: Identity, cloud: str, vault: str) -> VaultReader:
        """Return the reader of that vault as that identity. Raise `errors.ClassError` for a cloud that is not known."""
        cloud_settings = self._clouds.get(cloud)
        if not cloud_settings:
            known = ", ".join(sorted(self._clouds))
            raise errors.ClassError(f"cloud {cloud[:60]!r} was removed; set cloudName to one of {known}")
        key, now = _ReaderKey(identity, cloud_settings, vault), time.monotonic()
        entry = self.entries.get(identity.namespace, key)
        if entry is None:
            entry = _ReaderEntry(self._new_reader(key, cloud), now)
            for evicted, _ in self.entries.put(identity.namespace, key, entry):
                self._forget_evicted(evicted)
        entry.used = now
        return entry.reader

    def _new_reader(self, key: _ReaderKey, cloud: str) -> VaultReader:
        identity, cloud_settings = key.identity, key.cloud
        transport = self._transport_for(cloud_settings.ca, direct=cloud == TEST_CLOUD)
        credential = self.credentials.get((identity, cloud_settings))
        if not credential:
            credential = FederatedCredential(
                identity, cloud_settings, transport, lambda: self._assertion(identity), self._count_no_token
            )
            self.credentials[identity, cloud_settings] = credential
        rate_limiter = self.rate_limiters.setdefault(key.vault_url, AdaptiveRateLimiter(time.monotonic))
        count = partial(self._count, identity.namespace)
        address = VaultAddress(key.vault, key.vault_url, cloud, cloud_settings.api_version)
        client = VaultClient(address, identity, credential, transport, self._slots, rate_limiter, count)
        return VaultReader(client)

    def _forget_evicted(self, evicted: _ReaderKey) -> None:
        """Drop the data that only the evicted reader has used.

        A request of the reader can be in progress, so nothing is closed: the clients do not own their connections.
        """
        left = [key for _, key, _ in self.entries.items()]
        if not any(key[:2] == evicted[:2] for key in left):
            del self.credentials[evicted[:2]]
        # The rate limiter of a throttling vault is kept, so that a new reader does not call it at the full rate.
        if (
            not any(key.vault_url == evicted.vault_url for key in left)
            and not self.rate_limiters[evicted.vault_url].is_slowed
        ):
            del self.rate_limiters[evicted.vault_url]

    def vault_names(self) -> set[str]:
        """Return the vaults that have readers."""
        return {key.vault for _, key, _ in self.entries.items()}

    async def evict_idle(self, seconds: float) -> None:
        """Close readers without a request in that time, and delete the tokens of their identities."""
        now = time.monotonic()
        # All are forgotten before the first is closed. In the meantime, a new reader could otherwise get one of them.
        idle = [(namespace, key, entry) for namespace, key, entry in self.entries.items() if now - entry.used > seconds]
        for namespace, key, _ in idle:
            self.entries.drop(namespace, key)
        left = [key for _, key, _ in self.entries.items()]
        for url in self.rate_limiters.keys() - {key.vault_url for key in left}:
            if not self.rate_limiters[url].seconds_closed():
                del self.rate_limiters[url]
        credentials = [self.credentials.pop(key) for key in self.credentials.keys() - {key[:2] for key in left}]
        transports = [self.transports.pop(ca) for ca in self.transports.keys() - {key.cloud.ca for key in left}]
        for _, _, entry in idle:
            await entry.reader.close()
        for credential in credentials:
            await credential.close()
        for transport in transports:
            await _close_session(transport)

    def _transport_for(self, ca: str, *, direct: bool) -> AioHttpTransport:
        """Return the transport that trusts that CA. The test cloud is a pod in the same cluster and has its own CA."""
        if ca not in self.transports:
            self.transports[ca] = new_transport(new_session(ca, self._resolver), self._check, direct=direct)
        return self.transports[ca]

    async def close(self) -> None:
        """Close all connections and delete all tokens."""
        for _, _, entry in self.entries.items():
            await entry.reader.close()
        for credential in self.credentials.values():
            await credential.close()
        for transport in self.transports.values():
            await _close_session(transport)
        await self._resolver.close()


async def _close_session(transport: AioHttpTransport) -> None:
    if transport.session:
        await transport.session.close()
