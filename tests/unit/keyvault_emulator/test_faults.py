"""Faults that last for hours: the whole program except its sockets, in virtual time.

Each test ends with `tests.support.invariants.assert_recovered`.
"""

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

from controller import app, errors
from controller.config.settings import Settings
from controller.domain.decision import OUR_LABEL
from controller.keyvault import client, pool
from controller.kube import config, event_recorder
from controller.runtime.clock import Clock
from controller.secretsync import reconciler, value_fetcher
from tests.support.invariants import (
    SYNCS,
    CallRate,
    ExpectedSecrets,
    SecretName,
    SecretSnapshot,
    VaultObjectName,
    assert_intact,
    assert_recovered,
    exceeds_rates,
    wait_until_current,
)
from tests.support.memory_cluster import MemoryCluster, Object
from tests.support.memory_vault import Answer, MemoryVault
from tests.support.virtual_time import VirtualLoop

BEGAN = 2_000_000_000.0
HOUR, MONTH = 3600.0, 2_592_000.0
POLL = 60
# A failure's longest wait, a poll, and what else is waited for on the way.
SOON = 300.0 + POLL + 40
SEED = 20301
# Healthy, a poll and its writes are 2 calls to the vault and 9 to the API server a minute.
RATES = {"vault": CallRate(20, 0.12), "entra": CallRate(5, 0.02), "API server": CallRate(100, 0.5)}


class VirtualFaultHarness:
    """A `FaultEnvironment` with one namespace and one vault. Its time passes only when a test says so."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.ahead = 0.0
        self.expected = ExpectedSecrets()
        self.cluster = MemoryCluster()
        self.vault = MemoryVault()
        self._number = 0
        self._began = 0.0

    def create_syncs(self) -> None:
        self.rotate_values()
        theirs = {"metadata": {"namespace": "shop", "name": "theirs"}, "data": {"k": "eA=="}}
        self.cluster.put("secrets", theirs)
        self.expected.record_foreign(self.read_secrets())
        self.cluster.put("secretproviderclasses", provider_class())
        for name, keys in SYNCS.items():
            self.expected.expect(SecretName("shop", name), "shop", keys)
            self.cluster.put("secretsyncs", secret_sync(name, keys))
        self.start_controller()
        wait_until_current(self, 10)

    def start_controller(self, poll: int = POLL, partial: bool = True) -> None:
        settings = Settings(rotation_poll_interval=poll, enable_partial_secret_sync=partial)
        self._running = self.loop.create_task(app.run(settings))

    def stop_controller(self) -> None:
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self._running)

    def read_secrets(self) -> dict[SecretName, SecretSnapshot]:
        return {
            SecretName(*key[1:]): SecretSnapshot(
                item["metadata"]["uid"], item["metadata"]["resourceVersion"], self.cluster.values(key)
            )
            for key, item in self.cluster.objects.items()
            if key[0] == "secrets"
        }

    def rotate_values(self) -> None:
        self._number += 1
        for name in ("a", "b"):
            value = f"{name} {self._number}"
            self.vault.put(name, value)
            self.expected.record_value(VaultObjectName("shop", name), value)

    def now(self) -> float:
        return self.loop.time()

    def wall(self) -> float:
        """Return the time of day."""
        return BEGAN + self.loop.time() + self.ahead

    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert not self._running.done()

    def rotate_during(self, seconds: float) -> None:
        """Let the fault last for that time, and rotate all values every ten minutes."""
        for _ in range(int(seconds / 600)):
            self.rotate_values()
            for _ in range(10):
                self.wait(60)
                assert_intact(self)

    def count_calls(self) -> dict[str, int]:
        """Who was asked how often since `troubles`."""
        now = {**self.vault.request_counts, "API server": self.cluster.request_counts.total()}
        return {who: count - self._before.get(who, 0) for who, count in now.items()}

    def begin_fault(self) -> None:
        """From now on calls are counted."""
        self._before: dict[str, int] = {}
        self._began, self._before = self.now(), self.count_calls()

    def find_excess_calls(self) -> list[str]:
        return exceeds_rates(self.count_calls(), RATES, self.now() - self._began)


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
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualFaultHarness]:
    loop = VirtualLoop()
    small = VirtualFaultHarness(loop)

    class Now(dates.datetime):
        @classmethod
        def now(cls, tz: dates.tzinfo | None = None) -> dates.datetime:  # type: ignore[override]
            return dates.datetime.fromtimestamp(small.wall(), tz)

    class FixedRandom(random.Random):
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
    monkeypatch.setattr(random, "Random", FixedRandom)
    for module in (client, event_recorder, reconciler, value_fetcher):
        monkeypatch.setattr(module, "datetime", Now)
    clock = Clock(loop.time, functools.partial(Now.now, dates.UTC))
    monkeypatch.setattr(app, "Reconciler", functools.partial(reconciler.Reconciler, clock=clock))
    monkeypatch.setattr(pool, "VaultClient", functools.partial(client.VaultClient, clock=loop.time))
    monkeypatch.setattr(pool, "new_session", lambda *_, **__: None)
    monkeypatch.setattr(pool, "new_transport", lambda *_, **__: small.vault)
    monkeypatch.setattr(app, "KubeClient", lambda _: small.cluster)
    monkeypatch.setattr(config, "find_config", nowhere)
    monkeypatch.setattr(app, "HttpServers", lambda *_, **__: Deaf())
    small.create_syncs()
    small.begin_fault()
    yield small
    small.stop_controller()
    loop.close()


Fails = Callable[[str], Answer | None]
Refusing = Callable[[str, str], None]


def answers(who: str, status: int, retry_after: int | None = None) -> Fails:
    """Return the vault or Entra refuses every call."""
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
def test_an_hour_of_a_failing_vault_or_entra(world: VirtualFaultHarness, fails: Fails, most: dict[str, int]) -> None:
    world.vault.on_request = fails
    world.rotate_during(HOUR)
    took = world.count_calls()
    assert not {who: took[who] for who in most if took[who] > most[who]}
    world.vault.on_request = lambda _: None
    assert_recovered(world, SOON)


def test_a_vault_that_refused_everything_is_soon_asked_as_before(world: VirtualFaultHarness) -> None:
    world.stop_controller()
    world.start_controller(poll=2)
    world.wait(10)
    world.vault.on_request = answers("vault", 429, 2)
    for _ in range(6):
        world.rotate_values()
        world.wait(2)
    world.vault.on_request = lambda _: None
    assert_recovered(world, 30)


def bears(loop: VirtualLoop, calls_in_ten_seconds: int) -> Fails:
    """Return the vault takes so many calls in each ten seconds, and says when the next begin."""
    asked: Counter[int] = Counter()

    def fails(who: str) -> Answer | None:
        window, into = divmod(loop.time(), 10)
        asked[int(window)] += who == "vault"
        if who != "vault" or asked[int(window)] <= calls_in_ten_seconds:
            return None
        return 429, {"error": {"code": "Throttled", "message": "too many"}}, {"Retry-After": str(math.ceil(10 - into))}

    return fails


def test_a_secret_comes_whole_from_a_vault_that_lets_through_fewer_calls_than_it_has_keys(
    world: VirtualFaultHarness,
) -> None:
    """60 keys of which none is to be written before all are there, first as new ones, then rotated together."""
    world.stop_controller()
    world.start_controller(partial=False)
    keys = {f"key-{number}": f"key-{number}" for number in range(60)}
    world.expected.expect(SecretName("shop", "many"), "shop", keys)
    world.cluster.put("secretproviderclasses", provider_class(keys, "many"))
    world.vault.on_request = bears(world.loop, 25)
    for version in range(2):
        for name in keys:
            value = f"{name} {version}"
            world.vault.put(name, value)
            world.expected.record_value(VaultObjectName("shop", name), value)
        if not version:
            world.cluster.put("secretsyncs", secret_sync("many", keys, "many"))
        world.begin_fault()
        wait_until_current(world, POLL + 60)
        assert world.count_calls()["vault"] <= 2 * len(keys)


@pytest.mark.parametrize("partial", [True, False])
def test_an_hour_of_one_missing_key_among_sixty_costs_that_key_alone(world: VirtualFaultHarness, partial: bool) -> None:
    world.stop_controller()
    world.start_controller(poll=3600, partial=partial)
    keys = {f"key-{number}": f"key-{number}" for number in range(60)}
    world.cluster.put("secretproviderclasses", provider_class(keys, "many"))
    for name in list(keys)[1:]:
        world.vault.put(name, f"{name} first")
    world.wait(10)  # a value that was read within two seconds of its change is read again at the first poll
    world.cluster.put("secretsyncs", secret_sync("many", keys, "many"))
    world.wait(60)
    world.begin_fault()
    world.wait(HOUR)
    # Half of five minutes at the least between two tries of the key, and the polls of both groups.
    assert world.count_calls()["vault"] <= 24 + 6
    world.vault.put("key-0", "found")
    world.vault.put("key-1", "key-1 second")
    world.wait(HOUR + SOON)
    found = world.cluster.values(("secrets", "shop", "many"))
    assert (len(found), found["key-0"], found["key-1"]) == (60, "found", "key-1 second")


def test_others_follow_the_vault_while_one_key_is_missing(world: VirtualFaultHarness) -> None:
    keys = {f"key-{number}": f"key-{number}" for number in range(60)}
    world.cluster.put("secretproviderclasses", provider_class(keys, "many"))
    for name in list(keys)[1:]:
        world.vault.put(name, "first")
    world.cluster.put("secretsyncs", secret_sync("many", keys, "many"))
    world.wait(30)
    world.vault.put("key-7", "second")
    world.wait(2 * POLL)
    assert world.cluster.values(("secrets", "shop", "many"))["key-7"] == "second"


def test_an_hour_of_a_webhook_that_changes_a_label_costs_no_vault_read(world: VirtualFaultHarness) -> None:
    world.stop_controller()
    world.start_controller(poll=3600)
    world.wait(60)

    def mutates(secret: Object) -> None:
        secret["metadata"].setdefault("labels", {})[OUR_LABEL[0]] = "changed"

    world.cluster.on_secret_write = mutates
    for _, namespace, name in [key for key in world.cluster.objects if key[0] == "secrets"]:
        secret = world.cluster.objects["secrets", namespace, name]
        if "labels" in secret["metadata"]:
            mutates(secret)
    world.begin_fault()
    world.cluster.writes.clear()
    world.wait(HOUR - 120)
    assert world.count_calls()["vault"] == 0
    # Twelve drift checks in an hour, of which the first, second, fourth and eighth write.
    ours = len(SYNCS)
    assert ours <= world.cluster.writes["secrets"] <= 5 * ours


def test_entras_key_is_rolled_and_nobody_waits_for_it(world: VirtualFaultHarness) -> None:
    for rolled in range(1, 6):
        world.vault.roll_key()
        world.rotate_values()
        wait_until_current(world, POLL + 2)
        assert world.count_calls()["entra"] == rolled
    assert_recovered(world, POLL + 2)


def refuses(error: type[errors.KubeError], status: int, *methods: str, retry_after: float | None = None) -> Refusing:
    """Let requests of these methods, or all requests, fail with that error."""

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
        pytest.param(refuses(errors.ResourceExpired, 410, "WATCH"), 1800, id="410"),
    ],
)
def test_an_hour_of_a_failing_api_server(world: VirtualFaultHarness, fails: Refusing, most: int) -> None:
    world.cluster.on_request = fails
    world.rotate_during(HOUR)
    assert world.count_calls()["API server"] <= most
    world.cluster.on_request = lambda *_: None
    assert_recovered(world, SOON)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("ahead", [MONTH, -MONTH])
def test_the_clock_jumps_and_jumps_back(world: VirtualFaultHarness, ahead: float, restarted: bool) -> None:
    for jump in (ahead, 0.0):
        world.ahead = jump
        if restarted:  # and reads in statuses when things were done
            world.stop_controller()
            world.start_controller()
        assert_recovered(world, SOON)
