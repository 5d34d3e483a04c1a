"""Provide a syncer with a scripted API server and a fake vault."""

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
from controller.runtime.threads.parsing import ParsingPool
from controller.secretsync.sync_resolver import Class, SyncResolver
from controller.secretsync.syncer import LastWrite, Syncer
from controller.secretsync.tasks import Fetch
from controller.secretsync.value_fetcher import ValueFetcher
from tests.support.builders import make_provider_class, make_sync, make_value
from tests.support.scripted_api_server import ScriptedApiServer, ScriptedResponse, connect_to_api_server, error_response

CANARY = "canary-51c0"
ABSENT = error_response(404, "secrets not found")


def make_class(**parameters: str) -> SecretProviderClass:
    """Return a SecretProviderClass with the objects that the tests use."""
    objects = "array: ['objectName: user', 'objectName: pass']"
    base = {"keyvaultName": "shop-vault", "clientID": "client-1", "tenantID": "tenant-1", "objects": objects}
    spec = SecretProviderClassSpec(provider="azure", parameters=base | parameters)
    return msgspec.structs.replace(make_provider_class(), spec=spec)


def metadata_response(meta: ObjectMeta, version: str = "42", **metadata: Any) -> ScriptedResponse:
    """Return the response of the API server with the metadata of the Secret."""
    body = msgspec.to_builtins(meta) | {"resourceVersion": version} | metadata
    return ScriptedResponse({"kind": "PartialObjectMetadata", "metadata": body})


class SyncerHarness:
    """A resolver and a syncer with their API server and their vault."""

    def __init__(self, server: ScriptedApiServer, resolver: SyncResolver, syncer: Syncer, vault: "FakeVault") -> None:
        self.server = server
        self.resolver = resolver
        self.syncer = syncer
        self.vault = vault
        self.written = LastWrite(untried=False)
        # A dry run follows a refused write. It succeeds unless the test scripts another response.
        server.default_response = lambda request: (
            ScriptedResponse({"metadata": {}}) if "dryRun" in request.query else ScriptedResponse(held=True)
        )

    async def sync(
        self,
        *answers: ScriptedResponse,
        wanted: SecretSync | None = None,
        source: Class = None,
        stale: frozenset[str] | None = None,
    ) -> Synced | PartiallySynced:
        """Return the outcome of a sync that gets all of these responses from the API server."""
        outcome = await self._sync(*answers, wanted=wanted, source=source, stale=stale)
        assert isinstance(outcome, Synced | PartiallySynced)
        return outcome

    async def sync_requeue(self, *answers: ScriptedResponse) -> Requeue:
        """Return the requeue of a sync that gets all of these responses from the API server."""
        outcome = await self._sync(*answers)
        assert isinstance(outcome, Requeue)
        return outcome

    async def _sync(
        self,
        *answers: ScriptedResponse,
        wanted: SecretSync | None = None,
        source: Class = None,
        stale: frozenset[str] | None = None,
    ) -> Outcome:
        self.server.add_responses(*answers)
        resolved = await self.resolver.resolve_sync(wanted or make_sync(), source or make_class())
        assert not isinstance(resolved, Requeue)
        outcome = await self.syncer.sync(wanted or make_sync(), resolved, self.written, Fetch(0.0, stale))
        assert not self.server.script
        return outcome

    async def sync_error(
        self, *answers: ScriptedResponse, wanted: SecretSync | None = None, source: Class = None
    ) -> ControllerError:
        with pytest.raises(ControllerError) as caught:
            await self.sync(*answers, wanted=wanted, source=source)
        return caught.value

    @property
    def requests(self) -> list[str]:
        """Return the method of each request, and `probe` for a patch that changes nothing."""
        return ["probe" if request.body == b"{}" else request.method for request in self.server.requests]

    def body(self, number: int = -1) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.server.requests[number].body)
        return body


class FakeVault:
    """Act as `VaultPool` and `VaultReader`."""

    def __init__(self) -> None:
        self.values: dict[str, VaultValue | ControllerError] = {"user": make_value("me"), "pass": make_value(CANARY)}
        self.readers: list[tuple[Identity, str, str]] = []
        self.read_names: list[str] = []
        self.first_flags: list[bool] = []

    def reader(self, identity: Identity, cloud: str, vault: str) -> "FakeVault":
        self.readers.append((identity, cloud, vault))
        return self

    async def read(
        self, wanted: Iterable[ObjectVersionRef], *, since: float, first: bool
    ) -> Mapping[ObjectVersionRef, VaultValue | ControllerError]:
        self.read_names = sorted(version.object.name for version in wanted)
        self.first_flags.append(first)
        return {version: self.values[version.object.name] for version in wanted}


@contextlib.asynccontextmanager
async def make_harness(settings: Settings) -> AsyncIterator[SyncerHarness]:
    """Provide a harness with these settings."""
    async with connect_to_api_server() as (server, kube):
        vault = FakeVault()
        parser = ParsingPool()
        resolver = SyncResolver(kube, settings, BUILT_IN_CLOUDS, parser)
        fetcher = ValueFetcher(settings, cast("VaultPool", vault), parser)
        yield SyncerHarness(server, resolver, Syncer(kube, settings, fetcher, Metrics()), vault)
