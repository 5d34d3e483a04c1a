"""Finds which keys of which SecretSyncs an edit of a generated SecretProviderClass concerns.

An editor can write a class of 128 KiB with 2,000 items, use it in SecretSyncs with 100,000 keys, and edit it thirty
times a second. So larger comparisons run in threads, within the namespace's budget for parsing, and at most once
a second for each class. Edits that follow within a second are compared together.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from controller.api.meta import Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.domain.generated import changed_items, keys_from_items
from controller.errors import ParsingDeferred
from controller.runtime.parsing import Charge, ParsingPool
from controller.runtime.work_queue import Key
from controller.secretsync.class_reader import EDIT_INTERVAL, SMALL

Class = SecretProviderClass | Unreadable | None
Concerned = Mapping[Key, frozenset[str] | None]
"""By SecretSync: the target keys that the edit concerns; None for all of them, an empty set for none."""
Users = Callable[[Key], Mapping[Key, SecretSync | Unreadable | None]]
# A SecretSync with more keys than this is compared in a thread.
FEW_KEYS = 100


def concerned(before: Class, after: Class, users: Mapping[Key, SecretSync | Unreadable | None]) -> Concerned:
    """Return what an edit of a class concerns of the SecretSyncs that use it. Pure."""
    items = None
    if isinstance(before, SecretProviderClass) and isinstance(after, SecretProviderClass):
        items = changed_items(before, after)
    return {
        key: keys_from_items(sync, items) if items is not None and isinstance(sync, SecretSync) else None
        for key, sync in users.items()
    }


def _is_small(before: SecretProviderClass, after: SecretProviderClass, users: Iterable[object]) -> bool:
    texts = (text for each in (before, after) for text in each.spec.parameters.values())
    keys = sum(len(sync.spec.secret_object.data) for sync in users if isinstance(sync, SecretSync))
    return sum(map(len, texts)) <= SMALL and keys <= FEW_KEYS


def _without_charge(work: Callable[[], Concerned], _: Charge) -> Concerned:
    return work()


class ClassEdits:
    """Compares edits, and calls `changed` with what each one concerns."""

    def __init__(
        self,
        parser: ParsingPool,
        current: Callable[[Key], Class],
        users: Users,
        changed: Callable[[Concerned], None],
    ) -> None:
        self._parser = parser
        self._current = current
        self._users = users
        self._changed = changed
        # By class: what it was before the first edit that is not compared yet.
        self._before: dict[Key, SecretProviderClass] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def edited(self, key: Key, before: Class) -> None:
        """Handle a class that is no longer as it was: at once where that takes no time, else soon."""
        after = self._current(key)
        if not isinstance(before, SecretProviderClass) or not isinstance(after, SecretProviderClass):
            self._before.pop(key, None)
            self._changed(concerned(before, after, self._users(key)))
            return
        if key not in self._tasks and _is_small(before, after, self._users(key).values()):
            self._changed(concerned(before, after, self._users(key)))
            return
        self._before.setdefault(key, before)
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._compare(key))

    async def _compare(self, key: Key) -> None:
        try:
            while before := self._before.pop(key, None):
                after, users = self._current(key), self._users(key)
                work = partial(concerned, before, after, users)
                try:
                    found = await self._parser.run(key.namespace, partial(_without_charge, work))
                except ParsingDeferred:
                    found = dict.fromkeys(users)  # the SecretSyncs say that the budget is spent
                self._changed(found)
                await asyncio.sleep(EDIT_INTERVAL)
        finally:
            del self._tasks[key]
