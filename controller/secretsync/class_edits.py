"""Find the keys of SecretSyncs that an edit of a generated SecretProviderClass affects.

An editor can write a class of 128 KiB with 2,000 items, use it in SecretSyncs with 100,000 keys, and edit it thirty
times a second. So larger comparisons run in threads, within the namespace's budget for parsing, and at most once a
second for each class. Further edits within that second are compared together.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from controller.api.meta import Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.domain.generated import changed_items, keys_from_items
from controller.errors import ParsingDeferred
from controller.observability.telemetry import RateLimitedLog
from controller.runtime.threads.parsing import Charge, ParsingPool
from controller.runtime.work_queue import Key
from controller.secretsync.class_reader import EDIT_INTERVAL, SMALL
from controller.secretsync.sync_resolver import Class

AffectedKeys = Mapping[Key, frozenset[str] | None]
"""The affected target keys of each SecretSync. None means all keys, and an empty set means none."""
Users = Callable[[Key], Mapping[Key, SecretSync | Unreadable | None]]
"""Return the SecretSyncs that name a class."""
# A SecretSync with more keys than this is compared in a thread.
FEW_KEYS = 100


def affected_keys(before: Class, after: Class, users: Mapping[Key, SecretSync | Unreadable | None]) -> AffectedKeys:
    """Return the keys that an edit of a class affects, for the SecretSyncs that use it. Pure."""
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


def _without_charge(work: Callable[[], AffectedKeys], _: Charge) -> AffectedKeys:
    return work()


class ClassEdits:
    """Compare the states of edited classes, and call `changed` with the affected keys."""

    def __init__(
        self,
        parser: ParsingPool,
        current: Callable[[Key], Class],
        users: Users,
        changed: Callable[[AffectedKeys], None],
        rate_limited_log: RateLimitedLog,
    ) -> None:
        self._parser = parser
        self._current = current
        self._users = users
        self._changed = changed
        self._rate_limited_log = rate_limited_log
        # For each class, its state before the first edit that is not compared yet.
        self._before: dict[Key, SecretProviderClass] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def handle_edit(self, key: Key, before: Class) -> None:
        """Handle an edit of a class. Compare small states at once, and larger ones in a thread.

        `before` is the state before the edit, or None for a new class.
        """
        after = self._current(key)
        if not isinstance(before, SecretProviderClass) or not isinstance(after, SecretProviderClass):
            self._before.pop(key, None)
            self._changed(affected_keys(before, after, self._users(key)))
            return
        if key not in self._tasks and _is_small(before, after, self._users(key).values()):
            self._changed(affected_keys(before, after, self._users(key)))
            return
        self._before.setdefault(key, before)
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._compare(key))

    async def _compare(self, key: Key) -> None:
        try:
            while before := self._before.pop(key, None):
                after, users = self._current(key), self._users(key)
                work = partial(affected_keys, before, after, users)
                found: AffectedKeys = dict.fromkeys(users)  # if the states cannot be compared
                try:
                    found = await self._parser.run(key.namespace, partial(_without_charge, work))
                except ParsingDeferred:
                    pass  # the attempt of each SecretSync reports that the budget is spent
                except Exception as error:
                    self._rate_limited_log.log_unexpected(error)
                self._changed(found)
                await asyncio.sleep(EDIT_INTERVAL)
        finally:
            del self._tasks[key]
