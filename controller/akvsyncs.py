"""Keeping what every AKVSync stands for: its SecretProviderClass and SecretSyncs, and the status that sums them up.

watch → queue → `translate()` → a `step()` for each object → one status, where something changed. Nothing is polled: the
watches of the three kinds tell whatever could make a difference, and only what the API server failed is tried again.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from controller import errors, parts, permissions, schedule
from controller.api.akvsync import AKVSync, AKVSyncStatus, Part
from controller.api.conditions import Reason
from controller.api.meta import Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.events import Events
from controller.kube import CreatePatch, Kube
from controller.parts import Done, Hindered, Keep, Make, Mend, Step
from controller.queue import Key, Queue
from controller.reflector import Store, same_version
from controller.report import announce
from controller.status import ready_condition, same_news
from controller.telemetry import Chorus
from controller.translate import Generated, translate

# Parts change in bursts: what comes within this time is told in one status. In seconds.
GATHER = 0.5
WORKERS = 8
# Writes under way at the same time, of all AKVSyncs together.
MOST_WRITES = 16
log = logging.getLogger(__name__)


class AKVSyncs:
    """Works on one AKVSync at a time per worker. The stores of the other two kinds are the `Reconciler`'s."""

    def __init__(
        self, kube: Kube, events: Events, syncs: Store[SecretSync], classes: Store[SecretProviderClass]
    ) -> None:
        self._kube = kube
        self._events = events
        self._syncs = syncs
        self._classes = classes
        self._queue: Queue[Key] = Queue(time.monotonic, WORKERS)
        self._writes = asyncio.Semaphore(MOST_WRITES)
        self._dice = random.Random()  # noqa: S311 -- spreads load, guards nothing
        self._chorus = Chorus(log)
        self._failures: dict[Key, int] = {}
        # How many turns in a row have written objects: somebody may undo each time what we do.
        self._busy: dict[Key, int] = {}
        # By namespace and UID of an AKVSync, the SecretSyncs that it owns: other namespaces may write any UID into an
        # owner reference. And the AKVSyncs to process when a SecretSync changes.
        self._owned: dict[tuple[str, str], set[Key]] = {}
        self._wanted: dict[Key, set[Key]] = {}
        self._users: dict[Key, set[Key]] = {}
        self.store: Store[AKVSync] = Store()
        self.store.listen(self._changed)
        syncs.listen(self._sync_changed, same_version)
        # The class has the AKVSync's name.
        classes.listen(lambda key, _: self._wake(key), same_version)

    def _changed(self, key: Key, _before: AKVSync | Unreadable | None) -> None:
        self._failures.pop(key, None)
        self._busy.pop(key, None)
        if self.store.get(key) is None:
            self._want(key, ())
            self._queue.forget(key)
        else:
            self._queue.add(key)

    def _sync_changed(self, key: Key, before: SecretSync | Unreadable | None) -> None:
        now = self._syncs.get(key)
        if before and (owner := parts.owner(before.metadata)):
            _discard(self._owned, (key.namespace, owner.uid), key)
            self._wake(Key(key.namespace, owner.name))
        if now and (owner := parts.owner(now.metadata)):
            self._owned.setdefault((key.namespace, owner.uid), set()).add(key)
            self._wake(Key(key.namespace, owner.name))
        for user in self._users.get(key, ()):
            self._wake(user)

    def _wake(self, key: Key) -> None:
        if self.store.get(key):
            self._queue.add(key, GATHER * 2 ** min(self._busy.get(key, 0), 6))

    def _want(self, key: Key, names: Iterable[str]) -> None:
        """Remembers which SecretSyncs an AKVSync wants, whoever owns what stands there."""
        wanted = {Key(key.namespace, name) for name in names}
        before = self._wanted.get(key, set())
        for gone in before - wanted:
            _discard(self._users, gone, key)
        for new in wanted - before:
            self._users.setdefault(new, set()).add(key)
        if wanted:
            self._wanted[key] = wanted
        else:
            self._wanted.pop(key, None)

    def reset(self) -> None:
        """Forgets what failed and what went in circles: from now on another process may work on them."""
        self._failures.clear()
        self._busy.clear()
        for key in self.store.keys():  # noqa: SIM118 -- a store is no mapping
            self._queue.add(key)

    async def work(self) -> None:
        """Works until closed."""
        await self._queue.work(self._turn)

    def close(self) -> None:
        """Begins nothing more."""
        self._queue.close()

    def flush(self) -> None:
        """Says how many lines of one kind were held back."""
        self._chorus.flush()

    async def _turn(self, key: Key) -> float | None:
        """Brings one AKVSync's objects and status up to date; returns the seconds until the next try, if one is due."""
        akv = self.store.get(key)
        if akv is None or akv.metadata.deletion_timestamp:
            return None
        try:
            done = await self._reconcile(key, akv)
        except Exception as error:
            self._chorus.unexpected(error)
            done = False
        if done:
            self._failures.pop(key, None)
            return None
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        return schedule.after_failure(failures, self._dice)

    async def _reconcile(self, key: Key, akv: AKVSync | Unreadable) -> bool:
        """Whether all was done that can be."""
        problem: errors.InputError | None = None
        done: dict[str, Done]
        try:
            if isinstance(akv, Unreadable):
                raise errors.InputError(f"this AKVSync cannot be read: {akv.problem}")
            generated = translate(akv)
        except errors.InputError as error:
            # What was made stays as it is: a mistake prunes nothing.
            problem = error.bare()
            done = {owned.name: Keep() for owned in sorted(self._owned.get((key.namespace, akv.metadata.uid), ()))}
        else:
            self._want(key, generated.syncs)
            done = await self._carry_out(key, akv.metadata.uid, generated)
        told = [parts.part(name, what, self._syncs.get(Key(key.namespace, name))) for name, what in done.items()]
        # What only an edit can mend is not tried again before one: the watches tell of it.
        well = not any(
            isinstance(what, errors.ControllerError) and what.retry is not errors.Retry.EDIT for what in done.values()
        )
        return await self._tell(akv, told, problem) and well

    async def _carry_out(self, key: Key, uid: str, generated: Generated) -> dict[str, Done]:
        """Prunes, makes and mends; what came of each SecretSync, by name."""
        # First what nobody wants any more: it would complain about what the class no longer has.
        ours = sorted(self._owned.get((key.namespace, uid), ()))
        unwanted = [owned for owned in ours if owned.name not in generated.syncs]
        pruned = await asyncio.gather(*[self._prune(owned) for owned in unwanted])
        failed = {owned.name: what for owned, what in zip(unwanted, pruned, strict=True) if what}
        first = parts.step(generated.source, self._classes.get(key))
        if isinstance(first, Hindered):
            return {**dict.fromkeys(generated.syncs, first), **failed}
        steps = {
            name: parts.step(wanted, self._syncs.get(Key(key.namespace, name)))
            for name, wanted in generated.syncs.items()
        }
        if any(isinstance(step, Make | Mend) for step in (first, *steps.values())):
            self._busy[key] = self._busy.get(key, 0) + 1
        else:
            self._busy.pop(key, None)
        source = await self._do(permissions.MADE_CLASSES, key.namespace, first)
        if isinstance(source, errors.ControllerError):
            return {**dict.fromkeys(generated.syncs, source), **failed}
        done = await asyncio.gather(*[self._do(permissions.MADE_SYNCS, key.namespace, what) for what in steps.values()])
        return {**dict(zip(steps, done, strict=True)), **failed}

    async def _do(self, handle: CreatePatch[Any], namespace: str, step: Step) -> Done:
        """Carries one step out; what went wrong is an answer, too, so that the others go on."""
        async with self._writes:
            try:
                match step:
                    case Make(body):
                        await handle.create(self._kube, namespace, body)
                    case Mend(meta, body):
                        await handle.merge(self._kube, meta, body)
            except errors.KubeError as error:
                return _readable(error)
        return step

    async def _prune(self, key: Key) -> errors.ControllerError | None:
        found = self._syncs.get(key)
        if found is None or found.metadata.deletion_timestamp:
            return None
        async with self._writes:
            try:
                await permissions.MADE_SYNCS_GONE.delete(self._kube, found.metadata)
            except errors.NotFound:
                return None
            except errors.KubeError as error:
                return _readable(error)
        return None

    async def _tell(self, akv: AKVSync | Unreadable, told: list[Part], problem: errors.InputError | None) -> bool:
        """Writes the status unless it is the same; whether it now stands."""
        before = akv.status if isinstance(akv, AKVSync) else AKVSyncStatus()
        after = parts.next_status(akv.metadata, before, told, problem, datetime.now(UTC))
        if after == before:
            return True
        body = {
            "conditions": msgspec.to_builtins(after.conditions),
            "observedGeneration": after.observed_generation,
            "summary": after.summary,
            "parts": msgspec.to_builtins(after.parts),
        }
        try:
            kept = await permissions.AKV_SYNC_STATUS.patch(self._kube, akv.metadata, body)
        except errors.NotFound:
            return True  # deleted meanwhile: nobody is left to tell
        except errors.KubeError as error:
            if not isinstance(error, errors.Conflict):
                text = f"cannot write a status: {error.message}"
                self._chorus.say(logging.WARNING, "status", text, namespace=akv.metadata.namespace)
            return False
        self.store.wrote(akv.metadata, kept)
        ready = ready_condition(after)
        if ready and not same_news(before, after) and ready.reason != Reason.IN_PROGRESS:
            announce(self._chorus, self._events, AKVSync, akv.metadata, ready)
        return True


def _readable(error: errors.KubeError) -> errors.ControllerError:
    """An error to be kept and shown."""
    if isinstance(error, errors.Conflict | errors.NotFound):
        return errors.Overtaken("it changed while it was written and is looked at again")
    return error.bare()


def _discard(index: dict[Any, set[Key]], where: Any, key: Key) -> None:
    """Takes a key out of an index, and its place where nothing is left."""
    index.get(where, set()).discard(key)
    if not index.get(where):
        index.pop(where, None)
