"""Entra fails while every identity needs a new token (`tests.support.invariants.assert_recovered`)."""

from collections.abc import Callable

import pytest

from tests.support.cluster.fault_harness import SINGLE_CONTROLLER_SETTINGS, FaultHarness
from tools.keyvault_emulator import Emulator


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return SINGLE_CONTROLLER_SETTINGS


@pytest.mark.parametrize(
    "fails",
    [
        pytest.param(lambda emulator: None, id="key rolled"),
        pytest.param(lambda emulator: emulator.fail(kind="drop", where="entra"), id="down"),
        pytest.param(lambda emulator: emulator.delay(2, where="entra"), id="slow"),
        pytest.param(lambda emulator: emulator.fail(429, headers={"Retry-After": "3"}, where="entra"), id="throttled"),
    ],
)
def test_entra_fails(shops: FaultHarness, fails: Callable[[Emulator], None]) -> None:
    emulator, before = shops.installed.emulator, shops.count_entra_calls()
    fails(emulator)
    # Tokens that Entra gave would serve on: with its key rolled, everybody needs a new one.
    emulator.roll_signing_key()
    shops.rotate_during(3)
    assert shops.count_entra_calls() - before <= 3 * len(shops.namespaces)
    emulator.clear_faults()
    shops.assert_recovered()
