"""Faults that last for hours: the whole program but for its sockets, in virtual time (`tests.ledger.closes`)."""

import asyncio
import contextlib
import datetime as dates
import functools
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest
from azure.core.exceptions import ServiceRequestError

import controller.__main__ as program
from controller import access, calls, errors, events, reconcile, sync, vaults
from controller.plan import OUR_LABEL
from controller.settings import Settings
from tests.ledger import SYNCS, Ledger, Name, Rate, Seen, Source, arrives, closes, sound, too_many
from tests.unit.memory_cluster import MemoryCluster, Object
from tests.unit.memory_vault import Answer, MemoryVault
from tests.unit.virtual import VirtualLoop

BEGAN = 2_000_000_000.0
HOUR, MONTH = 3600.0, 2_592_000.0
POLL = 60
# A failure's longest wait, a poll, and what else is waited for on the way.
SOON = 300.0 + POLL + 40
SEED = 20301
# Healthy, a poll and its writes are 2 calls to the vault and 9 to the API server a minute.
RATES = {"vault": Rate(20, 0.12), "entra": Rate(5, 0.02), "API server": Rate(100, 0.5)}


class Small:
    """A `tests.ledger.World` of one namespace and one vault, whose time passes only when a test says so."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.ahead = 0.0
        self.ledger = Ledger()
        self.cluster = MemoryCluster()
        self.vault = MemoryVault()
        self._number = 0
        self._began = 0.0

    def begins(self) -> None:
        self.rotate()
        theirs = {"metadata": {"namespace": "shop", "name": "theirs"}, "data": {"k": "eA=="}}
        self.cluster.put("secrets", theirs)
        self.ledger.leave(self.look())
        self.cluster.put("secretproviderclasses", provider_class())
        for name, keys in SYNCS.items():
            self.ledger.want(Name("shop", name), "shop", keys)
            self.cluster.put("secretsyncs", secret_sync(name, keys))
        self.starts()
        arrives(self, 10)

    def starts(self, poll: int = POLL, partial: bool = True) -> None:
        settings = Settings(rotation_poll_interval=poll, enable_partial_secret_sync=partial)
        self._running = self.loop.create_task(program.run(settings))

    def ends(self) -> None:
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self._running)

    def look(self) -> dict[Name, Seen]:
        return {
            Name(*key[1:]): Seen(item["metadata"]["uid"], item["metadata"]["resourceVersion"], self.cluster.values(key))
            for key, item in self.cluster.objects.items()
            if key[0] == "secrets"
        }

    def rotate(self) -> None:
        self._number += 1
        for name in ("a", "b"):
            value = f"{name} {self._number}"
            self.vault.put(name, value)
            self.ledger.put(Source("shop", name), value)

    def now(self) -> float:
        return self.loop.time()

    def wall(self) -> float:
        """The time of day."""
        return BEGAN + self.loop.time() + self.ahead

    def passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert not self._running.done()

    def endures(self, seconds: float) -> None:
        """The trouble lasts so long; everything is rotated every ten minutes."""
        for _ in range(int(seconds / 600)):
            self.rotate()
            for _ in range(10):
                self.passes(60)
                sound(self)

    def calls(self) -> dict[str, int]:
        """Who was asked how often since `troubles`."""
        now = {**self.vault.asked, "API server": self.cluster.asked.total()}
        return {who: count - self._before.get(who, 0) for who, count in now.items()}

    def troubles(self) -> None:
        """From now on calls are counted."""
        self._before: dict[str, int] = {}
        self._began, self._before = self.now(), self.calls()

    def storms(self) -> list[str]:
        return too_many(self.calls(), RATES, self.now() - self._began)


def provider_class(names: Iterable[str] = "ab", name: str = "class") -> Object:
    objects = "array:\n" + "".join(f"  - |\n    objectName: {each}\n    objectType: secret\n" for each in names)
    parameters = {"clientID": "client", "tenantID": "tenant", "keyvaultName": "shop", "objects": objects}
    return {
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"provider": "azure", "parameters": parameters},
    }


def secret_sync(name: str, keys: Mapping[str, str], source: str = "class") -> Object:
    pairs = [{"targetKey": key, "sourcePath": path} for key, path in keys.items()]
    spec = {
        "secretProviderClassName": source,
        "serviceAccountName": "robot",
        "secretObject": {"data": pairs, "type": "Opaque"},
    }
    return {"metadata": {"namespace": "shop", "name": name}, "spec": spec}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Small]:
    loop = VirtualLoop()
    small = Small(loop)

    class Now(dates.datetime):
        @classmethod
        def now(cls, tz: dates.tzinfo | None = None) -> dates.datetime:  # type: ignore[override]
            return dates.datetime.fromtimestamp(small.wall(), tz)

    class Dice(random.Random):
        def __init__(self) -> None:
            super().__init__(SEED)

    async def nowhere(_: object) -> None:
        pass

    class Deaf:
        """Serve neither probes nor metrics."""

        def start(self, *_: object) -> tuple[int, int]:
            return 0, 0

        async def stop(self) -> None:
            pass

    monkeypatch.setattr(time, "monotonic", loop.time)
    monkeypatch.setattr(time, "time", small.wall)
    monkeypatch.setattr(random, "Random", Dice)
    for module in (calls, events, reconcile, sync):
        monkeypatch.setattr(module, "datetime", Now)
    monkeypatch.setattr(vaults, "Calls", functools.partial(calls.Calls, clock=loop.time))
    monkeypatch.setattr(vaults, "new_session", lambda *_: None)
    monkeypatch.setattr(vaults, "new_transport", lambda *_: small.vault)
    monkeypatch.setattr(program, "Kube", lambda _: small.cluster)
    monkeypatch.setattr(access, "find", nowhere)
    monkeypatch.setattr(program, "Servers", lambda *_: Deaf())
    small.begins()
    small.troubles()
    yield small
    small.ends()
    loop.close()


Fails = Callable[[str], Answer | None]
Refusing = Callable[[str, str], None]


def answers(who: str, status: int, retry_after: int | None = None) -> Fails:
    """The vault or Entra refuses every call."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    answer = (status, {"error": {"code": "Told", "message": "to fail"}}, headers)
    return lambda asked: answer if asked == who else None


def unreachable(who: str) -> Fails:
    """No call arrives."""

    def fails(asked: str) -> None:
        if asked == who:
            raise ServiceRequestError("no way")

    return fails


@pytest.mark.parametrize(
    ("fails", "most"),
    [
        pytest.param(lambda _: None, {"vault": 72, "entra": 2, "API server": 100}, id="no trouble"),
        # One look in five minutes in the end, and one value; or one look whenever the vault says so, which is in 10 s.
        pytest.param(answers("vault", 503), {"vault": 60, "API server": 100}, id="503"),
        pytest.param(answers("vault", 429, 10), {"vault": 360, "API server": 100}, id="429 with Retry-After"),
        pytest.param(answers("vault", 429), {"vault": 360, "API server": 100}, id="429 without"),
        pytest.param(unreachable("vault"), {"vault": 60, "API server": 100}, id="vault unreachable"),
        pytest.param(unreachable("entra"), {"entra": 30, "vault": 72}, id="Entra unreachable"),
        pytest.param(answers("entra", 503), {"entra": 30, "vault": 72}, id="Entra's 503"),
        pytest.param(answers("entra", 429, 30), {"entra": 30, "vault": 72}, id="Entra's 429"),
    ],
)
def test_an_hour_of_a_failing_vault_or_entra(world: Small, fails: Fails, most: dict[str, int]) -> None:
    world.vault.fails = fails
    world.endures(HOUR)
    took = world.calls()
    assert not {who: took[who] for who in most if took[who] > most[who]}
    world.vault.fails = lambda _: None
    closes(world, SOON)


def test_a_vault_that_refused_everything_is_soon_asked_as_before(world: Small) -> None:
    world.ends()
    world.starts(poll=2)
    world.passes(10)
    world.vault.fails = answers("vault", 429, 2)
    for _ in range(6):
        world.rotate()
        world.passes(2)
    world.vault.fails = lambda _: None
    closes(world, 30)


def bears(loop: VirtualLoop, calls_in_ten_seconds: int) -> Fails:
    """The vault takes so many calls in each ten seconds, and says when the next begin."""
    asked: Counter[int] = Counter()

    def fails(who: str) -> Answer | None:
        window, into = divmod(loop.time(), 10)
        asked[int(window)] += who == "vault"
        if who != "vault" or asked[int(window)] <= calls_in_ten_seconds:
            return None
        return 429, {"error": {"code": "Throttled", "message": "too many"}}, {"Retry-After": str(math.ceil(10 - into))}

    return fails


def test_a_secret_comes_whole_from_a_vault_that_lets_through_fewer_calls_than_it_has_keys(world: Small) -> None:
    """60 keys of which none is to be written before all are there, first as new ones, then rotated together."""
    world.ends()
    world.starts(partial=False)
    keys = {f"key-{number}": f"key-{number}" for number in range(60)}
    world.ledger.want(Name("shop", "many"), "shop", keys)
    world.cluster.put("secretproviderclasses", provider_class(keys, "many"))
    world.vault.fails = bears(world.loop, 25)
    for version in range(2):
        for name in keys:
            value = f"{name} {version}"
            world.vault.put(name, value)
            world.ledger.put(Source("shop", name), value)
        if not version:
            world.cluster.put("secretsyncs", secret_sync("many", keys, "many"))
        world.troubles()
        arrives(world, POLL + 60)
        assert world.calls()["vault"] <= 2 * len(keys)


@pytest.mark.parametrize("partial", [True, False])
def test_an_hour_of_one_missing_key_among_sixty_costs_that_key_alone(world: Small, partial: bool) -> None:
    world.ends()
    world.starts(poll=3600, partial=partial)
    keys = {f"key-{number}": f"key-{number}" for number in range(60)}
    world.cluster.put("secretproviderclasses", provider_class(keys, "many"))
    for name in list(keys)[1:]:
        world.vault.put(name, f"{name} first")
    world.passes(10)  # a value that was read within two seconds of its change is read again at the first poll
    world.cluster.put("secretsyncs", secret_sync("many", keys, "many"))
    world.passes(60)
    world.troubles()
    world.passes(HOUR)
    # Half of five minutes at the least between two tries of the key, and the polls of both groups.
    assert world.calls()["vault"] <= 24 + 6
    world.vault.put("key-0", "found")
    world.vault.put("key-1", "key-1 second")
    world.passes(HOUR + SOON)
    found = world.cluster.values(("secrets", "shop", "many"))
    assert (len(found), found["key-0"], found["key-1"]) == (60, "found", "key-1 second")


def test_others_follow_the_vault_while_one_key_is_missing(world: Small) -> None:
    keys = {f"key-{number}": f"key-{number}" for number in range(60)}
    world.cluster.put("secretproviderclasses", provider_class(keys, "many"))
    for name in list(keys)[1:]:
        world.vault.put(name, "first")
    world.cluster.put("secretsyncs", secret_sync("many", keys, "many"))
    world.passes(30)
    world.vault.put("key-7", "second")
    world.passes(2 * POLL)
    assert world.cluster.values(("secrets", "shop", "many"))["key-7"] == "second"


def test_an_hour_of_a_webhook_that_changes_a_label_costs_no_vault_read(world: Small) -> None:
    world.ends()
    world.starts(poll=3600)
    world.passes(60)

    def mutates(secret: Object) -> None:
        secret["metadata"].setdefault("labels", {})[OUR_LABEL[0]] = "changed"

    world.cluster.mutates = mutates
    for _, namespace, name in [key for key in world.cluster.objects if key[0] == "secrets"]:
        secret = world.cluster.objects["secrets", namespace, name]
        if "labels" in secret["metadata"]:
            mutates(secret)
    world.troubles()
    world.cluster.writes.clear()
    world.passes(HOUR - 120)
    assert world.calls()["vault"] == 0
    # Twelve drift checks in an hour, of which the first, second, fourth and eighth write.
    ours = len(SYNCS)
    assert ours <= world.cluster.writes["secrets"] <= 5 * ours


def test_entras_key_is_rolled_and_nobody_waits_for_it(world: Small) -> None:
    for rolled in range(1, 6):
        world.vault.roll_key()
        world.rotate()
        arrives(world, POLL + 2)
        assert world.calls()["entra"] == rolled
    closes(world, POLL + 2)


def refuses(error: type[errors.KubeError], status: int, *methods: str, retry_after: float | None = None) -> Refusing:
    """Requests of these methods, or all, come to that error."""

    def fails(method: str, _path: str) -> None:
        if not methods or method in methods:
            raise error("no", status=status, retry_after=retry_after)

    return fails


@pytest.mark.parametrize(
    ("fails", "most"),
    [
        # Each of three watches comes again four times a minute, in the end.
        pytest.param(refuses(errors.Unreachable, 0), 1000, id="unreachable"),
        pytest.param(refuses(errors.Unreachable, 429, retry_after=20), 800, id="429"),
        pytest.param(refuses(errors.Unreachable, 500, "POST", "PATCH"), 200, id="no space in etcd"),
        pytest.param(refuses(errors.Refused, 403), 1000, id="403"),
        pytest.param(refuses(errors.Conflict, 409, "POST", "PATCH"), 600, id="409"),
        pytest.param(refuses(errors.Expired, 410, "WATCH"), 1800, id="410"),
    ],
)
def test_an_hour_of_a_failing_api_server(world: Small, fails: Refusing, most: int) -> None:
    world.cluster.fails = fails
    world.endures(HOUR)
    assert world.calls()["API server"] <= most
    world.cluster.fails = lambda *_: None
    closes(world, SOON)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("ahead", [MONTH, -MONTH])
def test_the_clock_jumps_and_jumps_back(world: Small, ahead: float, restarted: bool) -> None:
    for jump in (ahead, 0.0):
        world.ahead = jump
        if restarted:  # and reads in statuses when things were done
            world.ends()
            world.starts()
        closes(world, SOON)
