"""Test that a refused write causes no vault call until its dry run has another result."""

import asyncio
import base64
import json
import math

import msgspec
import pytest

from controller import errors
from controller.api.conditions import Reason
from controller.api.secretsync import REFRESH_INTERVAL
from controller.config.settings import Settings
from controller.domain.status import Synced
from controller.errors import ControllerError
from tests.support.builders import make_secret_meta, make_sync
from tests.support.scripted_api_server import ScriptedResponse, error_response
from tests.unit.secretsync.syncer.harness import ABSENT, CANARY, SyncerHarness, make_harness, metadata_response

BY_POLICY = error_response(
    422, "secrets \"shop\" is forbidden: ValidatingAdmissionPolicy 'x' with binding 'x' denied request: 1"
)
BY_OTHER = error_response(
    422, "secrets \"shop\" is forbidden: ValidatingAdmissionPolicy 'y' with binding 'y' denied request: 1"
)
WEBHOOK_UNAVAILABLE = error_response(500, 'Internal error occurred: failed calling webhook "x.example.com": timeout')
QUOTA = error_response(403, 'secrets "shop" is forbidden: exceeded quota: small, requested: count/secrets=1')
IMMUTABLE = error_response(422, "data: Forbidden: field is immutable when `immutable` is set")
INVALID = error_response(422, "Secret is invalid")
NO_DRY_RUNS = error_response(400, 'admission webhook "x.example.com" does not support dry run')
DONE = metadata_response(make_secret_meta())


def count_reads(harness: SyncerHarness) -> int:
    return len(harness.vault.first_flags)


@pytest.mark.parametrize("exists", [False, True], ids=["create", "patch"])
@pytest.mark.parametrize(
    "answer", [BY_POLICY, WEBHOOK_UNAVAILABLE, QUOTA, INVALID], ids=["policy", "webhook", "quota", "invalid"]
)
async def test_refused_write_reads_the_vault_once_and_again_when_it_is_allowed(
    harness: SyncerHarness, answer: ScriptedResponse, exists: bool
) -> None:
    found = metadata_response(make_secret_meta()) if exists else ABSENT
    first = await harness.sync_error(found, answer, answer)
    assert count_reads(harness) == 1
    for _ in range(50):
        again = await harness.sync_error(found, answer)
        assert (again.message, again.reason, again.retry) == (first.message, first.reason, first.retry)
    assert count_reads(harness) == 1
    assert isinstance(await harness.sync(found, DONE, metadata_response(make_secret_meta(), "43")), Synced)
    assert count_reads(harness) == 2
    assert harness.written.refused is None


@pytest.mark.parametrize("exists", [False, True], ids=["create", "patch"])
async def test_dry_run_has_placeholders_and_everything_else_of_the_write(harness: SyncerHarness, exists: bool) -> None:
    wanted = make_sync(labels={"tier": "x"})
    await harness.sync_error(
        metadata_response(make_secret_meta(["user", "left"])) if exists else ABSENT, BY_POLICY, BY_POLICY, wanted=wanted
    )
    write, dry_run = harness.server.requests[-2:]
    assert (write.method, write.path) == (dry_run.method, dry_run.path)
    assert dry_run.query == write.query | {"dryRun": "All"}
    assert CANARY.encode() not in dry_run.body
    assert base64.b64encode(CANARY.encode()) not in dry_run.body
    written, tried = json.loads(write.body), json.loads(dry_run.body)
    placeholder = base64.b64encode(b"{}").decode()
    assert set(tried["data"].values()) == {placeholder}
    assert tried["data"].keys() == {key for key, text in written["data"].items() if text is not None}
    assert tried | {"data": {}} == written | {"data": {}}


@pytest.mark.parametrize(
    ("before", "after"),
    [(BY_POLICY, BY_OTHER), (DONE, BY_POLICY), (BY_POLICY, DONE), (WEBHOOK_UNAVAILABLE, BY_POLICY)],
    ids=["refused by another policy", "now refused", "now allowed", "webhook is back"],
)
async def test_changed_result_of_the_dry_run_causes_another_attempt(
    harness: SyncerHarness, before: ScriptedResponse, after: ScriptedResponse
) -> None:
    """A policy can refuse the content of a value. A dry run has no values, so an allowed one is no proof."""
    await harness.sync_error(ABSENT, BY_POLICY, before)
    await harness.sync_error(ABSENT, before)
    assert count_reads(harness) == 1
    await harness.sync_error(ABSENT, after, BY_POLICY, after)
    assert count_reads(harness) == 2
    await harness.sync_error(ABSENT, after)
    assert count_reads(harness) == 2


@pytest.mark.parametrize("exists", [False, True], ids=["create", "patch"])
@pytest.mark.parametrize("dry_run", [DONE, NO_DRY_RUNS], ids=["allowed", "not supported by a webhook"])
@pytest.mark.parametrize(
    "answer",
    [
        error_response(401, "Unauthorized"),
        error_response(429, "too many requests"),
        error_response(500, "etcdserver: leader changed"),
        error_response(503, "apiserver is shutting down"),
        error_response(504, "request did not complete within the allotted timeout"),
        ScriptedResponse(broken=True),
        WEBHOOK_UNAVAILABLE,
    ],
    ids=["401", "429", "500", "503", "504", "no answer", "webhook"],
)
async def test_failure_that_passed_does_not_delay_the_next_write(
    harness: SyncerHarness, answer: ScriptedResponse, dry_run: ScriptedResponse, exists: bool
) -> None:
    found = metadata_response(make_secret_meta()) if exists else ABSENT
    await harness.sync_error(found, answer, dry_run)
    assert isinstance(await harness.sync(found, DONE), Synced)


async def test_refused_write_is_attempted_once_in_a_poll_interval(harness: SyncerHarness) -> None:
    await harness.sync_error(ABSENT, BY_POLICY, BY_POLICY)
    refused = harness.written.refused
    assert refused
    assert 0 < refused.until < math.inf
    harness.written.refused = msgspec.structs.replace(refused, until=0.0)
    await harness.sync_error(ABSENT, BY_POLICY, BY_POLICY)
    assert count_reads(harness) == 2
    await harness.sync_error(ABSENT, BY_POLICY)
    assert count_reads(harness) == 2


@pytest.mark.parametrize(("shortest", "seconds"), [(0, 3600), (10, 60)])
async def test_refused_write_waits_for_the_interval_of_its_sync(shortest: int, seconds: float) -> None:
    wanted = make_sync()
    annotated = msgspec.structs.replace(wanted.metadata, annotations={REFRESH_INTERVAL: "60"})
    async with make_harness(Settings(shortest_refresh_interval=shortest)) as harness:
        now = asyncio.get_running_loop().time()
        await harness.sync_error(
            ABSENT, BY_POLICY, BY_POLICY, wanted=msgspec.structs.replace(wanted, metadata=annotated)
        )
        assert harness.written.refused
        assert now + seconds <= harness.written.refused.until <= now + seconds + 60


async def test_immutable_secret_that_is_deleted_is_created(harness: SyncerHarness) -> None:
    first = await harness.sync_error(metadata_response(make_secret_meta()), IMMUTABLE, IMMUTABLE)
    assert "is marked immutable" in first.message
    assert (await harness.sync_error(metadata_response(make_secret_meta()), IMMUTABLE)).message == first.message
    assert count_reads(harness) == 1
    assert isinstance(await harness.sync(ABSENT, DONE, metadata_response(make_secret_meta())), Synced)


async def test_secret_that_appears_before_the_dry_run_requeues_the_sync(harness: SyncerHarness) -> None:
    await harness.sync_error(ABSENT, BY_POLICY, BY_POLICY)
    await harness.sync_requeue(ABSENT, error_response(409))
    assert count_reads(harness) == 1


async def test_stored_error_has_no_traceback() -> None:
    async with make_harness(Settings(enable_partial_secret_sync=True)) as harness:
        await harness.sync_error(ABSENT, BY_POLICY, BY_POLICY)
        for _ in range(3):
            error = await harness.sync_error(ABSENT, BY_POLICY)
            assert isinstance(error, errors.PolicyRefused)
            assert error.reason == Reason.POLICY_REFUSED
        assert harness.written.refused
        stored: ControllerError = harness.written.refused.error
        assert (stored.__traceback__, stored.__cause__, stored.__context__) == (None, None, None)
