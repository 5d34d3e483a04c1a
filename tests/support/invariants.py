"""The invariants that hold during and after every fault, on a real control plane and in virtual time.

- Each Secret has a value that its vault once had. Soon after the fault is over, it has the newest one.
- No Secret was deleted, recreated or blanked. Secrets of others are untouched.
- The number of calls to vaults, Entra and the API server stays within `CallRate`.

A test ends with `assert_recovered`, which checks all of them.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

# A failed attempt is retried after 2, 4, 8 … s. So after a fault of 20 s, the next attempt comes within another 32 s. A
# vault that throttled gets calls at the rate that it accepted.
RECOVERY_TIME = 60.0
# The SecretSyncs of a namespace: one source, another one, and both in one Secret.
SYNCS: Mapping[str, Mapping[str, str]] = {"one": {"k": "a"}, "two": {"k": "b"}, "both": {"a": "a", "b": "b"}}


class SecretName(NamedTuple):
    """The namespace and name of a Secret."""

    namespace: str
    name: str


class VaultObjectName(NamedTuple):
    """The name of an object of a vault."""

    vault: str
    name: str


class SecretSnapshot(NamedTuple):
    """A Secret at one moment: its UID, resourceVersion and values."""

    uid: str
    version: str
    values: Mapping[str, str]


class CallRate(NamedTuple):
    """The number of allowed calls: those at once, and those for each second that passed."""

    burst: float
    each_second: float

    def for_callers(self, number: int) -> "CallRate":
        """Return the rate of that many callers together."""
        return CallRate(self.burst * number, self.each_second * number)


def exceeds_rates(calls: Mapping[str, int], rates: Mapping[str, CallRate], seconds: float) -> list[str]:
    """Return a line for each service that got more calls in that time than its rate allows."""
    limits = {name: rate.burst + rate.each_second * seconds for name, rate in rates.items()}
    return [f"{name}: {count} calls in {seconds:.0f} s" for name, count in calls.items() if count > limits[name]]


class ExpectedSecrets:
    """All values that the vaults ever had, and the vault objects from which each Secret gets its values."""

    def __init__(self) -> None:
        self._ever: dict[VaultObjectName, list[str]] = defaultdict(list)
        self._wanted: dict[SecretName, Mapping[str, VaultObjectName]] = {}
        self._first: dict[SecretName, SecretSnapshot] = {}
        self._foreign: dict[SecretName, SecretSnapshot] = {}

    def __len__(self) -> int:
        return len(self._wanted)

    def record_value(self, source: VaultObjectName, value: str) -> None:
        """Record that a vault's object has a new value."""
        self._ever[source].append(value)

    def expect(self, name: SecretName, vault: str, keys: Mapping[str, str]) -> None:
        """Record that a SecretSync of that name has these keys, from these objects of the vault."""
        self._wanted[name] = {key: VaultObjectName(vault, path) for key, path in keys.items()}

    def record_foreign(self, now: Mapping[SecretName, SecretSnapshot]) -> None:
        """Record the Secrets of others, which must not change."""
        self._foreign = dict(now)

    def find_violations(self, now: Mapping[SecretName, SecretSnapshot]) -> list[str]:
        """Return a line for each invariant that is violated now. They hold at any time, also during a fault."""
        gone = sorted({*self._foreign, *self._first} - now.keys())
        found = [f"{name} is gone" for name in gone]
        for name, seen in now.items():
            if name not in self._wanted:
                if seen != self._foreign.get(name):
                    found.append(f"{name} is not managed, and was changed or created")
                continue
            if seen.uid != self._first.setdefault(name, seen).uid:
                found.append(f"{name} was recreated")
            if seen.values.keys() != self._wanted[name].keys():
                found.append(f"{name} has the keys {sorted(seen.values)}")
            for key in seen.values.keys() & self._wanted[name].keys():
                source = self._wanted[name][key]
                if seen.values[key] not in self._ever[source]:
                    found.append(f"{name}: {key} has a value that {source} never had")
        return found

    def find_stale(self, now: Mapping[SecretName, SecretSnapshot]) -> list[SecretName]:
        """Return the Secrets that do not have the newest values."""
        newest = {name: {key: self._ever[of][-1] for key, of in keys.items()} for name, keys in self._wanted.items()}
        return sorted(name for name, values in newest.items() if name not in now or now[name].values != values)


class FaultEnvironment(Protocol):
    """The vaults, cluster and controller of a fault test, with a clock."""

    expected: ExpectedSecrets

    def read_secrets(self) -> Mapping[SecretName, SecretSnapshot]:
        """Return each Secret of the namespaces under test."""

    def rotate_values(self) -> None:
        """Give each object of each vault a new value, and record it in `expected`."""

    def now(self) -> float:
        """Return the seconds of a monotonic clock."""

    def wait(self, seconds: float) -> None:
        """Let that many seconds pass."""

    def find_excess_calls(self) -> list[str]:
        """Return a line for each service with more calls since the last `assert_recovered` than any fault justifies."""


def assert_recovered(world: FaultEnvironment, patience: float = RECOVERY_TIME) -> None:
    """Check, after the fault is over, that new values arrive within `patience` and that no invariant is violated."""
    assert_intact(world)
    world.rotate_values()
    wait_until_current(world, patience)
    assert not (excess := world.find_excess_calls()), excess


def assert_intact(world: FaultEnvironment) -> Mapping[SecretName, SecretSnapshot]:
    """Check the invariants at this moment, and return the Secrets."""
    found = world.read_secrets()
    assert not (wrong := world.expected.find_violations(found)), wrong
    return found


def wait_until_current(world: FaultEnvironment, patience: float, namespaces: Collection[str] = ()) -> None:
    """Wait until all Secrets (of these namespaces) have the newest values. Check the invariants during the wait."""
    deadline = world.now() + patience
    while late := [
        name
        for name in world.expected.find_stale(assert_intact(world))
        if not namespaces or name.namespace in namespaces
    ]:
        assert world.now() < deadline, f"after {patience:g} s these Secrets are still stale: {late}"
        world.wait(0.1)
