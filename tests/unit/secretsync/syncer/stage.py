"""A syncer, a scripted API server that it writes to, and a stand-in for the vault."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, cast

import msgspec
import pytest

from controller.api.meta import ObjectMeta
from controller.api.secretproviderclass import SecretProviderClass, SecretProviderClassSpec
from controller.api.secretsync import SecretSync
from controller.config.settings import BUILT_IN_CLOUDS, Settings
from controller.domain.provider_class import ObjectVersionRef
from controller.domain.status import Outcome, PartiallySynced, Requeue, Synced
from controller.domain.values import VaultValue
from controller.errors import ControllerError
from controller.keyvault.credentials import Identity
from controller.keyvault.pool import VaultPool
from controller.observability.telemetry import Metrics
from controller.runtime.parsing import ParsingPool
from controller.secretsync.sync_resolver import Class, SyncResolver
from controller.secretsync.syncer import LastWrite, Syncer
from controller.secretsync.value_fetcher import ValueFetcher
from controller.secretsync.work_state import Fetch
from tests.support.builders import make_provider_class, make_sync, make_value
from tests.support.scripted_api_server import ScriptedApiServer, ScriptedResponse, connect_to_api_server, error_response

CANARY = "canary-51c0"
ABSENT = error_response(404, "secrets not found")


def source(**parameters: str) -> SecretProviderClass:
    """Return a class with the objects that tests ask for."""
    objects = "array: ['objectName: user', 'objectName: pass']"
    base = {"keyvaultName": "shop-vault", "clientID": "client-1", "tenantID": "tenant-1", "objects": objects}
    spec = SecretProviderClassSpec(provider="azure", parameters=base | parameters)
    return msgspec.structs.replace(make_provider_class(), spec=spec)


def sent(meta: ObjectMeta, version: str = "42", **metadata: Any) -> ScriptedResponse:
    """Return the Secret's metadata as the API server answers."""
    body = msgspec.to_builtins(meta) | {"resourceVersion": version} | metadata
    return ScriptedResponse({"kind": "PartialObjectMetadata", "metadata": body})


class Scene:
    """A resolver and a syncer, the API server of both, and what stands in for the vaults."""

    def __init__(
        self, server: ScriptedApiServer, resolver: SyncResolver, syncer: Syncer, vault: "VaultStandIn"
    ) -> None:
        self.server = server
        self.resolver = resolver
        self.syncer = syncer
        self.vault = vault
        self.written = LastWrite(untried=False)
        # A dry run follows a write that was refused. It is allowed unless a test says otherwise.
        server.default_response = lambda asked: (
            ScriptedResponse({"metadata": {}}) if "dryRun" in asked.query else ScriptedResponse(held=True)
        )

    async def sync(
        self,
        *answers: ScriptedResponse,
        wanted: SecretSync | None = None,
        of: Class = None,
        stale: frozenset[str] | None = None,
    ) -> Synced | PartiallySynced:
        """Sync while the API server gives these answers, all of them."""
        outcome = await self._sync(*answers, wanted=wanted, of=of, stale=stale)
        assert isinstance(outcome, Synced | PartiallySynced)
        return outcome

    async def requeues(self, *answers: ScriptedResponse) -> Requeue:
        """Return how the sync is requeued while the API server gives these answers, all of them."""
        outcome = await self._sync(*answers)
        assert isinstance(outcome, Requeue)
        return outcome

    async def _sync(
        self,
        *answers: ScriptedResponse,
        wanted: SecretSync | None = None,
        of: Class = None,
        stale: frozenset[str] | None = None,
    ) -> Outcome:
        self.server.add_responses(*answers)
        reading = await self.resolver.resolve_sync(wanted or make_sync(), of or source())
        assert not isinstance(reading, Requeue)
        outcome = await self.syncer.sync(wanted or make_sync(), reading, self.written, Fetch(0.0, stale))
        assert not self.server.script
        return outcome

    async def fails(self, *answers: ScriptedResponse, wanted: SecretSync | None = None) -> ControllerError:
        with pytest.raises(ControllerError) as caught:
            await self.sync(*answers, wanted=wanted)
        return caught.value

    @property
    def requests(self) -> list[str]:
        """Method and body's data of each request, `look` for a patch that changes nothing."""
        return ["probe" if asked.body == b"{}" else asked.method for asked in self.server.requests]

    def body(self, number: int = -1) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.server.requests[number].body)
        return found


class VaultStandIn:
    """Stands for `VaultPool` and `VaultReader`."""

    def __init__(self) -> None:
        self.holds: dict[str, VaultValue | ControllerError] = {"user": make_value("me"), "pass": make_value(CANARY)}
        self.asked: list[tuple[Identity, str, str]] = []
        self.read_names: list[str] = []
        self.first: list[bool] = []

    def reader(self, identity: Identity, cloud: str, vault: str) -> "VaultStandIn":
        self.asked.append((identity, cloud, vault))
        return self

    async def read(
        self, wanted: Iterable[ObjectVersionRef], *, since: float, first: bool
    ) -> Mapping[ObjectVersionRef, VaultValue | ControllerError]:
        self.read_names = sorted(version.object.name for version in wanted)
        self.first.append(first)
        return {version: self.holds[version.object.name] for version in wanted}


@contextlib.asynccontextmanager
async def staged(settings: Settings) -> AsyncIterator[Scene]:
    """Provide a scene with these settings."""
    async with connect_to_api_server() as (server, kube):
        vault = VaultStandIn()
        parser = ParsingPool()
        resolver = SyncResolver(kube, settings, BUILT_IN_CLOUDS, parser)
        fetcher = ValueFetcher(settings, cast("VaultPool", vault), parser)
        yield Scene(server, resolver, Syncer(kube, settings, fetcher, Metrics()), vault)
