"""Simulate many clusters on one vault, in virtual time.

The parts that decide about vault calls are the controller's own: `Reconciler`, `Poller`, their queues, `VaultReader`,
`VaultClient` and `AdaptiveRateLimiter`. The vault has the emulator's rate limiter. The API server only stores statuses.
"""

import asyncio
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from azure.core.exceptions import HttpResponseError

from controller.api.meta import ObjectMeta
from controller.api.secretsync import SecretSync, SecretSyncStatus
from controller.config.settings import Settings
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.status import PartiallySynced, Synced, object_versions
from controller.domain.values import SecretBytes, VaultValue
from controller.domain.vault_objects import ListItem
from controller.errors import ControllerError
from controller.keyvault.client import AT_ONCE, VaultClient
from controller.keyvault.credentials import FederatedCredential, Identity
from controller.keyvault.errors import VaultAddress
from controller.keyvault.objects import ObjectClient, ObjectPage, SecretObjects
from controller.keyvault.reader import VaultReader
from controller.kube.informer import Store
from controller.observability.telemetry import Metrics
from controller.runtime.fair_share import FairSemaphore
from controller.runtime.rate_limiter import AdaptiveRateLimiter
from controller.runtime.work_queue import Key
from controller.secretsync.status_reporter import ReportResult
from controller.secretsync.sync_resolver import Class, ResolvedSync
from controller.secretsync.syncer import LastWrite
from controller.secretsync.tasks import Fetch
from tests.support.builders import make_provider_class, make_sync
from tests.support.reconciler_factory import build_reconciler
from tests.support.virtual_time import VirtualLoop
from tools.cli.capacity.fleet import LIST_PAGE
from tools.keyvault_emulator.faults import WINDOW, RateLimiter

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
IDENTITY = Identity("team", "robot", "client", "tenant")


class SharedVault:
    """The vault that all clusters share, with the times at which it accepted and throttled calls."""

    def __init__(self, loop: VirtualLoop, names: list[str], lists: bool) -> None:
        self.loop = loop
        self.names = names
        self.lists = lists
        self.limiter = RateLimiter()
        self.accepted_at: list[float] = []
        self.throttled_at: list[float] = []
        self.reads: list[tuple[float, str]] = []
        self.changed: set[str] = set()

    def call(self, status: int = 200) -> None:
        """Accept one call, or raise the error of a throttled or forbidden one."""
        now = self.loop.time()
        if refusal := self.limiter.admit(now):
            self.throttled_at.append(now)
            raise _error(429, refusal.headers)
        self.accepted_at.append(now)
        if status >= 400:
            raise _error(status, {})

    def updated(self, name: str) -> datetime:
        """Return when the value of this secret was set last."""
        return LONG_AGO + timedelta(days=name in self.changed)

    def max_calls_in_window(self, since: float = 0.0) -> int:
        """Return the highest number of calls in any ten seconds."""
        moments = [moment for moment in self.accepted_at if moment >= since]
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


class _SimulatedSecrets:
    """A replacement for `SecretObjects` without HTTP."""

    plural, role = SecretObjects.plural, SecretObjects.role

    def __init__(self, vault: SharedVault) -> None:
        self._shared = vault

    async def get(self, found: VaultObject, _version: str) -> VaultValue:
        self._shared.call()
        self._shared.reads.append((self._shared.accepted_at[-1], found.name))
        return VaultValue(value=SecretBytes(b"value"), version="v1", updated=self._shared.updated(found.name))

    def everything(self) -> str:
        return "https://vault/secrets?$skiptoken=0"

    async def page(self, where: str) -> ObjectPage:
        self._shared.call(200 if self._shared.lists else 403)
        start = int(where.rpartition("=")[2])
        names = self._shared.names[start : start + LIST_PAGE]
        items = [ListItem(name, "", True, LONG_AGO, self._shared.updated(name), False, {}) for name in names]
        after = start + LIST_PAGE
        return ObjectPage(items, f"https://vault/secrets?$skiptoken={after}" if after < len(self._shared.names) else "")


async def _signed_in() -> None:
    """Return at once, because the simulated vault needs no token."""


class _SimulatedClient(VaultClient):
    """The vault client of one cluster, with its own rate limiter."""

    def __init__(self, vault: SharedVault) -> None:
        clock = vault.loop.time
        credential = cast("FederatedCredential", SimpleNamespace(note_forbidden=_ignore, get_token_info=_signed_in))
        super().__init__(
            VaultAddress("vault", "https://vault"),
            IDENTITY,
            credential,
            cast("Any", None),
            FairSemaphore(AT_ONCE),
            AdaptiveRateLimiter(clock),
            _ignore,
            clock,
        )
        self._secrets = cast("ObjectClient", _SimulatedSecrets(vault))

    def source_of(self, _kind: str) -> ObjectClient:
        return self._secrets


def _ignore(*_: object) -> None:
    """Ignore the call, because the simulation counts no metrics."""


class SimulatedCluster:
    """One controller and its API server.

    This class replaces SyncResolver, Syncer, VaultPool and StatusReporter, which do I/O.
    """

    def __init__(
        self, vault: SharedVault, settings: Settings, metrics: Metrics, seed: object, syncs: Iterable[SecretSync]
    ):
        self.reader_of_vault = VaultReader(_SimulatedClient(vault))
        self.reconciler = build_reconciler(self, settings, vault.loop, metrics, random.Random(str(seed)))
        self.reconciler.classes.set(make_provider_class())
        for item in syncs:
            self.reconciler.syncs.set(item)
        loops = (self.reconciler.work(), self.reconciler.poller.work())
        self._working = [vault.loop.create_task(loop) for loop in loops]

    async def resolve_sync(self, wanted: SecretSync, _source: Class) -> ResolvedSync:
        pairs = wanted.spec.secret_object.data
        return ResolvedSync(
            IDENTITY,
            "cloud",
            "vault",
            {pair.target_key: ObjectVersionRef(VaultObject(name=pair.source_path)) for pair in pairs},
        )

    async def sync(
        self, wanted: SecretSync, reading: ResolvedSync, _written: LastWrite, task: Fetch
    ) -> PartiallySynced | Synced:
        keys = {key: version for key, version in reading.wanted.items() if task.keys is None or key in task.keys}
        first = not {item.target_key for item in wanted.status.objects}.issuperset(keys)
        read = await self.reader_of_vault.read(keys.values(), since=task.not_before, first=first)
        fetched = {key: read.get(version) for key, version in reading.wanted.items()}
        objects = object_versions(fetched, reading.wanted, wanted.status)
        failed = {key: item for key, item in fetched.items() if isinstance(item, ControllerError)}
        if failed:
            return PartiallySynced(message="", failed=failed, objects=objects)
        return Synced(message="", objects=objects)

    async def is_unchanged(self, _sync: SecretSync, _written: LastWrite) -> bool:
        return True

    def forget_class(self, _key: Key) -> None:
        pass

    def reader(self, *_: object) -> VaultReader:
        return self.reader_of_vault

    async def report_status(
        self, syncs: Store[SecretSync], meta: ObjectMeta, before: SecretSyncStatus, after: SecretSyncStatus
    ) -> ReportResult:
        found = syncs.get(Key(meta.namespace, meta.name))
        if isinstance(found, SecretSync) and after != before:
            syncs.set(msgspec.structs.replace(found, status=after))
        return ReportResult.DONE

    def report_warnings(self, *_: object) -> None:
        pass

    def forget(self, *_: object) -> None:
        pass

    @property
    def kept(self) -> list[SecretSync]:
        """The SecretSyncs that the API server stores."""
        return list(self.reconciler.own_syncs())

    async def stop(self) -> None:
        self.reconciler.close()
        self.reconciler.poller.close()
        await asyncio.wait(self._working)


class FleetSimulation:
    """Clusters that each sync the same secrets. Without `lists`, the vault refuses list calls."""

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
        self.vault = SharedVault(loop, [f"s{number}" for number in range(secrets)], lists)
        self._seed = seed
        self._metrics = Metrics()
        self._starts = 0
        self.clusters: list[SimulatedCluster] = []
        each = [
            make_sync(self.vault.names[number::syncs], name=f"shop-{number}", uid=f"uid-{number}")
            for number in range(syncs)
        ]
        self._kept = [each] * clusters

    def start(self) -> None:
        """Start a controller in each cluster now. Each reads the objects that its API server stores."""
        self._starts += 1
        self.clusters = [
            SimulatedCluster(self.vault, self.settings, self._metrics, (self._seed, self._starts, number), syncs)
            for number, syncs in enumerate(self._kept)
        ]

    def stop(self) -> None:
        """Stop all controllers. The API servers still store the reported statuses."""
        self._kept = [cluster.kept for cluster in self.clusters]

        async def all_of_them() -> None:
            async with asyncio.TaskGroup() as tasks:
                for cluster in self.clusters:
                    tasks.create_task(cluster.stop())

        self.loop.run_until_complete(all_of_them())
        self.clusters = []

    def advance(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
