"""Test which fetched values the syncer writes, and the results of later drift checks."""

import base64
import json
from datetime import UTC, datetime

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat

from controller.api.conditions import Reason
from controller.api.secretsync import SecretSyncStatus
from controller.config.settings import FOREIGN_SECRET
from controller.domain.decision import SYNC_LABEL
from controller.domain.managed_fields import data_fingerprint
from controller.domain.status import PartiallySynced, Synced, next_status
from controller.domain.values import VaultValue
from controller.errors import ControllerError, ObjectError, OwnershipError, ProviderError, Retry
from controller.keyvault.credentials import Identity
from controller.keyvault.errors import throttled_error
from controller.secretsync.syncer import LastWrite
from controller.secretsync.tasks import join_dependents
from tests.support.builders import make_managed_fields, make_provider_class, make_secret_meta, make_sync, make_value
from tests.support.certificates import encode_private_key, issue_certificate
from tests.support.scripted_api_server import ScriptedResponse, error_response
from tests.unit.secretsync.syncer.harness import ABSENT, CANARY, SyncerHarness, make_class, metadata_response


async def test_tls_secret_gets_certificate_and_key_from_one_vault_secret(harness: SyncerHarness) -> None:
    leaf = issue_certificate(
        "web", issue_certificate("ca", ca=True), start=datetime(2020, 1, 1, tzinfo=UTC), days=36_500
    )
    harness.vault.values["user"] = make_value(leaf.key_pem + leaf.pem)
    wanted = make_sync({"tls.crt": "user", "tls.key": "user"}, type="kubernetes.io/tls")
    outcome = await harness.sync(ABSENT, metadata_response(make_secret_meta()), wanted=wanted)
    data = {key: base64.b64decode(text).decode() for key, text in harness.body()["data"].items()}
    assert data == {"tls.crt": leaf.pem, "tls.key": encode_private_key(leaf.key, PrivateFormat.TraditionalOpenSSL)}
    assert outcome.reason == Reason.WRITTEN
    assert outcome.warnings == (
        "secret user in Key Vault shop-vault lacks the certificate of an issuer; import it again with its whole chain",
    )
    assert outcome.objects
    assert {item.object for item in outcome.objects} == {"secret/user"}


async def test_expired_value_is_synced_with_a_warning_if_another_key_fails(harness: SyncerHarness) -> None:
    harness.vault.values["user"] = msgspec.structs.replace(make_value("me"), expires=datetime(2020, 1, 1, tzinfo=UTC))
    harness.vault.values["pass"] = ObjectError("secret pass is disabled")
    outcome = await harness.sync(ABSENT, metadata_response(make_secret_meta(["user"])))
    assert outcome.reason == Reason.PARTIAL
    assert outcome.warnings
    assert "secret user in Key Vault shop-vault expired at 2020-01-01T00:00:00Z" in outcome.warnings[0]


async def test_usual_values_cause_no_warning(harness: SyncerHarness) -> None:
    assert (await harness.sync(ABSENT, metadata_response(make_secret_meta()))).warnings == ()


async def test_first_attempt_creates_without_a_probe(harness: SyncerHarness) -> None:
    harness.written = LastWrite()
    await harness.sync(metadata_response(make_secret_meta()))
    assert harness.requests == ["POST"]
    await harness.sync(metadata_response(make_secret_meta()))
    assert harness.requests == ["POST", "probe"]


async def test_conflict_of_the_first_attempt_is_probed_in_the_second(harness: SyncerHarness) -> None:
    harness.written = LastWrite()
    await harness.sync_requeue(error_response(409, "secrets already exists"))
    harness.server.requests.clear()
    assert isinstance(await harness.sync_error(metadata_response(make_secret_meta(owners=[]))), OwnershipError)
    assert harness.requests == ["probe"]


async def test_absent_secret_is_created_from_the_vault_of_the_class(harness: SyncerHarness) -> None:
    outcome = await harness.sync(ABSENT, metadata_response(make_secret_meta()))
    assert harness.requests == ["probe", "POST"]
    assert set(harness.body()["data"]) == {"user", "pass"}
    assert harness.vault.readers == [
        (Identity("team", "robot", "client-1", "tenant-1"), "AzurePublicCloud", "shop-vault")
    ]
    assert isinstance(outcome, Synced)
    assert outcome.reason == Reason.WRITTEN
    assert outcome.message == "2 keys written from Key Vault shop-vault"
    assert outcome.objects
    assert [item.target_key for item in outcome.objects] == ["user", "pass"]


async def test_equal_secret_is_not_written_again(harness: SyncerHarness) -> None:
    await harness.sync(ABSENT, metadata_response(make_secret_meta()))
    outcome = await harness.sync(metadata_response(make_secret_meta()))
    assert harness.requests == ["probe", "POST", "probe"]
    assert (outcome.reason, outcome.message) == (Reason.UP_TO_DATE, "2 keys equal to Key Vault shop-vault")


async def test_rotation_sends_only_the_rotated_value(harness: SyncerHarness) -> None:
    await harness.sync(ABSENT, metadata_response(make_secret_meta()))
    harness.vault.values["user"] = make_value("new", version="v2")
    outcome = await harness.sync(metadata_response(make_secret_meta()), metadata_response(make_secret_meta(), "43"))
    assert set(harness.body()["data"]) == {"user"}
    assert harness.body()["metadata"] == {"uid": "uid-of-the-secret", "resourceVersion": "42"}
    assert outcome.reason == Reason.WRITTEN


@pytest.mark.parametrize(("version", "reason"), [("42", Reason.UP_TO_DATE), ("43", Reason.WRITTEN)])
async def test_restart_sends_all_values_and_the_api_server_compares(
    harness: SyncerHarness, version: str, reason: Reason
) -> None:
    outcome = await harness.sync(metadata_response(make_secret_meta()), metadata_response(make_secret_meta(), version))
    assert set(harness.body()["data"]) == {"user", "pass"}
    assert outcome.reason == reason


async def test_key_that_was_removed_and_added_again_is_written(harness: SyncerHarness) -> None:
    await harness.sync(ABSENT, metadata_response(make_secret_meta()))
    await harness.sync(
        metadata_response(make_secret_meta()),
        metadata_response(make_secret_meta(["user"]), "43"),
        wanted=make_sync(["user"]),
    )
    assert harness.body()["data"] == {"pass": None}
    await harness.sync(metadata_response(make_secret_meta(["user"]), "43"), metadata_response(make_secret_meta(), "44"))
    assert set(harness.body()["data"]) == {"pass"}


async def test_edit_by_another_client_sends_all_values(harness: SyncerHarness) -> None:
    await harness.sync(ABSENT, metadata_response(make_secret_meta()))
    edited = make_secret_meta(
        managed_fields=[
            *make_secret_meta().managed_fields,
            make_managed_fields(["user"], manager="kubectl", time="2030-01-01T00:09:00Z"),
        ]
    )
    await harness.sync(metadata_response(edited), metadata_response(make_secret_meta(), "43"))
    assert set(harness.body()["data"]) == {"user", "pass"}


async def test_key_that_could_not_be_fetched_keeps_its_last_value(harness: SyncerHarness) -> None:
    await harness.sync(ABSENT, metadata_response(make_secret_meta()))
    harness.vault.values = {"user": make_value("new"), "pass": ProviderError("throttled", retry_after=9)}
    outcome = await harness.sync(metadata_response(make_secret_meta()), metadata_response(make_secret_meta(), "43"))
    assert set(harness.body()["data"]) == {"user"}
    assert isinstance(outcome, PartiallySynced)
    assert outcome.reason == Reason.PARTIAL
    assert outcome.retry_after == 9
    assert [item["status"] for item in json.loads(outcome.message)] == ["failed", "synced"]


async def test_throttled_key_is_fetched_alone_and_as_a_first_sync(harness: SyncerHarness) -> None:
    harness.vault.values["pass"] = throttled_error("shop", 4)
    outcome = await harness.sync(ABSENT, metadata_response(make_secret_meta(["user"])))
    assert isinstance(outcome, PartiallySynced)
    assert (outcome.reason, set(outcome.failed)) == (Reason.PARTIAL, {"pass"})
    assert (outcome.retry, outcome.retry_after) == (Retry.THROTTLED, 4)
    harness.vault.values["pass"] = make_value(CANARY)
    status = next_status(make_sync().metadata, SecretSyncStatus(), make_provider_class(), outcome, datetime.now(UTC))
    outcome = await harness.sync(
        metadata_response(make_secret_meta(["user"])),
        metadata_response(make_secret_meta(), "43"),
        wanted=make_sync(status=status),
        stale=frozenset({"pass"}),
    )
    assert harness.vault.read_names == ["pass"]
    assert set(harness.body()["data"]) == {"pass"}
    assert isinstance(outcome, Synced)
    # A later refresh of existing keys does not count as a first sync.
    status = next_status(make_sync().metadata, status, make_provider_class(), outcome, datetime.now(UTC))
    await harness.sync(metadata_response(make_secret_meta(), "43"), wanted=make_sync(status=status))
    assert harness.vault.first_flags == [True, True, False]


async def test_last_write_says_whether_the_secret_exists(harness: SyncerHarness) -> None:
    harness.written = LastWrite()
    await harness.sync(metadata_response(make_secret_meta()))  # a first attempt creates the Secret without a probe
    seen = [harness.written.exists]
    harness.vault.values = dict.fromkeys(("user", "pass"), ObjectError("gone"))
    for answer in (ABSENT, metadata_response(make_secret_meta())):
        await harness.sync_error(answer)
        seen.append(harness.written.exists)
    assert seen == [True, False, True]


async def test_if_nothing_can_be_fetched_the_secret_is_not_written(harness: SyncerHarness) -> None:
    harness.vault.values = dict.fromkeys(("user", "pass"), ObjectError("gone"))
    assert (await harness.sync_error(metadata_response(make_secret_meta()))).message == "gone"
    assert harness.requests == ["probe"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(metadata_response(make_secret_meta()), True, id="unchanged"),
        pytest.param(ABSENT, False, id="deleted"),
        pytest.param(metadata_response(make_secret_meta(owners=[])), False, id="owner removed"),
        pytest.param(metadata_response(make_secret_meta(["user"])), False, id="key removed"),
        pytest.param(error_response(503), True, id="API server fails"),
        pytest.param(
            error_response(422, f"ValidatingAdmissionPolicy: {FOREIGN_SECRET}"),
            False,
            id="owner changed, by admission policy",
        ),
    ],
)
async def test_drift_check_compares_the_metadata(
    harness: SyncerHarness, answer: ScriptedResponse, expected: bool
) -> None:
    await harness.sync(ABSENT, metadata_response(make_secret_meta()))
    harness.server.add_responses(answer)
    assert await harness.syncer.is_unchanged(make_sync(), harness.written) is expected
    assert harness.requests == ["probe", "POST", "probe"]
    assert len(harness.vault.readers) == 1
    if expected:
        assert harness.written.fingerprint == data_fingerprint(make_secret_meta())


async def test_changed_label_is_written_back_without_a_value(harness: SyncerHarness) -> None:
    await harness.sync(ABSENT, metadata_response(make_secret_meta()))
    # The write changes the time of the controller's entry in managedFields.
    later = make_secret_meta(
        managed_fields=[make_managed_fields(["user", "pass"], labels=[SYNC_LABEL[0]], time="2030-01-02T00:00:00Z")]
    )
    harness.server.add_responses(
        metadata_response(make_secret_meta(), labels={}), metadata_response(later, "43"), metadata_response(later, "43")
    )
    assert await harness.syncer.is_unchanged(make_sync(), harness.written)
    assert harness.requests == ["probe", "POST", "probe", "PATCH"]
    assert harness.body().keys() == {"type", "metadata"}
    assert harness.body()["metadata"]["labels"] == dict([SYNC_LABEL])
    assert len(harness.vault.readers) == 1
    assert not harness.written.contested
    assert await harness.syncer.is_unchanged(make_sync(), harness.written)


async def test_label_that_another_component_changes_back_is_written_rarely(harness: SyncerHarness) -> None:
    wanted = make_sync(labels={"tier": "data"}, annotations={"note": "x"})
    changed = metadata_response(make_secret_meta(labels={"tier": "theirs"}))
    outcome = await harness.sync(ABSENT, changed, wanted=wanted)
    assert outcome.warnings == (harness.written.contested,)
    assert "changes label tier, annotation note of the Secret after each write" in harness.written.contested
    writes = []
    for check in range(1, 101):
        before = len(harness.server.requests)
        harness.server.add_responses(changed, changed)
        assert await harness.syncer.is_unchanged(wanted, harness.written)
        writes += [check] * (len(harness.server.requests) - before - 1)
        harness.server.script.clear()
    assert writes == [1, 2, 4, 8, 16, 32, 64]
    assert len(harness.vault.readers) == 1
    # After a check finds the wanted labels, the next change is written back at once.
    harness.server.add_responses(
        metadata_response(make_secret_meta(labels={"tier": "data"}, annotations={"note": "x"}))
    )
    assert await harness.syncer.is_unchanged(wanted, harness.written)
    assert (harness.written.repairs, harness.written.contested) == (0, "")


async def test_key_that_prevented_the_write_is_fetched_first(harness: SyncerHarness) -> None:
    wanted = make_sync({"tls.crt": "user", "tls.key": "pass"}, type="kubernetes.io/tls")
    leaf = issue_certificate("web")
    harness.vault.values = {"user": make_value(leaf.pem), "pass": ObjectError("no key")}
    for expected in (["pass", "user"], ["pass"], ["pass"]):
        assert (await harness.sync_error(ABSENT, wanted=wanted)).message == "no key"
        assert harness.vault.read_names == expected
    harness.vault.values["pass"] = make_value(leaf.key_pem)
    assert isinstance(
        await harness.sync(ABSENT, metadata_response(make_secret_meta(["tls.crt", "tls.key"])), wanted=wanted), Synced
    )
    assert harness.vault.read_names == ["pass", "user"]
    assert not harness.written.failing


HALVES = {"tls.crt": "user", "tls.key": "pass", "ca": "ca"}


@pytest.mark.parametrize("failing", ["user", "pass"])
@pytest.mark.parametrize(
    "failure", [ObjectError("it is disabled"), make_value("no PEM", "v2"), throttled_error("shop", 4)]
)
async def test_halves_of_a_tls_secret_from_two_objects_are_written_together(
    harness: SyncerHarness, failing: str, failure: VaultValue | ControllerError
) -> None:
    source = make_class(objects="array: ['objectName: user', 'objectName: pass', 'objectName: ca']")
    wanted, held = make_sync(HALVES, type="kubernetes.io/tls"), metadata_response(make_secret_meta(HALVES))
    old, new = issue_certificate("web"), issue_certificate("web")
    harness.vault.values = {"user": make_value(old.pem), "pass": make_value(old.key_pem), "ca": make_value("1")}
    await harness.sync(ABSENT, held, wanted=wanted, source=source)
    both: dict[str, VaultValue | ControllerError] = {
        "user": make_value(new.pem, "v2"),
        "pass": make_value(new.key_pem, "v2"),
        "ca": make_value("2"),
    }
    harness.vault.values = {**both, failing: failure}
    outcome = await harness.sync(held, held, wanted=wanted, source=source)
    assert harness.body()["data"].keys() == {"ca"}
    assert isinstance(outcome, PartiallySynced)
    assert outcome.failed.keys() == {"tls.crt", "tls.key"}
    assert [item.target_key for item in outcome.objects] == ["ca"]
    stale = frozenset({"tls.crt" if failing == "user" else "tls.key"})
    stale = frozenset(join_dependents(stale, harness.written.unusable) or ())
    if not isinstance(failure, VaultValue):
        stale = frozenset({"tls.crt", "tls.key"})  # both are left to the next attempt
    harness.vault.values = both
    outcome = await harness.sync(held, held, wanted=wanted, source=source, stale=stale)
    assert harness.body()["data"].keys() == {"tls.crt", "tls.key"}
    assert isinstance(outcome, Synced)
