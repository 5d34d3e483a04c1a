"""A poller in virtual time; the vault is the stage itself, and keeps a diary."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import cast

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.selection import Query
from controller.domain.snapshot import ListedObject, VaultSnapshot
from controller.errors import ProviderError
from controller.keyvault.credentials import Identity
from controller.keyvault.listing import OnListed
from controller.keyvault.poll_group import PollGroup
from controller.keyvault.pool import VaultPool
from controller.runtime.work_queue import Key
from controller.secretsync.poller import Poller
from controller.secretsync.work_state import PollResult
from tests.support.fixed_random import FixedRandom
from tests.support.virtual_time import VirtualLoop

WHO = Identity("team", "robot", "client", "tenant")
HOURLY = PollGroup(WHO, "cloud", "vault", 3600.0)
A, B, C = (Key("team", name) for name in "abc")
USER, PASS = ObjectVersionRef(VaultObject(name="user")), ObjectVersionRef(VaultObject(name="pass"))
SEEN = VaultSnapshot(listed={"secret": {}})
AWAY = ProviderError("down")
PAGE_SECONDS = 0.05


class Stage:
    """A poller and its workers; the vault is the stage itself."""

    def __init__(self, loop: VirtualLoop, jitter: float = 0.0) -> None:
        self.loop = loop
        self.looks: list[tuple[float, str, Collection[ObjectVersionRef]]] = []
        self.told: list[tuple[float, Key, Mapping[str, ObjectVersionRef], PollResult]] = []
        self.takes = 0.0
        self.pages: list[dict[str, ListedObject]] = []
        self.unequal: set[Key] = set()
        self.queries: list[tuple[Query, ...]] = []
        self.seen: VaultSnapshot | Exception = SEEN
        self.rng = FixedRandom(0.5)
        self.poller = Poller(jitter, cast("VaultPool", self), self._tell, self.rng, loop.time)
        self.working = loop.create_task(self.poller.work())

    def reader(self, who: Identity, cloud: str, vault: str) -> "Stage":
        self._asked = f"{who.namespace}/{cloud}/{vault}"
        return self

    async def survey(
        self,
        wanted: Collection[ObjectVersionRef],
        _since: float,
        queries: Sequence[Query] = (),
        on_listed: OnListed | None = None,
    ) -> VaultSnapshot:
        self.queries.append(tuple(queries))
        self.looks.append((self.loop.time(), self._asked, wanted))
        await asyncio.sleep(self.takes)
        for page in self.pages:
            for name, state in page.items():
                if on_listed:
                    on_listed("secret", name, state)
            await asyncio.sleep(PAGE_SECONDS)
        if isinstance(self.seen, Exception):
            raise self.seen
        return self.seen

    def _tell(self, key: Key, wanted: Mapping[str, ObjectVersionRef], seen: PollResult) -> bool:
        self.told.append((self.loop.time(), key, wanted, seen))
        return key not in self.unequal

    def join(
        self, key: Key, group: PollGroup = HOURLY, wanted: ObjectVersionRef = USER, age: float | None = 0.0
    ) -> None:
        self.poller.join(key, group, {"k": wanted}, age)

    def passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert not self.working.done()

    @property
    def times(self) -> list[float]:
        return [moment for moment, *_ in self.looks]

    @property
    def who(self) -> list[Key]:
        return [key for _, key, *_ in self.told]
