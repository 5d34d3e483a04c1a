"""Provide namespaces, each with a vault and SecretSyncs, on a real control plane for `tests.support.invariants`."""

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tests.support.cluster.harness import InstalledRelease, canary_value, create_object
from tests.support.cluster.namespace import Namespace
from tests.support.invariants import (
    RECOVERY_TIME,
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
from tools.local_cluster.errors import ClusterError

POLL_INTERVAL = 1
# The settings of each controller under test.
CONTROLLER_SETTINGS = {"ROTATION_POLL_INTERVAL": str(POLL_INTERVAL), "DRIFT_INTERVAL": "5"}
# Without leader election, a new controller does not wait for the lease of a killed one.
SINGLE_CONTROLLER_SETTINGS = {**CONTROLLER_SETTINGS, "LEASE_NAME": ""}
# Calls to a vault: a list and two values at each poll. Calls to Entra: after a start or a rejected token. Requests to
# the API server: a drift check, a write and a status for each SecretSync.
VAULT_RATE = CallRate(20, 10)
ENTRA_RATE = CallRate(10, 0.5)
API_SERVER_RATE = CallRate(20, 5)
# A large Secret: the number of keys, and the bytes of each value, which is nearly the maximum of a vault.
LARGE_KEYS, LARGE_VALUE_BYTES = 40, 24_000
# How often these keys may be read during the fault: at first, and after 2, 4 and 8 s.
LARGE_READS = 4


class FaultHarness:
    """A `FaultEnvironment`. `namespaces` maps the names that the test chose to its namespaces."""

    def __init__(
        self, installed: InstalledRelease, *names: str, syncs: Mapping[str, Mapping[str, str]] = SYNCS
    ) -> None:
        self.installed = installed
        self.expected = ExpectedSecrets()
        self.namespaces = {name: Namespace(installed) for name in names}
        self._number = 0
        self._large_syncs = dict.fromkeys(names, 0)
        self._audited = 0
        self.rotate_values()
        for space in self.namespaces.values():
            create_object(installed.plane, f"namespaces/{space.name}/secrets", "theirs", data={"k": "eA=="})
        self.expected.record_foreign(self.read_secrets())
        for space in self.namespaces.values():
            for name, keys in syncs.items():
                self.expected.expect(SecretName(space.name, name), space.vault, keys)
            space.apply(space.provider_class("a", "b"), *(space.sync(*pair) for pair in syncs.items()))
        wait_until_current(self, RECOVERY_TIME)
        self._mark()

    def add_sync(self, space: Namespace, name: str) -> None:
        """Add a SecretSync."""
        self.expected.expect(SecretName(space.name, name), space.vault, SYNCS["both"])
        space.apply(space.sync(name, SYNCS["both"]))

    def add_large_syncs(self, space: Namespace, count: int) -> None:
        """Add SecretSyncs whose Secrets have nearly the maximum size. Their values are not rotated."""
        keys = {name: name for name in (f"large-{number}" for number in range(LARGE_KEYS))}
        for name in keys:
            text = name.ljust(LARGE_VALUE_BYTES, "x")
            self.expected.record_value(VaultObjectName(space.vault, name), canary_value(text))
            space.set_secret(name, text)
        [of] = [each for each, found in self.namespaces.items() if found is space]
        self._large_syncs[of] += count
        names = [f"large-{number}" for number in range(count)]
        for name in names:
            self.expected.expect(SecretName(space.name, name), space.vault, keys)
        syncs = (space.sync(name, keys, secretProviderClassName="large") for name in names)
        space.apply(space.provider_class(*keys, name="large"), *syncs)

    def rotate_values(self) -> None:
        """Give each small object of each vault a new version."""
        self._number += 1
        for space in self.namespaces.values():
            for name in ("a", "b"):
                text = f"{space.name} {name} {self._number}"
                self.expected.record_value(VaultObjectName(space.vault, name), canary_value(text))
                space.set_secret(name, text)

    def read_secrets(self) -> dict[SecretName, SecretSnapshot]:
        """Return each Secret of the namespaces. Raise `ClusterError` if the API server does not answer."""
        names = {space.name for space in self.namespaces.values()}
        try:
            status, body = self.installed.plane.request("GET", "/api/v1/secrets")
        except OSError as error:
            raise ClusterError(str(error)) from error
        if status != 200:
            raise ClusterError(body)
        return {
            SecretName(meta["namespace"], meta["name"]): SecretSnapshot(
                meta["uid"],
                meta["resourceVersion"],
                {key: base64.b64decode(text).decode() for key, text in item.get("data", {}).items()},
            )
            for item in json.loads(body)["items"]
            if (meta := item["metadata"])["namespace"] in names
        }

    def now(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def rotate_during(self, seconds: float) -> None:
        """Rotate all values twice a second for that time, during which the test keeps its fault active."""
        until = self.now() + seconds
        while self.now() < until:
            self.rotate_values()
            with suppress(ClusterError):  # the fault may affect the API server
                assert_intact(self)
            self.wait(0.5)

    def assert_recovered(self, patience: float = RECOVERY_TIME) -> None:
        """Check the recovery as `assert_recovered` does. Then count calls from zero."""
        assert_recovered(self, patience)
        self._mark()

    def count_vault_calls(self) -> dict[str, int]:
        """Return how many calls each vault has received, by the name that the test chose for its namespace."""
        return {name: space.count_calls() for name, space in self.namespaces.items()}

    def count_entra_calls(self) -> int:
        """Return how many calls Entra has received."""
        return sum(count for what, count in self.installed.emulator.counters().items() if what.startswith("entra/"))

    def count_api_requests(self) -> int:
        """Return how many requests of the controller were answered since the last `assert_recovered`."""
        with self.installed.plane.audit_log.open("rb") as log:
            log.seek(self._audited)
            lines = log.read().splitlines()
        user = f'"username":"{self.installed.user}"'.encode()
        return sum(user in line and b'"stage":"ResponseComplete"' in line for line in lines)

    def find_excess_calls(self) -> list[str]:
        calls = {
            name: count - self._before[name] - self._large(name) for name, count in self.count_vault_calls().items()
        }
        calls |= {"Entra": self.count_entra_calls() - self._entra, "API server": self.count_api_requests()}
        rates = {
            "Entra": ENTRA_RATE.for_callers(len(self.namespaces)),
            "API server": API_SERVER_RATE.for_callers(len(self.expected)),
        }
        return exceeds_rates(calls, rates | dict.fromkeys(self.namespaces, VAULT_RATE), self.now() - self._began)

    def _large(self, name: str) -> int:
        """Return how many further calls the large Secrets of a namespace justify between two recovery checks.

        Each Secret may read its keys again after a fault, because Secrets share a read only at the same moment.
        """
        count = self._large_syncs[name]
        return LARGE_KEYS * (count + LARGE_READS) if count else 0

    def _mark(self) -> None:
        self._began, self._before, self._entra = self.now(), self.count_vault_calls(), self.count_entra_calls()
        self._audited = self.installed.plane.audit_log.stat().st_size


@contextmanager
def fault_harness(installed: InstalledRelease, *names: str, **syncs: Mapping[str, str]) -> Iterator[FaultHarness]:
    """Create the namespaces, and remove them afterwards. `syncs` replaces `SYNCS` in each namespace."""
    found = FaultHarness(installed, *names, syncs=syncs or SYNCS)
    try:
        yield found
    finally:
        installed.emulator.clear_faults()
        for space in found.namespaces.values():
            space.remove()
