"""A poller in virtual time."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from controller import poll
from tests.unit.poll.stage import Stage
from tests.unit.virtual import VirtualLoop


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    monkeypatch.setattr(poll, "time", SimpleNamespace(monotonic=loop.time))
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.fixture
def stage(loop: VirtualLoop) -> Stage:
    return Stage(loop)
