"""A reconciler in virtual time. A test sets its settings by the parameter `settings`."""

from collections.abc import Iterator

import pytest

from controller.config.settings import Settings
from tests.unit.secretsync.reconciler.stage import Stage, staged


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
def stage(settings: Settings) -> Iterator[Stage]:
    yield from staged(settings)
