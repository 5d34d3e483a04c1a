"""Reading one Key Vault as one identity: what is wanted of it, or, without any value, what has changed.

Source: Azure Key Vault REST API reference; "Azure Key Vault throttling guidance".
"""

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

import msgspec
from azure.core.exceptions import AzureError, DecodeError, HttpResponseError
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.transport import AioHttpTransport

from controller.errors import ControllerError, ObjectError, ProviderError
from controller.fetched import Fetched, Results
from controller.identity import FederatedCredential
from controller.network import explain_connection, new_pipeline
from controller.objects import VaultObject, VersionOf
from controller.pace import Pace
from controller.refusals import explain, throttled
from controller.shared import Shared
from controller.sources import SOURCES, Source, moment
from controller.survey import Listed, Survey, settled

# A vault that could not be reached is left alone this long, whoever asks: a thousand SecretSyncs are one attempt.
LEAVE_ALONE = 5.0
# Requests under way at once to all vaults, enough to fill 400/s at 50 ms each; and to one of them, so that one which
# lets every request hang leaves room for the others.
AT_ONCE = 40
AT_ONCE_EACH = 24
# Whoever would wait longer for its turn at a vault that refuses makes room for the work on others, and comes again.
PATIENCE = 1.0
# Pages of one object's versions: 10,000 of them, twenty times what Key Vault can back up.
MOST_PAGES = 400
# Whether a list may be had, and is cheaper than gets, is tried again after a day.
LISTS_AGAIN = 86_400.0
# Answers kept for others who want the same, and for how long after the last reader has gone: those whom one poll woke
# come in several batches.
MOST_SHARED = 256
KEEP_SHARED = 2.0

# A body that is not what the API promises surfaces as whatever the SDK tripped over.
UNUSABLE = (
    DecodeError,
    AttributeError,
    TimeoutError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
)

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
        pace: Pace,
        count: Callable[[str, str, str], None],
    ) -> None:
        self._vault = vault
        self._client_id = client_id
        self._slots = slots
        self._own_slots = asyncio.Semaphore(AT_ONCE_EACH)
        self._pace = pace
        self._count = count
        self._down: tuple[float, str] | None = None
        self._server_ahead = timedelta()
        self._url = url
        self._credential = credential
        self._transport = transport
        self._sources: dict[str, Source] = {}
        self._readers = 0
        self._values: Shared[Fetched | ControllerError] = Shared(MOST_SHARED, time.monotonic)
        self._versions: Shared[list[str] | ControllerError] = Shared(MOST_SHARED, time.monotonic)
        self._orders: dict[VaultObject, tuple[object, list[str]]] = {}
        self._gets_instead: dict[str, _GetsInstead] = {}

    def _source(self, kind: str) -> Source:
        """What reads objects of that objectType, made when it is needed first."""
        if kind not in self._sources:
            pipeline = new_pipeline(self._credential, self._note)  # a client links its policies, so each has its own
            self._sources[kind] = SOURCES[kind](
                self._vault, self._url, self._credential, transport=self._transport, policies=pipeline
            )
        return self._sources[kind]

    async def read(self, wanted: Iterable[VersionOf], *, since: float, first: bool) -> Results:
        """Every wanted version, or the error that kept it away; never raises one of them.

        No answer is older than `since` (monotonic clock). `first` says that the caller has nothing from this vault yet.
        """
        by_object: dict[VaultObject, list[VersionOf]] = {}
        for version in wanted:
            by_object.setdefault(version.object, []).append(version)
        results: dict[VersionOf, Fetched | ControllerError] = {}

        async def one(found: VaultObject, versions: list[VersionOf]) -> None:
            ids = await self._ids(found, since, first) if found.history > 1 else [found.version]
            for version in versions:
                if isinstance(ids, ControllerError):
                    results[version] = ids
                else:
                    results[version] = await self._value(version, ids, since, first)

        with self._reading():
            async with asyncio.TaskGroup() as tasks:
                for item in by_object.items():
                    tasks.create_task(one(*item))
        return results

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Answers are kept for as long as somebody reads, and a moment longer."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                asyncio.get_running_loop().call_later(KEEP_SHARED, self._forget_values)

    def _forget_values(self) -> None:
        if not self._readers:
            self._values.clear()
            self._versions.clear()

    async def survey(self, wanted: Collection[VersionOf], since: float) -> Survey:
        """What a list tells of the wanted versions, where lists cost no more calls than gets. Raises `ProviderError`.

        An object of which several versions are kept has them listed: the vault's list shows the newest one alone.
        """
        with self._reading():
            return await self._survey(wanted, since)

    async def _survey(self, wanted: Collection[VersionOf], since: float) -> Survey:
        single = {version.object for version in wanted if version.object.history <= 1}
        listed = {}
        for kind, gets in sorted(Counter(found.type for found in single).items()):
            if (objects := await self._list(kind, gets)) is not None:
                listed[kind] = objects
        versions: dict[VaultObject, tuple[str, ...]] = {}

        async def one(found: VaultObject) -> None:
            ids = await self._ids(found, since, first=False)
            if not isinstance(ids, ControllerError):
                versions[found] = tuple(ids)

        async with asyncio.TaskGroup() as tasks:
            for found in {version.object for version in wanted if version.object.history > 1}:
                tasks.create_task(one(found))
        return Survey(listed=listed, versions=versions)

    async def _list(self, kind: str, gets: int) -> dict[str, Listed] | None:
        """Everything of that kind by its name in small letters, or None where the gets are cheaper."""
        instead = self._gets_instead.get(kind)
        if instead and gets <= instead.gets and time.monotonic() < instead.until:
            return None
        source = self._source(kind)
        found: dict[str, Listed] = {}
        try:
            async for page in self._pages(source, "list", None, source.listed(), _listed, gets, first=False):
                found |= page
        except (ObjectError, _TooManyPages) as reason:
            # Forbidden for whatever number of objects; or dearer for this one.
            limit = gets if isinstance(reason, _TooManyPages) else 1_000_000
            self._gets_instead[kind] = _GetsInstead(limit, time.monotonic() + LISTS_AGAIN)
            return None
        return found

    async def _pages(
        self,
        source: Source,
        verb: str,
        found: VaultObject | None,
        items: Any,
        take: Callable[[Any], T],
        most: int,
        *,
        first: bool,
    ) -> AsyncIterator[list[T]]:
        """A list page by page, what `take` makes of each item; each page is a call of its own.

        Raises `_TooManyPages` where there are more than `most`.
        """
        pages = items.by_page()

        async def following() -> list[T]:
            return [take(item) async for item in await anext(pages)]

        for _ in range(most):
            yield await self._call(source, verb, found, following, first=first)
            if not pages.continuation_token:
                return
            # The token would go along to wherever the answer says.
            if _host(pages.continuation_token) != _host(self._url):
                raise ProviderError(
                    f"Key Vault {self._vault} names another host for the rest of a list, which is not asked; look at"
                    " what answers in its place"
                )
        raise _TooManyPages

    async def _value(self, wanted: VersionOf, ids: list[str], since: float, first: bool) -> Fetched | ControllerError:
        found, source = wanted.object, self._source(wanted.object.type)
        if wanted.index >= len(ids):
            return ObjectError(
                f"{found.noun} has {len(ids)} enabled version(s) in Key Vault {self._vault}, so {wanted.index}"
                " is not there; add versions or take the key out of the SecretSync"
            )
        version = ids[wanted.index]

        async def ask() -> Fetched | ControllerError:
            try:
                answer = await self._call(source, "get", found, lambda: source.get(found, version), first=first)
            except ControllerError as error:
                return error.bare()
            updated = settled(answer.updated, datetime.now(UTC) + self._server_ahead)
            return msgspec.structs.replace(answer, updated=updated)

        return await self._values.get((found.type, found.name, version), since, ask)

    async def _ids(self, found: VaultObject, since: float, first: bool) -> list[str] | ControllerError:
        """Ids of the enabled versions, newest first, from the pinned one on."""

        async def ask() -> list[str] | ControllerError:
            try:
                return await self._enabled_ids(found, first)
            except ControllerError as error:
                return error.bare()

        return await self._versions.get(found, since, ask)

    async def _enabled_ids(self, found: VaultObject, first: bool) -> list[str]:
        source = self._source(found.type)
        pages = self._pages(source, "versions", found, source.versions(found.name), _version, MOST_PAGES, first=first)
        try:
            listed = [item async for page in pages for item in page if item.enabled]
        except _TooManyPages:
            raise ObjectError(
                f"{found.noun} has more versions than can be looked through in Key Vault {self._vault}; take"
                " objectVersionHistory out, or name the object anew there"
            ) from None
        if not listed:
            raise ObjectError(
                f"{found.noun} has no enabled version in Key Vault {self._vault}; create or enable one there"
            )
        seen = set(listed)
        known = self._orders.get(found)
        if known and known[0] == seen:
            ids = known[1]
        else:
            ids = await self._in_order(source, found, listed, first)
            self._orders[found] = (seen, ids)
        if not found.version:
            return ids
        if found.version not in ids:
            raise ObjectError(
                f"{found.noun} has no enabled version {found.version} in Key Vault {self._vault};"
                " correct objectVersion or remove it"
            )
        return ids[ids.index(found.version) :]

    async def _in_order(self, source: Source, found: VaultObject, listed: list["_Version"], first: bool) -> list[str]:
        oldest = datetime.min.replace(tzinfo=UTC)
        listed.sort(key=lambda item: (item.created or oldest, item.id), reverse=True)
        if len(listed) > 1 and listed[0].created == listed[1].created:
            # `created` has a grain of one second; what a get without a version answers is the newest.
            try:
                newest = await self._call(source, "get", found, lambda: source.get(found, ""), first=first)
                listed.sort(key=lambda item: item.id != newest.version)
            except ObjectError:
                pass  # the newest is disabled: it is not among the listed either
        return [item.id for item in listed]

    async def _call(
        self,
        source: Source,
        verb: str,
        found: VaultObject | None,
        request: Callable[[], Awaitable[T]],
        *,
        first: bool,
    ) -> T:
        """One request; its failure is translated, counted, and remembered where it concerns the whole vault."""
        self._raise_if_down()
        await self._turn((self, verb, found or source.plural), first)
        async with self._own_slots, self._slots:
            self._raise_if_down()
            if closed := self._pace.closed():
                raise throttled(self._vault, closed)
            if self._down:
                # One caller tries whether the vault is back; until it knows, the others hear what they heard before.
                self._down = (time.monotonic() + LEAVE_ALONE, self._down[1])
            outcome = "error"
            try:
                async with asyncio.timeout(60):
                    answer = await request()
                outcome = "ok"
                self._answered()
                return answer
            except UNUSABLE as error:
                text = f"Key Vault {self._vault} gave no usable answer; the controller tries again by itself"
                raise self._leave_alone(ProviderError(text)) from error
            except HttpResponseError as error:
                outcome = str(error.status_code)
                translated = explain(error, self._vault, self._client_id, source, verb, found)
                if error.status_code == 401:
                    self._credential.refused()
                if error.status_code == 429:
                    self._pace.refused(translated.retry_after)
                elif isinstance(translated, ObjectError):
                    self._answered()  # it speaks, and of this object alone
                else:
                    self._leave_alone(translated)
                raise translated from error
            except ObjectError:  # it answered, with what nobody should have
                outcome = "ok"
                self._answered()
                raise
            except ControllerError:  # from the credential, which remembers its own failures
                outcome = "no token"
                raise
            except AzureError as error:
                raise self._leave_alone(ProviderError(explain_connection(error, f"Key Vault {self._vault}"))) from error
            finally:
                self._count(self._vault, f"{source.plural}.{verb}", outcome)

    async def _turn(self, who: object, first: bool) -> None:
        while wait := self._pace.wait(who, first=first):
            if wait > PATIENCE and self._pace.slowed:
                raise throttled(self._vault, wait)
            await asyncio.sleep(wait)

    def _raise_if_down(self) -> None:
        if self._down and time.monotonic() < self._down[0]:
            raise ProviderError(self._down[1])

    def _answered(self) -> None:
        self._down = None
        self._pace.answered()

    def _leave_alone(self, error: ProviderError) -> ProviderError:
        self._down = (time.monotonic() + max(error.retry_after or 0.0, LEAVE_ALONE), error.message)
        return error

    def _note(self, response: PipelineResponse[Any, Any]) -> None:
        """Takes the server's clock from an answer, and the status of one whose body the SDK could not decode."""
        answer = response.http_response
        try:
            said = parsedate_to_datetime(answer.headers.get("Date", ""))
            self._server_ahead = said.astimezone(UTC) - datetime.now(UTC)
        except (ValueError, TypeError):
            pass
        if answer.status_code >= 500:  # a gateway's error page, mostly
            raise HttpResponseError(response=answer)

    async def close(self) -> None:
        """Lets go of the clients."""
        for source in self._sources.values():
            await source.close()


def _host(url: object) -> tuple[str, str]:
    """Scheme and host of whatever stands where an address should."""
    scheme, _, rest = str(url).lower().partition("://")
    return scheme, re.split(r"[/?#]", rest, maxsplit=1)[0].removesuffix(":443")


def _listed(item: Any) -> tuple[str, Listed]:
    return item.name.lower(), Listed(moment(item.updated_on), item.enabled is not False)


class _Version(NamedTuple):
    """One version of an object, as a list shows it."""

    id: str
    created: datetime | None
    enabled: bool


def _version(item: Any) -> _Version:
    if not item.version:
        raise ValueError
    return _Version(str(item.version), moment(item.created_on), item.enabled is not False)


class _TooManyPages(Exception):  # noqa: N818 -- not an error
    """A list has more pages than are read."""


class _GetsInstead(msgspec.Struct, frozen=True):
    """Up to `gets` objects are got rather than listed until then (monotonic clock)."""

    gets: int
    until: float
