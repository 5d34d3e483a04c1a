"""Budgets by namespace: what one namespace may take of what all namespaces share, and how that is counted.

`BUDGETS` lists every budget. `tools/generate` writes the list into SECURITY.md, and tests/unit/test_budgets.py checks
that the code uses each budget and that its test exists. To add a budget:

1. Add a constant here and put it into `BUDGETS`.
2. Enforce it with one of the classes below, or with `controller.shares`, and read the figure from the constant:
   `budgets.LOG_LINES.most`. Write the module as `budgets.NAME`, so that the test finds the use.
3. Name the test that attacks it, then run `python -m tools.generate`.

Which class fits:

- `Rates`: so much per time. `take(namespace)` answers whether one more fits now. Where the cost is known only
  afterwards, ask `wait(namespace)` first and call `spend(namespace, seconds)` later: a namespace may go into debt once
  and then waits until the debt is paid.
- `Totals`: so much at any moment, such as bytes kept. `set(namespace, key, amount)` answers whether it fits; on False
  nothing has changed, and the caller keeps a short error instead. `drop(namespace, key)` gives the amount back.
- `Recent`: so many entries at any moment, where the oldest one makes room. `put` returns what had to go.

All three are pure: the clock is an argument, and nothing waits. A namespace without an entry costs no memory.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Budget(NamedTuple):
    """One row of the table. `most` is in `unit`; with `seconds`, it is a bucket that fills in that time."""

    what: str
    most: float
    unit: str
    at_the_bound: str
    test: str
    seconds: float = 0.0


# Half of the workers, and of what is left the next namespace gets half: see `controller.shares`.
WORKERS = Budget(
    what="workers that reconcile its SecretSyncs",
    most=32,
    unit="of 64 at a time",
    at_the_bound="its other SecretSyncs wait; a new namespace gets a worker at once",
    test="tests/unit/test_queue.py::test_however_long_namespaces_keep_what_they_get_a_new_one_waits_for_nothing",
)
REQUESTS = Budget(
    what="requests to vaults in flight",
    most=32,
    unit="of 64 at a time",
    at_the_bound="its other requests wait; a new namespace's request is sent at once",
    test="tests/unit/test_shares.py::test_who_comes_new_waits_for_nobody",
)

BUDGETS = (WORKERS, REQUESTS)


class Rates:
    """A token bucket for each namespace: a budget's `most` at once, filled again in its `seconds`."""

    def __init__(self, budget: Budget, clock: Callable[[], float]) -> None:
        self._most = budget.most
        self._rate = budget.most / budget.seconds
        self._clock = clock
        # By namespace: what is left, and when that was. A full bucket is not kept.
        self._left: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        """Return how many namespaces have taken something lately."""
        self._drop_full()
        return len(self._left)

    def wait(self, namespace: str, amount: float = 0.0) -> float:
        """Return the seconds until that amount is there; for 0, until the namespace has no debt."""
        return max(0.0, (amount - self._now(namespace)) / self._rate)

    def spend(self, namespace: str, amount: float) -> None:
        """Take that amount, whether it is there or not: the namespace may go into debt."""
        if len(self._left) >= 1024:
            self._drop_full()
        self._left[namespace] = (self._now(namespace) - amount, self._clock())

    def take(self, namespace: str, amount: float = 1.0) -> bool:
        """Take that amount if it is there, and return whether it was."""
        if self._now(namespace) < amount:
            return False
        self.spend(namespace, amount)
        return True

    def _now(self, namespace: str) -> float:
        if namespace not in self._left:
            return self._most
        left, at = self._left[namespace]
        return min(self._most, left + (self._clock() - at) * self._rate)

    def _drop_full(self) -> None:
        for namespace in [each for each in self._left if self._now(each) >= self._most]:
            del self._left[namespace]


class Totals(Generic[K]):
    """Amounts that each namespace keeps at this moment, by key; their sum is bounded."""

    def __init__(self, budget: Budget) -> None:
        self._most = budget.most
        self._amounts: dict[str, dict[K, float]] = {}
        self._sums: dict[str, float] = {}

    def set(self, namespace: str, key: K, amount: float) -> bool:
        """Set what that key keeps, if the sum stays within the bound; return whether it does. False changes nothing."""
        before = self._amounts.get(namespace, {}).get(key, 0.0)
        total = self._sums.get(namespace, 0.0) - before + amount
        if total > self._most and amount > before:
            return False
        self._amounts.setdefault(namespace, {})[key] = amount
        self._sums[namespace] = total
        return True

    def drop(self, namespace: str, key: K) -> None:
        """Give back what that key keeps."""
        amounts = self._amounts.get(namespace, {})
        self._sums[namespace] = self._sums.get(namespace, 0.0) - amounts.pop(key, 0.0)
        if not amounts:
            self._amounts.pop(namespace, None)
            del self._sums[namespace]

    def total(self, namespace: str) -> float:
        """Return what the namespace keeps."""
        return self._sums.get(namespace, 0.0)


class Recent(Generic[K, V]):
    """The entries of each namespace that were used last, so many of each; the oldest makes room for a new one."""

    def __init__(self, budget: Budget) -> None:
        self._most = budget.most
        self._entries: dict[str, OrderedDict[K, V]] = {}

    def get(self, namespace: str, key: K) -> V | None:
        """Return the entry, which is the newest then, or None."""
        entries = self._entries.get(namespace)
        if entries is None or key not in entries:
            return None
        entries.move_to_end(key)
        return entries[key]

    def put(self, namespace: str, key: K, value: V) -> list[tuple[K, V]]:
        """Keep the entry as the newest; return what made room for it."""
        entries = self._entries.setdefault(namespace, OrderedDict())
        entries[key] = value
        entries.move_to_end(key)
        return [entries.popitem(last=False) for _ in range(len(entries) - int(self._most))]

    def drop(self, namespace: str, key: K) -> V | None:
        """Remove the entry and return it, or None where there is none."""
        entries = self._entries.get(namespace, OrderedDict())
        found = entries.pop(key, None)
        if not entries:
            self._entries.pop(namespace, None)
        return found

    def items(self) -> Iterator[tuple[str, K, V]]:
        """Yield namespace, key and entry of everything that is kept; the caller may change it meanwhile."""
        for namespace, entries in list(self._entries.items()):
            for key, value in list(entries.items()):
                yield namespace, key, value
