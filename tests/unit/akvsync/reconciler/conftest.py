"""Provide the AKVSync reconciler in virtual time to the tests."""

from collections.abc import Iterator

import pytest

from controller.api.conditions import Reason
from tests.unit.akvsync.reconciler.harness import FRESH, A, AKVSyncHarness, B, make_harness


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[AKVSyncHarness]:
    yield from make_harness(monkeypatch)


@pytest.fixture
def settled(harness: AKVSyncHarness) -> AKVSyncHarness:
    """Provide the AKVSync `shop` with the parts a and b, both synced and reported."""
    harness.apply([A, B])
    harness.advance(5)
    harness.report_synced("a")
    harness.report_synced("b")
    harness.advance(5)
    assert harness.get_ready() == ("True", Reason.UP_TO_DATE, "2/2 ready: every Secret has the values of the vault")
    assert harness.take_writes() == FRESH
    return harness
