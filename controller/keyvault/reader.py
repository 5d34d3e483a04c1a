"""Read values from one Key Vault as one identity, or poll it for changes without reading any value."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.selection import SELECTED_KIND, Query, SelectionCollector, SelectionSighting
from controller.domain.snapshot import VaultSnapshot, settled_time
from controller.domain.values import Results, VaultValue
from controller.errors import AccessDenied, ControllerError, InputError, ObjectError, ObjectGone, ProviderError
from controller.keyvault.client import VaultClient
from controller.keyvault.listing import OnListed, VaultLister
from controller.runtime.coalesce import CoalescingCache

# The number of shared answers, and the seconds that they are kept after the last reader finished: one poll triggers
# several batches of readers.
MAX_SHARED = 256
KEEP_SHARED = 2.0
# Maximum bytes of the values that one read returns: twice those of a Secret, as a key can be one property of a value. A
# namespace has at most 32 reads at a time. Together they take at most a quarter of the container's memory.
MAX_READ = 2 * 2**20


class VaultReader:
    """One vault as one identity sees it."""

    def __init__(self, client: VaultClient) -> None:
        self.client = client
        self.lister = VaultLister(client)
        self._readers = 0
        self.values: CoalescingCache[VaultValue | ControllerError] = CoalescingCache(MAX_SHARED, client.clock)
        self.versions: CoalescingCache[list[str] | ControllerError] = CoalescingCache(MAX_SHARED, client.clock)

    async def read(self, wanted: Iterable[ObjectVersionRef], *, since: float, first: bool) -> Results:
        """Return every requested version, or the error that prevented it. Never raise an error of a version.

        No answer is older than `since` (monotonic clock). `first` means that the caller has nothing from this vault
        yet.
        """
        by_object: dict[VaultObject, list[ObjectVersionRef]] = {}
        for version in wanted:
            by_object.setdefault(version.object, []).append(version)
        results: dict[ObjectVersionRef, VaultValue | ControllerError] = {}
        total = 0

        def keep(version: ObjectVersionRef, result: VaultValue | ControllerError) -> None:
            nonlocal total
            if isinstance(result, VaultValue):
                total += len(result.value.reveal())
                result = result if total <= MAX_READ else self._too_large()
            results[version] = result

        async def read_object(vault_object: VaultObject, versions: list[ObjectVersionRef]) -> None:
            ids = (
                await self._enabled_ids(vault_object, since, first)
                if vault_object.history > 1
                else [vault_object.version]
            )
            for version in versions:
                if isinstance(ids, ControllerError):
                    results[version] = ids
                else:
                    keep(version, await self._read_value(version, ids, since, first))

        failing = self.client.failing_names()
        with self._count_reader():
            async with asyncio.TaskGroup() as tasks:
                for found in sorted(by_object, key=lambda found: found.name.lower() in failing):
                    tasks.create_task(read_object(found, by_object[found]))
        return results

    def _too_large(self) -> InputError:
        return InputError(
            f"its objects in Key Vault {self.client.vault} have more than {MAX_READ // 2**20} MiB together, and a"
            " Secret has at most 1 MiB; split the SecretSync"
        )

    @contextlib.contextmanager
    def _count_reader(self) -> Iterator[None]:
        """Keep answers while there is a reader, and a moment longer."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                asyncio.get_running_loop().call_later(KEEP_SHARED, self.forget_values)

    def forget_values(self) -> None:
        """Forget the values and version lists that readers shared, unless a read is in progress."""
        if not self._readers:
            self.values.clear()
            self.versions.clear()

    async def take_snapshot(
        self,
        wanted: Collection[ObjectVersionRef],
        since: float,
        queries: Sequence[Query] = (),
        on_listed: OnListed | None = None,
    ) -> VaultSnapshot:
        """Return the listed state of the requested versions, if lists need no more calls than gets.

        `on_listed` is called for each listed object before the last page is read. Raise `ProviderError` on failure.
        If an object has several requested versions, its versions are listed, because the vault's list shows only the
        newest. With `queries`, secrets are always listed.
        """
        with self._count_reader():
            fetched = [version for version in wanted if not version.object.keep]
            return await self._build_snapshot(fetched, since, queries, on_listed)

    async def select(self, queries: Sequence[Query]) -> VaultSnapshot:
        """Return the listed state for these queries only. Ignore a remembered refusal."""
        self.lister.forget_refusal(SELECTED_KIND)
        return await self._build_snapshot((), self.client.clock(), queries, None)

    async def _build_snapshot(
        self,
        wanted: Collection[ObjectVersionRef],
        since: float,
        queries: Sequence[Query],
        on_listed: OnListed | None,
    ) -> VaultSnapshot:
        objects = {version.object.in_vault for version in wanted}
        single = {found for found in objects if found.history <= 1}
        by_kind = Counter(found.type for found in single)
        listed = {}
        collectors = [SelectionCollector(query) for query in queries]
        for kind in sorted(by_kind.keys() | ({SELECTED_KIND} if queries else set())):
            names = {found.name.lower() for found in single if found.type == kind}
            own = collectors if kind == SELECTED_KIND else []
            everything = await self.lister.list_all(kind, by_kind[kind], own, names if own else None, on_listed)
            if everything is not None:
                listed[kind] = everything
        sightings = await self._collect_sightings(collectors, SELECTED_KIND in listed)
        versions: dict[VaultObject, tuple[str, ...]] = {}

        async def list_versions(vault_object: VaultObject) -> None:
            ids = await self._enabled_ids(vault_object, since, first=False)
            if not isinstance(ids, ControllerError):
                versions[vault_object] = tuple(ids)

        async with asyncio.TaskGroup() as tasks:
            for found in objects - single:
                tasks.create_task(list_versions(found))
        compared = sum(collector.compared for collector in collectors)
        return VaultSnapshot(listed=listed, versions=versions, sightings=sightings, compared=compared, since=since)

    async def _collect_sightings(
        self, collectors: Sequence[SelectionCollector], was_listed: bool
    ) -> tuple[SelectionSighting | ControllerError, ...]:
        """Return the result of each query. Request objects that are to be removed, to be sure that they are gone."""
        if not was_listed:
            why = self.lister.list_refusal(SELECTED_KIND) or ProviderError(
                f"Key Vault {self.client.vault} was not listed"
            )
            return (why.bare(),) * len(collectors)
        missing = sorted(frozenset().union(*(collector.missing_names for collector in collectors)))
        source = self.client.source_of(SELECTED_KIND)
        gone: set[str] = set()

        async def check_object(name: str) -> None:
            found = VaultObject(name=name)
            try:
                await self.client.request(source, "get", found, lambda: source.get(found, ""), first=False)
            except ObjectGone:
                gone.add(name)
            except ControllerError:
                pass  # not certainly gone

        async with asyncio.TaskGroup() as tasks:
            for name in missing:
                tasks.create_task(check_object(name))
        return tuple(collector.to_sighting(collector.missing_names & gone) for collector in collectors)

    async def _read_value(
        self, wanted: ObjectVersionRef, ids: list[str], since: float, first: bool
    ) -> VaultValue | ControllerError:
        found, source = wanted.object, self.client.source_of(wanted.object.type)
        if wanted.index >= len(ids):
            return ObjectError(
                f"{found.noun} has {len(ids)} enabled version(s) in Key Vault {self.client.vault}, so {wanted.index}"
                " is not there; add versions or take the key out of the SecretSync"
            )
        version = ids[wanted.index]

        async def request() -> VaultValue | ControllerError:
            try:
                answer = await self.client.request(
                    source, "get", found, lambda: source.get(found, version), first=first, version=version
                )
            except ControllerError as error:
                if isinstance(error, AccessDenied):
                    self.lister.note_denied_get(found.type)
                return error.bare()
            updated = settled_time(answer.updated, self.client.server_time())
            return msgspec.structs.replace(answer, updated=updated)

        return await self.values.get((found.type, found.name, version), since, request)

    async def _enabled_ids(self, vault_object: VaultObject, since: float, first: bool) -> list[str] | ControllerError:
        async def request() -> list[str] | ControllerError:
            try:
                return await self.lister.enabled_ids(vault_object, first)
            except ControllerError as error:
                return error.bare()

        return await self.versions.get(vault_object, since, request)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()
