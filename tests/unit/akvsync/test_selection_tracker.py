"""Test when vaults are listed for AKVSyncs, and which results count, in virtual time."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import msgspec
import pytest

from controller.akvsync import selections
from controller.akvsync.selections import SelectionTracker
from controller.api.akvsync import AKVSync
from controller.api.select import Select
from controller.config.settings import DEFAULT_CLOUD, Settings
from controller.domain.selection import Query, SelectedObject, SelectionSighting
from controller.domain.snapshot import VaultSnapshot
from controller.errors import AccessDenied, ControllerError, ProviderError, SelectionDeferred
from controller.keyvault.credentials import Identity
from controller.keyvault.pool import VaultPool
from controller.polling.poll_group import PollGroup
from controller.polling.poller import Poller
from controller.runtime import budgets
from controller.runtime.budgets import RateBudget
from controller.runtime.work_queue import Key
from tests.support.akv_syncs import akv_sync
from tests.support.fixed_random import FixedRandom
from tests.support.virtual_time import VirtualLoop

SHOP = Key("team", "shop")
BY_PREFIX, ALL = Query((Select(name_prefix="s"),)), Query((Select(),))
# A list costs at least this much of the budget for comparisons.
LEAST_COST = 1_000


def make_sighting(*names: str, gone: Sequence[str] = ()) -> SelectionSighting:
    return SelectionSighting((tuple(map(SelectedObject, names)),), (len(names),), frozenset(gone))


class TrackerHarness:
    """A tracker, its poller and its vault. The vault answers after `seconds`, and compares `compared` objects."""

    handle_selection: Callable[[Key, Query, SelectionSighting | ControllerError | None], None]

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.seconds = 0.0
        self.compared_objects = 3
        self.answers: list[SelectionSighting | Exception] = [make_sighting("s1")]
        self.readers: list[tuple[Identity, str, str]] = []
        self.lists: list[tuple[float, Query]] = []
        self.compared = RateBudget(budgets.COMPARED, loop.time)
        # The groups and ages that the poller received, and the queries that it answers now.
        self.selected: list[tuple[str, float]] = []
        self.polled: dict[Key, Query] = {}
        self.changed: list[Key] = []
        self.tracker = self.make_tracker()
        self.work = loop.create_task(self.tracker.work())

    def make_tracker(self, jitter: int = 0) -> SelectionTracker:
        settings = msgspec.structs.replace(Settings(), jitter=jitter)
        return SelectionTracker(
            settings, cast("VaultPool", self), cast("Poller", self), self.changed.append, self.loop.time
        )

    def use_jitter(self, seconds: int, share: float) -> None:
        """Replace the tracker by one with a jitter, of which it waits this share."""
        self.tracker.close()
        self.tracker = self.make_tracker(seconds)
        self.tracker.rng = FixedRandom(share)
        self.work = self.loop.create_task(self.tracker.work())

    # Act as Poller

    def select(self, key: Key, group: PollGroup, query: Query, age: float) -> None:
        self.selected.append((group.vault, age))
        self.polled[key] = query

    def deselect(self, key: Key) -> None:
        self.polled.pop(key, None)

    # Act as VaultPool and VaultReader

    def reader(self, identity: Identity, cloud: str, vault: str) -> "ListingReader":
        self.readers.append((identity, cloud, vault))
        return ListingReader(self)

    # Methods for the tests

    def register(
        self, query: Query = BY_PREFIX, listed_ago: float | None = None, key: Key = SHOP, vault: str = "shop-vault"
    ) -> None:
        akv = akv_sync([{"select": {}}])
        self.tracker.register_query(
            key,
            AKVSync(
                metadata=msgspec.structs.replace(akv.metadata, namespace=key.namespace, name=key.name),
                spec=msgspec.structs.replace(akv.spec, keyvault_name=vault),
            ),
            query,
            listed_ago,
        )

    def advance(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @property
    def times(self) -> list[float]:
        """Return when the vault was listed."""
        return [round(moment, 3) for moment, _ in self.lists]


class ListingReader:
    """Act as `VaultReader`."""

    def __init__(self, harness: TrackerHarness) -> None:
        self._harness = harness

    async def select(self, queries: Sequence[Query]) -> VaultSnapshot:
        harness = self._harness
        (query,) = queries
        harness.lists.append((harness.loop.time(), query))
        answer = harness.answers[0] if len(harness.answers) == 1 else harness.answers.pop(0)
        if harness.seconds:
            await asyncio.sleep(harness.seconds)
        if isinstance(answer, Exception):
            raise answer
        return VaultSnapshot(listed={"secret": {}}, sightings=(answer,), compared=harness.compared_objects)


@pytest.fixture
def harness() -> Iterator[TrackerHarness]:
    loop = VirtualLoop()
    harness = TrackerHarness(loop)
    yield harness
    harness.tracker.close()
    harness.work.cancel()
    loop.run_until_complete(asyncio.gather(harness.work, return_exceptions=True))
    loop.close()


# Edits


def test_vault_is_listed_at_once_with_the_identity_of_the_akvsync(harness: TrackerHarness) -> None:
    harness.register()
    harness.advance(1)
    assert harness.lists == [(0.0, BY_PREFIX)]
    assert harness.readers == [(Identity("team", "robot", "the-client", "the-tenant"), DEFAULT_CLOUD, "shop-vault")]
    assert harness.tracker.last_sighting(SHOP) == make_sighting("s1")
    assert harness.tracker.listed_ago(SHOP) == 1
    assert harness.selected == [("shop-vault", 0.0)]
    assert harness.changed == [SHOP]


def test_edits_within_ten_seconds_cause_one_list(harness: TrackerHarness) -> None:
    harness.register()
    harness.advance(4)
    harness.register(ALL)
    harness.advance(2)
    assert harness.tracker.last_sighting(SHOP) is None
    assert harness.polled == {}
    harness.register()
    harness.advance(60)
    assert harness.times == [0, 10]
    harness.register(ALL)
    harness.advance(60)
    assert harness.times == [0, 10, 66]


def test_list_of_a_recreated_akvsync_is_not_delayed(harness: TrackerHarness) -> None:
    harness.register()
    harness.advance(4)
    harness.tracker.forget(SHOP)
    assert harness.polled == {}
    harness.register()
    harness.advance(4)
    assert harness.times == [0, 4]


def test_lists_after_edits_are_spread_over_the_jitter(harness: TrackerHarness) -> None:
    harness.use_jitter(100, 0.5)
    harness.register()
    harness.advance(200)
    assert harness.times == [50]


def test_recreated_akvsync_does_not_inherit_the_due_time(harness: TrackerHarness) -> None:
    harness.use_jitter(100, 1.0)
    harness.register()
    harness.advance(40)
    harness.tracker.forget(SHOP)
    harness.advance(20)
    harness.register()
    harness.advance(200)
    assert harness.times == [160]


def test_list_uses_the_newest_query(harness: TrackerHarness) -> None:
    """A SecretSync that appears before the list is one that the AKVSync knows."""
    harness.use_jitter(100, 1.0)
    harness.register()
    harness.advance(40)
    newer = msgspec.structs.replace(BY_PREFIX, known=frozenset({"s1"}))
    harness.register(newer)
    harness.advance(200)
    assert harness.lists == [(100.0, newer)]
    newest = msgspec.structs.replace(BY_PREFIX, known=frozenset({"s2"}))
    harness.register(newest)
    assert harness.polled == {SHOP: newest}
    assert harness.selected[-1] == ("shop-vault", 140.0)
    assert harness.times == [100]


def test_other_vault_with_the_same_conditions_is_listed(harness: TrackerHarness) -> None:
    harness.register()
    harness.advance(60)
    harness.register(vault="bank-vault")
    assert harness.tracker.last_sighting(SHOP) is None
    harness.advance(60)
    assert [vault for _, _, vault in harness.readers] == ["shop-vault", "bank-vault"]


@pytest.mark.parametrize("vault", ["shop-vault", "bank-vault"])
def test_edit_during_a_list_discards_its_result(harness: TrackerHarness, vault: str) -> None:
    harness.seconds = 3.0
    harness.answers = [make_sighting("old"), make_sighting("new")]
    harness.register()
    harness.advance(1)
    harness.register(ALL, vault=vault)
    harness.advance(8)
    assert harness.selected == []
    assert harness.changed == []
    harness.advance(60)
    assert harness.lists == [(0.0, BY_PREFIX), (10.0, ALL)]
    assert harness.tracker.last_sighting(SHOP) == make_sighting("new")
    assert harness.selected == [(vault, 0.0)]


# Restarts


def test_restart_lists_nothing_however_often_the_akvsync_is_processed(harness: TrackerHarness) -> None:
    query = msgspec.structs.replace(BY_PREFIX, syncs=frozenset({"s1"}))
    more = msgspec.structs.replace(BY_PREFIX, syncs=frozenset({"s1", "s2"}))
    for each in (query, query, more, more):
        harness.register(each, listed_ago=500)
        harness.advance(10)
    assert harness.lists == []
    assert harness.tracker.listed_ago(SHOP) == 540
    assert harness.selected == [("shop-vault", 500.0), *(("shop-vault", 500.0 + age) for age in (10, 20, 30))]
    # A SecretSync was deleted. Only a list says whether its object is still selected.
    harness.register(query, listed_ago=500)
    harness.advance(10)
    assert harness.times == [40]


def test_akvsync_without_a_selection_has_no_result(harness: TrackerHarness) -> None:
    assert harness.tracker.last_sighting(SHOP) is None
    assert harness.tracker.last_error(SHOP) is None
    assert harness.tracker.listed_ago(SHOP) is None
    assert harness.tracker.removed_names(SHOP) == frozenset()
    harness.register()
    harness.advance(1)
    harness.tracker.reset()
    assert harness.tracker.last_sighting(SHOP) is None
    assert harness.polled == {}


# Failures


def test_failed_list_is_retried_with_backoff_and_each_new_cause_is_reported_once(harness: TrackerHarness) -> None:
    harness.tracker.rng = FixedRandom(1.0)
    down, denied = ProviderError("the vault is down"), AccessDenied("may not list")
    harness.answers = [down, down, denied, denied, make_sighting("s1")]
    harness.register()
    harness.advance(5)
    assert harness.times == [0, 2]
    assert harness.changed == [SHOP]
    assert harness.tracker.last_error(SHOP) is down
    assert harness.tracker.listed_ago(SHOP) is None
    harness.advance(20)
    assert harness.times == [0, 2, 6, 14]
    assert harness.changed == [SHOP, SHOP]
    assert harness.tracker.last_error(SHOP) is denied
    harness.advance(60)
    assert harness.times == [0, 2, 6, 14, 30]
    assert harness.tracker.last_error(SHOP) is None
    assert len(harness.changed) == 3


def test_unexpected_errors_are_counted_in_the_log(harness: TrackerHarness, caplog: pytest.LogCaptureFixture) -> None:
    harness.answers = [ZeroDivisionError("a value")]
    for number in range(30):
        harness.register(key=Key("team", f"shop-{number}"))
    harness.advance(0.5)
    harness.tracker.close()
    harness.advance(60)
    with caplog.at_level(logging.ERROR, logger=selections.__name__):
        harness.tracker.flush_logs()
    assert caplog.messages == ["unexpected ZeroDivisionError"] * 10 + [
        "20 more lines like the last of this kind: unexpected"
    ]


def test_at_most_eight_vaults_are_listed_at_the_same_time(harness: TrackerHarness) -> None:
    harness.seconds = 10.0
    for number in range(20):
        harness.register(key=Key(f"team-{number}", "shop"))
    harness.advance(5)
    assert len(harness.lists) == 8
    harness.advance(30)
    assert len(harness.lists) == 20


def test_closed_tracker_ends_after_its_running_lists(harness: TrackerHarness) -> None:
    harness.seconds = 10.0
    harness.register()
    harness.advance(5)
    harness.tracker.close()
    harness.register(key=Key("team", "other"))
    harness.advance(4)
    assert not harness.work.done()
    harness.advance(2)
    assert harness.work.done()
    assert harness.times == [0]
    assert harness.tracker.last_sighting(SHOP)


# The budget for comparisons


def test_list_spends_its_comparisons_and_a_minimum(harness: TrackerHarness) -> None:
    harness.register()
    harness.advance(0)
    left = budgets.COMPARED.limit - LEAST_COST - harness.compared_objects
    assert harness.compared.wait("team", left) == 0
    assert harness.compared.wait("team", left + 1) > 0


@pytest.mark.parametrize(("debt_seconds", "listed"), [(31, 31), (1, 2)])
def test_list_waits_until_the_debt_is_paid(harness: TrackerHarness, debt_seconds: float, listed: float) -> None:
    rate = budgets.COMPARED.limit / budgets.COMPARED.seconds
    harness.compared.spend("team", budgets.COMPARED.limit + debt_seconds * rate)
    harness.register()
    harness.advance(0.5)
    assert isinstance(harness.tracker.last_error(SHOP), SelectionDeferred)
    assert harness.changed == [SHOP]
    harness.advance(60)
    assert harness.times == [listed]
    assert harness.tracker.last_error(SHOP) is None


# Polls


def test_poll_for_earlier_conditions_is_ignored(harness: TrackerHarness) -> None:
    harness.register()
    harness.advance(60)
    harness.changed.clear()
    harness.handle_selection(SHOP, ALL, make_sighting("s1", "other"))
    harness.handle_selection(Key("team", "deleted"), BY_PREFIX, make_sighting("s2"))
    assert harness.tracker.last_sighting(SHOP) == make_sighting("s1")
    assert harness.changed == []
    harness.handle_selection(SHOP, BY_PREFIX, make_sighting("s2"))
    assert harness.tracker.last_sighting(SHOP) == make_sighting("s2")
    assert harness.tracker.listed_ago(SHOP) == 0
    assert harness.changed == [SHOP]


@pytest.mark.parametrize("failure", [None, ProviderError("down")])
def test_only_consecutive_polls_remove_an_object(harness: TrackerHarness, failure: ControllerError | None) -> None:
    harness.register()
    harness.advance(60)
    harness.changed.clear()
    misses_s1 = make_sighting(gone=["s1"])
    harness.handle_selection(SHOP, BY_PREFIX, misses_s1)
    harness.handle_selection(SHOP, BY_PREFIX, failure)
    assert harness.tracker.last_error(SHOP) is failure
    assert len(harness.changed) == 1 + bool(failure)
    harness.handle_selection(SHOP, BY_PREFIX, misses_s1)
    assert harness.tracker.removed_names(SHOP) == frozenset()
    harness.handle_selection(SHOP, BY_PREFIX, misses_s1)
    assert harness.tracker.removed_names(SHOP) == {"s1"}
