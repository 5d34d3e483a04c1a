"""Test that the official clients read and list secrets of the emulator."""

import pytest
from azure.keyvault.secrets.aio import SecretClient as AsyncSecretClient

from tests.unit.keyvault_emulator.emulator_harness import CLIENT, VAULT, EmulatorHarness


def test_secret_is_read_with_an_exchanged_token(emulator_harness: EmulatorHarness) -> None:
    version = emulator_harness.emulator.set_secret(VAULT, "db-password", "correct horse", content_type="text/plain")
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    with emulator_harness.secrets() as client:
        secret = client.get_secret("db-password")
        assert secret.value == "correct horse"
        assert secret.id == f"https://{VAULT}.vault.azure.net/secrets/db-password/{version}"
        assert secret.properties.vault_url == f"https://{VAULT}.vault.azure.net"
        assert secret.properties.version == version
        assert secret.properties.content_type == "text/plain"
        assert client.get_secret("DB-Password", version).value == "correct horse"
    assert emulator_harness.emulator.counters() == {
        "entra/token/200": 1,
        f"{VAULT}/secrets.get/200": 2,
        f"{VAULT}/secrets.get/401": 1,
    }


async def test_secret_is_read_with_the_asyncio_clients(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    for number in range(3):
        emulator_harness.emulator.set_secret(VAULT, "db-password", f"value {number}")
    async with (
        emulator_harness.async_credential() as credential,
        AsyncSecretClient(
            emulator_harness.emulator.vault_pattern.format(vault=VAULT),
            credential,
            verify_challenge_resource=False,
            **emulator_harness.options,
        ) as client,
    ):
        assert (await client.get_secret("db-password")).value == "value 2"
        versions = [each.version async for each in client.list_properties_of_secret_versions("db-password")]
        values = {(await client.get_secret("db-password", version)).value for version in versions if version}
    assert values == {"value 0", "value 1", "value 2"}


@pytest.mark.parametrize("count", [0, 1, 25, 26, 60])
def test_list_has_pages_of_at_most_25_secrets(emulator_harness: EmulatorHarness, count: int) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    for number in range(count):
        emulator_harness.emulator.set_secret(VAULT, f"secret-{number:03}", "x")
    with emulator_harness.secrets() as client:
        emulator_harness.emulator.reset_counters()
        pages = [[each.name for each in page] for page in client.list_properties_of_secrets().by_page()]
    assert [name for page in pages for name in page] == [f"secret-{number:03}" for number in range(count)]
    assert all(len(page) <= 25 for page in pages)
    assert emulator_harness.emulator.counters()[f"{VAULT}/secrets.list/200"] == max(1, -(-count // 25))
