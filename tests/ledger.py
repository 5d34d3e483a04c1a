"""What every fault must leave whole, and the one check of it, `closes`: on a real control plane as in virtual time.

Every Secret holds what its vault once had, and the newest soon after the trouble is over; nothing was deleted, made
anew or blanked; what is somebody else's was not touched; and nobody was stormed meanwhile.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

# What failed is tried again after 2, 4, 8 … s, so after twenty seconds of trouble within another 32; and a vault that
# was throttled has its calls at the pace that it bore.
SOON = 60.0
# SecretSyncs as a world has them: a source alone, another, and both in one Secret.
SYNCS: Mapping[str, Mapping[str, str]] = {"one": {"k": "a"}, "two": {"k": "b"}, "both": {"a": "a", "b": "b"}}


class Name(NamedTuple):
    """Of a Secret."""

    namespace: str
    name: str


class Source(NamedTuple):
    """An object of a vault."""

    vault: str
    name: str


class Seen(NamedTuple):
    """A Secret at one moment: who it is, which write made it so, and its values."""

    uid: str
    version: str
    values: Mapping[str, str]


class Rate(NamedTuple):
    """How many calls are no storm: so many at once, and so many for each second that passed."""

    burst: float
    each_second: float

    def times(self, number: int) -> "Rate":
        """Of so many together."""
        return Rate(self.burst * number, self.each_second * number)


def too_many(calls: Mapping[str, int], rates: Mapping[str, Rate], seconds: float) -> list[str]:
    """Who was called more often in that time than its rate allows."""
    most = {who: rate.burst + rate.each_second * seconds for who, rate in rates.items()}
    return [f"{who}: {count} calls in {seconds:.0f} s" for who, count in calls.items() if count > most[who]]


class Ledger:
    """All values that the vaults ever had, and which of them each Secret is to hold."""

    def __init__(self) -> None:
        self._ever: dict[Source, list[str]] = defaultdict(list)
        self._wanted: dict[Name, Mapping[str, Source]] = {}
        self._first: dict[Name, Seen] = {}
        self._foreign: dict[Name, Seen] = {}

    def __len__(self) -> int:
        return len(self._wanted)

    def put(self, source: Source, value: str) -> None:
        """A vault's object has a new value."""
        self._ever[source].append(value)

    def want(self, name: Name, vault: str, keys: Mapping[str, str]) -> None:
        """A SecretSync of that name wants these keys of that vault's objects."""
        self._wanted[name] = {key: Source(vault, path) for key, path in keys.items()}

    def leave(self, now: Mapping[Name, Seen]) -> None:
        """These are somebody else's."""
        self._foreign = dict(now)

    def wrong(self, now: Mapping[Name, Seen]) -> list[str]:
        """What must never be, at no moment of any trouble."""
        gone = sorted({*self._foreign, *self._first} - now.keys())
        found = [f"{name} is gone" for name in gone]
        for name, seen in now.items():
            if name not in self._wanted:
                if seen != self._foreign.get(name):
                    found.append(f"{name} is nobody's of ours, and was touched or made")
                continue
            if seen.uid != self._first.setdefault(name, seen).uid:
                found.append(f"{name} was made anew")
            if seen.values.keys() != self._wanted[name].keys():
                found.append(f"{name} has the keys {sorted(seen.values)}")
            for key in seen.values.keys() & self._wanted[name].keys():
                source = self._wanted[name][key]
                if seen.values[key] not in self._ever[source]:
                    found.append(f"{name}: what {key} holds {source} never had")
        return found

    def late(self, now: Mapping[Name, Seen]) -> list[Name]:
        """The Secrets that do not hold the newest."""
        newest = {name: {key: self._ever[of][-1] for key, of in keys.items()} for name, keys in self._wanted.items()}
        return sorted(name for name, values in newest.items() if name not in now or now[name].values != values)


class World(Protocol):
    """Where faults happen: vaults, a cluster and a controller, with a clock."""

    ledger: Ledger

    def look(self) -> Mapping[Name, Seen]:
        """Every Secret of the namespaces that take part."""

    def rotate(self) -> None:
        """Gives every object of every vault a new value, and has the ledger know."""

    def now(self) -> float:
        """Seconds of a steady clock."""

    def passes(self, seconds: float) -> None:
        """Lets time pass."""

    def storms(self) -> list[str]:
        """Who was called more often since the last `closes` than any trouble justifies."""


def closes(world: World, patience: float = SOON) -> None:
    """The closing check: the trouble is over, and `patience` is how long the newest may take from now on."""
    sound(world)
    world.rotate()
    arrives(world, patience)
    assert not (storms := world.storms()), storms


def sound(world: World) -> Mapping[Name, Seen]:
    """Nothing is wrong at this moment; answers with what was seen."""
    found = world.look()
    assert not (wrong := world.ledger.wrong(found)), wrong
    return found


def arrives(world: World, patience: float, namespaces: Collection[str] = ()) -> None:
    """Everything comes to the newest value within that time, or all in these; and nothing is wrong on the way."""
    deadline = world.now() + patience
    while late := [name for name in world.ledger.late(sound(world)) if not namespaces or name.namespace in namespaces]:
        assert world.now() < deadline, f"after {patience:g} s still behind: {late}"
        world.passes(0.1)
