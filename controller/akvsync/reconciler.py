"""Reconcile AKVSyncs: generate a SecretProviderClass and SecretSyncs, and write a status for them.

watch → queue → `expand_akvsync()` → a `decide_step()` for each object → one status, if something changed. The
reconciler polls nothing: the watches of the three kinds report every relevant change. It retries only requests to the
API server that failed.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from controller import errors
from controller.akvsync.children import (
    BlockedObject,
    CreateObject,
    KeepObject,
    PatchObject,
    Step,
    StepResult,
    decide_step,
)
from controller.akvsync.expand import GeneratedObjects, expand_akvsync
from controller.akvsync.explicit_secrets import explicit_names
from controller.akvsync.selected_secrets import selected_before, skipped_above_limit
from controller.akvsync.selections import SelectionTracker
from controller.akvsync.status import SelectionResult, is_stalled, listed_ago, next_status, part_status
from controller.api.akvsync import AKVSync, AKVSyncStatus, PartStatus
from controller.api.conditions import Reason
from controller.api.meta import Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.domain.generated import akvsync_owner
from controller.domain.selection import Query, choose_objects
from controller.domain.status import has_same_ready_condition, ready_condition
from controller.kube import permissions
from controller.kube.client import KubeClient
from controller.kube.event_recorder import EventRecorder, announce_condition
from controller.kube.informer import Store, same_version
from controller.kube.resources import CreatePatch
from controller.observability.telemetry import RateLimitedLog
from controller.runtime import backoff
from controller.runtime.work_queue import Key, Queue

# Seconds to wait for more changes before a run. Parts change in bursts, and one status reports a whole burst.
BATCH_SECONDS = 0.5
WORKERS = 8
# Maximum number of simultaneous writes of all AKVSyncs.
MAX_WRITES = 16
log = logging.getLogger(__name__)


class AKVSyncReconciler:
    """A reconciler of AKVSyncs. Each worker processes one AKVSync at a time.

    It reads the informer stores of SecretSyncs and SecretProviderClasses that the reconciler of SecretSyncs owns.
    """

    def __init__(
        self,
        kube: KubeClient,
        events: EventRecorder,
        syncs: Store[SecretSync],
        classes: Store[SecretProviderClass],
        new_selections: Callable[[Callable[[Key], None]], SelectionTracker],
    ) -> None:
        self.selections = new_selections(self._requeue_key)
        self._kube = kube
        self._events = events
        self._syncs = syncs
        self._classes = classes
        self._queue: Queue[Key] = Queue(time.monotonic, WORKERS)
        self._writes = asyncio.Semaphore(MAX_WRITES)
        self.rng = random.Random()  # noqa: S311 - it spreads load and protects nothing
        self._rate_limited_log = RateLimitedLog(log)
        self._failures: dict[Key, int] = {}
        # The number of consecutive runs that wrote objects. Each one doubles the delay of the next run, so that another
        # component that reverts the writes does not cause a flood of them.
        self._writing_runs: dict[Key, int] = {}
        # `owned`: the SecretSyncs that an AKVSync owns, by namespace and UID. The index has the namespace because users
        # of other namespaces can write any UID into an owner reference. `dependents`: the AKVSyncs that need a
        # SecretSync and are processed when it changes.
        self.owned: dict[tuple[str, str], set[Key]] = {}
        self._wanted: dict[Key, set[Key]] = {}
        self.dependents: dict[Key, set[Key]] = {}
        self.store: Store[AKVSync] = Store()
        self.store.add_handler(self._handle_change)
        syncs.add_handler(self._handle_sync_change, same_version)
        # The class has the AKVSync's name.
        classes.add_handler(lambda key, _: self._requeue_key(key), same_version)

    def _handle_change(self, key: Key, _before: AKVSync | Unreadable | None) -> None:
        self._failures.pop(key, None)
        self._writing_runs.pop(key, None)
        if self.store.get(key) is None:
            self._remember_wanted(key, ())
            self.selections.forget(key)
            self._queue.forget(key)
        else:
            self._queue.add(key)

    def _handle_sync_change(self, key: Key, before: SecretSync | Unreadable | None) -> None:
        now = self._syncs.get(key)
        if before and (owner := akvsync_owner(before.metadata)):
            _discard_key(self.owned, (key.namespace, owner.uid), key)
            self._requeue_key(Key(key.namespace, owner.name))
        if now and (owner := akvsync_owner(now.metadata)):
            self.owned.setdefault((key.namespace, owner.uid), set()).add(key)
            self._requeue_key(Key(key.namespace, owner.name))
        for user in self.dependents.get(key, ()):
            self._requeue_key(user)

    def _requeue_key(self, key: Key) -> None:
        if self.store.get(key):
            self._queue.add(key, BATCH_SECONDS * 2 ** min(self._writing_runs.get(key, 0), 6))

    def _remember_wanted(self, key: Key, names: Iterable[str]) -> None:
        """Store which SecretSyncs an AKVSync needs, including those that another owner already has."""
        wanted = {Key(key.namespace, name) for name in names}
        before = self._wanted.get(key, set())
        for gone in before - wanted:
            _discard_key(self.dependents, gone, key)
        for new in wanted - before:
            self.dependents.setdefault(new, set()).add(key)
        if wanted:
            self._wanted[key] = wanted
        else:
            self._wanted.pop(key, None)

    def reset(self) -> None:
        """Forget failures and repeated writes, and process all AKVSyncs again, because another process can have led."""
        self._failures.clear()
        self._writing_runs.clear()
        self.selections.reset()
        for key in self.store.keys():  # noqa: SIM118 - a store is not a mapping
            self._queue.add(key)

    async def work(self) -> None:
        """Process keys and list vaults until closed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._queue.process_keys(self._process_key))
            tasks.create_task(self.selections.work())

    def close(self) -> None:
        """Take no more keys. Runs in progress end normally."""
        self._queue.close()
        self.selections.close()

    def flush_logs(self) -> None:
        """Log how many lines of one kind were suppressed."""
        self._rate_limited_log.flush_minutes()
        self.selections.flush_logs()

    async def _process_key(self, key: Key) -> float | None:
        """Update one AKVSync's objects and status. Return the seconds until the next attempt, or None."""
        akv = self.store.get(key)
        if akv is None or akv.metadata.deletion_timestamp:
            return None
        try:
            done = await self._reconcile_akvsync(key, akv)
        except Exception as error:
            self._rate_limited_log.log_unexpected(error)
            done = False
        if done:
            self._failures.pop(key, None)
            return None
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return backoff.backoff_delay(failures, self.rng)

    async def _reconcile_akvsync(self, key: Key, akv: AKVSync | Unreadable) -> bool:
        """Apply the AKVSync's objects and report its status. Return whether no retry is needed."""
        problem: errors.InputError | None = None
        done: dict[str, StepResult]
        try:
            if isinstance(akv, Unreadable):
                raise errors.InputError(f"this AKVSync cannot be read: {akv.problem}")
            generated = self._generate_objects(key, akv)
        except errors.InputError as error:
            # The existing objects remain, because a mistake must not delete anything.
            problem, generated = error.bare(), GeneratedObjects(source=None, syncs={})
            done = {owned.name: KeepObject() for owned in sorted(self.owned.get((key.namespace, akv.metadata.uid), ()))}
        else:
            self._remember_wanted(key, generated.syncs.keys() | generated.retained)
            done = await self._apply_objects(key, akv.metadata.uid, generated)
        found = {name: self._syncs.get(Key(key.namespace, name)) for name in done}
        parts = [part_status(name, result, found[name], generated.kept.get(name, ())) for name, result in done.items()]
        stalled = any(is_stalled(result, found[name]) for name, result in done.items())
        # An error that only an edit can correct needs no retry, because the watches report the edit.
        needs_retry = any(
            isinstance(result, errors.ControllerError) and result.retry is not errors.Retry.ON_EDIT
            for result in done.values()
        )
        is_applied = not problem and not any(
            isinstance(result, BlockedObject | errors.ControllerError) for result in done.values()
        )
        news = self._selection_status(key, akv, generated, is_applied=is_applied)
        return await self._report_status(akv, parts, problem, news, stalled=stalled) and not needs_retry

    def _generate_objects(self, key: Key, akv: AKVSync) -> GeneratedObjects:
        """Return the objects of the AKVSync. Raise `InputError` if it is invalid.

        Selected objects are known only after the vault was listed.
        """
        entries = [entry for entry in akv.spec.objects if entry.select is not None]
        if not entries:
            self.selections.forget(key)
            return expand_akvsync(akv)
        found = [self._syncs.get(each) for each in self.owned.get((key.namespace, akv.metadata.uid), ())]
        owned = [sync for sync in found if isinstance(sync, SecretSync)]
        explicit = explicit_names(akv)
        before = selected_before(entries, owned, explicit)
        query = Query(
            entries=tuple(entry.select for entry in entries if entry.select is not None),
            known=frozenset().union(*before),
            confirm=frozenset().union(
                *(had for entry, had in zip(entries, before, strict=True) if entry.when_gone == "Remove")
            ),
            syncs=frozenset(sync.metadata.name for sync in owned) - explicit,
        )
        self.selections.register_query(key, akv, query, listed_ago(akv, datetime.now(UTC)))
        sighting = self.selections.last_sighting(key)
        source = self._classes.get(key)
        if sighting is None:
            return expand_akvsync(akv, None, owned, source if isinstance(source, SecretProviderClass) else None)
        return expand_akvsync(akv, choose_objects(entries, sighting, before, self.selections.removed_names(key)))

    def _selection_status(
        self, key: Key, akv: AKVSync | Unreadable, generated: GeneratedObjects, *, is_applied: bool
    ) -> SelectionResult | None:
        """Return the state of the selection for the status, or None without a selection."""
        if not isinstance(akv, AKVSync) or all(entry.select is None for entry in akv.spec.objects):
            return None
        sighting = self.selections.last_sighting(key)
        skipped = (
            (*generated.skipped, *skipped_above_limit(sighting))
            if sighting and generated.selects
            else akv.status.skipped
        )
        return SelectionResult(
            skipped=skipped,
            error=self.selections.last_error(key),
            listed_ago=self.selections.listed_ago(key),
            is_applied=is_applied,
        )

    async def _apply_objects(self, key: Key, uid: str, generated: GeneratedObjects) -> dict[str, StepResult]:
        """Delete, create and patch objects. Return the result for each SecretSync by name."""
        # SecretSyncs that are no longer wanted are deleted first. They would otherwise report errors about items that
        # the class no longer has.
        present = sorted(self.owned.get((key.namespace, uid), ()))
        retained = {name: KeepObject() for name in sorted(generated.retained)}
        unwanted = [owned for owned in present if owned.name not in generated.syncs and owned.name not in retained]
        if generated.selects:
            # An unreadable SecretSync is not deleted, because it can be the SecretSync of a selected object.
            unwanted = [owned for owned in unwanted if isinstance(self._syncs.get(owned), SecretSync)]
        pruned = await asyncio.gather(*[self._delete_sync(owned) for owned in unwanted])
        failed = {owned.name: error for owned, error in zip(unwanted, pruned, strict=True) if error}
        if generated.source is None:
            return {**retained, **failed}
        first = decide_step(generated.source, self._classes.get(key))
        if isinstance(first, BlockedObject):
            return {**dict.fromkeys((*generated.syncs, *retained), first), **failed}
        steps = {
            name: decide_step(wanted, self._syncs.get(Key(key.namespace, name)))
            for name, wanted in generated.syncs.items()
        }
        if any(isinstance(step, CreateObject | PatchObject) for step in (first, *steps.values())):
            self._writing_runs[key] = self._writing_runs.get(key, 0) + 1
        else:
            self._writing_runs.pop(key, None)
        source = await self._execute_step(permissions.MADE_CLASSES, key.namespace, first)
        if isinstance(source, errors.ControllerError):
            return {**dict.fromkeys((*generated.syncs, *retained), source), **failed}
        done = await asyncio.gather(
            *[self._execute_step(permissions.MADE_SYNCS, key.namespace, step) for step in steps.values()]
        )
        return {**dict(zip(steps, done, strict=True)), **retained, **failed}

    async def _execute_step(self, handle: CreatePatch[Any], namespace: str, step: Step) -> StepResult:
        """Execute one step. Return an error instead of raising it, so that the other steps continue."""
        async with self._writes:
            try:
                match step:
                    case CreateObject(body):
                        await handle.create(self._kube, namespace, body)
                    case PatchObject(meta, body):
                        await handle.merge(self._kube, meta, body)
            except errors.KubeError as error:
                return _storable_error(error)
        return step

    async def _delete_sync(self, key: Key) -> errors.ControllerError | None:
        found = self._syncs.get(key)
        if found is None or found.metadata.deletion_timestamp:
            return None
        async with self._writes:
            try:
                await permissions.MADE_SYNCS_GONE.delete(self._kube, found.metadata)
            except errors.NotFound:
                return None
            except errors.KubeError as error:
                return _storable_error(error)
        return None

    async def _report_status(
        self,
        akv: AKVSync | Unreadable,
        parts: list[PartStatus],
        problem: errors.InputError | None,
        selection: SelectionResult | None,
        *,
        stalled: bool,
    ) -> bool:
        """Write the status if it changed. Return whether the AKVSync now has this status."""
        before = akv.status if isinstance(akv, AKVSync) else AKVSyncStatus()
        after = next_status(akv.metadata, before, parts, problem, datetime.now(UTC), selection, stalled=stalled)
        if after == before:
            return True
        body = {
            "conditions": msgspec.to_builtins(after.conditions),
            "observedGeneration": after.observed_generation,
            "summary": after.summary,
            "parts": msgspec.to_builtins(after.parts),
            "skipped": msgspec.to_builtins(after.skipped) or None,
            "lastListTime": after.last_list_time,
        }
        try:
            kept = await permissions.AKV_SYNC_STATUS.patch_status(self._kube, akv.metadata, body)
        except errors.NotFound:
            return True  # the AKVSync was deleted in the meantime
        except errors.KubeError as error:
            if not isinstance(error, errors.Conflict):
                text = f"cannot write a status: {error.message}"
                self._rate_limited_log.log_message(logging.WARNING, "status", text, namespace=akv.metadata.namespace)
            return False
        if kept and isinstance(akv, AKVSync):
            self.store.update_from_write(akv.metadata, kept)
        ready = ready_condition(after)
        if ready and not has_same_ready_condition(before, after) and ready.reason != Reason.IN_PROGRESS:
            announce_condition(self._rate_limited_log, self._events, AKVSync, akv.metadata, ready)
        return True


def _storable_error(error: errors.KubeError) -> errors.ControllerError:
    """Return the error without its frames, to store and report it."""
    if isinstance(error, errors.Conflict | errors.NotFound):
        return errors.ChildConflict("the object changed while the controller wrote it; the controller checks it again")
    return error.bare()


def _discard_key(index: dict[Any, set[Key]], index_key: Any, key: Key) -> None:
    """Remove a key from an index, and its entry if that is empty."""
    index.get(index_key, set()).discard(key)
    if not index.get(index_key):
        index.pop(index_key, None)
