"""Provide an event loop in virtual time, and a poller that runs in it."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.virtual_time import VirtualLoop
from tests.unit.polling.poller.harness import PollerHarness


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.fixture
def harness(loop: VirtualLoop) -> PollerHarness:
    return PollerHarness(loop)
