"""Test that hanging vaults of one namespace do not delay the reads of others, over real connections."""

import asyncio

import msgspec

from controller.config.settings import Cloud
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.values import VaultValue
from controller.keyvault.client import AT_ONCE, AT_ONCE_EACH
from controller.keyvault.credentials import Identity
from controller.keyvault.pool import VaultPool
from tests.unit.keyvault_emulator.emulator_harness import CLIENT, SUBJECT, TENANT, VAULT, EmulatorHarness
from tools.keyvault_emulator import Emulator

HANGING = 10
WANTED = [ObjectVersionRef(VaultObject(name=f"s{number}")) for number in range(AT_ONCE_EACH)]


def count_requests(emulator: Emulator) -> int:
    """Return the number of requests that have arrived at the hanging vaults."""
    return sum(count for name, count in emulator.counters().items() if name.startswith("hangs-"))


async def test_hanging_vaults_leave_half_of_the_requests_to_others(emulator_harness: EmulatorHarness) -> None:
    emulator = emulator_harness.emulator
    emulator.assign_role(CLIENT, VAULT, "Key Vault Secrets User")
    emulator.set_secret(VAULT, "s0", "value")
    for number in range(HANGING):
        emulator.add_vault(f"hangs-{number}", TENANT)
        emulator.fail(kind="hang", where=f"hangs-{number}", seconds=60)
    clouds = {"here": msgspec.convert(emulator.cloud, Cloud)}

    async def assertion(_: Identity) -> str:
        return emulator_harness.issuer.token(sub=SUBJECT)

    vaults = VaultPool(clouds, assertion, lambda *_: None)
    hostile, shop = Identity("hostile", "robot", CLIENT, TENANT), Identity("shop", "shop", CLIENT, TENANT)
    readers = [vaults.reader(hostile, "here", f"hangs-{number}") for number in range(HANGING)]
    hanging = [asyncio.create_task(reader.read(WANTED, since=0.0, first=True)) for reader in readers]
    try:
        async with asyncio.timeout(20):
            while await asyncio.to_thread(count_requests, emulator) < AT_ONCE / 2:  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.02)
        async with asyncio.timeout(5):
            found = await vaults.reader(shop, "here", VAULT).read(WANTED[:1], since=0.0, first=True)
        assert isinstance(found[WANTED[0]], VaultValue)
        assert await asyncio.to_thread(count_requests, emulator) == AT_ONCE / 2
    finally:
        for task in hanging:
            task.cancel()
        await asyncio.wait(hanging)
        await vaults.close()
