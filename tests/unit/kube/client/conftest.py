"""Provide a scripted API server and a client of it."""

from collections.abc import AsyncIterator

import pytest

from controller.kube.client import KubeClient
from tests.support.scripted_api_server import ScriptedApiServer, connect_to_api_server


@pytest.fixture
async def server_and_client() -> AsyncIterator[tuple[ScriptedApiServer, KubeClient]]:
    async with connect_to_api_server() as pair:
        yield pair
