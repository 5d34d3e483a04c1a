"""Provide an informer over real HTTP whose clock and pauses the test controls."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from controller.kube import informer
from tests.support.scripted_api_server import connect_to_api_server
from tests.unit.kube.informer.informer_harness import InformerHarness


@pytest.fixture
async def harness(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InformerHarness]:
    async with connect_to_api_server() as (server, kube):
        harness = InformerHarness(server, kube)
        monkeypatch.setattr(informer, "asyncio", SimpleNamespace(Event=asyncio.Event, sleep=harness.pause))
        monkeypatch.setattr(informer, "time", SimpleNamespace(monotonic=harness.clock))
        yield harness
