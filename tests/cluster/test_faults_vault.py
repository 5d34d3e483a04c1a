"""Test each failure of a vault that the emulator can inject: no Secret loses its value, and the controller recovers.

Each test ends with `tests.support.invariants.assert_recovered`.
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.support.cluster.fault_harness import SINGLE_CONTROLLER_SETTINGS, FaultHarness, fault_harness
from tests.support.cluster.harness import InstalledRelease
from tests.support.invariants import RECOVERY_TIME, wait_until_current
from tools.keyvault_emulator.errors import EmulatorError
from tools.pods.pod_process import PodProcess

pytestmark = pytest.mark.long

BAIT = "bait-vault"
# Each fault has its own vault. All of them fail at the same time.
FAULTS: dict[str, dict[str, Any]] = {
    "refused": {"kind": "drop"},
    "hangs": {"kind": "hang", "seconds": 25},
    "drips": {"kind": "drip", "status": 200, "body": json.dumps({"value": "x" * 99}), "seconds": 1},
    "reset in the middle": {"kind": "reset", "status": 200, "body": json.dumps({"value": "x" * 99})},
    "garbage": {"kind": "garbage"},
    "null": {"status": 200, "body": "null"},
    "500": {"status": 500},
    "503": {"status": 503},
    "429 with Retry-After": {"per_10s": 15, "retry_after": 4},
    "429 without Retry-After": {"per_10s": 15, "retry_after": None},
    "429 to everything": {"per_10s": 0, "retry_after": 2},
    "a redirect": {"status": 302},
    "100 MB": {"kind": "huge"},
    "an empty list": {"status": 200, "body": json.dumps({"value": []}), "operation": "secrets.list"},
    "a list without end": {"status": 200, "operation": "secrets.list"},
}
SECONDS = 12.0
POLL = 2


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return SINGLE_CONTROLLER_SETTINGS | {"ROTATION_POLL_INTERVAL": str(POLL)}


@pytest.mark.parametrize(
    ("verb", "values"),
    [
        pytest.param("certificate_flaw", ("expired", "unknown-ca"), id="expired TLS, wrong CA"),
        pytest.param("set_clock", (3600, -3600), id="clock ahead and behind by an hour"),
    ],
)
def test_controller_recovers_after_all_vaults_failed_together(
    harness: FaultHarness, verb: str, values: tuple[Any, Any]
) -> None:
    emulator = harness.installed.emulator
    try:
        for value in values:
            getattr(emulator, verb)(value)
            harness.rotate_during(2.5)
    finally:
        emulator.clear_faults()
        emulator.set_clock(0)
    harness.assert_recovered()


@pytest.fixture(scope="module")
def vaults(installed: InstalledRelease, controller: PodProcess) -> Iterator[FaultHarness]:
    with suppress(EmulatorError):  # another test on the same emulator may have created it
        installed.emulator.add_vault(BAIT, "00000000-0000-0000-0000-00000000000a")
    with fault_harness(installed, *FAULTS) as found:
        yield found


def test_controller_recovers_after_every_failure_of_a_vault(vaults: FaultHarness) -> None:
    emulator = vaults.installed.emulator
    before, began = vaults.count_vault_calls(), time.monotonic()
    for name, given in FAULTS.items():
        fault, space = dict(given), vaults.namespaces[name]
        if "per_10s" in fault:  # the vault allows fewer calls than needed, as with many clients
            emulator.throttle(space.vault, **fault)
            continue
        if name == "a redirect":
            fault["headers"] = {"Location": f"{emulator.url}/{BAIT}/secrets/a?api-version=7.6"}
        if name == "a list without end":
            link = f"{emulator.url}/{space.vault}/secrets?api-version=7.6&$skiptoken=1"
            fault["body"] = json.dumps({"value": [], "nextLink": link})
        emulator.fail(where=space.vault, **fault)
    vaults.rotate_during(SECONDS)
    # Gets still work in the vaults with a wrong list, so new values are synced there.
    wait_until_current(vaults, RECOVERY_TIME, {vaults.namespaces[name].name for name in FAULTS if "list" in name})
    calls = {fault: now - before[fault] for fault, now in vaults.count_vault_calls().items()}
    seconds = time.monotonic() - began  # more than SECONDS on a busy machine
    assert all(calls.values()), calls  # each vault has met its fault
    assert not [key for key in emulator.counters() if key.startswith(BAIT)], "a redirect was followed"
    emulator.clear_faults()
    # The circuit breaker opens when half of the last 50 calls have failed, so up to 25 calls come first. It then stays
    # open for at least 5 s, and afterwards one list and one get probe the vault. If a vault answers some calls, each
    # poll calls it. An answer that cannot be read affects only its object, which has its own backoff.
    limits = {name: 8 * seconds if "list" in name or "429" in name else 25 + seconds / 2 for name in calls}
    assert not {name: count for name, count in calls.items() if count > limits[name]}, calls
    vaults.assert_recovered()
