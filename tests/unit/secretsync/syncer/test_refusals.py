"""Test Secrets of other owners, refusals of the API server, and mistakes that the syncer finds before any call."""

import contextlib
import traceback
from datetime import UTC, datetime

import msgspec
import pytest

from controller import errors
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretsync import SecretSync, SecretSyncStatus
from controller.config.settings import FOREIGN_SECRET, Settings
from controller.domain.status import Synced, next_status
from controller.errors import Retry
from controller.secretsync.sync_resolver import Class, ResolvedSync
from controller.secretsync.syncer import LastWrite
from controller.secretsync.tasks import Fetch
from tests.support.builders import make_owner, make_provider_class, make_secret_meta, make_sync
from tests.support.scripted_api_server import ScriptedResponse, error_response
from tests.unit.secretsync.syncer.harness import (
    ABSENT,
    CANARY,
    SyncerHarness,
    make_class,
    make_harness,
    metadata_response,
)

FOREIGN_ANSWERS = [
    pytest.param(metadata_response(make_secret_meta(owners=[])), id="by its metadata"),
    pytest.param(
        error_response(422, f"ValidatingAdmissionPolicy 'x' denied request: {FOREIGN_SECRET}: …"),
        id="by admission policy",
    ),
]
"""The answers to a probe of another owner's Secret."""


@pytest.mark.parametrize("answer", FOREIGN_ANSWERS)
async def test_secret_of_another_owner_causes_no_vault_call(harness: SyncerHarness, answer: ScriptedResponse) -> None:
    error = await harness.sync_error(answer)
    assert error.reason == Reason.LABEL_ERROR
    assert error.retry is Retry.BLOCKED
    assert harness.requests == ["probe"]
    assert not harness.vault.readers


async def test_probe_that_another_policy_refuses_is_no_question_of_the_owner(harness: SyncerHarness) -> None:
    error = await harness.sync_error(error_response(422, "ValidatingAdmissionPolicy 'x' denied request: frozen"))
    assert error.reason == Reason.POLICY_REFUSED
    assert not harness.vault.readers


@pytest.mark.parametrize("synced_before", [False, True])
async def test_first_attempt_probes_the_secret_of_a_secretsync_with_a_status(
    harness: SyncerHarness, synced_before: bool
) -> None:
    harness.written = LastWrite()
    status = next_status(
        make_sync().metadata, SecretSyncStatus(), make_provider_class(), Synced(message=""), datetime.now(UTC)
    )
    answers = [metadata_response(make_secret_meta())] * (2 if synced_before else 1)
    await harness.sync(*answers, wanted=make_sync(status=status if synced_before else None))
    assert harness.requests == (["probe", "PATCH"] if synced_before else ["POST"])


@pytest.mark.parametrize(
    "answer",
    [
        *FOREIGN_ANSWERS,
        pytest.param(metadata_response(make_secret_meta(owners=[make_owner(uid="earlier")])), id="an earlier one"),
    ],
)
async def test_secret_of_another_owner_does_not_count_as_created(
    harness: SyncerHarness, answer: ScriptedResponse
) -> None:
    """A later failure that probes no Secret would otherwise report SecretCreated=True."""
    harness.written.exists = True
    harness.server.add_responses(answer)
    resolved = await harness.resolver.resolve_sync(make_sync(), make_class())
    assert isinstance(resolved, ResolvedSync)
    with contextlib.suppress(errors.OwnershipError):
        await harness.syncer.sync(make_sync(), resolved, harness.written, Fetch(0.0))
    assert harness.requests == ["probe"]
    assert harness.written.exists is False


async def test_secret_of_an_earlier_secretsync_requeues_the_sync(harness: SyncerHarness) -> None:
    requeue = await harness.sync_requeue(metadata_response(make_secret_meta(owners=[make_owner(uid="earlier")])))
    assert requeue.seconds <= 2
    assert "shop" in requeue.obstacle
    assert not harness.vault.readers


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([ABSENT, error_response(409)], id="created"),
        pytest.param([metadata_response(make_secret_meta()), error_response(409)], id="changed"),
        pytest.param([metadata_response(make_secret_meta()), error_response(404)], id="deleted"),
    ],
)
async def test_conflicting_write_is_requeued_without_an_obstacle(
    harness: SyncerHarness, answers: list[ScriptedResponse]
) -> None:
    assert not (await harness.sync_requeue(*answers)).obstacle


@pytest.mark.parametrize(
    ("message", "reason", "retry", "words"),
    [
        (
            "data: Forbidden: field is immutable when `immutable` is set",
            Reason.SYNC_FAILED,
            Retry.BLOCKED,
            ["Secret shop is marked immutable", "delete it"],
        ),
        (
            'type: Invalid value: "Opaque": field is immutable',
            Reason.INPUT_INVALID,
            Retry.BLOCKED,
            ["another type than Opaque", "delete it"],
        ),
        (
            'secrets "shop" is forbidden: exceeded quota: small, requested: 1',
            Reason.SYNC_FAILED,
            Retry.BACKOFF,
            ["ResourceQuota 'small' does not allow the Secret (HTTP 403)"],
        ),
        ("ValidatingAdmissionPolicy: type", Reason.POLICY_REFUSED, Retry.BACKOFF, ["an admission policy refused"]),
    ],
)
async def test_refusal_of_the_api_server_is_reported_with_its_cause(
    harness: SyncerHarness, message: str, reason: Reason, retry: Retry, words: list[str]
) -> None:
    # The API server answers an exceeded quota with 403; the messages of 422 are not passed on.
    status = 403 if "quota" in message else 422
    error = await harness.sync_error(metadata_response(make_secret_meta()), error_response(status, message))
    assert (error.reason, error.retry) == (reason, retry)
    for word in words:
        assert word in error.message
    assert CANARY not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Unreadable(ObjectMeta(), "Expected `object`"), ["SecretProviderClass class", "Expected `object`"]),
        (make_class(objects="array: x"), ["SecretProviderClass class", "array:"]),
        (make_class(cloudName="Mars"), ["'Mars' is not one of the administrator's", "AzurePublicCloud"]),
    ],
)
async def test_unusable_class_is_reported_without_any_call(
    harness: SyncerHarness, source: Class, words: list[str]
) -> None:
    depths = set()
    for _ in range(5):
        with pytest.raises(errors.ClassError) as caught:
            await harness.sync(source=source)
        depths.add(len(traceback.extract_tb(caught.value.__traceback__)))
        for word in words:
            assert word in caught.value.message
    assert len(depths) == 1  # the cached error must not collect traceback frames
    assert not harness.server.requests


async def test_missing_class_is_named(harness: SyncerHarness) -> None:
    with pytest.raises(errors.ClassError, match="no SecretProviderClass class in namespace team; create it"):
        await harness.resolver.resolve_sync(make_sync(), None)


async def test_edited_class_is_parsed_again(harness: SyncerHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.secretsync.class_reader.EDIT_INTERVAL", 0.0)
    with pytest.raises(errors.ClassError):
        await harness.sync(source=make_class(objects="array: x"))
    meta = msgspec.structs.replace(make_class().metadata, generation=2)
    await harness.sync(
        ABSENT, metadata_response(make_secret_meta()), source=msgspec.structs.replace(make_class(), metadata=meta)
    )


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        (make_sync({"a/b": "user"}), "targetKey a/b"),
        (make_sync({"a": "nothing"}), "sourcePath nothing"),
        (make_sync({"a": "user/0"}), "sourcePath user/0"),
        (make_sync(["user"], type="kubernetes.io/tls"), "needs the key tls.crt"),
    ],
)
async def test_mistake_in_the_secretsync_causes_no_call(harness: SyncerHarness, wanted: SecretSync, word: str) -> None:
    error = await harness.sync_error(wanted=wanted)
    assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.ON_EDIT)
    assert word in error.message
    assert not harness.server.requests
    assert not harness.vault.readers


async def test_type_that_is_not_allowed_is_reported_with_the_accepted_ones() -> None:
    async with make_harness(Settings(allowed_secret_types=("Opaque", "kubernetes.io/tls"))) as harness:
        error = await harness.sync_error(wanted=make_sync(type="example.com/own"))
        assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.ON_EDIT)
        assert "secretObject.type is 'example.com/own': accepted are Opaque, kubernetes.io/tls;" in error.message
        assert not harness.server.requests
        assert not harness.vault.readers


@pytest.mark.parametrize(
    ("answer", "retry"),
    [
        (error_response(422, "metadata.labels: Invalid value"), Retry.ON_EDIT),
        (error_response(400, "unknown field"), Retry.ON_EDIT),
        (error_response(413, "Request entity too large: limit is 3145728"), Retry.ON_EDIT),
        (error_response(500, "etcdserver: request is too large"), Retry.ON_EDIT),
        (error_response(403, "forbidden: no such right"), Retry.BACKOFF),
        (error_response(422, 'admission webhook "x" denied the request'), Retry.BACKOFF),
        (error_response(500, "etcdserver: leader changed"), Retry.BACKOFF),
    ],
)
async def test_refusal_that_only_an_edit_can_fix_waits_for_an_edit(
    harness: SyncerHarness, answer: ScriptedResponse, retry: Retry
) -> None:
    error = await harness.sync_error(ABSENT, answer)
    assert (error.reason, error.retry) == (Reason.SYNC_FAILED, retry)


async def test_label_that_other_tools_obey_is_refused_before_any_vault_call() -> None:
    """The admission policies would refuse the label after the vault call. Without policies the syncer writes it."""
    wanted = make_sync(labels={"argocd.argoproj.io/secret-type": "cluster"})
    async with make_harness(Settings(probe_secret_type="example.com/no")) as harness:
        error = await harness.sync_error(wanted=wanted)
        assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.ON_EDIT)
        assert "secretObject.labels: the controller does not write the label 'argocd" in error.message
        assert not harness.vault.readers
        assert not harness.server.requests
    async with make_harness(Settings()) as harness:
        assert isinstance(await harness.sync(ABSENT, metadata_response(make_secret_meta()), wanted=wanted), Synced)
