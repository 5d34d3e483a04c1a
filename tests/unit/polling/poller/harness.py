"""Provide a poller in virtual time. The harness acts as the vault and records the calls."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import cast

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.selection import Query
from controller.domain.snapshot import ListedObject, PollResult, VaultSnapshot
from controller.errors import ProviderError
from controller.keyvault.credentials import Identity
from controller.keyvault.listing import OnListed
from controller.keyvault.pool import VaultPool
from controller.polling.poll_group import PollGroup
from controller.polling.poller import Poller
from controller.runtime.work_queue import Key
from tests.support.fixed_random import FixedRandom
from tests.support.virtual_time import VirtualLoop

IDENTITY = Identity("team", "robot", "client", "tenant")
HOURLY = PollGroup(IDENTITY, "cloud", "vault", 3600.0)
A, B, C = (Key("team", name) for name in "abc")
USER, PASS = ObjectVersionRef(VaultObject(name="user")), ObjectVersionRef(VaultObject(name="pass"))
SNAPSHOT = VaultSnapshot(listed={"secret": {}})
UNREACHABLE = ProviderError("down")
PAGE_SECONDS = 0.05


class PollerHarness:
    """A poller and its workers. The harness acts as their vault."""

    def __init__(self, loop: VirtualLoop, jitter: float = 0.0) -> None:
        self.loop = loop
        self.polls: list[tuple[float, str, Collection[ObjectVersionRef]]] = []
        self.uses_pages: list[bool] = []
        self.results: list[tuple[float, Key, Mapping[str, ObjectVersionRef], PollResult]] = []
        self.poll_seconds = 0.0
        self.pages: list[dict[str, ListedObject]] = []
        self.unequal: set[Key] = set()
        self.queries: list[tuple[Query, ...]] = []
        self.snapshot: VaultSnapshot | Exception = SNAPSHOT
        self.rng = FixedRandom(0.5)
        self.poller = Poller(jitter, cast("VaultPool", self), self._receive_result, self.rng, loop.time)
        self.working = loop.create_task(self.poller.work())

    def reader(self, identity: Identity, cloud: str, vault: str) -> "PollerHarness":
        self._group_path = f"{identity.namespace}/{cloud}/{vault}"
        return self

    async def take_snapshot(
        self,
        wanted: Collection[ObjectVersionRef],
        since: float,
        queries: Sequence[Query] = (),
        on_listed: OnListed | None = None,
    ) -> VaultSnapshot:
        assert since == self.loop.time()
        self.queries.append(tuple(queries))
        self.uses_pages.append(on_listed is not None)
        self.polls.append((self.loop.time(), self._group_path, wanted))
        await asyncio.sleep(self.poll_seconds)
        for page in self.pages:
            for name, state in page.items():
                if on_listed:
                    on_listed("secret", name, state)
            await asyncio.sleep(PAGE_SECONDS)
        if isinstance(self.snapshot, Exception):
            raise self.snapshot
        return self.snapshot

    def _receive_result(self, key: Key, wanted: Mapping[str, ObjectVersionRef], result: PollResult) -> bool:
        self.results.append((self.loop.time(), key, wanted, result))
        return key not in self.unequal

    def join(
        self, key: Key, group: PollGroup = HOURLY, wanted: ObjectVersionRef = USER, age: float | None = 0.0
    ) -> None:
        self.poller.join(key, group, {"k": wanted}, age)

    def advance(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert not self.working.done()

    @property
    def poll_times(self) -> list[float]:
        return [moment for moment, *_ in self.polls]

    @property
    def served_keys(self) -> list[Key]:
        return [key for _, key, *_ in self.results]
