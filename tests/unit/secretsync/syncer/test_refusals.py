"""Whose Secret it is, what the API server refuses, and what is wrong before anything is asked."""

import traceback

import msgspec
import pytest

from controller import errors
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretsync import SecretSync
from controller.config.settings import FOREIGN_SECRET, Settings
from controller.domain.status import Synced
from controller.errors import Retry
from controller.secretsync.sync_resolver import Class
from tests.support.builders import make_owner, make_secret_meta, make_sync
from tests.support.scripted_api_server import ScriptedResponse, error_response
from tests.unit.secretsync.syncer.stage import ABSENT, CANARY, Scene, sent, source, staged


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(sent(make_secret_meta(owners=[])), id="as its metadata show"),
        pytest.param(
            error_response(422, f"ValidatingAdmissionPolicy 'x' denied request: {FOREIGN_SECRET}: …"), id="by policy"
        ),
    ],
)
async def test_somebody_elses_secret_costs_no_vault_call(scene: Scene, answer: ScriptedResponse) -> None:
    error = await scene.fails(answer)
    assert error.reason == Reason.LABEL_ERROR
    assert error.retry is Retry.BLOCKED
    assert scene.requests == ["probe"]
    assert not scene.vault.asked


async def test_an_earlier_ones_secret_is_waited_for(scene: Scene) -> None:
    requeue = await scene.requeues(sent(make_secret_meta(owners=[make_owner(uid="earlier")])))
    assert requeue.seconds <= 2
    assert "shop" in requeue.obstacle
    assert not scene.vault.asked


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([ABSENT, error_response(409)], id="somebody created it"),
        pytest.param([sent(make_secret_meta()), error_response(409)], id="somebody changed it"),
        pytest.param([sent(make_secret_meta()), error_response(404)], id="somebody deleted it"),
    ],
)
async def test_where_somebody_was_faster_it_is_looked_at_again(scene: Scene, answers: list[ScriptedResponse]) -> None:
    assert not (await scene.requeues(*answers)).obstacle


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
async def test_what_the_api_server_refuses(
    scene: Scene, message: str, reason: Reason, retry: Retry, words: list[str]
) -> None:
    # The API server answers an exceeded quota with 403; the messages of 422 are not passed on.
    status = 403 if "quota" in message else 422
    error = await scene.fails(sent(make_secret_meta()), error_response(status, message))
    assert (error.reason, error.retry) == (reason, retry)
    for word in words:
        assert word in error.message
    assert CANARY not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (Unreadable(ObjectMeta(), "Expected `object`"), ["SecretProviderClass class", "Expected `object`"]),
        (source(objects="array: x"), ["SecretProviderClass class", "array:"]),
        (source(cloudName="Mars"), ["'Mars' is not one of the administrator's", "AzurePublicCloud"]),
    ],
)
async def test_a_class_that_cannot_be_used(scene: Scene, of: Class, words: list[str]) -> None:
    depths = set()
    for _ in range(5):
        with pytest.raises(errors.ClassError) as caught:
            await scene.sync(of=of)
        depths.add(len(traceback.extract_tb(caught.value.__traceback__)))
        for word in words:
            assert word in caught.value.message
    assert len(depths) == 1  # an error that is kept must not gather frames
    assert not scene.server.requests


async def test_a_missing_class_is_named(scene: Scene) -> None:
    with pytest.raises(errors.ClassError, match="no SecretProviderClass class in namespace team; create it"):
        await scene.resolver.resolve_sync(make_sync(), None)


async def test_an_edited_class_is_read_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.secretsync.class_reader.EDIT_INTERVAL", 0.0)
    with pytest.raises(errors.ClassError):
        await scene.sync(of=source(objects="array: x"))
    meta = msgspec.structs.replace(source().metadata, generation=2)
    await scene.sync(ABSENT, sent(make_secret_meta()), of=msgspec.structs.replace(source(), metadata=meta))


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        (make_sync({"a/b": "user"}), "targetKey a/b"),
        (make_sync({"a": "nothing"}), "sourcePath nothing"),
        (make_sync({"a": "user/0"}), "sourcePath user/0"),
        (make_sync(["user"], type="kubernetes.io/tls"), "needs the key tls.crt"),
    ],
)
async def test_a_mistake_in_the_secretsync_costs_no_call(scene: Scene, wanted: SecretSync, word: str) -> None:
    error = await scene.fails(wanted=wanted)
    assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.ON_EDIT)
    assert word in error.message
    assert not scene.server.requests
    assert not scene.vault.asked


async def test_type_that_is_not_allowed_costs_no_call_and_names_the_accepted_ones() -> None:
    async with staged(Settings(allowed_secret_types=("Opaque", "kubernetes.io/tls"))) as scene:
        error = await scene.fails(wanted=make_sync(type="example.com/own"))
        assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.ON_EDIT)
        assert "secretObject.type is 'example.com/own': accepted are Opaque, kubernetes.io/tls;" in error.message
        assert not scene.server.requests
        assert not scene.vault.asked


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
async def test_what_only_an_edit_can_mend_waits_for_one(scene: Scene, answer: ScriptedResponse, retry: Retry) -> None:
    error = await scene.fails(ABSENT, answer)
    assert (error.reason, error.retry) == (Reason.SYNC_FAILED, retry)


async def test_label_that_other_tools_obey_is_refused_before_the_vault_is_asked() -> None:
    """With policies, which would refuse it after that; without them it is written, as by SSE."""
    wanted = make_sync(labels={"argocd.argoproj.io/secret-type": "cluster"})
    async with staged(Settings(probe_secret_type="example.com/no")) as scene:
        error = await scene.fails(wanted=wanted)
        assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.ON_EDIT)
        assert "secretObject.labels: the controller does not write the label 'argocd" in error.message
        assert not scene.vault.asked
        assert not scene.server.requests
    async with staged(Settings()) as scene:
        assert isinstance(await scene.sync(ABSENT, sent(make_secret_meta()), wanted=wanted), Synced)
