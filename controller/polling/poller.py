"""Poll a vault once for all SecretSyncs that read it as the same identity.

A poll lists the vault's objects. If gets of the wanted objects need fewer calls, it gets them instead.

A group is due one interval after the earliest of its members was last equal to the vault, plus one random jitter for
the whole group: with a jitter per member, they could not share lists. A poll finds some members stale. The others are
confirmed without calls to the vault or the API server.

While a vault is unreachable, the controller sends one probe at a time for the whole group.
"""

import enum
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from controller import errors
from controller.domain.provider_class import ObjectVersionRef
from controller.domain.selection import Query, SelectionSighting
from controller.domain.snapshot import ListedObject, PollResult, VaultSnapshot
from controller.keyvault.pool import VaultPool
from controller.observability.telemetry import RateLimitedLog
from controller.polling.list_progress import ListProgress
from controller.polling.poll_group import PollGroup
from controller.runtime import backoff, budgets
from controller.runtime.budgets import RateBudget
from controller.runtime.work_queue import Key, Queue

log = logging.getLogger(__name__)
# In addition to lists, everything is read in full at this interval, spread evenly.
FULL_READ = 86_400.0
# A vault that does not answer occupies one worker for a minute.
WORKERS = 16
# The number of consecutive polls that fail, or do not answer the queries, and are not reported.
UNREPORTED_POLLS = 1
SELECTION_DEFERRED = (
    "the namespace has spent its budget for comparing objects with select; the controller lists the vault when there is"
    " budget again"
)


class PolledSync(msgspec.Struct):
    """One SecretSync: its group, its wanted versions by target key, and when everything is read.

    The time is of the monotonic clock.
    """

    group: PollGroup
    wanted: Mapping[str, ObjectVersionRef]
    full_read: float


class SelectingSync(msgspec.Struct):
    """One AKVSync with select: its group, and its query for each list."""

    group: PollGroup
    query: Query


class FailedPoll(enum.Enum):
    """The meaning of a failed poll for its vault."""

    LISTS_FAIL = "lists fail"  # values can be read, so the members read them without a list
    THROTTLED = "throttled"  # the vault is busy, so the poll waits
    UNREACHABLE = "unreachable"


def judge_failure(error: errors.ControllerError | None, values_were_read: bool) -> FailedPoll:
    """Return what a failed poll means.

    `values_were_read` says that members could read values since the first failure.
    """
    if values_were_read:
        return FailedPoll.LISTS_FAIL
    is_throttled = error is not None and error.retry is errors.Retry.THROTTLED
    return FailedPoll.THROTTLED if is_throttled else FailedPoll.UNREACHABLE


class _GroupState(msgspec.Struct):
    """The state of a group between polls: its members, and when its next poll is.

    `group` is the group itself, which its members share. `position` is the place of the next poll in the jitter or
    interval, from 0 to 1. The members need the next poll at `due` (monotonic clock). `unanswered` counts consecutive
    polls without the queries, because the namespace had no budget for them. `deferred_since` is the time since which a
    busy vault defers the poll. `failures` counts consecutive failed polls. `values_were_read` means that members could
    be read nevertheless, so that only the lists fail.
    """

    group: PollGroup
    position: float
    due: float = math.inf
    unanswered: int = 0
    deferred_since: float | None = None
    failures: int = 0
    values_were_read: bool = False
    members: set[Key] = msgspec.field(default_factory=set)
    selecting: set[Key] = msgspec.field(default_factory=set)


class _EarlyResults(msgspec.Struct):
    """The SecretSyncs that received their result while the list was being read, and the unequal ones among them."""

    served: set[Key] = msgspec.field(default_factory=set)
    unequal: list[Key] = msgspec.field(default_factory=list)


PollHandler = Callable[[Key, Mapping[str, ObjectVersionRef], PollResult], bool]
"""Handle the result of a poll for a SecretSync. Return whether its Secret is equal to the vault."""
SelectionHandler = Callable[[Key, Query, SelectionSighting | errors.ControllerError | None], None]
"""Handle the result of a poll for the query of an AKVSync. None means a failure that is not reported yet."""


class Poller:
    """The poller of all groups. `handle_result` receives the result for each member."""

    def __init__(
        self,
        jitter: float,
        vaults: VaultPool,
        handle_result: PollHandler,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jitter = jitter
        self._vaults = vaults
        self._handle_result = handle_result
        self._rng = rng
        self._clock = clock
        self.queue: Queue[PollGroup] = Queue(clock, WORKERS)
        self.members: dict[Key, PolledSync] = {}
        # By the key of the AKVSync. The selection tracker sets the handler.
        self._selecting: dict[Key, SelectingSync] = {}
        self.handle_selection: SelectionHandler = lambda _key, _query, _seen: None
        # Called for each SecretSync that a poll found unequal before the poll had ended.
        self.on_early_unequal: Callable[[PollGroup, Key], None] = lambda _group, _key: None
        # Called after each poll that served its whole group, with its start, the SecretSyncs that were not equal, and
        # those of them for which `on_early_unequal` was called.
        self.on_polled: Callable[[PollGroup, float, list[Key], list[Key]], None] = lambda *_: None
        self.compared = RateBudget(budgets.COMPARED, clock)
        self.groups: dict[PollGroup, _GroupState] = {}
        self._rate_limited_log = RateLimitedLog(log, clock)

    def join(self, key: Key, group: PollGroup, wanted: Mapping[str, ObjectVersionRef], age: float | None) -> None:
        """Add a SecretSync whose Secret was equal to the vault `age` seconds ago. None means that this is unknown."""
        member = self.members.get(key)
        if member and member.group != group:
            self.leave(key)
            member = None
        state = self._get_state(group)
        if member is None:
            full_read = self._clock() + backoff.random_offset(FULL_READ, self._rng)
            member = PolledSync(state.group, wanted, full_read)
            self.members[key] = member
        member.wanted = wanted
        state.members.add(key)
        state.values_were_read = state.values_were_read or (state.failures > 0 and age == 0)
        self._schedule_poll(state, age)

    def leave(self, key: Key) -> None:
        """Remove a SecretSync from the polls, because it was deleted or edited, or failed."""
        if member := self.members.pop(key, None):
            self.groups[member.group].members.discard(key)
            self._forget_empty(member.group)

    def select(self, key: Key, group: PollGroup, query: Query, age: float) -> None:
        """Answer the query at each poll of the group. The vault was last listed for it `age` seconds ago."""
        known = self._selecting.get(key)
        if known and known.group == group:
            known.query = query
            return
        self.deselect(key)
        state = self._get_state(group)
        self._selecting[key] = SelectingSync(state.group, query)
        state.selecting.add(key)
        self._schedule_poll(state, age)

    def deselect(self, key: Key) -> None:
        """Forget the query of an AKVSync."""
        if selecting := self._selecting.pop(key, None):
            self.groups[selecting.group].selecting.discard(key)
            self._forget_empty(selecting.group)

    def _schedule_poll(self, state: _GroupState, age: float | None) -> None:
        seconds = self._until_due(age, state)
        state.due = min(state.due, self._clock() + seconds)
        self.queue.add(state.group, seconds)

    def _get_state(self, group: PollGroup) -> _GroupState:
        if group not in self.groups:
            self.groups[group] = _GroupState(group, self._rng.random())
        return self.groups[group]

    def _forget_empty(self, group: PollGroup) -> None:
        state = self.groups[group]
        if not state.members and not state.selecting:
            del self.groups[group]
            self.queue.forget(group)

    def reset(self) -> None:
        """Remove all SecretSyncs and queries, because another process can become the leader."""
        for key in tuple(self.members):
            self.leave(key)
        for key in tuple(self._selecting):
            self.deselect(key)

    async def work(self) -> None:
        """Poll the vaults of due groups until the queue is closed."""
        await self.queue.process_keys(self._poll_group)

    def flush_logs(self) -> None:
        """Log how many lines of one kind were suppressed."""
        self._rate_limited_log.flush_minutes()

    def close(self) -> None:
        """Begin no more polls. Those in progress end normally."""
        self.queue.close()

    def members_of(self, group: PollGroup) -> Iterable[Key]:
        """Return the SecretSyncs that a poll of this group serves."""
        return tuple(self.groups[group].members) if group in self.groups else ()

    def is_polled(self, key: Key) -> bool:
        """Return whether the polls include this SecretSync."""
        return key in self.members

    def waits_for_vault(self, key: Key) -> bool:
        """Return whether its vault is unreachable, and the probe includes this SecretSync."""
        member = self.members.get(key)
        state = self.groups[member.group] if member else None
        return bool(state and state.failures and not state.values_were_read)

    async def _poll_group(self, group: PollGroup) -> float | None:
        """Poll the vault of a group. Return the seconds until the next poll, or None if the group is empty.

        While the namespace has no budget to compare objects, the queries wait, and only the members are served.
        """
        state = self.groups.get(group)
        if state is None:
            return None
        began = self._clock()
        wait = self.compared.wait(group.namespace) if state.selecting else 0.0
        if wait and began < state.due:
            # Only the queries are due, and they must wait again. The rest of their wait can be a rounding error.
            return min(max(wait, backoff.FIRST_RETRY), state.due - began)
        state.due = math.inf  # a SecretSync that joins during the poll can need the next one earlier
        self._count_unanswered(state, wait)
        if wait and not state.members:
            return self._seconds_until_next(state, began, wait)
        queries = {} if wait else {key: self._selecting[key].query for key in sorted(state.selecting)}
        early = _EarlyResults()
        result = await self._take_snapshot(state, tuple(queries.values()), early)
        self._answer_queries(queries, result, state)
        if isinstance(result, VaultSnapshot):
            state.failures, state.values_were_read, state.deferred_since = 0, False, None
        elif (failure := judge_failure(result, state.values_were_read)) is not FailedPoll.LISTS_FAIL:
            return self._retry_poll(state, failure, result, began)
        self._serve_members(state, result, queries, early, began)
        return self._seconds_until_next(state, began, wait) if group in self.groups else None

    def _seconds_until_next(self, state: _GroupState, began: float, wait: float) -> float:
        """Return the seconds until the poll after the one that began then. Queries `wait` for the budget, if any do."""
        state.position = self._rng.random()
        seconds = self._until_due(self._clock() - began, state)
        state.due = min(state.due, self._clock() + seconds)
        return min(seconds, wait) if wait else seconds

    def _serve_members(
        self,
        state: _GroupState,
        result: PollResult,
        queries: Mapping[Key, Query],
        early: _EarlyResults,
        began: float,
    ) -> None:
        """Hand the result to all members that have none yet. If the lists fail, the members read their values."""
        snapshot = result if isinstance(result, VaultSnapshot) else None
        left = _left_selections(queries, snapshot)
        unequal = [
            key
            for key in state.members - early.served
            if not self._serve_member(key, snapshot, left.get(key, frozenset()))
        ]
        self.on_polled(state.group, began, unequal, early.unequal)

    def _serve_member(self, key: Key, result: PollResult, left: frozenset[str]) -> bool:
        """Hand the result to one SecretSync. Return whether its Secret is equal to it.

        `left` are the objects (by lower-case name) that have left the selection of its AKVSync.
        """
        member, now = self.members[key], self._clock()
        if any(_is_of(version, left) for version in member.wanted.values()):
            # Their AKVSync is about to keep their last values, so these keys must not be fetched now.
            wanted = {name: version for name, version in member.wanted.items() if not _is_of(version, left)}
            return self._handle_result(key, wanted, result)
        if member.full_read <= now:
            member.full_read = now + FULL_READ
            result = None
        return self._handle_result(key, member.wanted, result)

    def _retry_poll(
        self, state: _GroupState, failure: FailedPoll, error: errors.ControllerError | None, began: float
    ) -> float | None:
        """Report a failed poll. Return the seconds until the next one, or None if the group is empty."""
        if not (state.members or state.selecting):
            return None  # all left the group during the poll, and those that are back have a state of their own
        seconds = self._report_failure(state, failure, error, began)
        state.due = min(state.due, self._clock() + seconds)
        return seconds

    def _report_failure(
        self, state: _GroupState, failure: FailedPoll, error: errors.ControllerError | None, began: float
    ) -> float:
        """Report the failure to all members. Return the seconds until the next poll.

        While the vault is unreachable, one member still reads, because it is possible that only lists fail.
        """
        retry_after = error.retry_after if error else None
        if failure is FailedPoll.THROTTLED:
            # One poll waits for the busy vault. Requests of all members would make it even busier.
            state.deferred_since = began if state.deferred_since is None else state.deferred_since
            if began - state.deferred_since >= state.group.interval:  # the members must report it now
                state.failures = max(1, state.failures)
                self._report_to_all(state, error)
            return retry_after or backoff.FIRST_RETRY
        state.failures += 1
        if state.failures > UNREPORTED_POLLS and state.members:
            self._report_to_all(state, error, tuple(state.members)[state.failures % len(state.members)])
        return backoff.backoff_delay(state.failures, self._rng, retry_after)

    def _report_to_all(self, state: _GroupState, result: PollResult, reader: Key | None = None) -> None:
        """Report the same to all members, except for one that will read."""
        for key in tuple(state.members):
            self._handle_result(key, self.members[key].wanted, None if key == reader else result)

    def _until_due(self, age: float | None, state: _GroupState) -> float:
        """Return the seconds until a poll is due after the vault was read `age` seconds ago. None means unknown."""
        if age is None:
            return state.position * self._jitter
        return backoff.seconds_until_poll(age, state.group.interval, self._jitter, state.position)

    def _answer_queries(self, queries: Mapping[Key, Query], result: PollResult, state: _GroupState) -> None:
        if isinstance(result, VaultSnapshot):
            for (key, query), sighting in zip(queries.items(), result.sightings, strict=True):
                if key in state.selecting:  # an edit during the poll can have changed its identity or its vault
                    self.handle_selection(key, query, sighting)
            return
        reported = result if state.failures >= UNREPORTED_POLLS else None
        for key, query in queries.items():
            if key in state.selecting:
                self.handle_selection(key, query, reported)

    def _count_unanswered(self, state: _GroupState, wait: float) -> None:
        """Count and report polls whose queries must `wait` for the budget of their namespace."""
        state.unanswered = state.unanswered + 1 if wait else 0
        for key in sorted(state.selecting) if state.unanswered > UNREPORTED_POLLS else ():
            self.handle_selection(key, self._selecting[key].query, errors.SelectionDeferred(SELECTION_DEFERRED))

    async def _take_snapshot(self, state: _GroupState, queries: tuple[Query, ...], early: _EarlyResults) -> PollResult:
        """Poll the vault. Serve members as soon as the list has all of their objects, and add them to `early`."""
        group = state.group
        members = {key: self.members[key] for key in state.members}
        wanted = {version for member in members.values() for version in member.wanted.values()}
        began = self._clock()
        # Whether an object has left a selection is known only at the end of the list.
        by_lists = {} if queries else {k: each.wanted for k, each in members.items() if each.full_read > began}
        progress = ListProgress(by_lists, began)

        def on_listed(kind: str, name: str, listed: ListedObject) -> None:
            for key in progress.add(kind, name, listed):
                member = self.members.get(key)
                if member is members[key] and member.wanted is by_lists[key]:  # no edit since the poll began
                    early.served.add(key)
                    if not self._handle_result(key, member.wanted, progress.snapshot()):
                        early.unequal.append(key)
                        self.on_early_unequal(group, key)

        try:
            reader = self._vaults.reader(group.identity, group.cloud, group.vault)
            seen = await reader.take_snapshot(wanted, began, queries, on_listed if by_lists else None)
            if seen.compared:
                self.compared.spend(group.namespace, seen.compared)
            return seen
        except errors.ControllerError as error:
            log.debug("Key Vault %s could not be polled: %s", group.vault, error.message)
            return error.bare()
        except Exception as error:
            self._rate_limited_log.log_unexpected(error)
        return None


def _left_selections(queries: Mapping[Key, Query], result: VaultSnapshot | None) -> dict[Key, frozenset[str]]:
    """Return the objects (by lower-case name) that have left a selection, by the SecretSyncs of that selection."""
    if result is None:
        return {}
    found: dict[Key, frozenset[str]] = {}
    for (key, query), sighting in zip(queries.items(), result.sightings, strict=True):
        if isinstance(sighting, SelectionSighting) and (left := sighting.left_names(query)):
            found |= {Key(key.namespace, name): left for name in query.syncs}
    return found


def _is_of(version: ObjectVersionRef, names: frozenset[str]) -> bool:
    return not version.object.keep and version.object.name.lower() in names
