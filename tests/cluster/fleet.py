"""Namespaces with a vault and some SecretSyncs each, on the real control plane, for `tests.ledger.closes`."""

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tests.cluster.world import Installed, Namespace, create, value
from tests.ledger import SOON, SYNCS, Ledger, Name, Rate, Seen, Source, arrives, closes, sound, too_many
from tools.local_cluster.errors import ClusterError

POLL = 1
# Of every controller that has a fleet to look after.
LEADING = {"ROTATION_POLL_INTERVAL": str(POLL), "DRIFT_INTERVAL": "5"}
# Nobody waits for a killed leader's lease.
ALONE = {**LEADING, "LEASE_NAME": ""}
# A vault is asked at every poll for a list and two values; Entra by who was started, or whose token was refused; and
# the API server about each SecretSync: for a look, a write and a status.
TO_A_VAULT = Rate(20, 10)
TO_ENTRA = Rate(10, 0.5)
TO_THE_API_SERVER = Rate(20, 5)
# Of a large Secret: how many keys, and of how many bytes, which is nearly what a vault takes.
LARGE_KEYS, LARGE = 40, 24_000
# How often these keys may be read while the test's fault lasts: at first, and after 2, 4 and 8 s.
LARGE_READS = 4


class Fleet:
    """A `tests.ledger.World`. `spaces` are its namespaces by the names that the test gives them."""

    def __init__(self, installed: Installed, *names: str, syncs: Mapping[str, Mapping[str, str]] = SYNCS) -> None:
        self.installed = installed
        self.ledger = Ledger()
        self.spaces = {name: Namespace(installed) for name in names}
        self._number = 0
        self._large_syncs = dict.fromkeys(names, 0)
        self._audited = 0
        self.rotate()
        for space in self.spaces.values():
            create(installed.plane, f"namespaces/{space.name}/secrets", "theirs", data={"k": "eA=="})
        self.ledger.leave(self.look())
        for space in self.spaces.values():
            for name, keys in syncs.items():
                self.ledger.want(Name(space.name, name), space.vault, keys)
            space.apply(space.provider_class("a", "b"), *(space.sync(*pair) for pair in syncs.items()))
        arrives(self, SOON)
        self._mark()

    def adds(self, space: Namespace, name: str) -> None:
        """One more SecretSync."""
        self.ledger.want(Name(space.name, name), space.vault, SYNCS["both"])
        space.apply(space.sync(name, SYNCS["both"]))

    def adds_large(self, space: Namespace, count: int) -> None:
        """So many more SecretSyncs, whose Secrets are nearly as large as Kubernetes takes them; not rotated."""
        keys = {name: name for name in (f"large-{number}" for number in range(LARGE_KEYS))}
        for name in keys:
            text = name.ljust(LARGE, "x")
            self.ledger.put(Source(space.vault, name), value(text))
            space.put(name, text)
        [of] = [each for each, found in self.spaces.items() if found is space]
        self._large_syncs[of] += count
        names = [f"large-{number}" for number in range(count)]
        for name in names:
            self.ledger.want(Name(space.name, name), space.vault, keys)
        syncs = (space.sync(name, keys, secretProviderClassName="large") for name in names)
        space.apply(space.provider_class(*keys, name="large"), *syncs)

    def rotate(self) -> None:
        """A new version of everything small, in every vault."""
        self._number += 1
        for space in self.spaces.values():
            for name in ("a", "b"):
                text = f"{space.name} {name} {self._number}"
                self.ledger.put(Source(space.vault, name), value(text))
                space.put(name, text)

    def look(self) -> dict[Name, Seen]:
        """Every Secret of the fleet; `ClusterError` where the API server does not tell."""
        names = {space.name for space in self.spaces.values()}
        try:
            status, body = self.installed.plane.request("GET", "/api/v1/secrets")
        except OSError as error:
            raise ClusterError(str(error)) from error
        if status != 200:
            raise ClusterError(body)
        return {
            Name(meta["namespace"], meta["name"]): Seen(
                meta["uid"],
                meta["resourceVersion"],
                {key: base64.b64decode(text).decode() for key, text in item.get("data", {}).items()},
            )
            for item in json.loads(body)["items"]
            if (meta := item["metadata"])["namespace"] in names
        }

    def now(self) -> float:
        return time.monotonic()

    def passes(self, seconds: float) -> None:
        time.sleep(seconds)

    def endures(self, seconds: float) -> None:
        """The trouble lasts so long, while everything is rotated again and again."""
        until = self.now() + seconds
        while self.now() < until:
            self.rotate()
            with suppress(ClusterError):  # the API server may be the trouble
                sound(self)
            self.passes(0.5)

    def closes(self, patience: float = SOON) -> None:
        """The closing check; afterwards calls are counted anew."""
        closes(self, patience)
        self._mark()

    def calls(self) -> dict[str, int]:
        """How many calls each vault has had, by the name of its namespace here."""
        return {name: space.calls() for name, space in self.spaces.items()}

    def to_entra(self) -> int:
        """How many calls Entra has had."""
        return sum(count for what, count in self.installed.emulator.counters().items() if what.startswith("entra/"))

    def requests(self) -> int:
        """How many requests of the controller the API server has answered since the last `closes`."""
        with self.installed.plane.audit_log.open("rb") as log:
            log.seek(self._audited)
            lines = log.read().splitlines()
        user = f'"username":"{self.installed.user}"'.encode()
        return sum(user in line and b'"stage":"ResponseComplete"' in line for line in lines)

    def storms(self) -> list[str]:
        calls = {name: count - self._before[name] - self._large(name) for name, count in self.calls().items()}
        calls |= {"Entra": self.to_entra() - self._entra, "API server": self.requests()}
        rates = {"Entra": TO_ENTRA.times(len(self.spaces)), "API server": TO_THE_API_SERVER.times(len(self.ledger))}
        return too_many(calls, rates | dict.fromkeys(self.spaces, TO_A_VAULT), self.now() - self._began)

    def _large(self, name: str) -> int:
        """Return how many calls the large Secrets of a namespace justify besides, between two closing checks.

        Each of them may read its keys once more after a fault: they share a reading only where they want it at the
        same moment.
        """
        count = self._large_syncs[name]
        return LARGE_KEYS * (count + LARGE_READS) if count else 0

    def _mark(self) -> None:
        self._began, self._before, self._entra = self.now(), self.calls(), self.to_entra()
        self._audited = self.installed.plane.audit_log.stat().st_size


@contextmanager
def fleet(installed: Installed, *names: str, **syncs: Mapping[str, str]) -> Iterator[Fleet]:
    """A fleet, taken down afterwards; `syncs` are each namespace's SecretSyncs, else `SYNCS`."""
    found = Fleet(installed, *names, syncs=syncs or SYNCS)
    try:
        yield found
    finally:
        installed.emulator.heal()
        for space in found.spaces.values():
            space.remove()
