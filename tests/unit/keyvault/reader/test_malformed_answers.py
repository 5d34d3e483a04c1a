"""Test that an invalid HTTP answer is requested again, and that a refusal is judged by its status, not its body."""

import asyncio
import contextlib
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Callable

import pytest

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.errors import AccessDenied, ObjectError, ProviderError
from controller.keyvault.transport import MAX_ANSWER
from tests.support.scripted_api_server import ScriptedApiServer
from tests.unit.keyvault.reader.reader_harness import USER, ReaderHarness, start_reader_of
from tools.local_cluster.pki import ClusterAuthority

VALUE = json.dumps(
    {"value": "me", "id": "https://shop/secrets/user/v1", "attributes": {"enabled": True, "updated": 9}}
).encode()
PACKED = gzip.compress(VALUE)
LONG = b"x" * (MAX_ANSWER + 1)
START = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def encode_answer(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    """Return an answer with its length."""
    lines = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return lines.encode() + body


class RawVault(ScriptedApiServer):
    """A vault that sends one answer per connection: first the given bytes, then a valid answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.first.pop(0) if self.first else encode_answer(VALUE))
            await writer.drain()
        writer.close()


@pytest.fixture
async def vault(authority: ClusterAuthority) -> AsyncIterator[tuple[ReaderHarness, RawVault]]:
    pair = authority.issue("server", user="server", hosts=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    raw = RawVault()
    server = await asyncio.start_server(raw.serve, "127.0.0.1", ssl=tls)
    raw.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, start_reader_of(raw, authority) as harness:
        yield harness, raw


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"GARBAGE\r\n\r\n", id="status line"),
        pytest.param(VALUE, id="no status line"),
        pytest.param(START + b"Content-Length: 9999\r\n\r\n" + VALUE, id="too long a length"),
        pytest.param(START + b"Content-Length: -1\r\n\r\n" + VALUE, id="negative length"),
        pytest.param(START + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n" + VALUE, id="two lengths"),
        pytest.param(START + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n" + VALUE, id="chunk length"),
        pytest.param(START + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n" + VALUE, id="part of a chunk"),
        pytest.param(START + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", id="no last chunk"),
        pytest.param(START + b"X: " + b"y" * 20_000 + b"\r\n\r\n", id="long header"),
        pytest.param(START + b"no colon\r\n\r\n", id="header without a colon"),
        pytest.param(b"HTTP/1.1 1000 X\r\n\r\n", id="status"),
        pytest.param(encode_answer(PACKED, more="Content-Encoding: gzip\r\n"), id="gzip"),
        pytest.param(encode_answer(b"not gzip", more="Content-Encoding: gzip\r\n"), id="invalid gzip"),
        pytest.param(encode_answer(LONG, "503 Unavailable"), id="long body of a 503"),
        pytest.param(encode_answer(LONG, "401 Unauthorized"), id="long body of a 401"),
        pytest.param(encode_answer(PACKED, "503 X", "Content-Encoding: gzip\r\n"), id="compressed 503"),
        pytest.param(b"HTTP/1.1 503 X\r\nContent-Length: 99\r\n\r\n{", id="part of a 503"),
    ],
)
async def test_broken_answer_is_requested_again(vault: tuple[ReaderHarness, RawVault], answer: bytes) -> None:
    harness, raw = vault
    raw.first = [answer]
    assert await harness.read(USER) == ["me"]
    assert [outcome == "ok" for _, outcome in harness.counted] == [False, True]


async def test_http_1_0_is_an_answer(vault: tuple[ReaderHarness, RawVault]) -> None:
    harness, raw = vault
    raw.first = [b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + VALUE]
    assert await harness.read(USER) == ["me"]
    assert harness.counted == [("secrets.get", "ok")]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda status, more: encode_answer(LONG, status, more), id="long"),
        pytest.param(
            lambda status, more: encode_answer(PACKED, status, f"Content-Encoding: gzip\r\n{more}"), id="compressed"
        ),
        pytest.param(
            lambda status, more: encode_answer(b"{", status, more).replace(b"Length: 1", b"Length: 9"), id="cut off"
        ),
    ],
)
@pytest.mark.parametrize(
    ("status", "more", "kind", "words"),
    [
        ("503 X", "Retry-After: 7\r\n", ProviderError, "HTTP 503"),
        ("429 X", "Retry-After: 7\r\n", ProviderError, "is throttled"),
        ("403 X", "", AccessDenied, "assign it the role"),
        ("404 X", "", ObjectError, "is not in Key Vault"),
    ],
)
async def test_status_of_a_refusal_counts_without_its_body(
    vault: tuple[ReaderHarness, RawVault],
    damage: Callable[[str, str], bytes],
    status: str,
    more: str,
    kind: type[ProviderError],
    words: str,
) -> None:
    harness, raw = vault
    raw.first = [damage(status, more)]
    error = await harness.read_error()
    assert type(error) is kind
    assert words in error.message
    assert error.retry_after == (7 if more else None)
    assert harness.counted == [("secrets.get", status[:3])]


async def test_vault_that_always_cuts_its_answers_off_is_named(vault: tuple[ReaderHarness, RawVault]) -> None:
    harness, raw = vault
    raw.first = [START + b"Content-Length: 9999\r\n\r\n" + VALUE] * 9
    error = await harness.read_error()
    assert error.message == (
        "Key Vault shop ended the connection within its answer; the controller tries again by itself"
    )
    assert type(error) is ProviderError


async def test_simultaneous_requests_may_fail_once_each(vault: tuple[ReaderHarness, RawVault]) -> None:
    """Several keys of one SecretSync are read at once. One failure of each read is not an outage."""
    harness, raw = vault
    names = [ObjectVersionRef(VaultObject(name=f"key-{number}")) for number in range(5)]
    raw.first = [START + b"Content-Length: 9999\r\n\r\n" + VALUE] * 5
    assert await harness.read(*names) == ["me"] * 5
    assert sorted(outcome for _, outcome in harness.counted) == ["error"] * 5 + ["ok"] * 5


async def test_vault_that_fails_all_retries_is_called_once_for_all(vault: tuple[ReaderHarness, RawVault]) -> None:
    harness, raw = vault
    raw.first = [b"GARBAGE\r\n\r\n"] * 99
    names = [ObjectVersionRef(VaultObject(name=f"key-{number}")) for number in range(5)]
    await harness.read(*names)
    calls = len(harness.counted)
    assert calls <= 2 * len(names)
    assert await harness.read_error()
    assert len(harness.counted) == calls
