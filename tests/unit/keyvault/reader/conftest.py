"""A reader, and a vault on loopback over real TLS."""

from collections.abc import AsyncIterator

import pytest

from controller.keyvault import client
from tests.unit.keyvault.reader.stage import Scene, staged
from tools.local_cluster.pki import ClusterAuthority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClusterAuthority:
    return ClusterAuthority(tmp_path_factory.mktemp("pki"), "vaults")


@pytest.fixture
async def scene(authority: ClusterAuthority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    """Yield a scene that costs little.

    It trusts the vault's authority alone, since to read the system's roots takes most of the time, and waits for a
    hundredth of the time before it retries.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.pair.cert))
    monkeypatch.setattr(client, "RETRY_DELAYS", [seconds / 100 for seconds in client.RETRY_DELAYS])
    async with staged(authority) as found:
        yield found
