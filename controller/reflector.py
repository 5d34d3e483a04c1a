"""A local copy of what the API server holds of one kind: list, then watch, then list again where the watch broke.

Source: Kubernetes API concepts, "Efficient detection of changes" (resourceVersion, bookmarks, 410 Gone).
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from controller import errors
from controller.api.meta import ObjectMeta, Partial, Resource, Unreadable
from controller.api.secretsync import REFRESH_INTERVAL
from controller.kube import Kube, ListWatch
from controller.queue import Key

LONGEST_PAUSE = 30.0
# A watch lasts for minutes; one that ends within this time is counted as one more failure.
QUICK_END = 1.0
R = TypeVar("R", bound=Resource)
log = logging.getLogger(__name__)


def same_spec(old: ObjectMeta, new: ObjectMeta) -> bool:
    """Whether nobody edited what is wanted.

    Status patches and relabelling leave the generation alone; both kinds of CRD count it (with and without a status
    subresource), so our own status writes wake nobody. Of annotations one is as good as a field.
    """
    return _spec(old) == _spec(new)


def _spec(meta: ObjectMeta) -> tuple[object, ...]:
    return meta.uid, meta.generation, meta.deletion_timestamp, meta.annotations.get(REFRESH_INTERVAL)


def same_version(old: ObjectMeta, new: ObjectMeta) -> bool:
    """Whether it is the same to the last field: status, labels and owners, too."""
    return (old.uid, old.resource_version) == (new.uid, new.resource_version)


Changed = Callable[[Key, R | Unreadable | None], None]
Same = Callable[[ObjectMeta, ObjectMeta], bool]


class Store(Generic[R]):
    """What is there, by key; shared by the reflectors of several namespaces."""

    def __init__(self) -> None:
        self._objects: dict[Key, R | Unreadable] = {}
        self._listeners: list[tuple[Changed[R], Same]] = []

    def listen(self, changed: Changed[R], same: Same = same_spec) -> None:
        """From now on calls `changed`, with what stood there before, for what comes, goes, or is not the same."""
        self._listeners.append((changed, same))

    def get(self, key: Key) -> R | Unreadable | None:
        """The object as last seen."""
        return self._objects.get(key)

    def __len__(self) -> int:
        return len(self._objects)

    def keys(self) -> Iterator[Key]:
        """The keys of all objects, at this moment."""
        return iter(tuple(self._objects))

    def put(self, item: R | Unreadable) -> Key:
        """Takes in what was seen."""
        key = Key(item.metadata.namespace, item.metadata.name)
        before = self._objects.get(key)
        self._objects[key] = item
        for changed, same in self._listeners:
            if before is None or not same(before.metadata, item.metadata):
                changed(key, before)
        return key

    def wrote(self, before: ObjectMeta, after: R) -> None:
        """Takes in what a write of ours made of what stood here; where something newer stands, a watch was faster.

        So a watch that is behind has none of our own writes refused as a conflict with the one before it.
        """
        known = self._objects.get(Key(before.namespace, before.name))
        if known and same_version(known.metadata, before):
            self.put(after)

    def drop(self, key: Key) -> None:
        """Takes note that the object is gone."""
        before = self._objects.pop(key, None)
        if before is not None:
            for changed, _ in self._listeners:
                changed(key, before)


def _metadata(raw: msgspec.Raw) -> ObjectMeta:
    try:
        return msgspec.json.decode(raw, type=Partial).metadata
    except msgspec.DecodeError:
        raise errors.Unreachable("the Kubernetes API sent what is no object; it is asked again") from None


class Reflector(Generic[R]):
    """Keeps a store equal to one namespace (or all, where it is empty)."""

    def __init__(self, kube: Kube, handle: ListWatch[R], namespace: str, store: Store[R]) -> None:
        self._kube = kube
        self._handle = handle
        self._namespace = namespace
        self._store = store
        self._mine: set[Key] = set()
        self._dice = random.Random()  # noqa: S311 -- spreads load, guards nothing
        self.synced = asyncio.Event()
        self.problem = ""
        self._trouble: type[errors.KubeError] | None = None

    def count(self) -> tuple[str, int]:
        """What the store is of, and how many are in it."""
        return self._handle.resource.plural, len(self._store)

    async def run(self) -> None:
        """Lists and watches until cancelled."""
        version = ""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                version = version or await self._list()
                version = await self._watch(version)
            except errors.Expired:
                version = ""
            except errors.KubeError as error:
                self._failed(error)
                if isinstance(error, errors.Refused | errors.NotFound):
                    version = ""  # the rights or the kind may be others when it works again
                # A watch that broke after a while is the first failure again, as one that ended then is none.
                failures = 1 if not error.status and self._lasted(began) else failures + 1
                await asyncio.sleep(max(error.retry_after or 0.0, self._pause(failures)))
                continue
            # A watch that ends at once, or has always expired, must not become a hot loop of lists.
            failures = 0 if self._lasted(began) else failures + 1
            await asyncio.sleep(self._pause(failures) if failures else 0)

    @staticmethod
    def _lasted(began: float) -> bool:
        return time.monotonic() - began >= QUICK_END

    def _pause(self, failures: int) -> float:
        return self._dice.uniform(0.2, min(LONGEST_PAUSE, 0.5 * 2 ** min(failures, 8)))

    async def _list(self) -> str:
        seen: set[Key] = set()
        token = ""
        while True:
            page = await self._handle.page(self._kube, self._namespace, token)
            for raw in page.items:
                seen.add(key := self._store.put(self._decode(raw)))
                self._mine.add(key)
            token = page.metadata.continue_
            if not token:
                break
        for key in self._mine - seen:
            self._store.drop(key)
        self._mine = seen
        self.synced.set()
        return page.metadata.resource_version

    async def _watch(self, version: str) -> str:
        async for event in self._handle.watch(self._kube, self._namespace, version):
            if event.type == "ERROR":
                # In practice always 410: the version is too old. Whatever it is, a list mends it.
                raise errors.Expired("the watch has expired", status=410)
            self._recovered()
            item = self._decode(event.object)
            version = item.metadata.resource_version or version
            if event.type == "DELETED":
                key = Key(item.metadata.namespace, item.metadata.name)
                self._mine.discard(key)
                self._store.drop(key)
            elif event.type in ("ADDED", "MODIFIED"):
                self._mine.add(self._store.put(item))
        self._recovered()
        return version

    def _decode(self, raw: msgspec.Raw) -> R | Unreadable:
        try:
            return self._handle.decode(raw).trimmed()
        except msgspec.ValidationError as error:
            # BOOKMARK events come here too: they carry metadata alone, which is all that is read of them.
            return Unreadable(_metadata(raw).trimmed(), str(error))

    def _failed(self, error: errors.KubeError) -> None:
        if type(error) is not self._trouble:  # an outage has many faces; its first one is enough
            log.warning("cannot list or watch %s: %s", self._handle.resource.plural, error.message)
        self._trouble, self.problem = type(error), error.message

    def _recovered(self) -> None:
        if self._trouble:
            self._trouble, self.problem = None, ""
            log.info("listing and watching %s again", self._handle.resource.plural)
