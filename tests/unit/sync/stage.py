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
from controller.errors import ControllerError
from controller.fetched import Fetched
from controller.identity import Identity
from controller.objects import VersionOf
from controller.settings import BUILT_IN_CLOUDS, Settings
from controller.status import Outcome
from controller.sync import Ask, Class, Syncer, Written
from controller.telemetry import Metrics
from controller.vaults import Vaults
from tests.unit.api_server import Answer, ApiServer, connected, refusal
from tests.unit.objects_of import provider_class, sync, value

CANARY = "canary-51c0"
ABSENT = refusal(404, "secrets not found")


def source(**parameters: str) -> SecretProviderClass:
    """A class with the objects that tests ask for."""
    objects = "array: ['objectName: user', 'objectName: pass']"
    base = {"keyvaultName": "shop-vault", "clientID": "client-1", "tenantID": "tenant-1", "objects": objects}
    spec = SecretProviderClassSpec(provider="azure", parameters=base | parameters)
    return msgspec.structs.replace(provider_class(), spec=spec)


def sent(meta: ObjectMeta, version: str = "42", **metadata: Any) -> Answer:
    """The Secret's metadata as the API server answers."""
    body = msgspec.to_builtins(meta) | {"resourceVersion": version} | metadata
    return Answer({"kind": "PartialObjectMetadata", "metadata": body})


class Scene:
    """A syncer, the API server it writes to, and what stands in for the vaults."""

    def __init__(self, server: ApiServer, syncer: Syncer, vault: "VaultStandIn") -> None:
        self.server = server
        self.syncer = syncer
        self.vault = vault
        self.written = Written(untried=False)

    async def sync(
        self,
        *answers: Answer,
        wanted: SecretSync | None = None,
        of: Class = None,
        stale: frozenset[str] | None = None,
    ) -> Outcome:
        """Syncs while the API server gives these answers, all of them."""
        self.server.will_answer(*answers)
        reading = await self.syncer.reading(wanted or sync(), of or source())
        outcome = await self.syncer.sync(wanted or sync(), reading, self.written, Ask(0.0, stale))
        assert not self.server.script
        return outcome

    async def fails(self, *answers: Answer, wanted: SecretSync | None = None) -> ControllerError:
        with pytest.raises(ControllerError) as caught:
            await self.sync(*answers, wanted=wanted)
        return caught.value

    @property
    def requests(self) -> list[str]:
        """Method and body's data of each request, `look` for a patch that changes nothing."""
        return ["look" if asked.body == b"{}" else asked.method for asked in self.server.asked]

    def body(self, number: int = -1) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.server.asked[number].body)
        return found


class VaultStandIn:
    """Stands for `Vaults` and `VaultReader`."""

    def __init__(self) -> None:
        self.holds: dict[str, Fetched | ControllerError] = {"user": value("me"), "pass": value(CANARY)}
        self.asked: list[tuple[Identity, str, str]] = []
        self.read_names: list[str] = []
        self.first: list[bool] = []

    def reader(self, identity: Identity, cloud: str, vault: str) -> "VaultStandIn":
        self.asked.append((identity, cloud, vault))
        return self

    async def read(
        self, wanted: Iterable[VersionOf], *, since: float, first: bool
    ) -> Mapping[VersionOf, Fetched | ControllerError]:
        self.read_names = sorted(version.object.name for version in wanted)
        self.first.append(first)
        return {version: self.holds[version.object.name] for version in wanted}


@contextlib.asynccontextmanager
async def staged(settings: Settings) -> AsyncIterator[Scene]:
    """A scene with these settings."""
    async with connected() as (server, kube):
        vault = VaultStandIn()
        yield Scene(server, Syncer(kube, settings, BUILT_IN_CLOUDS, cast("Vaults", vault), Metrics()), vault)
