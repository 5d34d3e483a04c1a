"""For the tests without a cluster."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_system_roots() -> Iterator[None]:
    """Have neither the tests nor the programs that they start read the certificates that the system trusts.

    To read them takes 60 ms of CPU for each TLS context, and these tests reach loopback alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", os.devnull)
        patch.setenv("SSL_CERT_DIR", str(Path(os.devnull, "none")))
        yield
