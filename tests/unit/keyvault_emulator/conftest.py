"""Provide one emulator process and one issuer for all of these tests. Each test gets them in the same state."""

from collections.abc import Iterator

import pytest
from azure.keyvault.certificates._shared import http_challenge_cache as certificate_challenges
from azure.keyvault.keys._shared import http_challenge_cache as key_challenges
from azure.keyvault.secrets._shared import http_challenge_cache as secret_challenges

from tests.unit.keyvault_emulator.emulator_harness import EmulatorHarness, StandInIssuer
from tools.keyvault_emulator import Emulator


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorHarness]:
    issuer = StandInIssuer(tmp_path_factory.mktemp("issuer"))
    with Emulator(tmp_path_factory.mktemp("emulator")) as emulator:
        yield EmulatorHarness(emulator, issuer)
    issuer.stop()


@pytest.fixture
def emulator_harness(running: EmulatorHarness) -> EmulatorHarness:
    # The clients remember the challenge of a host until the process ends. Each test needs its own challenge.
    for challenges in (certificate_challenges, key_challenges, secret_challenges):
        challenges.clear()
    running.reset()
    return running
