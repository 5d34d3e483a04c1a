"""Whose Secret it is, what the API server refuses, and what is wrong before anything is asked."""

import traceback

import msgspec
import pytest

from controller import errors
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretsync import SecretSync
from controller.errors import Retry
from controller.settings import FOREIGN_SECRET, Settings
from controller.sync import Again, Class
from tests.unit.api_server import Answer, refusal
from tests.unit.objects_of import owner, secret, sync
from tests.unit.sync.stage import ABSENT, CANARY, Scene, sent, source, staged


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(sent(secret(owners=[])), id="as its metadata show"),
        pytest.param(
            refusal(422, f"ValidatingAdmissionPolicy 'x' denied request: {FOREIGN_SECRET}: …"), id="by policy"
        ),
    ],
)
async def test_somebody_elses_secret_costs_no_vault_call(scene: Scene, answer: Answer) -> None:
    error = await scene.fails(answer)
    assert error.reason == Reason.LABEL_ERROR
    assert error.retry is Retry.OBSTACLE
    assert scene.requests == ["look"]
    assert not scene.vault.asked


async def test_an_earlier_ones_secret_is_waited_for(scene: Scene) -> None:
    with pytest.raises(Again) as caught:
        await scene.sync(sent(secret(owners=[owner(uid="earlier")])))
    assert caught.value.seconds <= 2
    assert "shop" in caught.value.obstacle
    assert not scene.vault.asked


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([ABSENT, refusal(409)], id="somebody created it"),
        pytest.param([sent(secret()), refusal(409)], id="somebody changed it"),
        pytest.param([sent(secret()), refusal(404)], id="somebody deleted it"),
    ],
)
async def test_where_somebody_was_faster_it_is_looked_at_again(scene: Scene, answers: list[Answer]) -> None:
    with pytest.raises(Again) as caught:
        await scene.sync(*answers)
    assert not caught.value.obstacle


@pytest.mark.parametrize(
    ("message", "reason", "retry", "words"),
    [
        (
            "data: Forbidden: field is immutable when `immutable` is set",
            Reason.SYNC_FAILED,
            Retry.OBSTACLE,
            ["Secret shop is marked immutable", "delete it"],
        ),
        (
            'type: Invalid value: "Opaque": field is immutable',
            Reason.INPUT_INVALID,
            Retry.OBSTACLE,
            ["another type than Opaque", "delete it"],
        ),
        ("exceeded quota: x", Reason.SYNC_FAILED, Retry.TIME, ["exceeded quota"]),
        ("ValidatingAdmissionPolicy: type", Reason.POLICY_REFUSED, Retry.TIME, ["an admission policy refused"]),
    ],
)
async def test_what_the_api_server_refuses(
    scene: Scene, message: str, reason: Reason, retry: Retry, words: list[str]
) -> None:
    # The API server answers an exceeded quota with 403; the messages of 422 are not passed on.
    status = 403 if "quota" in message else 422
    error = await scene.fails(sent(secret()), refusal(status, message))
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
    assert not scene.server.asked


async def test_a_missing_class_is_named(scene: Scene) -> None:
    with pytest.raises(errors.ClassError, match="no SecretProviderClass class in namespace team; create it"):
        await scene.syncer.reading(sync(), None)


async def test_an_edited_class_is_read_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.class_reader.EDIT_INTERVAL", 0.0)
    with pytest.raises(errors.ClassError):
        await scene.sync(of=source(objects="array: x"))
    meta = msgspec.structs.replace(source().metadata, generation=2)
    await scene.sync(ABSENT, sent(secret()), of=msgspec.structs.replace(source(), metadata=meta))


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        (sync({"a/b": "user"}), "targetKey a/b"),
        (sync({"a": "nothing"}), "sourcePath nothing"),
        (sync({"a": "user/0"}), "sourcePath user/0"),
        (sync(["user"], type="kubernetes.io/tls"), "needs the key tls.crt"),
    ],
)
async def test_a_mistake_in_the_secretsync_costs_no_call(scene: Scene, wanted: SecretSync, word: str) -> None:
    error = await scene.fails(wanted=wanted)
    assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.EDIT)
    assert word in error.message
    assert not scene.server.asked
    assert not scene.vault.asked


async def test_type_that_is_not_allowed_costs_no_call_and_names_the_accepted_ones() -> None:
    async with staged(Settings(allowed_secret_types=("Opaque", "kubernetes.io/tls"))) as scene:
        error = await scene.fails(wanted=sync(type="example.com/own"))
        assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.EDIT)
        assert "secretObject.type is 'example.com/own': accepted are Opaque, kubernetes.io/tls;" in error.message
        assert not scene.server.asked
        assert not scene.vault.asked


@pytest.mark.parametrize(
    ("answer", "retry"),
    [
        (refusal(422, "metadata.labels: Invalid value"), Retry.EDIT),
        (refusal(400, "unknown field"), Retry.EDIT),
        (refusal(413, "Request entity too large: limit is 3145728"), Retry.EDIT),
        (refusal(500, "etcdserver: request is too large"), Retry.EDIT),
        (refusal(403, "forbidden: no such right"), Retry.TIME),
        (refusal(422, 'admission webhook "x" denied the request'), Retry.TIME),
        (refusal(500, "etcdserver: leader changed"), Retry.TIME),
    ],
)
async def test_what_only_an_edit_can_mend_waits_for_one(scene: Scene, answer: Answer, retry: Retry) -> None:
    error = await scene.fails(ABSENT, answer)
    assert (error.reason, error.retry) == (Reason.SYNC_FAILED, retry)


async def test_label_that_other_tools_obey_is_refused_before_the_vault_is_asked() -> None:
    """With policies, which would refuse it after that; without them it is written, as by SSE."""
    wanted = sync(labels={"argocd.argoproj.io/secret-type": "cluster"})
    async with staged(Settings(probe_secret_type="example.com/no")) as scene:
        error = await scene.fails(wanted=wanted)
        assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.EDIT)
        assert "secretObject.labels: the controller does not write the label 'argocd" in error.message
        assert not scene.vault.asked
        assert not scene.server.asked
    async with staged(Settings()) as scene:
        assert (await scene.sync(ABSENT, sent(secret()), wanted=wanted)).ready
