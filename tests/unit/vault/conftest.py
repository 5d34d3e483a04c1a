"""A reader, and a vault on loopback over real TLS."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.vault.stage import Scene, staged
from tools.local_cluster.pki import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"), "vaults")


@pytest.fixture
async def scene(authority: Authority) -> AsyncIterator[Scene]:
    async with staged(authority) as found:
        yield found
