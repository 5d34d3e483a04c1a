"""A write that was refused costs the vault nothing until a dry run of it has another result."""

import base64
import json
import math

import msgspec
import pytest

from controller import errors
from controller.api.conditions import Reason
from controller.config.settings import Settings
from controller.domain.status import Synced
from controller.errors import ControllerError
from tests.support.builders import make_secret_meta, make_sync
from tests.support.scripted_api_server import ScriptedResponse, error_response
from tests.unit.secretsync.syncer.stage import ABSENT, CANARY, Scene, sent, staged

BY_POLICY = error_response(
    422, "secrets \"shop\" is forbidden: ValidatingAdmissionPolicy 'x' with binding 'x' denied request: 1"
)
BY_OTHER = error_response(
    422, "secrets \"shop\" is forbidden: ValidatingAdmissionPolicy 'y' with binding 'y' denied request: 1"
)
WEBHOOK_AWAY = error_response(500, 'Internal error occurred: failed calling webhook "x.example.com": timeout')
QUOTA = error_response(403, 'secrets "shop" is forbidden: exceeded quota: small, requested: count/secrets=1')
IMMUTABLE = error_response(422, "data: Forbidden: field is immutable when `immutable` is set")
INVALID = error_response(422, "Secret is invalid")
DONE = sent(make_secret_meta())


def reads(scene: Scene) -> int:
    return len(scene.vault.first)


@pytest.mark.parametrize("exists", [False, True], ids=["create", "patch"])
@pytest.mark.parametrize(
    "answer", [BY_POLICY, WEBHOOK_AWAY, QUOTA, INVALID], ids=["policy", "webhook", "quota", "form"]
)
async def test_refused_write_reads_the_vault_once_and_again_when_it_is_allowed(
    scene: Scene, answer: ScriptedResponse, exists: bool
) -> None:
    there = sent(make_secret_meta()) if exists else ABSENT
    first = await scene.fails(there, answer, answer)
    assert reads(scene) == 1
    for _ in range(50):
        again = await scene.fails(there, answer)
        assert (again.message, again.reason, again.retry) == (first.message, first.reason, first.retry)
    assert reads(scene) == 1
    assert isinstance(await scene.sync(there, DONE, sent(make_secret_meta(), "43")), Synced)
    assert reads(scene) == 2
    assert scene.written.refused is None


@pytest.mark.parametrize("exists", [False, True], ids=["create", "patch"])
async def test_dry_run_has_placeholders_and_everything_else_of_the_write(scene: Scene, exists: bool) -> None:
    wanted = make_sync(labels={"tier": "x"})
    await scene.fails(
        sent(make_secret_meta(["user", "left"])) if exists else ABSENT, BY_POLICY, BY_POLICY, wanted=wanted
    )
    write, rehearsal = scene.server.requests[-2:]
    assert (write.method, write.path) == (rehearsal.method, rehearsal.path)
    assert rehearsal.query == write.query | {"dryRun": "All"}
    assert CANARY.encode() not in rehearsal.body
    assert base64.b64encode(CANARY.encode()) not in rehearsal.body
    meant, sent_ = json.loads(write.body), json.loads(rehearsal.body)
    placeholder = base64.b64encode(b"{}").decode()
    assert set(sent_["data"].values()) == {placeholder}
    assert sent_["data"].keys() == {key for key, text in meant["data"].items() if text is not None}
    assert sent_ | {"data": {}} == meant | {"data": {}}


@pytest.mark.parametrize(
    ("before", "after"),
    [(BY_POLICY, BY_OTHER), (DONE, BY_POLICY), (BY_POLICY, DONE), (WEBHOOK_AWAY, BY_POLICY)],
    ids=["another refuses", "is refused now", "is allowed now", "the webhook is back"],
)
async def test_another_result_of_the_dry_run_is_a_reason_to_try(
    scene: Scene, before: ScriptedResponse, after: ScriptedResponse
) -> None:
    """A policy can refuse what a value holds, so a dry run that is allowed says nothing by itself."""
    await scene.fails(ABSENT, BY_POLICY, before)
    await scene.fails(ABSENT, before)
    assert reads(scene) == 1
    await scene.fails(ABSENT, after, BY_POLICY, after)
    assert reads(scene) == 2
    await scene.fails(ABSENT, after)
    assert reads(scene) == 2


async def test_values_are_read_all_the_same_once_in_a_poll_interval(scene: Scene) -> None:
    await scene.fails(ABSENT, BY_POLICY, BY_POLICY)
    refused = scene.written.refused
    assert refused
    assert 0 < refused.until < math.inf
    scene.written.refused = msgspec.structs.replace(refused, until=0.0)
    await scene.fails(ABSENT, BY_POLICY, BY_POLICY)
    assert reads(scene) == 2
    await scene.fails(ABSENT, BY_POLICY)
    assert reads(scene) == 2


async def test_immutable_secret_that_is_deleted_is_created(scene: Scene) -> None:
    first = await scene.fails(sent(make_secret_meta()), IMMUTABLE, IMMUTABLE)
    assert "is marked immutable" in first.message
    assert (await scene.fails(sent(make_secret_meta()), IMMUTABLE)).message == first.message
    assert reads(scene) == 1
    assert isinstance(await scene.sync(ABSENT, DONE, sent(make_secret_meta())), Synced)


async def test_secret_that_appears_meanwhile_is_looked_at_again(scene: Scene) -> None:
    await scene.fails(ABSENT, BY_POLICY, BY_POLICY)
    await scene.requeues(ABSENT, error_response(409))
    assert reads(scene) == 1


async def test_kept_error_holds_no_frames() -> None:
    async with staged(Settings(enable_partial_secret_sync=True)) as scene:
        await scene.fails(ABSENT, BY_POLICY, BY_POLICY)
        for _ in range(3):
            error = await scene.fails(ABSENT, BY_POLICY)
            assert isinstance(error, errors.PolicyRefused)
            assert error.reason == Reason.POLICY_REFUSED
        assert scene.written.refused
        kept: ControllerError = scene.written.refused.error
        assert (kept.__traceback__, kept.__cause__, kept.__context__) == (None, None, None)
