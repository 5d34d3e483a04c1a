"""A server with a script, and a client of it."""

from collections.abc import AsyncIterator

import pytest

from controller.kube import Kube
from tests.unit.api_server import ApiServer, connected


@pytest.fixture
async def both() -> AsyncIterator[tuple[ApiServer, Kube]]:
    async with connected() as pair:
        yield pair
