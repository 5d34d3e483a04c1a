"""Provide the fixture that keeps the system's certificates out of the tests without a cluster."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_system_roots() -> Iterator[None]:
    """Keep the tests and the programs that they start from reading the certificates that the system trusts.

    Reading them takes 60 ms of CPU for each TLS context, and these tests connect only to loopback.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", os.devnull)
        patch.setenv("SSL_CERT_DIR", str(Path(os.devnull, "none")))
        yield
