"""A reflector over real HTTP, with a clock and pauses of the test's own."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from controller import reflector
from tests.unit.api_server import connected
from tests.unit.reflector.stage import Scene


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with connected() as (server, kube):
        scene = Scene(server, kube)
        monkeypatch.setattr(reflector, "asyncio", SimpleNamespace(Event=asyncio.Event, sleep=scene.pause))
        monkeypatch.setattr(reflector, "time", SimpleNamespace(monotonic=scene.clock))
        yield scene
