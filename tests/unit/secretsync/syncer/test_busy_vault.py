"""Test how long fetched values wait for those that a busy vault defers, and what a spent budget does."""

from collections.abc import Iterable, Mapping

import pytest

from controller.api.conditions import Reason
from controller.config.settings import Settings
from controller.domain.provider_class import ObjectVersionRef
from controller.domain.values import VaultValue
from controller.errors import ControllerError, ObjectError, ParsingDeferred, ProviderError, Retry
from controller.runtime.threads.parsing import ParsingPool
from controller.secretsync import value_fetcher
from tests.support.builders import make_secret_meta, make_value
from tests.unit.secretsync.syncer.harness import (
    ABSENT,
    FakeVault,
    SyncerHarness,
    make_class,
    make_harness,
    metadata_response,
)

WHOLE = Settings(enable_partial_secret_sync=False)


class BusyVault(FakeVault):
    """A vault that defers `pass` in some of its first reads."""

    def __init__(self, deferred: int, wait: float) -> None:
        super().__init__()
        self.reads: list[list[str]] = []
        self.deferred, self.wait = deferred, wait

    async def read(
        self, wanted: Iterable[ObjectVersionRef], *, since: float, first: bool
    ) -> Mapping[ObjectVersionRef, VaultValue | ControllerError]:
        found = dict(await super().read(wanted, since=since, first=first))
        self.reads.append(self.read_names)
        if len(self.reads) <= self.deferred:
            busy = ProviderError("the vault is busy", retry_after=self.wait, retry=Retry.THROTTLED)
            found |= {version: busy for version in found if version.object.name == "pass"}
        return found


def use_vault(harness: SyncerHarness, vault: FakeVault) -> None:
    harness.vault.read = vault.read  # type: ignore[method-assign]


async def test_secret_waits_for_the_values_that_a_busy_vault_defers() -> None:
    async with make_harness(WHOLE) as harness:
        vault = BusyVault(2, 0.01)
        use_vault(harness, vault)
        outcome = await harness.sync(ABSENT, metadata_response(make_secret_meta()))
        assert outcome.reason == Reason.WRITTEN
        assert vault.reads == [["pass", "user"], ["pass"], ["pass"]]
        assert vault.first_flags == [True] * 3
        assert harness.body()["data"].keys() == {"user", "pass"}


@pytest.mark.parametrize("wait", [0.01, 0.02])
async def test_secret_waits_at_most_for_a_time(wait: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_fetcher, "MAX_PATIENCE", 0.015)
    async with make_harness(WHOLE) as harness:
        vault = BusyVault(9, wait)
        use_vault(harness, vault)
        error = await harness.sync_error(ABSENT)
        assert (error.retry, error.message) == (Retry.BACKOFF, "the vault is busy")
        assert len(vault.reads) == (2 if wait == 0.01 else 1)


async def test_secret_does_not_wait_beside_another_failure() -> None:
    async with make_harness(WHOLE) as harness:
        vault = BusyVault(9, 0.01)
        vault.values["user"] = ObjectError("secret user is disabled")
        use_vault(harness, vault)
        await harness.sync_error(ABSENT)
        assert len(vault.reads) == 1


async def test_partial_sync_does_not_wait(harness: SyncerHarness) -> None:
    vault = BusyVault(9, 0.01)
    use_vault(harness, vault)
    outcome = await harness.sync(ABSENT, metadata_response(make_secret_meta(["user"])))
    assert (outcome.reason, len(vault.reads)) == (Reason.PARTIAL, 1)


async def test_value_beyond_the_budget_for_parsing_fails_alone(
    harness: SyncerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(*_: object, **__: object) -> None:
        raise ParsingDeferred("the budget is spent", retry_after=30.0)

    monkeypatch.setattr(ParsingPool, "run", run)
    harness.vault.values["pass"] = make_value('{"a": 1}')
    source = make_class(objects="array: ['objectName: user', '{objectName: pass, objectProperty: a}']")
    outcome = await harness.sync(ABSENT, metadata_response(make_secret_meta(["user"])), source=source)
    assert outcome.reason == Reason.PARTIAL
    assert "the budget is spent" in outcome.message
    assert harness.body()["data"].keys() == {"user"}
