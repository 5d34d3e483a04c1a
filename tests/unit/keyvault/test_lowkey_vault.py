"""Read lowkey-vault, an independent implementation of Key Vault in Java, in addition to this project's own fake vault.

The tests are collected only if LOWKEY_VAULT_JAR names the jar of lowkey-vault-app, built from its source (conftest.py).
They need Java.
"""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controller.domain.decode_values import decode_values
from controller.domain.provider_class import ObjectPart, ObjectVersionRef, VaultObject
from controller.domain.values import VaultValue
from controller.errors import ObjectError
from controller.runtime.clock import Clock
from tests.unit.keyvault.reader.reader_harness import ReaderHarness, start_reader_of

START_SECONDS = 120


class LowkeyVault(NamedTuple):
    """A running lowkey-vault: its address, and the file of its certificate."""

    url: str
    certificate: Path

    def send(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """Send a request as an administrator of the vault."""
        request = urllib.request.Request(  # noqa: S310 - the address is this process's own
            f"{self.url}/{path}?api-version=7.4",
            json.dumps(body).encode(),
            {"Authorization": "Bearer x", "Content-Type": "application/json"},
            method=method,
        )
        tls = ssl.create_default_context(cafile=str(self.certificate))
        with urllib.request.urlopen(request, timeout=30, context=tls) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found

    def put_secret(self, name: str, value: str) -> str:
        """Add a version of a secret, and return its id."""
        return str(self.send("PUT", f"secrets/{name}", {"value": value})["id"]).rpartition("/")[2]


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LowkeyVault]:
    port, folder = find_free_port(), tmp_path_factory.mktemp("lowkey")
    options = [f"--server.port={port}", f"--app.token.port={find_free_port()}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["java", "-jar", os.environ["LOWKEY_VAULT_JAR"], *options], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            pem = ""
            while not pem:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline
                with contextlib.suppress(OSError):
                    pem = ssl.get_server_certificate(("localhost", port), timeout=5)
                time.sleep(0.2)
            certificate = folder / "ca.pem"
            certificate.write_text(pem)
            yield LowkeyVault(f"https://localhost:{port}", certificate)
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
async def harness(vault: LowkeyVault) -> AsyncIterator[ReaderHarness]:
    server = cast("Any", SimpleNamespace(url=vault.url, default_response=None))
    authority = cast("Any", SimpleNamespace(pair=SimpleNamespace(cert=vault.certificate)))
    async with start_reader_of(server, authority) as harness:
        yield harness


async def test_newest_pinned_and_earlier_versions_of_a_secret_are_read(
    vault: LowkeyVault, harness: ReaderHarness
) -> None:
    first = vault.put_secret("db", "one")
    await asyncio.sleep(1.1)  # versions of one second have no order
    second = vault.put_secret("db", "two")
    newest = ObjectVersionRef(VaultObject(name="db"))
    pinned = ObjectVersionRef(VaultObject(name="db", version=first))
    history = [ObjectVersionRef(VaultObject(name="db", history=2), index) for index in range(2)]
    assert await harness.read(newest, pinned, *history) == ["two", "one", "two", "one"]
    assert first != second


async def test_missing_secret_is_an_error_of_that_secret(vault: LowkeyVault, harness: ReaderHarness) -> None:
    vault.put_secret("there", "value")
    missing, there = await harness.read(*(ObjectVersionRef(VaultObject(name=name)) for name in ("nothing", "there")))
    assert isinstance(missing, ObjectError)
    assert there == "value"


async def test_list_of_several_pages_has_every_secret(vault: LowkeyVault, harness: ReaderHarness) -> None:
    names = {f"listed-{number}" for number in range(60)}
    for name in names:
        vault.put_secret(name, "value")
    wanted = [ObjectVersionRef(VaultObject(name=name)) for name in sorted(names)]
    snapshot = await harness.reader.take_snapshot(wanted, harness.now)
    assert names <= snapshot.listed["secret"].keys()
    assert [operation for operation, _ in harness.counted].count("secrets.list") >= 3


@pytest.mark.parametrize("content_type", ["application/x-pem-file", "application/x-pkcs12"])
async def test_certificate_is_read_in_three_ways(vault: LowkeyVault, harness: ReaderHarness, content_type: str) -> None:
    name = f"web-{content_type[-3:]}"
    policy = {
        "issuer": {"name": "Self"},
        "key_props": {"kty": "RSA", "key_size": 2048, "exportable": True},
        "secret_props": {"contentType": content_type},
        "x509_props": {"subject": f"CN={name}", "validity_months": 12},
    }
    vault.send("POST", f"certificates/{name}/create", {"policy": policy})
    as_secret, as_cert, as_key = (
        ObjectVersionRef(VaultObject(name=name, type=kind)) for kind in ("secret", "cert", "key")
    )
    found = await harness.reader.read([as_secret, as_cert, as_key], since=harness.now, first=True)
    values = [found[wanted] for wanted in (as_secret, as_cert, as_key)]
    assert all(isinstance(value, VaultValue) for value in values), values
    whole, leaf, public = (value for value in values if isinstance(value, VaultValue))
    assert whole.of_certificate
    certificate = x509.load_pem_x509_certificate(leaf.value.reveal())
    assert certificate.subject.rfc4514_string() == f"CN={name}"
    assert serialization.load_pem_public_key(public.value.reveal()) == certificate.public_key()
    part = ObjectVersionRef(as_secret.object, 0, ObjectPart.CERTIFICATES)
    decoded = decode_values("lowkey", {"tls.crt": part}, {part.whole: whole}, Clock().utc())["tls.crt"]
    assert isinstance(decoded, VaultValue)
    assert decoded.value.reveal() == leaf.value.reveal()


@pytest.mark.parametrize(
    "kind", [{"kty": "RSA", "key_size": 2048}, {"kty": "EC", "crv": "P-256"}, {"kty": "EC", "crv": "P-521"}]
)
async def test_key_is_read_as_its_public_half(vault: LowkeyVault, harness: ReaderHarness, kind: dict[str, Any]) -> None:
    name = "-".join(["key", *(str(part) for part in kind.values())])
    vault.send("POST", f"keys/{name}/create", kind)
    (text,) = await harness.read(ObjectVersionRef(VaultObject(name=name, type="key")))
    assert isinstance(text, str)
    assert serialization.load_pem_public_key(text.encode())
