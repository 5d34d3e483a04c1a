"""Provide a reconciler in virtual time. Tests replace its settings with the parameter `settings`."""

from collections.abc import Iterator

import pytest

from controller.config.settings import Settings
from tests.unit.secretsync.reconciler.harness import ReconcilerHarness, make_harness


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def harness(settings: Settings) -> Iterator[ReconcilerHarness]:
    yield from make_harness(settings)
