"""A syncer with the default settings, and one that asks ServiceAccounts."""

from collections.abc import AsyncIterator

import pytest

from controller.config.settings import Settings
from tests.unit.secretsync.syncer.stage import Scene, staged


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with staged(Settings()) as found:
        yield found


@pytest.fixture
async def trusting() -> AsyncIterator[Scene]:
    async with staged(Settings(identity_from_service_account=True, shortest_refresh_interval=60)) as found:
        yield found
