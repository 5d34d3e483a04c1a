"""A reflector over real HTTP, with a clock and pauses of the test's own."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from controller.kube import informer
from tests.support.scripted_api_server import connect_to_api_server
from tests.unit.kube.informer.stage import Scene


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with connect_to_api_server() as (server, kube):
        scene = Scene(server, kube)
        monkeypatch.setattr(informer, "asyncio", SimpleNamespace(Event=asyncio.Event, sleep=scene.pause))
        monkeypatch.setattr(informer, "time", SimpleNamespace(monotonic=scene.clock))
        yield scene
