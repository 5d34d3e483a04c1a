"""Provide a syncer with the default settings, and one that reads ServiceAccounts."""

from collections.abc import AsyncIterator

import pytest

from controller.config.settings import Settings
from tests.unit.secretsync.syncer.harness import SyncerHarness, make_harness


@pytest.fixture
async def harness() -> AsyncIterator[SyncerHarness]:
    async with make_harness(Settings()) as created:
        yield created


@pytest.fixture
async def account_harness() -> AsyncIterator[SyncerHarness]:
    async with make_harness(Settings(identity_from_service_account=True, shortest_refresh_interval=60)) as created:
        yield created
