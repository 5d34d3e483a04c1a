"""A reconciler in virtual time."""

from collections.abc import Iterator

import pytest

from tests.unit.reconcile.stage import Stage, staged


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    yield from staged(monkeypatch)
