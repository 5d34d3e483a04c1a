"""Test faults that last for hours, with the whole program except its sockets, in virtual time.

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
from controller.domain.decision import SYNC_LABEL
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
# The longest backoff, one poll, and a margin for other waits.
SOON = 300.0 + POLL + 40
SEED = 20301
# Without a fault, a poll and its writes make 2 calls to the vault and 9 to the API server per minute.
RATES = {"vault": CallRate(20, 0.12), "entra": CallRate(5, 0.02), "API server": CallRate(100, 0.5)}


class VirtualFaultHarness:
    """A `FaultEnvironment` with one namespace and one vault. Its time passes only while a test waits."""

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
        foreign = {"metadata": {"namespace": "shop", "name": "foreign"}, "data": {"k": "eA=="}}
        self.cluster.put("secrets", foreign)
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
        """Return the number of calls to each server since `begin_fault`."""
        now = {**self.vault.request_counts, "API server": self.cluster.request_counts.total()}
        return {server: count - self._before.get(server, 0) for server, count in now.items()}

    def begin_fault(self) -> None:
        """Start to count calls."""
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
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualFaultHarness]:
    loop = VirtualLoop()
    harness = VirtualFaultHarness(loop)

    class Now(dates.datetime):
        @classmethod
        def now(cls, tz: dates.tzinfo | None = None) -> dates.datetime:  # type: ignore[override]
            return dates.datetime.fromtimestamp(harness.wall(), tz)

    class FixedRandom(random.Random):
        def __init__(self) -> None:
            super().__init__(SEED)

    async def find_no_config(_: object) -> None:
        pass

    class NoServers:
        """Serve neither probes nor metrics."""

        def start(self, *_: object) -> tuple[int, int]:
            return 0, 0

        async def stop(self) -> None:
            pass

    monkeypatch.setattr(time, "monotonic", loop.time)
    monkeypatch.setattr(time, "time", harness.wall)
    monkeypatch.setattr(random, "Random", FixedRandom)
    for module in (client, event_recorder, reconciler, value_fetcher):
        monkeypatch.setattr(module, "datetime", Now)
    clock = Clock(loop.time, functools.partial(Now.now, dates.UTC))
    monkeypatch.setattr(app, "Reconciler", functools.partial(reconciler.Reconciler, clock=clock))
    monkeypatch.setattr(pool, "VaultClient", functools.partial(client.VaultClient, clock=loop.time))
    monkeypatch.setattr(pool, "new_session", lambda *_, **__: None)
    monkeypatch.setattr(pool, "new_transport", lambda *_, **__: harness.vault)
    monkeypatch.setattr(app, "KubeClient", lambda _: harness.cluster)
    monkeypatch.setattr(config, "find_config", find_no_config)
    monkeypatch.setattr(app, "HttpServers", lambda *_, **__: NoServers())
    harness.create_syncs()
    harness.begin_fault()
    yield harness
    harness.stop_controller()
    loop.close()


VaultFault = Callable[[str], Answer | None]
ApiServerFault = Callable[[str, str], None]


def refuse_calls(server: str, status: int, retry_after: int | None = None) -> VaultFault:
    """Let the vault or Entra refuse every call."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    answer = (status, {"error": {"code": "Injected", "message": "a fault"}}, headers)
    return lambda called: answer if called == server else None


def drop_calls(server: str) -> VaultFault:
    """Let every call to the vault or Entra fail without an answer."""

    def fault(called: str) -> None:
        if called == server:
            raise ServiceRequestError("no way")

    return fault


@pytest.mark.parametrize(
    ("fault", "most"),
    [
        pytest.param(lambda _: None, {"vault": 72, "entra": 2, "API server": 100}, id="no fault"),
        # In the end there is one list and one get in five minutes, or one list after each Retry-After of 10 s.
        pytest.param(refuse_calls("vault", 503), {"vault": 60, "API server": 100}, id="503"),
        pytest.param(refuse_calls("vault", 429, 10), {"vault": 360, "API server": 100}, id="429 with Retry-After"),
        pytest.param(refuse_calls("vault", 429), {"vault": 360, "API server": 100}, id="429 without"),
        pytest.param(drop_calls("vault"), {"vault": 60, "API server": 100}, id="vault unreachable"),
        pytest.param(drop_calls("entra"), {"entra": 30, "vault": 72}, id="Entra unreachable"),
        pytest.param(refuse_calls("entra", 503), {"entra": 30, "vault": 72}, id="Entra's 503"),
        pytest.param(refuse_calls("entra", 429, 30), {"entra": 30, "vault": 72}, id="Entra's 429"),
    ],
)
def test_controller_recovers_after_an_hour_of_vault_or_entra_failures(
    harness: VirtualFaultHarness, fault: VaultFault, most: dict[str, int]
) -> None:
    harness.vault.on_request = fault
    harness.rotate_during(HOUR)
    calls = harness.count_calls()
    assert not {server: calls[server] for server in most if calls[server] > most[server]}
    harness.vault.on_request = lambda _: None
    assert_recovered(harness, SOON)


def test_controller_recovers_within_30_seconds_of_throttling(harness: VirtualFaultHarness) -> None:
    harness.stop_controller()
    harness.start_controller(poll=2)
    harness.wait(10)
    harness.vault.on_request = refuse_calls("vault", 429, 2)
    for _ in range(6):
        harness.rotate_values()
        harness.wait(2)
    harness.vault.on_request = lambda _: None
    assert_recovered(harness, 30)


def limit_calls(loop: VirtualLoop, calls_in_ten_seconds: int) -> VaultFault:
    """Let the vault accept this many calls in each window of ten seconds. It refuses the others with Retry-After."""
    counts: Counter[int] = Counter()

    def fault(server: str) -> Answer | None:
        window, elapsed = divmod(loop.time(), 10)
        counts[int(window)] += server == "vault"
        if server != "vault" or counts[int(window)] <= calls_in_ten_seconds:
            return None
        retry_after = str(math.ceil(10 - elapsed))
        return 429, {"error": {"code": "Throttled", "message": "too many"}}, {"Retry-After": retry_after}

    return fault


def test_vault_with_fewer_calls_than_keys_still_gives_a_whole_secret(
    harness: VirtualFaultHarness,
) -> None:
    """Sync 60 keys without partial writes, first as new ones and then after a rotation of all of them."""
    harness.stop_controller()
    harness.start_controller(partial=False)
    keys = {f"key-{number}": f"key-{number}" for number in range(60)}
    harness.expected.expect(SecretName("shop", "many"), "shop", keys)
    harness.cluster.put("secretproviderclasses", provider_class(keys, "many"))
    harness.vault.on_request = limit_calls(harness.loop, 25)
    for version in range(2):
        for name in keys:
            value = f"{name} {version}"
            harness.vault.put(name, value)
            harness.expected.record_value(VaultObjectName("shop", name), value)
        if not version:
            harness.cluster.put("secretsyncs", secret_sync("many", keys, "many"))
        harness.begin_fault()
        wait_until_current(harness, POLL + 60)
        assert harness.count_calls()["vault"] <= 2 * len(keys)


@pytest.mark.parametrize("partial", [True, False])
def test_missing_key_among_sixty_causes_requests_for_that_key_only(harness: VirtualFaultHarness, partial: bool) -> None:
    harness.stop_controller()
    harness.start_controller(poll=3600, partial=partial)
    keys = {f"key-{number}": f"key-{number}" for number in range(60)}
    harness.cluster.put("secretproviderclasses", provider_class(keys, "many"))
    for name in list(keys)[1:]:
        harness.vault.put(name, f"{name} first")
    harness.wait(10)  # a value that was read within two seconds of its change is read again at the first poll
    harness.cluster.put("secretsyncs", secret_sync("many", keys, "many"))
    harness.wait(60)
    harness.begin_fault()
    harness.wait(HOUR)
    # Between two attempts for the key, at least 150 seconds pass. Both groups are polled as well.
    assert harness.count_calls()["vault"] <= 24 + 6
    harness.vault.put("key-0", "found")
    harness.vault.put("key-1", "key-1 second")
    harness.wait(HOUR + SOON)
    found = harness.cluster.values(("secrets", "shop", "many"))
    assert (len(found), found["key-0"], found["key-1"]) == (60, "found", "key-1 second")


def test_other_keys_follow_the_vault_while_one_key_is_missing(harness: VirtualFaultHarness) -> None:
    keys = {f"key-{number}": f"key-{number}" for number in range(60)}
    harness.cluster.put("secretproviderclasses", provider_class(keys, "many"))
    for name in list(keys)[1:]:
        harness.vault.put(name, "first")
    harness.cluster.put("secretsyncs", secret_sync("many", keys, "many"))
    harness.wait(30)
    harness.vault.put("key-7", "second")
    harness.wait(2 * POLL)
    assert harness.cluster.values(("secrets", "shop", "many"))["key-7"] == "second"


def test_webhook_that_changes_a_label_causes_no_vault_request(harness: VirtualFaultHarness) -> None:
    harness.stop_controller()
    harness.start_controller(poll=3600)
    harness.wait(60)

    def mutate(secret: Object) -> None:
        secret["metadata"].setdefault("labels", {})[SYNC_LABEL[0]] = "changed"

    harness.cluster.on_secret_write = mutate
    for _, namespace, name in [key for key in harness.cluster.objects if key[0] == "secrets"]:
        secret = harness.cluster.objects["secrets", namespace, name]
        if "labels" in secret["metadata"]:
            mutate(secret)
    harness.begin_fault()
    harness.cluster.writes.clear()
    harness.wait(HOUR - 120)
    assert harness.count_calls()["vault"] == 0
    # Twelve drift checks in an hour, of which the first, second, fourth and eighth write.
    synced = len(SYNCS)
    assert synced <= harness.cluster.writes["secrets"] <= 5 * synced


def test_rolled_entra_key_delays_no_sync(harness: VirtualFaultHarness) -> None:
    for rolled in range(1, 6):
        harness.vault.roll_key()
        harness.rotate_values()
        wait_until_current(harness, POLL + 2)
        assert harness.count_calls()["entra"] == rolled
    assert_recovered(harness, POLL + 2)


def fail_requests(
    error: type[errors.KubeError], status: int, *methods: str, retry_after: float | None = None
) -> ApiServerFault:
    """Let requests of these methods, or all requests, fail with this error."""

    def fault(method: str, _path: str) -> None:
        if not methods or method in methods:
            raise error("no", status=status, retry_after=retry_after)

    return fault


@pytest.mark.parametrize(
    ("fault", "most"),
    [
        # In the end, each of three watches is retried four times a minute.
        pytest.param(fail_requests(errors.Unreachable, 0), 1000, id="unreachable"),
        pytest.param(fail_requests(errors.Unreachable, 429, retry_after=20), 800, id="429"),
        pytest.param(fail_requests(errors.Unreachable, 500, "POST", "PATCH"), 200, id="no space in etcd"),
        pytest.param(fail_requests(errors.Refused, 403), 1000, id="403"),
        pytest.param(fail_requests(errors.Conflict, 409, "POST", "PATCH"), 600, id="409"),
        pytest.param(fail_requests(errors.ResourceExpired, 410, "WATCH"), 1800, id="410"),
    ],
)
def test_controller_recovers_after_an_hour_of_api_server_failures(
    harness: VirtualFaultHarness, fault: ApiServerFault, most: int
) -> None:
    harness.cluster.on_request = fault
    harness.rotate_during(HOUR)
    assert harness.count_calls()["API server"] <= most
    harness.cluster.on_request = lambda *_: None
    assert_recovered(harness, SOON)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("ahead", [MONTH, -MONTH])
def test_controller_recovers_after_the_clock_jumps_and_returns(
    harness: VirtualFaultHarness, ahead: float, restarted: bool
) -> None:
    for jump in (ahead, 0.0):
        harness.ahead = jump
        if restarted:  # the new process reads the times from the statuses
            harness.stop_controller()
            harness.start_controller()
        assert_recovered(harness, SOON)


@pytest.mark.parametrize("status", [302, 401, 500, 503])
def test_object_that_always_fails_costs_no_gets_of_the_others(harness: VirtualFaultHarness, status: int) -> None:
    """Let the vault list 40 keys of a Secret, and refuse each get of one of them."""
    names = [f"k{number}" for number in range(40)]
    for name in names:
        harness.vault.put(name, "old")
        harness.expected.record_value(VaultObjectName("shop", name), "old")
    harness.expected.expect(SecretName("shop", "many"), "shop", {name: name for name in names})
    harness.vault.refusals["k7"] = (status, {"error": {"code": "Odd", "message": "AKV10046: odd"}}, {})
    harness.cluster.put("secretproviderclasses", provider_class(names, "many"))
    harness.cluster.put("secretsyncs", secret_sync("many", {name: name for name in names}, "many"))
    harness.wait(SOON)
    values = harness.cluster.values(("secrets", "shop", "many"))
    assert len(values) == len(names) - 1
    harness.vault.gets.clear()
    harness.wait(HOUR)
    assert harness.vault.gets.pop("k7") <= 2 * HOUR / POLL
    assert harness.vault.gets.total() <= len(names)
    # Other values are written at the next polls, although the failing key is read at the same time.
    harness.vault.put("k3", "new")
    harness.expected.record_value(VaultObjectName("shop", "k3"), "new")
    harness.rotate_values()
    harness.wait(2 * POLL + 10)
    assert harness.cluster.values(("secrets", "shop", "one")) == {"k": harness.vault.secrets["a"][-1][0]}
    assert harness.cluster.values(("secrets", "shop", "many"))["k3"] == "new"
    # The key is written soon after the vault returns it again.
    del harness.vault.refusals["k7"]
    harness.wait(SOON)
    assert harness.cluster.values(("secrets", "shop", "many"))["k7"] == "old"
    assert_recovered(harness, SOON)


@pytest.mark.parametrize("status", [302, 500, 503])
def test_secretsync_whose_only_object_always_fails_delays_no_other(harness: VirtualFaultHarness, status: int) -> None:
    harness.vault.put("odd", "value")
    harness.cluster.put("secretproviderclasses", provider_class(["odd"], "odd"))
    harness.vault.refusals["odd"] = (status, {"error": {"code": "Odd", "message": "odd"}}, {})
    harness.cluster.put("secretsyncs", secret_sync("odd", {"k": "odd"}, "odd"))
    harness.wait(POLL)
    harness.vault.gets.clear()
    for _ in range(30):
        harness.rotate_values()
        harness.wait(POLL + 5)
        assert harness.cluster.values(("secrets", "shop", "one")) == {"k": harness.vault.secrets["a"][-1][0]}
    # The first gets follow each other faster, and the later ones after at least 150 s.
    assert harness.vault.gets["odd"] <= 30
    del harness.vault.refusals["odd"]
    harness.wait(SOON)
    assert harness.cluster.values(("secrets", "shop", "odd")) == {"k": "value"}


def test_outage_of_a_vault_with_one_object_causes_few_calls(harness: VirtualFaultHarness) -> None:
    harness.vault.put("lone", "value")
    lone = provider_class(["lone"], "lone")
    lone["spec"]["parameters"]["keyvaultName"] = "lone"
    harness.cluster.put("secretproviderclasses", lone)
    harness.cluster.put("secretsyncs", secret_sync("lone", {"k": "lone"}, "lone"))
    harness.wait(POLL)
    unavailable: Answer = (503, {"error": {"code": "Injected", "message": "a fault"}}, {})
    harness.vault.refusals = dict.fromkeys(["", "lone", *"ab"], unavailable)  # the empty name refuses lists
    harness.vault.gets.clear()
    harness.wait(HOUR)
    assert harness.vault.gets["lone"] <= 30
    harness.vault.refusals = {}
    harness.vault.put("lone", "new")
    harness.wait(SOON)
    assert harness.cluster.values(("secrets", "shop", "lone")) == {"k": "new"}
