"""A local copy of what the API server holds of one kind: list, then watch, then list again where the watch broke.

Source: Kubernetes API concepts, "Efficient detection of changes" (resourceVersion, bookmarks, 410 Gone).
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from controller import budgets, errors
from controller.api.meta import Identified, ObjectMeta, Partial, Resource, Unreadable
from controller.api.secretsync import REFRESH_INTERVAL
from controller.budgets import Totals
from controller.decode import Undecodable, decode
from controller.kube import PAGE, Kube, ListWatch, Page
from controller.queue import Key
from controller.telemetry import Chorus

LONGEST_PAUSE = 30.0
# A watch lasts for minutes; one that ends within this time is counted as one more failure.
QUICK_END = 1.0
# Bytes of a page that are usual: with more, the next page has fewer objects.
PAGE_BYTES = 2**20
# Bytes of a whole spec, as JSON. It is room for a thousand objects or keys; etcd would take ten times as much, and an
# object may be kept many times (parsed, and as what an AKVSync makes of it).
MAX_SPEC = 128 * 1024
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
        self._chorus = Chorus(log)

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
                self._call(changed, key, before)
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
                self._call(changed, key, before)

    def _call(self, changed: Changed[R], key: Key, before: R | Unreadable | None) -> None:
        """Call a listener; its failure about one object must not keep the others from being seen."""
        try:
            changed(key, before)
        except Exception as error:
            self._chorus.unexpected(error)


def identify(raw: msgspec.Raw) -> ObjectMeta | None:
    """Return as much of an object's metadata as can be read; None where not even its name can."""
    with contextlib.suppress(Undecodable):
        return decode(raw, Partial).metadata.trimmed()
    with contextlib.suppress(Undecodable):
        return decode(raw, Identified).meta()
    return None


Kept = Totals[tuple[str, str]]
"""What the objects of each namespace keep, by plural and name; shared by all reflectors of a process."""


def _too_large(raw: msgspec.Raw, item: Resource) -> str:
    """Return what is wrong with an object whose spec is too large to be kept, else an empty text."""
    if memoryview(raw).nbytes <= MAX_SPEC:
        return ""
    size = len(msgspec.json.encode(getattr(item.trimmed(), "spec", None)))
    if size <= MAX_SPEC:
        return ""
    return f"its spec has {size} bytes as JSON, and at most {MAX_SPEC} are read: split it into several"


class Reflector(Generic[R]):
    """Keeps a store equal to one namespace (or all, where it is empty)."""

    def __init__(
        self, kube: Kube, handle: ListWatch[R], namespace: str, store: Store[R], kept: Kept | None = None
    ) -> None:
        self._kube = kube
        self._handle = handle
        self._namespace = namespace
        self._store = store
        self._kept = kept or Totals(budgets.KEPT)
        self._mine: set[Key] = set()
        # Whether an object was not read for want of room: then a list follows the watch, and reads it if there is room.
        self._is_short = False
        # Objects asked for with the next page.
        self._limit = PAGE
        self._chorus = Chorus(log)
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
            except Exception as error:
                # Whatever it is, it must not end the process: the other reflectors and all work go on.
                self._chorus.unexpected(error)
                self.problem = f"unexpected {type(error).__name__}: the log has the place"
                version = ""
                failures += 1
                await asyncio.sleep(self._pause(failures))
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
        complete = True
        self._is_short = False
        token = ""
        while True:
            page = await self._page(token)
            for raw in page.items:
                item = self._decode(raw)
                if item is None or not item.metadata.name:
                    complete = False
                    continue
                seen.add(key := self._store.put(item))
                self._mine.add(key)
            token = page.metadata.continue_
            if not token:
                break
        if complete:
            for key in self._mine - seen:
                self._drop(key)
            self._mine = seen
        # Else one that was not seen may be the object whose name cannot be read: none is taken for gone.
        self.synced.set()
        return page.metadata.resource_version

    async def _page(self, token: str) -> Page:
        """Ask for a page, with fewer objects where they are large."""
        while True:
            try:
                page = await self._handle.page(self._kube, self._namespace, token, self._limit)
            except errors.AnswerTooLarge:
                if self._limit == 1:
                    raise
                self._limit = max(1, self._limit // 8)
                continue
            if page.size > PAGE_BYTES:
                self._limit = max(1, self._limit // 2)
            elif page.size < PAGE_BYTES // 2:
                self._limit = min(PAGE, self._limit * 2)
            return page

    async def _watch(self, version: str) -> str:
        async for event in self._handle.watch(self._kube, self._namespace, version):
            if event.type == "ERROR":
                # In practice always 410: the version is too old. Whatever it is, a list mends it.
                raise errors.Expired("the watch has expired", status=410)
            self._recovered()
            item = self._decode(event.object)
            if item is None:
                continue
            version = item.metadata.resource_version or version
            if event.type == "DELETED":
                key = Key(item.metadata.namespace, item.metadata.name)
                self._mine.discard(key)
                self._drop(key)
            elif event.type in ("ADDED", "MODIFIED") and item.metadata.name:
                self._mine.add(self._store.put(item))
        self._recovered()
        return "" if self._is_short else version

    def _decode(self, raw: msgspec.Raw) -> R | Unreadable | None:
        """Return the object, or what is wrong with it; None, with a log line, where not even its name can be read."""
        try:
            item = self._handle.decode(raw)
            problem = _too_large(raw, item)
        except Undecodable as error:
            # BOOKMARK events come here too: they carry metadata alone, which is all that is read of them.
            problem = error.problem
        if not problem:
            kept = item.trimmed()
            if self._has_room(kept):
                return kept
            self._is_short = True
            most = int(budgets.KEPT.most)
            problem = (
                f"the objects of namespace {kept.metadata.namespace} have more than {most} bytes together, and no more"
                " are read: delete some, or spread them over several namespaces"
            )
        meta = identify(raw)
        if meta is None:
            kind = self._handle.resource.kind
            self._chorus.say(logging.WARNING, "unreadable", f"ignored what is no {kind}: {problem}")
            return None
        self._kept.drop(meta.namespace, (self._handle.resource.plural, meta.name))
        return Unreadable(meta, problem)

    def _has_room(self, item: R) -> bool:
        """Whether the object fits what its namespace may keep; then it counts from now on."""
        meta = item.metadata
        size = len(msgspec.json.encode(item))
        return self._kept.set(meta.namespace, (self._handle.resource.plural, meta.name), size)

    def _drop(self, key: Key) -> None:
        self._kept.drop(key.namespace, (self._handle.resource.plural, key.name))
        self._store.drop(key)

    def _failed(self, error: errors.KubeError) -> None:
        if type(error) is not self._trouble:  # an outage has many faces; its first one is enough
            log.warning("cannot list or watch %s: %s", self._handle.resource.plural, error.message)
        self._trouble, self.problem = type(error), error.message

    def _recovered(self) -> None:
        if self._trouble:
            self._trouble, self.problem = None, ""
            log.info("listing and watching %s again", self._handle.resource.plural)
