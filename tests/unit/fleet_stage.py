"""A fleet on one vault, in virtual time: each cluster decides with the controller's own code when it calls.

Of each cluster all that decides about calls is real: `Reconciler`, `Poller`, their queues, `VaultReader`, `Calls` and
`Pace`. The vault is the emulator's limiter; the API server is a status that is kept.
"""

import asyncio
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from azure.core.exceptions import HttpResponseError

from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta
from controller.api.secretsync import SecretSync, SecretSyncStatus
from controller.calls import AT_ONCE, Calls
from controller.errors import ControllerError, Retry
from controller.fetched import Fetched, Hidden
from controller.identity import FederatedCredential, Identity
from controller.objects import VaultObject, VersionOf
from controller.pace import Pace
from controller.plan import turn
from controller.queue import Key
from controller.reconcile import Reconciler
from controller.reflector import Store
from controller.refusals import VaultAddress
from controller.report import Reporter
from controller.settings import Settings
from controller.shares import Slots
from controller.sources import Item, Page, Secrets, Source
from controller.status import Outcome, versions
from controller.sync import Ask, Class, Reading, Syncer, Written
from controller.telemetry import Metrics
from controller.vault import VaultReader
from controller.vaults import Vaults
from tests.unit.objects_of import provider_class, sync
from tests.unit.virtual import VirtualLoop
from tools.fleet import LIST_PAGE
from tools.keyvault_emulator.faults import WINDOW, Limiter

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
ROBOT = Identity("team", "robot", "client", "tenant")


class Vault:
    """What all clusters share: the limit, and the moments at which it took calls and refused them."""

    def __init__(self, loop: VirtualLoop, names: list[str], lists: bool) -> None:
        self.loop = loop
        self.names = names
        self.lists = lists
        self.limiter = Limiter()
        self.taken: list[float] = []
        self.refused: list[float] = []
        self.got: list[tuple[float, str]] = []
        self.changed: set[str] = set()

    def call(self, status: int = 200) -> None:
        """One call; raises where it is one too many, or forbidden."""
        now = self.loop.time()
        if refusal := self.limiter.admit(now):
            self.refused.append(now)
            raise _error(429, refusal.headers)
        self.taken.append(now)
        if status >= 400:
            raise _error(status, {})

    def updated(self, name: str) -> datetime:
        """When its value was set last."""
        return LONG_AGO + timedelta(days=name in self.changed)

    def worst(self, since: float = 0.0) -> int:
        """The most calls that any ten seconds have brought."""
        moments = [moment for moment in self.taken if moment >= since]
        most = first = 0
        for last, moment in enumerate(moments):
            while moment - moments[first] >= WINDOW:
                first += 1
            most = max(most, last - first + 1)
        return most


def _error(status: int, headers: dict[str, str]) -> HttpResponseError:
    error = HttpResponseError("refused", response=None)
    error.status_code = status
    error.response = SimpleNamespace(status_code=status, headers=headers)
    return error


class _Shelf:
    """Stands for `Secrets`, without HTTP."""

    plural, role = Secrets.plural, Secrets.role

    def __init__(self, vault: Vault) -> None:
        self._shared = vault

    async def get(self, found: VaultObject, _version: str) -> Fetched:
        self._shared.call()
        self._shared.got.append((self._shared.taken[-1], found.name))
        return Fetched(value=Hidden(b"value"), version="v1", updated=self._shared.updated(found.name))

    def everything(self) -> str:
        return "https://vault/secrets?$skiptoken=0"

    async def page(self, where: str) -> Page:
        self._shared.call(200 if self._shared.lists else 403)
        start = int(where.rpartition("=")[2])
        names = self._shared.names[start : start + LIST_PAGE]
        items = [Item(name, "", True, LONG_AGO, self._shared.updated(name)) for name in names]
        after = start + LIST_PAGE
        return Page(items, f"https://vault/secrets?$skiptoken={after}" if after < len(self._shared.names) else "")


async def _signed_in() -> None:
    """Entra has answered before."""


class _Calls(Calls):
    """One cluster's calls, through its own pace."""

    def __init__(self, vault: Vault) -> None:
        clock = vault.loop.time
        credential = cast("FederatedCredential", SimpleNamespace(forbidden=_nobody, get_token_info=_signed_in))
        super().__init__(
            VaultAddress("vault", "https://vault"),
            ROBOT,
            credential,
            cast("Any", None),
            Slots(AT_ONCE),
            Pace(clock),
            _nobody,
            clock,
        )
        self._shelf = cast("Source", _Shelf(vault))

    def source(self, _kind: str) -> Source:
        return self._shelf


def _nobody(*_: object) -> None:
    """Nobody counts."""


class Cluster:
    """One controller, and what its API server keeps. Stands for Syncer, Vaults and Reporter as far as they do I/O."""

    def __init__(self, vault: Vault, settings: Settings, metrics: Metrics, seed: object, syncs: Iterable[SecretSync]):
        self.reader_of_vault = VaultReader(_Calls(vault))
        self.reconciler = Reconciler(
            settings, cast("Syncer", self), cast("Vaults", self), cast("Reporter", self), metrics
        )
        self.reconciler._dice = self.reconciler.poller._dice = random.Random(str(seed))
        self.reconciler.classes.put(provider_class())
        for item in syncs:
            self.reconciler.syncs.put(item)
        loops = (self.reconciler.work(), self.reconciler.poller.work())
        self._working = [vault.loop.create_task(loop) for loop in loops]

    async def reading(self, wanted: SecretSync, _source: Class) -> Reading:
        pairs = wanted.spec.secret_object.data
        return Reading(
            ROBOT, "cloud", "vault", {pair.target_key: VersionOf(VaultObject(name=pair.source_path)) for pair in pairs}
        )

    async def sync(self, wanted: SecretSync, reading: Reading, _written: Written, ask: Ask) -> Outcome:
        keys = {key: version for key, version in reading.wanted.items() if ask.stale is None or key in ask.stale}
        first = not {item.target_key for item in wanted.status.objects}.issuperset(keys)
        read = await self.reader_of_vault.read(keys.values(), since=ask.since, first=first)
        fetched = {key: read.get(version) for key, version in reading.wanted.items()}
        objects = versions(fetched, reading.wanted, wanted.status)
        failed = {key: item for key, item in fetched.items() if isinstance(item, ControllerError)}
        if failed:
            return Outcome(
                reason=Reason.PARTIAL,
                message="",
                ready=False,
                objects=objects,
                retry=Retry.TURN,
                retry_after=turn(failed),
                left=frozenset(failed),
            )
        return Outcome(reason=Reason.UP_TO_DATE, message="", ready=True, equal=True, exists=True, objects=objects)

    async def unchanged(self, _sync: SecretSync, _written: Written) -> bool:
        return True

    def forget_class(self, _key: Key) -> None:
        pass

    def reader(self, *_: object) -> VaultReader:
        return self.reader_of_vault

    async def report(
        self, syncs: Store[SecretSync], meta: ObjectMeta, before: SecretSyncStatus, after: SecretSyncStatus
    ) -> bool:
        found = syncs.get(Key(meta.namespace, meta.name))
        if isinstance(found, SecretSync) and after != before:
            syncs.put(msgspec.structs.replace(found, status=after))
        return True

    def warn(self, *_: object) -> None:
        pass

    def forget(self, *_: object) -> None:
        pass

    @property
    def kept(self) -> list[SecretSync]:
        """What the API server has of the SecretSyncs."""
        return list(self.reconciler.ours())

    async def stop(self) -> None:
        self.reconciler.close()
        self.reconciler.poller.close()
        await asyncio.wait(self._working)


class Fleet:
    """So many clusters, each with so many secrets in so many SecretSyncs. Without `lists` they may only get."""

    def __init__(
        self,
        loop: VirtualLoop,
        settings: Settings,
        *,
        clusters: int,
        secrets: int,
        syncs: int = 1,
        lists: bool = True,
        seed: object = 0,
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.vault = Vault(loop, [f"s{number}" for number in range(secrets)], lists)
        self._seed = seed
        self._metrics = Metrics()
        self._starts = 0
        self.clusters: list[Cluster] = []
        each = [
            sync(self.vault.names[number::syncs], name=f"shop-{number}", uid=f"uid-{number}") for number in range(syncs)
        ]
        self._kept = [each] * clusters

    def start(self) -> None:
        """All clusters at this moment, each with what its API server has."""
        self._starts += 1
        self.clusters = [
            Cluster(self.vault, self.settings, self._metrics, (self._seed, self._starts, number), syncs)
            for number, syncs in enumerate(self._kept)
        ]

    def stop(self) -> None:
        """Ends all controllers; the API servers keep what was told."""
        self._kept = [cluster.kept for cluster in self.clusters]

        async def all_of_them() -> None:
            async with asyncio.TaskGroup() as tasks:
                for cluster in self.clusters:
                    tasks.create_task(cluster.stop())

        self.loop.run_until_complete(all_of_them())
        self.clusters = []

    def passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))


def at(loop: VirtualLoop) -> Any:
    """What a module under test takes for `datetime`."""
    return SimpleNamespace(now=lambda _zone: NOON + timedelta(seconds=loop.time()))
