"""What is written of what the vault gave, and what a look finds of it later."""

import base64
import json
from datetime import UTC, datetime

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat

from controller.api.conditions import Reason
from controller.api.secretsync import SecretSyncStatus
from controller.config.settings import FOREIGN_SECRET
from controller.domain.decision import OUR_LABEL, data_fingerprint
from controller.domain.status import PartiallySynced, Synced, next_status
from controller.errors import ObjectError, OwnershipError, ProviderError, Retry
from controller.keyvault.credentials import Identity
from controller.keyvault.errors import throttled_error
from controller.secretsync.syncer import LastWrite
from tests.support.builders import make_managed_fields, make_provider_class, make_secret_meta, make_sync, make_value
from tests.support.certificates import encode_private_key, issue_certificate
from tests.support.scripted_api_server import ScriptedResponse, error_response
from tests.unit.secretsync.syncer.stage import ABSENT, CANARY, Scene, sent


async def test_a_tls_secret_takes_both_halves_out_of_one_secret(scene: Scene) -> None:
    leaf = issue_certificate(
        "web", issue_certificate("ca", ca=True), start=datetime(2020, 1, 1, tzinfo=UTC), days=36_500
    )
    scene.vault.holds["user"] = make_value(leaf.key_pem + leaf.pem)
    wanted = make_sync({"tls.crt": "user", "tls.key": "user"}, type="kubernetes.io/tls")
    outcome = await scene.sync(ABSENT, sent(make_secret_meta()), wanted=wanted)
    data = {key: base64.b64decode(text).decode() for key, text in scene.body()["data"].items()}
    assert data == {"tls.crt": leaf.pem, "tls.key": encode_private_key(leaf.key, PrivateFormat.TraditionalOpenSSL)}
    assert outcome.reason == Reason.WRITTEN
    assert outcome.warnings == (
        "secret user in Key Vault shop-vault lacks the certificate of an issuer; import it again with its whole chain",
    )
    assert outcome.objects
    assert {item.object for item in outcome.objects} == {"secret/user"}


async def test_what_expired_is_synced_with_a_warning_even_where_another_key_fails(scene: Scene) -> None:
    scene.vault.holds["user"] = msgspec.structs.replace(make_value("me"), expires=datetime(2020, 1, 1, tzinfo=UTC))
    scene.vault.holds["pass"] = ObjectError("secret pass is disabled")
    outcome = await scene.sync(ABSENT, sent(make_secret_meta(["user"])))
    assert outcome.reason == Reason.PARTIAL
    assert outcome.warnings
    assert "secret user in Key Vault shop-vault expired at 2020-01-01T00:00:00Z" in outcome.warnings[0]


async def test_without_anything_odd_there_is_nothing_to_warn_of(scene: Scene) -> None:
    assert (await scene.sync(ABSENT, sent(make_secret_meta()))).warnings == ()


async def test_the_first_attempt_creates_without_a_look(scene: Scene) -> None:
    scene.written = LastWrite()
    await scene.sync(sent(make_secret_meta()))
    assert scene.requests == ["POST"]
    await scene.sync(sent(make_secret_meta()))
    assert scene.requests == ["POST", "probe"]


async def test_what_is_in_the_way_of_the_first_attempt_is_looked_at_in_the_second(scene: Scene) -> None:
    scene.written = LastWrite()
    await scene.requeues(error_response(409, "secrets already exists"))
    scene.server.requests.clear()
    assert isinstance(await scene.fails(sent(make_secret_meta(owners=[]))), OwnershipError)
    assert scene.requests == ["probe"]


async def test_an_absent_secret_is_created_from_the_vault_that_the_class_names(scene: Scene) -> None:
    outcome = await scene.sync(ABSENT, sent(make_secret_meta()))
    assert scene.requests == ["probe", "POST"]
    assert set(scene.body()["data"]) == {"user", "pass"}
    assert scene.vault.asked == [(Identity("team", "robot", "client-1", "tenant-1"), "AzurePublicCloud", "shop-vault")]
    assert isinstance(outcome, Synced)
    assert outcome.reason == Reason.WRITTEN
    assert outcome.message == "2 keys written from Key Vault shop-vault"
    assert outcome.objects
    assert [item.target_key for item in outcome.objects] == ["user", "pass"]


async def test_what_is_equal_is_not_written_again(scene: Scene) -> None:
    await scene.sync(ABSENT, sent(make_secret_meta()))
    outcome = await scene.sync(sent(make_secret_meta()))
    assert scene.requests == ["probe", "POST", "probe"]
    assert (outcome.reason, outcome.message) == (Reason.UP_TO_DATE, "2 keys equal to Key Vault shop-vault")


async def test_only_a_rotated_value_is_sent(scene: Scene) -> None:
    await scene.sync(ABSENT, sent(make_secret_meta()))
    scene.vault.holds["user"] = make_value("new", version="v2")
    outcome = await scene.sync(sent(make_secret_meta()), sent(make_secret_meta(), "43"))
    assert set(scene.body()["data"]) == {"user"}
    assert scene.body()["metadata"] == {"uid": "uid-of-the-secret", "resourceVersion": "42"}
    assert outcome.reason == Reason.WRITTEN


@pytest.mark.parametrize(("version", "reason"), [("42", Reason.UP_TO_DATE), ("43", Reason.WRITTEN)])
async def test_after_a_restart_all_is_sent_and_the_api_server_compares(
    scene: Scene, version: str, reason: Reason
) -> None:
    outcome = await scene.sync(sent(make_secret_meta()), sent(make_secret_meta(), version))
    assert set(scene.body()["data"]) == {"user", "pass"}
    assert outcome.reason == reason


async def test_a_key_that_left_and_came_back_is_written_again(scene: Scene) -> None:
    await scene.sync(ABSENT, sent(make_secret_meta()))
    await scene.sync(sent(make_secret_meta()), sent(make_secret_meta(["user"]), "43"), wanted=make_sync(["user"]))
    assert scene.body()["data"] == {"pass": None}
    await scene.sync(sent(make_secret_meta(["user"]), "43"), sent(make_secret_meta(), "44"))
    assert set(scene.body()["data"]) == {"pass"}


async def test_after_somebody_elses_hand_all_is_sent(scene: Scene) -> None:
    await scene.sync(ABSENT, sent(make_secret_meta()))
    edited = make_secret_meta(
        hands=[
            *make_secret_meta().managed_fields,
            make_managed_fields(["user"], manager="kubectl", time="2030-01-01T00:09:00Z"),
        ]
    )
    await scene.sync(sent(edited), sent(make_secret_meta(), "43"))
    assert set(scene.body()["data"]) == {"user", "pass"}


async def test_what_could_not_be_fetched_keeps_its_last_value(scene: Scene) -> None:
    await scene.sync(ABSENT, sent(make_secret_meta()))
    scene.vault.holds = {"user": make_value("new"), "pass": ProviderError("throttled", retry_after=9)}
    outcome = await scene.sync(sent(make_secret_meta()), sent(make_secret_meta(), "43"))
    assert set(scene.body()["data"]) == {"user"}
    assert isinstance(outcome, PartiallySynced)
    assert outcome.reason == Reason.PARTIAL
    assert outcome.retry_after == 9
    assert [item["status"] for item in json.loads(outcome.message)] == ["failed", "synced"]


async def test_what_a_busy_vault_put_off_is_all_that_is_left_and_comes_first(scene: Scene) -> None:
    scene.vault.holds["pass"] = throttled_error("shop", 4)
    outcome = await scene.sync(ABSENT, sent(make_secret_meta(["user"])))
    assert isinstance(outcome, PartiallySynced)
    assert (outcome.reason, set(outcome.failed)) == (Reason.PARTIAL, {"pass"})
    assert (outcome.retry, outcome.retry_after) == (Retry.THROTTLED, 4)
    scene.vault.holds["pass"] = make_value(CANARY)
    status = next_status(make_sync().metadata, SecretSyncStatus(), make_provider_class(), outcome, datetime.now(UTC))
    outcome = await scene.sync(
        sent(make_secret_meta(["user"])),
        sent(make_secret_meta(), "43"),
        wanted=make_sync(status=status),
        stale=frozenset({"pass"}),
    )
    assert scene.vault.read_names == ["pass"]
    assert set(scene.body()["data"]) == {"pass"}
    assert isinstance(outcome, Synced)
    # … and a refresh of what is there does not.
    status = next_status(make_sync().metadata, status, make_provider_class(), outcome, datetime.now(UTC))
    await scene.sync(sent(make_secret_meta(), "43"), wanted=make_sync(status=status))
    assert scene.vault.first == [True, True, False]


async def test_nothing_is_blanked_when_nothing_can_be_fetched(scene: Scene) -> None:
    scene.vault.holds = dict.fromkeys(("user", "pass"), ObjectError("gone"))
    assert (await scene.fails(sent(make_secret_meta()))).message == "gone"
    assert scene.requests == ["probe"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(sent(make_secret_meta()), True, id="as we left it"),
        pytest.param(ABSENT, False, id="gone"),
        pytest.param(sent(make_secret_meta(owners=[])), False, id="without its owner"),
        pytest.param(sent(make_secret_meta(["user"])), False, id="a key is missing"),
        pytest.param(error_response(503), True, id="nobody knows"),
        pytest.param(
            error_response(422, f"ValidatingAdmissionPolicy: {FOREIGN_SECRET}"), False, id="another's, says policy"
        ),
    ],
)
async def test_looking_for_drift(scene: Scene, answer: ScriptedResponse, expected: bool) -> None:
    await scene.sync(ABSENT, sent(make_secret_meta()))
    scene.server.add_responses(answer)
    assert await scene.syncer.is_unchanged(make_sync(), scene.written) is expected
    assert scene.requests == ["probe", "POST", "probe"]
    assert len(scene.vault.asked) == 1
    if expected:
        assert scene.written.mark == data_fingerprint(make_secret_meta())


async def test_changed_label_is_written_back_without_a_value(scene: Scene) -> None:
    await scene.sync(ABSENT, sent(make_secret_meta()))
    # The write gives our entry in managedFields another time.
    later = make_secret_meta(
        hands=[make_managed_fields(["user", "pass"], labels=[OUR_LABEL[0]], time="2030-01-02T00:00:00Z")]
    )
    scene.server.add_responses(sent(make_secret_meta(), labels={}), sent(later, "43"), sent(later, "43"))
    assert await scene.syncer.is_unchanged(make_sync(), scene.written)
    assert scene.requests == ["probe", "POST", "probe", "PATCH"]
    assert scene.body().keys() == {"type", "metadata"}
    assert scene.body()["metadata"]["labels"] == dict([OUR_LABEL])
    assert len(scene.vault.asked) == 1
    assert not scene.written.contested
    assert await scene.syncer.is_unchanged(make_sync(), scene.written)


async def test_label_that_another_component_changes_back_is_written_more_and_more_rarely(scene: Scene) -> None:
    wanted = make_sync(labels={"tier": "data"}, annotations={"note": "x"})
    changed = sent(make_secret_meta(labels={"tier": "theirs"}))
    outcome = await scene.sync(ABSENT, changed, wanted=wanted)
    assert outcome.warnings == (scene.written.contested,)
    assert "changes label tier, annotation note of the Secret after each write" in scene.written.contested
    writes = []
    for check in range(1, 101):
        before = len(scene.server.requests)
        scene.server.add_responses(changed, changed)
        assert await scene.syncer.is_unchanged(wanted, scene.written)
        writes += [check] * (len(scene.server.requests) - before - 1)
        scene.server.script.clear()
    assert writes == [1, 2, 4, 8, 16, 32, 64]
    assert len(scene.vault.asked) == 1
    # Once it is as it should be, the next change is written back at once.
    scene.server.add_responses(sent(make_secret_meta(labels={"tier": "data"}, annotations={"note": "x"})))
    assert await scene.syncer.is_unchanged(wanted, scene.written)
    assert (scene.written.repairs, scene.written.contested) == (0, "")


async def test_key_that_kept_the_secret_from_being_written_is_asked_for_first(scene: Scene) -> None:
    wanted = make_sync({"tls.crt": "user", "tls.key": "pass"}, type="kubernetes.io/tls")
    leaf = issue_certificate("web")
    scene.vault.holds = {"user": make_value(leaf.pem), "pass": ObjectError("no key")}
    for expected in (["pass", "user"], ["pass"], ["pass"]):
        assert (await scene.fails(ABSENT, wanted=wanted)).message == "no key"
        assert scene.vault.read_names == expected
    scene.vault.holds["pass"] = make_value(leaf.key_pem)
    assert isinstance(await scene.sync(ABSENT, sent(make_secret_meta(["tls.crt", "tls.key"])), wanted=wanted), Synced)
    assert scene.vault.read_names == ["pass", "user"]
    assert not scene.written.failing
