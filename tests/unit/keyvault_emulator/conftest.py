"""One emulator process and one issuer for all of these tests; each test gets them in the same state."""

from collections.abc import Iterator

import pytest
from azure.keyvault.certificates._shared import http_challenge_cache as certificate_challenges
from azure.keyvault.keys._shared import http_challenge_cache as key_challenges
from azure.keyvault.secrets._shared import http_challenge_cache as secret_challenges

from tests.unit.keyvault_emulator.scene import Scene, StandInIssuer
from tools.keyvault_emulator import Emulator


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    issuer = StandInIssuer(tmp_path_factory.mktemp("issuer"))
    with Emulator(tmp_path_factory.mktemp("emulator")) as emulator:
        yield Scene(emulator, issuer)
    issuer.stop()


@pytest.fixture
def scene(running: Scene) -> Scene:
    # The clients remember a host's challenge for the whole process; each test is to see its own.
    for challenges in (certificate_challenges, key_challenges, secret_challenges):
        challenges.clear()
    running.furnish()
    return running
