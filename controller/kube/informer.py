"""Keep a local copy of the API server's objects of one kind: list, watch, and list again if the watch ends.

Source: Kubernetes API concepts, "Efficient detection of changes" (resourceVersion, bookmarks, 410 Gone).
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from controller import errors
from controller.api.meta import MAX_SPEC, IdentifiedObject, ObjectMeta, PartialObject, Resource, Unreadable
from controller.api.secretsync import REFRESH_INTERVAL
from controller.kube.client import KubeClient
from controller.kube.resources import PAGE, ListWatch, ObjectPage
from controller.observability.telemetry import RateLimitedLog
from controller.runtime import budgets
from controller.runtime.budgets import TotalBudget
from controller.runtime.json_decoding import Undecodable, decode_json
from controller.runtime.sharing import share_parts
from controller.runtime.work_queue import Key

MAX_PAUSE = 30.0
# A watch lasts for minutes. One that ends within this time counts as a failure.
QUICK_END = 1.0
# Seconds of refusals after which work in other namespaces waits no longer for the lists of a namespace. After a start,
# the API server can refuse everything for a moment.
REFUSED_PATIENCE = 30.0
# The usual size of a page in bytes. After a larger one, the next page has fewer objects.
PAGE_BYTES = 2**20
# Maximum size of the metadata of an object that is not read, in bytes as JSON. The budget does not count it.
MAX_METADATA = 4096
R = TypeVar("R", bound=Resource)
log = logging.getLogger(__name__)


def same_spec(old: ObjectMeta, new: ObjectMeta) -> bool:
    """Return whether the desired state is unchanged.

    Status patches and new labels do not change the generation. Both kinds of CRD count it (with and without a status
    subresource), so the controller's own status writes trigger nothing. One annotation counts like a field.
    """
    return _same_generation(old) == _same_generation(new)


def _same_generation(meta: ObjectMeta) -> tuple[object, ...]:
    return meta.uid, meta.generation, meta.deletion_timestamp, meta.annotations.get(REFRESH_INTERVAL)


def same_version(old: ObjectMeta, new: ObjectMeta) -> bool:
    """Return whether all fields are equal, including status, labels and owners."""
    return (old.uid, old.resource_version) == (new.uid, new.resource_version)


ChangeHandler = Callable[[Key, R | Unreadable | None], None]
"""Handle a change of the object with this key. The second argument is the previous object, or None."""
IsSame = Callable[[ObjectMeta, ObjectMeta], bool]
"""Return whether a handler need not be called for a change from the first to the second metadata."""


class Store(Generic[R]):
    """The objects by key. The informers of several namespaces share it."""

    def __init__(self) -> None:
        self._objects: dict[Key, R | Unreadable] = {}
        self._listeners: list[tuple[ChangeHandler[R], IsSame]] = []
        self._rate_limited_log = RateLimitedLog(log)

    def add_handler(self, changed: ChangeHandler[R], same: IsSame = same_spec) -> None:
        """Call `changed` with the previous object if an object is added, deleted, or differs according to `same`."""
        self._listeners.append((changed, same))

    def get(self, key: Key) -> R | Unreadable | None:
        """Return the object as the API server last sent it, or None."""
        return self._objects.get(key)

    def __len__(self) -> int:
        return len(self._objects)

    def keys(self) -> Iterator[Key]:
        """Return the current keys."""
        return iter(tuple(self._objects))

    def set(self, item: R | Unreadable) -> Key:
        """Store an object that the API server sent."""
        key = Key(item.metadata.namespace, item.metadata.name)
        before = self._objects.get(key)
        if item == before:
            return key  # after each status patch, the watch sends what its answer said
        item = share_parts(item)
        key = Key(item.metadata.namespace, item.metadata.name)  # of the shared texts
        self._objects[key] = item
        for changed, same in self._listeners:
            if before is None or not same(before.metadata, item.metadata):
                self._call_handler(changed, key, before)
        return key

    def update_from_write(self, before: ObjectMeta, after: R) -> None:
        """Store the result of the controller's own write, unless the watch has already delivered a newer object.

        So the next write does not conflict with this one, even if the watch is late.
        """
        known = self._objects.get(Key(before.namespace, before.name))
        if known and same_version(known.metadata, before):
            self.set(after)

    def delete(self, key: Key) -> None:
        """Delete an object that is gone."""
        before = self._objects.pop(key, None)
        if before is not None:
            for changed, _ in self._listeners:
                self._call_handler(changed, key, before)

    def _call_handler(self, changed: ChangeHandler[R], key: Key, before: R | Unreadable | None) -> None:
        """Call a handler. Log its failure, which must not hide other objects."""
        try:
            changed(key, before)
        except Exception as error:
            self._rate_limited_log.log_unexpected(error)


def read_identity(raw: msgspec.Raw) -> ObjectMeta | None:
    """Return the metadata that can be read, or None if not even the name can be read."""
    with contextlib.suppress(Undecodable):
        return decode_json(raw, PartialObject).metadata.trimmed()
    with contextlib.suppress(Undecodable):
        return decode_json(raw, IdentifiedObject).meta()
    return None


Kept = TotalBudget[tuple[str, str]]
"""The sizes of the stored objects of each namespace, by plural and name. All informers of a process share it."""


def _too_large(raw: msgspec.Raw, item: Resource) -> str:
    """Return the fault of an object whose spec is too large to store, or an empty text."""
    if memoryview(raw).nbytes <= MAX_SPEC:
        return ""
    size = len(msgspec.json.encode(getattr(item.trimmed(), "spec", None)))
    if size <= MAX_SPEC:
        return ""
    return f"its spec has {size} bytes as JSON, and at most {MAX_SPEC} are read: split it into several"


class Informer(Generic[R]):
    """Keep a store equal to one namespace, or to all namespaces if the name is empty.

    `problem` is why listing or watching fails, or an empty text. `synced` is set after the first complete list.
    `settled` is set then, too, or when the API server has refused to list a single namespace for `REFUSED_PATIENCE`:
    users can delete a namespace, or its Role, and the other namespaces must not wait for it.

    It begins when the informer `after` has listed everything: no object arrives before those that it depends on.
    """

    def __init__(
        self,
        kube: KubeClient,
        handle: ListWatch[R],
        namespace: str,
        store: Store[R],
        kept: Kept | None = None,
        after: "Informer[Any] | None" = None,
    ) -> None:
        self._kube = kube
        self._handle = handle
        self._namespace = namespace
        self._store = store
        self._after = after
        self.kept_bytes = kept or TotalBudget(budgets.KEPT)
        # The keys of the objects that this informer has stored.
        self.own_keys: set[Key] = set()
        # Whether an object was left out because its namespace is over its budget. Then a list follows the watch, and
        # reads the object if there is room.
        self._is_short = False
        # The number of objects to request with the next page.
        self._limit = PAGE
        # The version to watch from, or an empty text to list first. It is not lost if the watch breaks.
        self._version = ""
        self._rate_limited_log = RateLimitedLog(log)
        self.rng = random.Random()  # noqa: S311 - it spreads load and protects nothing
        self.synced = asyncio.Event()
        self.settled = asyncio.Event()
        self._refused_since = math.inf
        self.problem = ""
        self._trouble: type[Exception] | None = None

    def count(self) -> tuple[str, int]:
        """Return the kind of the store and the number of its objects."""
        return self._handle.resource.plural, len(self._store)

    async def run(self) -> None:
        """List and watch until cancelled."""
        if self._after:
            await self._wait_for_list(self._after)
        failures = 0
        while True:
            began = math.inf  # a list that fails has not lasted
            try:
                self._version = self._version or await self._list_all()
                began = time.monotonic()
                await self._watch_changes()
            except errors.ResourceExpired:
                self._version = ""
            except errors.KubeError as error:
                self._note_failure(error)
                self._note_refusal(is_refused=error.status == 403)
                if isinstance(error, errors.Refused | errors.NotFound):
                    self._version = ""  # the rights or the CRD can have changed
                elif self._is_short and not error.status:
                    self._version = ""  # a watch broke, and there can be room
                # A watch that breaks after a while counts as the first failure.
                failures = 1 if not error.status and self._has_lasted(began) else failures + 1
                await asyncio.sleep(max(error.retry_after or 0.0, self._wait_after_failure(failures)))
                continue
            except Exception as error:
                # No error must end the process: the other informers and all work continue.
                self._rate_limited_log.log_unexpected(error)
                self._trouble = type(error)
                self.problem = (
                    f"unexpected {type(error).__name__}: the log has the traceback; the controller lists again"
                )
                self._version = ""
                failures += 1
                await asyncio.sleep(self._wait_after_failure(failures))
                continue
            # A watch that ends at once or is always expired must not cause a fast loop of lists.
            failures = 0 if self._has_lasted(began) else failures + 1
            await asyncio.sleep(self._wait_after_failure(failures) if failures else 0)

    async def _wait_for_list(self, other: "Informer[Any]") -> None:
        """Wait until another informer has listed everything. If that is refused, no other work waits for this one."""
        await other.settled.wait()
        if not other.synced.is_set():
            self.problem = f"waits for the list of {other.count()[0]}"
            self.settled.set()
        await other.synced.wait()
        self.problem = ""

    @staticmethod
    def _has_lasted(began: float) -> bool:
        return time.monotonic() - began >= QUICK_END

    def _wait_after_failure(self, failures: int) -> float:
        return self.rng.uniform(0.2, min(MAX_PAUSE, 0.5 * 2 ** min(failures, 8)))

    async def _list_all(self) -> str:
        seen: set[Key] = set()
        complete = True
        self._is_short = False
        token = ""
        while True:
            page = await self.read_page(token)
            for raw in page.items:
                item = self.decode_object(raw)
                if item is None or not item.metadata.name:
                    complete = False
                    continue
                seen.add(key := self._store.set(item))
                self.own_keys.add(key)
            token = page.metadata.continue_
            if not token:
                break
        if complete:
            for key in self.own_keys - seen:
                self._delete_key(key)
        # An object with an unreadable name can be any object, so no object counts as deleted.
        self.synced.set()
        self.settled.set()
        return page.metadata.resource_version

    async def read_page(self, token: str) -> ObjectPage:
        """Request a page, with fewer objects if they are large."""
        while True:
            try:
                page = await self._handle.list_page(self._kube, self._namespace, token, self._limit)
            except errors.AnswerTooLarge:
                if self._limit == 1:
                    raise
                self._limit = max(1, self._limit // 8)
                continue
            if page.size_in_bytes > PAGE_BYTES:
                self._limit = max(1, self._limit // 2)
            elif page.size_in_bytes < PAGE_BYTES // 2:
                self._limit = min(PAGE, self._limit * 2)
            return page

    async def _watch_changes(self) -> None:
        """Watch from the current version, and store the version to continue from: an empty text to list again."""
        async for event in self._handle.watch(self._kube, self._namespace, self._version):
            if event.type == "ERROR":
                self._version = ""  # in practice this is 410: the version is too old; a list repairs every case
                return
            self._note_recovery()
            item = self.decode_object(event.object)
            if item is None:
                continue
            self._version = item.metadata.resource_version or self._version
            if event.type == "DELETED":
                key = Key(item.metadata.namespace, item.metadata.name)
                self._delete_key(key)
            elif event.type in ("ADDED", "MODIFIED") and item.metadata.name:
                self.own_keys.add(self._store.set(item))
        self._note_recovery()
        if self._is_short:
            self._version = ""

    def decode_object(self, raw: msgspec.Raw) -> R | Unreadable | None:
        """Return the object or its fault. Log an object whose name cannot be read, and return None."""
        try:
            item = self._handle.decode_object(raw)
            problem = _too_large(raw, item)
        except Undecodable as error:
            # BOOKMARK events contain only metadata, and nothing else is read from them.
            problem = error.problem
        if not problem:
            kept = item.trimmed()
            if self._has_room(kept):
                return kept
            self._is_short = True
            most = int(budgets.KEPT.limit)
            problem = (
                f"the objects of namespace {kept.metadata.namespace} have more than {most} bytes together, and no more"
                " are read: delete some, or spread them over several namespaces"
            )
        meta = read_identity(raw)
        if meta is None:
            kind = self._handle.resource.kind
            self._rate_limited_log.log_message(
                logging.WARNING, "unreadable", f"ignored an unreadable {kind}: {problem}"
            )
            return None
        self.kept_bytes.drop(meta.namespace, (self._handle.resource.plural, meta.name))
        if len(msgspec.json.encode(meta)) > MAX_METADATA:
            meta = msgspec.structs.replace(meta, labels={}, owner_references=[])
        return Unreadable(meta, problem)

    def _has_room(self, item: R) -> bool:
        """Return whether the object fits the limit of its namespace. If it does, it counts from now on."""
        meta = item.metadata
        size = len(msgspec.json.encode(item))
        return self.kept_bytes.set(meta.namespace, (self._handle.resource.plural, meta.name), size)

    def _delete_key(self, key: Key) -> None:
        self.own_keys.discard(key)
        self.kept_bytes.drop(key.namespace, (self._handle.resource.plural, key.name))
        self._store.delete(key)

    def _note_failure(self, error: errors.KubeError) -> None:
        kind, message = self._handle.resource.plural, error.message
        if isinstance(error, errors.NotFound):  # of a list, it means that the kind is unknown
            message = (
                f"the cluster does not serve {kind} (HTTP 404); install their CRD: kubectl apply --filename chart/crds"
            )
        if type(error) is not self._trouble:  # an outage causes different errors; only the first one is logged
            log.warning("cannot list or watch %s: %s", kind, message)
        self._trouble, self.problem = type(error), message

    def _note_refusal(self, *, is_refused: bool) -> None:
        """Set `settled` if the lists of a single namespace have been refused for long enough."""
        now = time.monotonic()
        self._refused_since = min(self._refused_since, now) if is_refused else math.inf
        if self._namespace and not self.settled.is_set() and now - self._refused_since >= REFUSED_PATIENCE:
            self.settled.set()
            log.warning(
                "namespace %s is not served until its %s can be listed, and the others do not wait for it: restore the"
                " release's Role there, or remove the namespace from watchNamespaces",
                self._namespace,
                self._handle.resource.plural,
            )

    def _note_recovery(self) -> None:
        if self._trouble:
            self._trouble, self.problem = None, ""
            log.info("listing and watching %s again", self._handle.resource.plural)
