"""A poller in virtual time; the vault is the stage itself, and keeps a diary."""

import asyncio
from collections.abc import Collection, Mapping
from typing import cast

from controller.errors import ProviderError
from controller.identity import Identity
from controller.objects import VaultObject, VersionOf
from controller.poll import Group, Poller, Seen
from controller.queue import Key
from controller.survey import Survey
from controller.vaults import Vaults
from tests.unit.dice import Dice
from tests.unit.virtual import VirtualLoop

WHO = Identity("team", "robot", "client", "tenant")
HOURLY = Group(WHO, "cloud", "vault", 3600.0)
A, B, C = (Key("team", name) for name in "abc")
USER, PASS = VersionOf(VaultObject(name="user")), VersionOf(VaultObject(name="pass"))
SEEN = Survey(listed={"secret": {}})
AWAY = ProviderError("down")


class Stage:
    """A poller and its workers; the vault is the stage itself."""

    def __init__(self, loop: VirtualLoop, jitter: float = 0.0) -> None:
        self.loop = loop
        self.looks: list[tuple[float, str, Collection[VersionOf]]] = []
        self.told: list[tuple[float, Key, Mapping[str, VersionOf], Seen]] = []
        self.takes = 0.0
        self.seen: Survey | Exception = SEEN
        self.poller = Poller(jitter, cast("Vaults", self), self._tell)
        self.poller._dice = Dice(0.5)
        self.working = loop.create_task(self.poller.work())

    def reader(self, who: Identity, cloud: str, vault: str) -> "Stage":
        self._asked = f"{who.namespace}/{cloud}/{vault}"
        return self

    async def survey(self, wanted: Collection[VersionOf], _since: float) -> Survey:
        self.looks.append((self.loop.time(), self._asked, wanted))
        await asyncio.sleep(self.takes)
        if isinstance(self.seen, Exception):
            raise self.seen
        return self.seen

    def _tell(self, key: Key, wanted: Mapping[str, VersionOf], seen: Seen) -> None:
        self.told.append((self.loop.time(), key, wanted, seen))

    def join(self, key: Key, group: Group = HOURLY, wanted: VersionOf = USER, age: float | None = 0.0) -> None:
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
