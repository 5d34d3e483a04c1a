"""Entra fails, and everybody needs a new token of it (`tests.ledger.closes`)."""

from collections.abc import Callable

import pytest

from tests.cluster.fleet import ALONE, Fleet
from tools.keyvault_emulator import Emulator


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return ALONE


@pytest.mark.parametrize(
    "fails",
    [
        pytest.param(lambda emulator: None, id="key rolled"),
        pytest.param(lambda emulator: emulator.fail(kind="drop", where="entra"), id="down"),
        pytest.param(lambda emulator: emulator.delay(2, where="entra"), id="slow"),
        pytest.param(lambda emulator: emulator.fail(429, headers={"Retry-After": "3"}, where="entra"), id="throttled"),
    ],
)
def test_entra_fails(shops: Fleet, fails: Callable[[Emulator], None]) -> None:
    emulator, before = shops.installed.emulator, shops.to_entra()
    fails(emulator)
    # Tokens that Entra gave would serve on: with its key rolled, everybody needs a new one.
    emulator.roll_signing_key()
    shops.endures(3)
    assert shops.to_entra() - before <= 3 * len(shops.spaces)
    emulator.heal()
    shops.closes()
