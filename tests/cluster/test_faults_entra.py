"""Test that the controller recovers after Entra failed while every identity needed a new token."""

from collections.abc import Callable

import pytest

from tests.support.cluster.fault_harness import SINGLE_CONTROLLER_SETTINGS, FaultHarness
from tests.support.cluster.harness import eventually
from tools.keyvault_emulator import Emulator

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return SINGLE_CONTROLLER_SETTINGS


@pytest.mark.parametrize(
    "inject_fault",
    [
        pytest.param(lambda emulator: None, id="key rolled"),
        pytest.param(lambda emulator: emulator.fail(kind="drop", where="entra"), id="down"),
        pytest.param(lambda emulator: emulator.delay(2, where="entra"), id="slow"),
        pytest.param(lambda emulator: emulator.fail(429, headers={"Retry-After": "3"}, where="entra"), id="throttled"),
    ],
)
def test_controller_recovers_after_failures_of_entra(
    harness: FaultHarness, inject_fault: Callable[[Emulator], None]
) -> None:
    emulator, before = harness.installed.emulator, harness.count_entra_calls()
    inject_fault(emulator)
    # The tokens that Entra issued would stay valid. After a new signing key, every identity needs a new token.
    emulator.roll_signing_key()
    harness.rotate_during(3)
    eventually(harness.count_entra_calls, lambda found: found > before)  # the emulator counts a slow call late
    assert harness.count_entra_calls() - before <= 3 * len(harness.namespaces)
    emulator.clear_faults()
    harness.assert_recovered()
