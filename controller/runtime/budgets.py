"""Budgets by namespace: limits on the shared resources that one namespace can use, and the classes that enforce them.

`BUDGETS` lists every budget. `tools/generate` writes the list into SECURITY.md, and
tests/unit/runtime/test_budgets.py checks that the code uses each budget and that its test exists. To add a budget:

1. Add a constant here and put it into `BUDGETS`.
2. Enforce it with one of the classes below, or with `controller.runtime.fair_share`, and read the figure from the
   constant: `budgets.LOG_LINES.limit`. Write the module as `budgets.NAME`, so that the test finds the use.
3. Name the test that exceeds it, then run `make generate`.

Choose one of these classes:

- `RateBudget` limits an amount per time. `take(namespace)` returns whether one more fits now. If the cost is known only
  afterwards, call `wait(namespace)` before the work and `spend(namespace, seconds)` after it. A namespace can then go
  into debt once, and waits until the debt is paid.
- `TotalBudget` limits an amount at any moment, such as the stored bytes. `set(namespace, key, amount)` returns whether
  the amount fits. If it does not fit, nothing changes, and the caller stores a short error instead.
  `drop(namespace, key)` returns the amount to the budget.
- `RecentEntries` limits the number of entries at any moment. A new entry removes the oldest one. `put` returns the
  removed entries.

All three are pure: the clock is an argument, and no method sleeps. A namespace without an entry uses no memory.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Budget(NamedTuple):
    """One row of the table. `limit` is in `unit`. With `seconds`, it is a bucket that refills in that time."""

    resource: str
    limit: float
    unit: str
    at_the_limit: str
    test: str
    seconds: float = 0.0


# One namespace gets at most half of the free workers, so the next namespace gets half of the rest: see
# `controller.runtime.fair_share`.
WORKERS = Budget(
    resource="workers that reconcile its SecretSyncs",
    limit=32,
    unit="of 64 at a time",
    at_the_limit="its other SecretSyncs wait; a new namespace gets a worker at once",
    test="tests/unit/runtime/test_work_queue.py::test_new_namespace_gets_workers_at_once_despite_hanging_ones",
)
REQUESTS = Budget(
    resource="requests to vaults in flight",
    limit=32,
    unit="of 64 at a time",
    at_the_limit="its other requests wait; a new namespace's request is sent at once",
    test="tests/unit/runtime/test_fair_share.py::test_new_user_gets_a_slot_at_once",
)
PLACES = Budget(
    resource="places in the waiting line of a throttled vault",
    limit=4096,
    unit="by vault",
    at_the_limit="further requests have no place and try again; the line serves the namespaces round-robin",
    test="tests/unit/runtime/test_rate_limiter.py::test_flood_of_one_namespace_halves_the_rate_of_another_at_most",
)
READERS = Budget(
    resource="vault clients, one for each identity and vault",
    limit=64,
    unit="at a time",
    at_the_limit="the client that was used least recently is closed",
    test="tests/cluster/test_budgets.py::test_renamed_vault_leaks_neither_memory_nor_metrics",
)
SERIES = Budget(
    resource="metric series of calls to vaults",
    limit=256,
    unit="at a time",
    at_the_limit="the series that was counted least recently is removed",
    test="tests/unit/observability/test_telemetry.py::test_vault_series_of_each_namespace_are_bounded",
)
OBJECT_SERIES = Budget(
    resource="metric series of SecretSyncs and their keys",
    limit=10_000,
    unit="at a time",
    at_the_limit="further SecretSyncs of the namespace have no series; akv_secret_store_series_dropped counts them",
    test="tests/unit/secretsync/test_collector.py::test_series_of_one_namespace_are_bounded",
)
LOG_LINES = Budget(
    resource="log lines about its objects",
    limit=10,
    unit="of one kind a minute",
    at_the_limit="further lines are counted, and one line has their number",
    test="tests/unit/observability/test_telemetry.py::test_flood_of_one_namespace_hides_no_line_of_another",
    seconds=60,
)
EVENTS = Budget(
    resource="events about its objects",
    limit=100,
    unit="a minute",
    at_the_limit="further events are dropped; the status of the object has the message",
    test="tests/unit/secretsync/test_status_reporter.py::test_flood_of_one_namespace_hides_no_event_of_another",
    seconds=60,
)
BLOCKED = Budget(
    resource="checks whether an object in the cluster, such as a Secret of another owner, still blocks a SecretSync",
    limit=600,
    unit="a minute",
    at_the_limit="its blocked SecretSyncs are checked less often",
    test="tests/unit/secretsync/reconciler/test_failures.py::test_blocked_secretsyncs_of_a_namespace_share_their_checks",
    seconds=60,
)
PARSING = Budget(
    resource="CPU time for parsing its SecretProviderClasses, PEM and PFX files",
    limit=20,
    unit="seconds",
    at_the_limit="the SecretSync's status reports it; the controller tries again after half a minute or later",
    test="tests/unit/runtime/threads/test_parsing.py::"
    "test_namespace_that_spent_its_budget_is_deferred_and_others_are_not",
    seconds=60,
)
COMPARED = Budget(
    resource="objects of vaults' lists that are compared with its AKVSyncs' select",
    limit=100_000,
    unit="a minute",
    at_the_limit="the status of the AKVSync reports it; the vault is listed again when the budget allows",
    test="tests/unit/akvsync/reconciler/test_selections.py::test_namespace_that_spent_its_budget_is_deferred_and_others_are_not",
    seconds=60,
)
KEPT = Budget(
    resource="bytes of its objects in the controller's memory, as JSON",
    limit=24 * 2**20,
    unit="at a time",
    at_the_limit="further objects are not read; their status reports it, and they are read again when there is room",
    test="tests/unit/kube/informer/test_hostile_objects.py::test_objects_of_one_namespace_are_stored_up_to_its_budget",
)
LOOKUPS = Budget(
    resource="lookups of vaults' names in flight",
    limit=32,
    unit="of 64 at a time",
    at_the_limit="its other lookups wait, ten seconds at most; a new namespace's lookup starts at once",
    test="tests/unit/keyvault/test_resolver.py::test_hanging_lookups_leave_half_of_the_threads_to_others",
)

BUDGETS = (
    WORKERS,
    REQUESTS,
    PLACES,
    READERS,
    SERIES,
    OBJECT_SERIES,
    LOG_LINES,
    EVENTS,
    BLOCKED,
    PARSING,
    COMPARED,
    KEPT,
    LOOKUPS,
)


class RateBudget:
    """A token bucket for each namespace. It holds the budget's `limit` and refills in the budget's `seconds`."""

    def __init__(self, budget: Budget, clock: Callable[[], float]) -> None:
        self._limit = budget.limit
        self._rate = budget.limit / budget.seconds
        self._clock = clock
        # By namespace: the rest of the bucket, and the time at which that was measured. Full buckets are dropped.
        self.buckets: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        """Return how many namespaces have a bucket that is not full."""
        self._drop_full()
        return len(self.buckets)

    def wait(self, namespace: str, amount: float = 0.0) -> float:
        """Return the seconds until the bucket has that amount. For 0: until the namespace has no debt."""
        return max(0.0, (amount - self._amount_now(namespace)) / self._rate)

    def spend(self, namespace: str, amount: float) -> None:
        """Take that amount even if the bucket does not have it. The namespace then has a debt."""
        if len(self.buckets) >= 1024:
            self._drop_full()
        self.buckets[namespace] = (self._amount_now(namespace) - amount, self._clock())

    def take(self, namespace: str, amount: float = 1.0) -> bool:
        """Take that amount if the bucket has it. Return whether it did."""
        if self._amount_now(namespace) < amount:
            return False
        self.spend(namespace, amount)
        return True

    def _amount_now(self, namespace: str) -> float:
        if namespace not in self.buckets:
            return self._limit
        left, at = self.buckets[namespace]
        return min(self._limit, left + (self._clock() - at) * self._rate)

    def _drop_full(self) -> None:
        for namespace in [each for each in self.buckets if self._amount_now(each) >= self._limit]:
            del self.buckets[namespace]


class TotalBudget(Generic[K]):
    """The amounts that each namespace uses at this moment, by key. Their sum is bounded."""

    def __init__(self, budget: Budget) -> None:
        self._limit = budget.limit
        self.amounts: dict[str, dict[K, float]] = {}
        self.sums: dict[str, float] = {}

    def set(self, namespace: str, key: K, amount: float) -> bool:
        """Set the amount of that key if the sum stays within the bound. Return whether it was set."""
        before = self.amounts.get(namespace, {}).get(key, 0.0)
        total = self.sums.get(namespace, 0.0) - before + amount
        if total > self._limit and amount > before:
            return False
        self.amounts.setdefault(namespace, {})[key] = amount
        self.sums[namespace] = total
        return True

    def drop(self, namespace: str, key: K) -> None:
        """Return the amount of that key to the budget."""
        amounts = self.amounts.get(namespace, {})
        self.sums[namespace] = self.sums.get(namespace, 0.0) - amounts.pop(key, 0.0)
        if not amounts:
            self.amounts.pop(namespace, None)
            del self.sums[namespace]

    def total(self, namespace: str) -> float:
        """Return the sum of the namespace's amounts."""
        return self.sums.get(namespace, 0.0)


class RecentEntries(Generic[K, V]):
    """The most recently used entries of each namespace, bounded for each namespace and in total.

    At the bound of a namespace, a new entry removes the namespace's oldest one. At the total, it removes the oldest
    entry of the largest namespace.
    """

    def __init__(self, budget: Budget, total: float = math.inf) -> None:
        self._limit = budget.limit
        self._total = total
        self._size = 0
        self.entries: dict[str, OrderedDict[K, V]] = {}

    def __len__(self) -> int:
        return self._size

    def get(self, namespace: str, key: K) -> V | None:
        """Return the entry and make it the newest, or return None."""
        entries = self.entries.get(namespace)
        if entries is None or key not in entries:
            return None
        entries.move_to_end(key)
        return entries[key]

    def has(self, namespace: str, key: K) -> bool:
        """Return whether the entry exists."""
        return key in self.entries.get(namespace, ())

    def put(self, namespace: str, key: K, value: V) -> list[tuple[K, V]]:
        """Store the entry as the newest. Return the entries that were removed for it."""
        entries = self.entries.setdefault(namespace, OrderedDict())
        self._size += key not in entries
        entries[key] = value
        entries.move_to_end(key)
        evicted = []
        while len(entries) > self._limit:
            evicted.append(entries.popitem(last=False))
            self._size -= 1
        if self._size > self._total:
            largest = max(self.entries, key=lambda name: len(self.entries[name]))
            evicted.append(self.entries[largest].popitem(last=False))
            self._size -= 1
            if not self.entries[largest]:
                del self.entries[largest]
        return evicted

    def drop(self, namespace: str, key: K) -> V | None:
        """Remove the entry and return it, or return None."""
        entries = self.entries.get(namespace, OrderedDict())
        self._size -= key in entries
        found = entries.pop(key, None)
        if not entries:
            self.entries.pop(namespace, None)
        return found

    def items(self) -> Iterator[tuple[str, K, V]]:
        """Yield the namespace, key and value of each entry. The caller can add and remove entries during the loop."""
        for namespace, entries in list(self.entries.items()):
            for key, value in list(entries.items()):
                yield namespace, key, value
