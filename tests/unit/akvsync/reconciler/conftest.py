"""AKVSyncs in virtual time."""

from collections.abc import Iterator

import pytest

from controller.api.conditions import Reason
from tests.unit.akvsync.reconciler.stage import FRESH, A, B, Stage, staged


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    yield from staged(monkeypatch)


@pytest.fixture
def settled(stage: Stage) -> Stage:
    """`shop` with the parts a and b, both synced and told."""
    stage.has([A, B])
    stage.passes(5)
    stage.synced("a")
    stage.synced("b")
    stage.passes(5)
    assert stage.ready() == ("True", Reason.UP_TO_DATE, "2/2 ready: every Secret has the values of the vault")
    assert stage.did == FRESH
    return stage
