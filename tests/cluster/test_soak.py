"""Run the soak test for five minutes with a fixed seed. `make soak` runs it for longer with any seed."""

from collections.abc import Iterator

import pytest

from tests.soak.soak import SETTINGS, Soak
from tests.soak.state import RETRY_TIMEOUT_SECONDS
from tests.support.cluster.harness import InstalledRelease
from tools.pods.pod_process import PodProcess

SEED = 4
SECONDS = 300.0
COUNT = 200


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return SETTINGS


@pytest.fixture
def soak(installed: InstalledRelease, controller: PodProcess) -> Iterator[Soak]:
    soak = Soak(installed, controller, COUNT, print)
    yield soak
    soak.remove()


@pytest.mark.long
@pytest.mark.timeout(SECONDS + 2 * RETRY_TIMEOUT_SECONDS)
def test_soak_loses_no_secret_and_process_does_not_grow(soak: Soak) -> None:
    soak.run(SEED, SECONDS)
