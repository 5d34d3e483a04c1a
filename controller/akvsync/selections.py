"""Track the objects that AKVSyncs select: list a vault after an edit, and use the results of polls afterwards.

Polls list the vault anyway, so a selection adds no calls to them. A restart lists nothing: the generated SecretSyncs
contain the selected objects, and the AKVSync's status has the time of the last list.
"""

import logging
import math
import random
import time
from collections.abc import Callable

import msgspec

from controller import errors
from controller.api.akvsync import AKVSync
from controller.config.settings import Settings
from controller.domain.selection import Query, SelectionSighting
from controller.keyvault.credentials import Identity
from controller.keyvault.listing import RETRY_COSTLY_LIST
from controller.keyvault.pool import VaultPool
from controller.observability.telemetry import RateLimitedLog
from controller.polling.poll_group import PollGroup
from controller.polling.poller import SELECTION_DEFERRED, Poller
from controller.runtime import backoff
from controller.runtime.work_queue import Key, Queue

WORKERS = 8
# Minimum seconds between two lists after edits. The first edit lists the vault at once.
EDIT_INTERVAL = 10.0
# Minimum cost of a list, as a number of comparisons.
LIST_COST = 1_000
# The number of consecutive polls that must miss an object before it is removed.
POLLS_TO_REMOVE = 2
log = logging.getLogger(__name__)


class _SelectionState(msgspec.Struct):
    """The selection of one AKVSync: its query and the last result.

    `error` is why the last list failed. `listed_at` is the time of the last successful list (monotonic clock). `gone`
    counts for each missing object the consecutive polls without it.
    """

    group: PollGroup
    query: Query
    sighting: SelectionSighting | None = None
    error: errors.ControllerError | None = None
    failures: int = 0
    listed_at: float | None = None
    gone: dict[str, int] = {}


class SelectionTracker:
    """The selections of all AKVSyncs. `changed` is called with the key of an AKVSync that has a new result."""

    def __init__(
        self,
        settings: Settings,
        vaults: VaultPool,
        poller: Poller,
        changed: Callable[[Key], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._vaults = vaults
        self._poller = poller
        self._changed = changed
        self._clock = clock
        self.rng = random.Random()  # noqa: S311 - it spreads load and protects nothing
        self._queue: Queue[Key] = Queue(clock, WORKERS)
        self._rate_limited_log = RateLimitedLog(log, clock)
        self._selections: dict[Key, _SelectionState] = {}
        self._last_edit_list: dict[Key, float] = {}
        poller.handle_selection = self._handle_poll

    def register_query(self, key: Key, akv: AKVSync, query: Query, listed_ago: float | None) -> None:
        """Answer the query of an AKVSync at each poll of its vault.

        `listed_ago` is how many seconds ago the vault was listed for these entries. None lists the vault soon.
        """
        group = self._group_of(akv)
        known = self._selections.get(key)
        if known and known.group == group and known.query.entries == query.entries:
            is_known = known.sighting is not None or known.listed_at is None  # or its list is due
            if is_known or (listed_ago is not None and known.query.syncs <= query.syncs):
                known.query = query
                if known.listed_at is not None:
                    self._poller.select(key, group, query, self._clock() - known.listed_at)
                return
            # After a restart, an edit or a deleted SecretSync needs a list: only then the selected objects are known.
            listed_ago = None
        self._poller.deselect(key)
        selection = self._selections[key] = _SelectionState(group, query)
        if listed_ago is not None:
            selection.listed_at = self._clock() - listed_ago
            self._poller.select(key, group, query, listed_ago)
            return
        wait = max(0.0, self._last_edit_list.get(key, -math.inf) + EDIT_INTERVAL - self._clock())
        self._queue.add(key, wait + self.rng.uniform(0, self._settings.jitter))

    def forget(self, key: Key) -> None:
        """Forget an AKVSync that is deleted, or that has no select any more."""
        self._selections.pop(key, None)
        self._last_edit_list.pop(key, None)
        self._queue.forget(key)
        self._poller.deselect(key)

    def reset(self) -> None:
        """Forget all selections, because another process can become the leader."""
        for key in tuple(self._selections):
            self.forget(key)

    def last_sighting(self, key: Key) -> SelectionSighting | None:
        """Return the last result for the current entries, or None if this process has not listed yet."""
        selection = self._selections.get(key)
        return selection.sighting if selection else None

    def last_error(self, key: Key) -> errors.ControllerError | None:
        """Return why the last list failed, or None."""
        selection = self._selections.get(key)
        return selection.error if selection else None

    def listed_ago(self, key: Key) -> float | None:
        """Return how many seconds ago the vault was listed, or None if it was not."""
        selection = self._selections.get(key)
        return None if selection is None or selection.listed_at is None else self._clock() - selection.listed_at

    def removed_names(self, key: Key) -> frozenset[str]:
        """Return the names that enough consecutive polls found missing."""
        selection = self._selections.get(key)
        gone = selection.gone if selection else {}
        return frozenset(name for name, polls in gone.items() if polls >= POLLS_TO_REMOVE)

    async def work(self) -> None:
        """List vaults until closed."""
        await self._queue.process_keys(self._list_vault)

    def close(self) -> None:
        """Begin no more lists. Those in progress end normally."""
        self._queue.close()

    def flush_logs(self) -> None:
        """Log how many lines of one kind were suppressed."""
        self._rate_limited_log.flush_minutes()

    def _group_of(self, akv: AKVSync) -> PollGroup:
        spec = akv.spec
        identity = Identity(akv.metadata.namespace, spec.service_account_name, spec.client_id, spec.tenant_id)
        settings = self._settings
        return PollGroup(identity, settings.default_cloud, spec.keyvault_name, settings.rotation_poll_interval)

    async def _list_vault(self, key: Key) -> float | None:
        """List the vault of an AKVSync that was created or edited. Return the seconds until the next attempt."""
        selection = self._selections.get(key)
        if selection is None:
            return None
        group, query = selection.group, selection.query
        if wait := self._poller.compared.wait(group.namespace):
            self._record_failure(key, selection, errors.SelectionDeferred(SELECTION_DEFERRED))
            return max(wait, backoff.FIRST_RETRY)
        self._last_edit_list[key] = self._clock()
        try:
            # The minimum also applies to small vaults: a user who recreates AKVSyncs again and again must not cause a
            # list each time.
            self._poller.compared.spend(group.namespace, LIST_COST)
            reader = self._vaults.reader(group.identity, group.cloud, group.vault)
            seen = await reader.select([query])
            self._poller.compared.spend(group.namespace, seen.compared)
            (sighting,) = seen.sightings
        except errors.ControllerError as error:
            sighting = error.bare()
        except Exception as error:
            self._rate_limited_log.log_unexpected(error)
            text = f"unexpected {type(error).__name__}: the controller's log has the traceback; the controller retries"
            sighting = errors.ProviderError(text)
        if self._selections.get(key) is not selection:
            return None  # it was edited in the meantime, and its next list is due
        if isinstance(sighting, errors.ControllerError):
            selection.failures += 1
            self._record_failure(key, selection, sighting)
            if sighting.retry is errors.Retry.ON_EDIT:  # each attempt could read hundreds of pages
                return RETRY_COSTLY_LIST
            return backoff.backoff_delay(selection.failures, self.rng, sighting.retry_after)
        self._record_sighting(key, selection, sighting)
        self._poller.select(key, group, selection.query, 0.0)
        return None

    def _handle_poll(self, key: Key, query: Query, seen: SelectionSighting | errors.ControllerError | None) -> None:
        selection = self._selections.get(key)
        if selection is None or selection.query.entries != query.entries:
            return
        if not isinstance(seen, SelectionSighting):
            selection.gone = {}  # the next poll that misses an object is the first one again
            if seen:
                self._record_failure(key, selection, seen)
            return
        selection.gone = {name: selection.gone.get(name, 0) + 1 for name in seen.gone}
        self._record_sighting(key, selection, seen)

    def _record_sighting(self, key: Key, selection: _SelectionState, sighting: SelectionSighting) -> None:
        selection.sighting, selection.error = sighting, None
        selection.listed_at = self._clock()
        self._changed(key)

    def _record_failure(self, key: Key, selection: _SelectionState, error: errors.ControllerError) -> None:
        is_new = selection.error is None or selection.error.message != error.message
        selection.error = error
        if is_new:
            self._changed(key)
