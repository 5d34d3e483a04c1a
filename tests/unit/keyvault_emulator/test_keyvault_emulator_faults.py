"""Test the emulator's faults with the official client and with aiohttp."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from tests.unit.keyvault_emulator.emulator_harness import CLIENT, VAULT, EmulatorHarness
from tools.keyvault_emulator import EmulatorError

PIN = f"/{VAULT}/secrets/pin?api-version=7.4"


@pytest.fixture
def stocked(emulator_harness: EmulatorHarness) -> EmulatorHarness:
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    emulator_harness.emulator.set_secret(VAULT, "pin", "1234")
    return emulator_harness


@pytest.fixture
async def session(stocked: EmulatorHarness) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context(cafile=stocked.emulator.ca_file)
    token = await asyncio.to_thread(stocked.access_token)
    async with aiohttp.ClientSession(
        stocked.emulator.url,
        connector=aiohttp.TCPConnector(ssl=context),
        headers={"Authorization": f"Bearer {token}"},
        timeout=aiohttp.ClientTimeout(total=5),
    ) as session:
        yield session


def test_cut_off_refuses_connections_until_restore(stocked: EmulatorHarness) -> None:
    with stocked.secrets() as client:
        assert client.get_secret("pin").value == "1234"
        stocked.emulator.cut_off()
        stocked.emulator.cut_off()
        with pytest.raises((ServiceRequestError, ServiceResponseError)):
            client.get_secret("pin")  # on the open connection
        with pytest.raises(ServiceRequestError, match="refused"):
            client.get_secret("pin")
        stocked.emulator.set_secret(VAULT, "pin", "5678")
        stocked.emulator.restore()
        stocked.emulator.restore()
        assert client.get_secret("pin").value == "5678"
    assert stocked.emulator.counters()[f"{VAULT}/secrets.get/200"] == 2


async def test_cut_off_emulator_keeps_its_port(stocked: EmulatorHarness, session: aiohttp.ClientSession) -> None:
    stocked.emulator.cut_off()
    for _ in range(3):
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(PIN)
    stocked.emulator.clear_faults()
    async with session.get(PIN) as response:
        assert response.status == 200


async def test_most_specific_delay_applies_to_a_request(
    stocked: EmulatorHarness, session: aiohttp.ClientSession
) -> None:
    async def measure(path: str) -> float:
        start = time.monotonic()
        async with session.get(path) as response:
            assert response.status == 200
            await response.read()
        return time.monotonic() - start

    await measure(PIN)
    stocked.emulator.delay(0.3, "secrets.get")
    assert await measure(PIN) >= 0.3
    assert await measure(f"/{VAULT}/secrets?api-version=7.4") < 0.3
    stocked.emulator.delay(0.0, "secrets.get", where=VAULT)
    assert await measure(PIN) < 0.3
    stocked.emulator.delay(0.3)
    assert await measure(f"/{VAULT}/secrets?api-version=7.4") >= 0.3
    stocked.emulator.clear_faults()
    assert await measure(f"/{VAULT}/secrets?api-version=7.4") < 0.3


@pytest.mark.parametrize("retry_after", [7, None])
async def test_throttled_vault_answers_429(
    stocked: EmulatorHarness, session: aiohttp.ClientSession, retry_after: int | None
) -> None:
    stocked.emulator.throttle(VAULT, 3, retry_after)
    for status in (200, 200, 200, 429):
        async with session.get(PIN) as response:
            assert response.status == status
    assert response.headers.get("Retry-After") == (str(retry_after) if retry_after else None)
    async with session.get(PIN) as response:
        body = await response.json()
    assert body["error"]["code"] == "Throttled"
    assert stocked.emulator.counters()[f"{VAULT}/secrets.get/429"] == 2
    stocked.emulator.throttle(VAULT, 100)
    async with session.get(PIN) as response:
        assert response.status == 200


async def test_fault_applies_to_its_vault_operation_and_number_of_times(
    stocked: EmulatorHarness, session: aiohttp.ClientSession
) -> None:
    async def read_status(path: str = PIN) -> int:
        async with session.get(path) as response:
            return response.status

    stocked.emulator.fail(503, operation="secrets.get", times=2)
    assert [await read_status() for _ in range(3)] == [503, 503, 200]
    stocked.emulator.fail(500, where="other-vault")
    assert await read_status() == 200
    stocked.emulator.fail(500, where=VAULT)
    stocked.emulator.fail(418, where=VAULT, operation="secrets.list", body="short and stout")
    assert await read_status() == 500
    async with session.get(f"/{VAULT}/secrets?api-version=7.4") as response:
        assert (response.status, await response.text()) == (418, "short and stout")
    stocked.emulator.fail(302, headers={"Location": "https://elsewhere.invalid/"})
    async with session.get(PIN, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "https://elsewhere.invalid/")
    stocked.emulator.clear_faults()
    assert await read_status() == 200


async def test_each_kind_of_connection_fault_reaches_the_client(
    stocked: EmulatorHarness, session: aiohttp.ClientSession
) -> None:
    async def read(seconds: float = 5) -> bytes:
        async with session.get(PIN, timeout=aiohttp.ClientTimeout(total=seconds)) as response:
            return await response.read()

    stocked.emulator.fail(where=VAULT, kind="drop", times=2)  # aiohttp retries once by itself
    with pytest.raises(aiohttp.ClientConnectionError):
        await read()
    stocked.emulator.fail(200, where=VAULT, kind="reset", times=1, body='{"value": "half"}')
    with pytest.raises(aiohttp.ClientPayloadError):
        await read()
    stocked.emulator.fail(where=VAULT, kind="hang", times=1, seconds=30)
    with pytest.raises(TimeoutError):
        await read(0.3)
    stocked.emulator.fail(200, where=VAULT, kind="drip", body="abcd", times=1, seconds=0.1)
    start = time.monotonic()
    assert await read() == b"abcd"
    assert time.monotonic() - start >= 0.4
    stocked.emulator.fail(200, where=VAULT, kind="drip", times=1, seconds=1, body="abcd")
    with pytest.raises(TimeoutError):
        await read(0.3)
    stocked.emulator.fail(where=VAULT, kind="garbage", times=1)
    with pytest.raises(UnicodeDecodeError):
        (await read()).decode()
    stocked.emulator.fail(where=VAULT, kind="huge", times=1, size=1_000_000)
    assert len(await read()) == 1_000_013
    assert b"1234" in await read()
    counters = stocked.emulator.counters()
    assert counters[f"{VAULT}/secrets.get/drop"] == 2
    for kind in ("reset", "hang", "garbage", "huge"):
        assert counters[f"{VAULT}/secrets.get/{kind}"] == 1
    assert counters[f"{VAULT}/secrets.get/200"] == 3


def test_fault_at_entra_fails_the_token_request(stocked: EmulatorHarness) -> None:
    stocked.emulator.fail(500, where="entra")
    with stocked.credential() as credential, pytest.raises((ClientAuthenticationError, HttpResponseError)):
        credential.get_token("https://vault.azure.net/.default")
    assert stocked.emulator.counters()["entra/token/500"] >= 1


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ("expired", "expired"),
        ("not-yet-valid", "not yet valid"),
        ("unknown-ca", "unable to get"),
        ("wrong-name", "mismatch"),
    ],
)
async def test_flawed_certificate_is_rejected_by_the_client(
    stocked: EmulatorHarness, session: aiohttp.ClientSession, flaw: str, words: str
) -> None:
    async with session.get(PIN) as response:
        assert response.status == 200
    stocked.emulator.certificate_flaw(flaw)  # type: ignore[arg-type]
    with pytest.raises(aiohttp.ClientConnectionError):
        await session.get(PIN)  # on the open connection
    with pytest.raises(aiohttp.ClientConnectorCertificateError, match=words):
        await session.get(PIN)
    stocked.emulator.clear_faults()
    async with session.get(PIN) as response:
        assert response.status == 200


@pytest.mark.parametrize("change", ["certificate", "cut off", "nothing"])
async def test_connection_whose_handshake_is_under_way_is_reset_by_a_change(
    stocked: EmulatorHarness, session: aiohttp.ClientSession, change: str
) -> None:
    emulator = stocked.emulator
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(emulator.url).port)
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=emulator.ca_file)
    tls = context.wrap_bio(received, to_send, server_hostname="localhost")
    with contextlib.closing(writer):
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        writer.write(to_send.read())
        received.write(await reader.read(1 << 16))
        if change == "certificate":
            emulator.certificate_flaw("unknown-ca")
        elif change == "cut off":
            emulator.cut_off()
        tls.do_handshake()
        tls.write(f"GET {PIN} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        writer.write(to_send.read())
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while not answer and (data := await reader.read(1 << 16)):
                received.write(data)
                with contextlib.suppress(ssl.SSLWantReadError):  # session tickets come first
                    answer = tls.read()
    emulator.clear_faults()
    assert answer.startswith(b"HTTP/1.1 401") == (change == "nothing")
    assert bool(answer) == (change == "nothing")


def test_unknown_fault_or_vault_is_rejected(emulator_harness: EmulatorHarness) -> None:
    with pytest.raises(EmulatorError, match=r"Invalid enum value 'explode' - at `\$.kind`"):
        emulator_harness.emulator.fail(kind="explode")  # type: ignore[arg-type]
    with pytest.raises(EmulatorError, match="'nowhere' does not exist"):
        emulator_harness.emulator.throttle("nowhere", 1)
