"""Reading one Key Vault as one identity.

Source: Azure Key Vault REST API reference; "Azure Key Vault throttling guidance"; "Common error codes".
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from azure.core.exceptions import AzureError, DecodeError, HttpResponseError
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.transport import AioHttpTransport

from controller.errors import ControllerError, ObjectError, ProviderError
from controller.fetched import Fetched, Results
from controller.identity import FederatedCredential, Identity
from controller.network import CLIENT_OPTIONS, explain_connection, new_session, new_transport
from controller.objects import VaultObject, VersionOf
from controller.schedule import asked_to_wait
from controller.settings import Cloud
from controller.sources import SOURCES, Source

# A vault that could not be reached is left alone this long, whoever asks: a thousand SecretSyncs are one attempt.
LEAVE_ALONE = 5.0
# Requests under way at once to all vaults, enough to fill 400/s at 50 ms each; and to one of them, so that one which
# lets every request hang leaves room for the others.
AT_ONCE = 40
AT_ONCE_EACH = 24

T = TypeVar("T")


class VaultReader:
    """One vault as one identity sees it."""

    def __init__(
        self,
        vault: str,
        url: str,
        credential: FederatedCredential,
        client_id: str,
        transport: AioHttpTransport,
        slots: asyncio.Semaphore,
        count: Callable[[str, str, str], None],
    ) -> None:
        self._vault = vault
        self._client_id = client_id
        self._slots = slots
        self._own_slots = asyncio.Semaphore(AT_ONCE_EACH)
        self._count = count
        self._down: tuple[float, str] | None = None
        self._url = url
        self._credential = credential
        # The credential decides what tokens are for, so a challenge needs no check against the vault's host name.
        self._options = {
            "transport": transport,
            "verify_challenge_resource": False,
            "raw_response_hook": _keep_status,
            **CLIENT_OPTIONS,
        }
        self._sources: dict[str, Source] = {}

    def _source(self, object_type: str) -> Source:
        """What reads objects of that type, made when it is needed first."""
        if object_type not in self._sources:
            self._sources[object_type] = SOURCES[object_type](self._vault, self._url, self._credential, **self._options)
        return self._sources[object_type]

    async def read(self, wanted: Iterable[VersionOf]) -> Results:
        """Every wanted version, or the error that kept it away; never raises one of them."""
        by_object: dict[VaultObject, list[VersionOf]] = {}
        for version in wanted:
            by_object.setdefault(version.object, []).append(version)
        results: dict[VersionOf, Fetched | ControllerError] = {}

        async def one(found: VaultObject, versions: list[VersionOf]) -> None:
            source = self._source(found.type)
            try:
                ids = await self._version_ids(source, found) if found.history > 1 else [found.version]
            except ControllerError as error:
                results.update(dict.fromkeys(versions, error.bare()))
                return
            for version in versions:
                try:
                    results[version] = await self._get(source, version, ids)
                except ControllerError as error:
                    results[version] = error.bare()

        async with asyncio.TaskGroup() as tasks:
            for item in by_object.items():
                tasks.create_task(one(*item))
        return results

    async def _get(self, source: Source, wanted: VersionOf, ids: list[str]) -> Fetched:
        found = wanted.object
        if wanted.index >= len(ids):
            raise ObjectError(
                f"{found.noun} has {len(ids)} enabled version(s) in Key Vault {self._vault}, so {wanted.index}"
                " is not there; add versions or take the key out of the SecretSync"
            )
        return await self._call(source, "get", found, lambda: source.get(found, ids[wanted.index]))

    async def _version_ids(self, source: Source, found: VaultObject) -> list[str]:
        """Ids of the enabled versions, newest first, from the pinned one on."""

        async def collect() -> list[Any]:
            return [item async for item in source.versions(found.name)]

        listed = [item for item in await self._call(source, "versions", found, collect) if item.enabled is not False]
        if not listed:
            raise ObjectError(
                f"{found.noun} has no enabled version in Key Vault {self._vault}; create or enable one there"
            )
        oldest = datetime.min.replace(tzinfo=UTC)
        listed.sort(key=lambda item: (item.created_on or oldest, item.version or ""), reverse=True)
        if len(listed) > 1 and listed[0].created_on == listed[1].created_on:
            # `created` has a grain of one second; what a get without a version answers is the newest.
            with contextlib.suppress(ObjectError):  # the newest is disabled: it is not among the listed either
                newest = await self._call(source, "get", found, lambda: source.get(found, ""))
                listed.sort(key=lambda item: item.version != newest.version)
        ids = [str(item.version) for item in listed]
        if not found.version:
            return ids
        if found.version not in ids:
            raise ObjectError(
                f"{found.noun} has no enabled version {found.version} in Key Vault {self._vault};"
                " correct objectVersion or remove it"
            )
        return ids[ids.index(found.version) :]

    async def _call(self, source: Source, verb: str, found: VaultObject, request: Callable[[], Awaitable[T]]) -> T:
        """One request; its failure is translated, counted, and remembered where it concerns the whole vault."""
        async with self._own_slots, self._slots:
            if self._down:
                until, message = self._down
                if time.monotonic() < until:
                    raise ProviderError(message)
                # One caller tries whether the vault is back; until it knows, the others hear what they heard before.
                self._down = (time.monotonic() + LEAVE_ALONE, message)
            outcome = "error"
            try:
                async with asyncio.timeout(60):
                    answer = await request()
                outcome = "ok"
                self._down = None
                return answer
            except (DecodeError, AttributeError, TimeoutError, ValueError, TypeError, KeyError) as error:
                # A body that is not what the API promises surfaces as whatever the SDK tripped over.
                text = f"Key Vault {self._vault} gave no usable answer; the controller tries again by itself"
                raise self._leave_alone(ProviderError(text)) from error
            except HttpResponseError as error:
                outcome = str(error.status_code)
                translated = self._explain(error, source, verb, found)
                if isinstance(translated, ObjectError):
                    self._down = None  # it speaks, and of this object alone
                else:
                    self._leave_alone(translated)
                raise translated from error
            except ObjectError:  # it answered, with what nobody should have
                outcome = "ok"
                self._down = None
                raise
            except ControllerError:  # from the credential, which remembers its own failures
                outcome = "no token"
                raise
            except AzureError as error:
                raise self._leave_alone(ProviderError(explain_connection(error, f"Key Vault {self._vault}"))) from error
            finally:
                self._count(self._vault, f"{source.plural}.{verb}", outcome)

    def _leave_alone(self, error: ProviderError) -> ProviderError:
        self._down = (time.monotonic() + max(error.retry_after or 0.0, LEAVE_ALONE), error.message)
        return error

    def _explain(self, error: HttpResponseError, source: Source, verb: str, found: VaultObject) -> ProviderError:
        status = error.status_code
        code = _inner_code(error)
        vault, client = f"Key Vault {self._vault}", f"identity {self._client_id}"
        if status == 404:
            return ObjectError(
                f"{found.noun} is not in {vault}; create or recover it there, or correct objectName,"
                " objectType or objectVersion"
            )
        if code.endswith("Disabled"):
            return source.disabled(found)
        if code == "ForbiddenByFirewall":
            return ProviderError(
                f"{vault}'s firewall refuses this cluster; allow its address in the vault's networking"
            )
        if status == 403 and code == "AccessDenied":  # the vault works with access policies
            right = "List" if verb == "versions" else "Get"
            return ObjectError(
                f"{client} may not read {found.noun} in {vault}; give it the permission {right} for"
                f" {source.plural} in the vault's access policies"
            )
        if status == 403:
            return ObjectError(f"{client} may not read {found.noun} in {vault}; assign it the role {source.role} there")
        if status == 401:
            return ProviderError(
                f"{vault} does not accept the token of {client}; check that tenantID is the vault's tenant"
            )
        if status == 429:
            wait = asked_to_wait(getattr(error.response, "headers", {}))
            return ProviderError(
                f"{vault} is throttled: too many calls by all its users; raise rotationPollIntervalInSeconds or"
                " jitterSeconds if it lasts",
                retry_after=wait,
            )
        return ProviderError(f"{vault} answered with HTTP {status}; the controller tries again by itself")

    async def close(self) -> None:
        """Lets go of the clients."""
        for source in self._sources.values():
            await source.close()


def _keep_status(response: PipelineResponse[Any, Any]) -> None:
    """The SDK forgets the status of an answer whose body it cannot decode: a gateway's error page, mostly."""
    if response.http_response.status_code >= 500:
        raise HttpResponseError(response=response.http_response)


def _inner_code(error: HttpResponseError) -> str:
    """Key Vault's own word for a refusal: error.innererror.code, such as ForbiddenByRbac."""
    inner = getattr(error.error, "innererror", None)
    code = inner.get("code") if isinstance(inner, dict) else None
    return code if isinstance(code, str) else ""


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
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._transports: dict[str, AioHttpTransport] = {}
        self._credentials: dict[tuple[Identity, str], FederatedCredential] = {}
        self._readers: dict[tuple[Identity, str, str], VaultReader] = {}
        self._used: dict[tuple[Identity, str, str], float] = {}

    def reader(self, identity: Identity, cloud: str, vault: str) -> VaultReader:
        """The reader of that vault as that identity. `cloud` must be one of the administrator's."""
        found = self._readers.get((identity, cloud, vault))
        if not found:
            where = self._clouds[cloud]
            transport = self._transport(where.ca)
            credential = self._credentials.get((identity, cloud))
            if not credential:
                credential = FederatedCredential(identity, where, transport, lambda: self._assertion(identity))
                self._credentials[identity, cloud] = credential
            found = VaultReader(
                vault,
                where.vault_url.replace("{vault}", vault),
                credential,
                identity.client_id,
                transport,
                self._slots,
                self._count,
            )
            self._readers[identity, cloud, vault] = found
        self._used[identity, cloud, vault] = time.monotonic()
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
            if transport.session:
                await transport.session.close()
