"""Provide a reader and a vault on loopback over real TLS."""

from collections.abc import AsyncIterator

import pytest

from controller.keyvault import client
from tests.unit.keyvault.reader.reader_harness import ReaderHarness, start_reader
from tools.local_cluster.pki import ClusterAuthority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClusterAuthority:
    return ClusterAuthority(tmp_path_factory.mktemp("pki"), "vaults")


@pytest.fixture
async def harness(authority: ClusterAuthority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ReaderHarness]:
    """Provide a fast harness.

    It trusts only the vault's authority, because reading the system's roots is slow. Retries wait for a hundredth of
    the usual time.
    """
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.pair.cert))
    monkeypatch.setattr(client, "RETRY_DELAYS", [seconds / 100 for seconds in client.RETRY_DELAYS])
    async with start_reader(authority) as found:
        yield found
