"""Reading one Key Vault as one identity: what is wanted of it, or, without any value, what has changed."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

import msgspec

from controller.calls import Calls
from controller.errors import AccessDenied, ControllerError, ObjectError
from controller.fetched import Fetched, Results
from controller.lists import Lists
from controller.objects import VaultObject, VersionOf
from controller.shared import Shared
from controller.survey import Survey, settled

# Answers kept for others who want the same, and for how long after the last reader has gone: those whom one poll woke
# come in several batches.
MOST_SHARED = 256
KEEP_SHARED = 2.0


class VaultReader:
    """One vault as one identity sees it."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._lists = Lists(calls)
        self._readers = 0
        self._values: Shared[Fetched | ControllerError] = Shared(MOST_SHARED, calls.clock)
        self._versions: Shared[list[str] | ControllerError] = Shared(MOST_SHARED, calls.clock)

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
            if (objects := await self._lists.everything(kind, gets)) is not None:
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

    async def _value(self, wanted: VersionOf, ids: list[str], since: float, first: bool) -> Fetched | ControllerError:
        found, source = wanted.object, self._calls.source(wanted.object.type)
        if wanted.index >= len(ids):
            return ObjectError(
                f"{found.noun} has {len(ids)} enabled version(s) in Key Vault {self._calls.vault}, so {wanted.index}"
                " is not there; add versions or take the key out of the SecretSync"
            )
        version = ids[wanted.index]

        async def ask() -> Fetched | ControllerError:
            try:
                answer = await self._calls.make(source, "get", found, lambda: source.get(found, version), first=first)
            except ControllerError as error:
                if isinstance(error, AccessDenied):
                    self._lists.note_denied_get(found.type)
                return error.bare()
            updated = settled(answer.updated, self._calls.server_time())
            return msgspec.structs.replace(answer, updated=updated)

        return await self._values.get((found.type, found.name, version), since, ask)

    async def _ids(self, found: VaultObject, since: float, first: bool) -> list[str] | ControllerError:
        async def ask() -> list[str] | ControllerError:
            try:
                return await self._lists.enabled_ids(found, first)
            except ControllerError as error:
                return error.bare()

        return await self._versions.get(found, since, ask)

    async def close(self) -> None:
        """Lets go of its connections."""
        await self._calls.close()
