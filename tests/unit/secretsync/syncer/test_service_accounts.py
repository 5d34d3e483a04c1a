"""Test the identity that reads the vault: annotations of the ServiceAccount, and its token for Entra."""

import msgspec
import pytest

from controller.api.conditions import Reason
from controller.api.meta import CLIENT_ID, TENANT_ID
from controller.api.secretsync import REFRESH_INTERVAL
from controller.config.settings import TOKEN_AUDIENCE
from controller.domain.status import Synced
from controller.errors import ControllerError, ProviderError, Refused, Retry
from controller.keyvault.credentials import Identity
from controller.keyvault.service_accounts import service_account_tokens
from tests.support.builders import make_secret_meta, make_sync
from tests.support.scripted_api_server import ScriptedResponse, error_response
from tests.unit.secretsync.syncer.harness import ABSENT, SyncerHarness, make_class, metadata_response

WITHOUT_IDENTITY = {"clientID": "", "tenantID": ""}


def make_service_account(**annotations: str) -> ScriptedResponse:
    return ScriptedResponse({"metadata": {"name": "robot", "annotations": annotations}})


ACCOUNT = make_service_account(**{CLIENT_ID: "client-2", TENANT_ID: " tenant-2 "})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (WITHOUT_IDENTITY, Identity("team", "robot", "client-2", "tenant-2")),
        ({"clientID": ""}, Identity("team", "robot", "client-2", "tenant-1")),
        ({"tenantID": ""}, Identity("team", "robot", "client-1", "tenant-2")),
    ],
)
async def test_service_account_annotations_replace_missing_parameters(
    account_harness: SyncerHarness, given: dict[str, str], expected: Identity
) -> None:
    await account_harness.sync(ACCOUNT, ABSENT, metadata_response(make_secret_meta()), source=make_class(**given))
    assert [identity for identity, *_ in account_harness.vault.readers] == [expected]
    assert account_harness.server.requests[0].path == "/api/v1/namespaces/team/serviceaccounts/robot"


async def test_class_with_all_parameters_reads_no_service_account(account_harness: SyncerHarness) -> None:
    await account_harness.sync(ABSENT, metadata_response(make_secret_meta()))
    assert account_harness.vault.readers[0][0].client_id == "client-1"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            ScriptedResponse({"metadata": {"name": "robot"}}),
            f"annotation {CLIENT_ID} of ServiceAccount robot is missing: correct it, or set the SecretProviderClass's"
            " clientID",
        ),
        (
            make_service_account(**{CLIENT_ID: "client-2"}),
            f"annotation {TENANT_ID} of ServiceAccount robot is missing: correct it, or set the SecretProviderClass's"
            " tenantID",
        ),
        (
            ScriptedResponse({"metadata": {"name": "robot", "annotations": {CLIENT_ID: "a/b"}}}),
            "is 'a/b': correct it, or set the",
        ),
        (error_response(404), "there is no ServiceAccount robot in namespace team; create it"),
    ],
)
async def test_missing_or_unusable_annotation_of_a_service_account_is_named(
    account_harness: SyncerHarness, answer: ScriptedResponse, words: str
) -> None:
    with pytest.raises(ControllerError) as caught:
        await account_harness.sync(answer, source=make_class(**WITHOUT_IDENTITY))
    assert words in caught.value.message
    assert caught.value.retry is Retry.BACKOFF  # the controller does not watch ServiceAccounts


async def test_without_the_setting_the_class_must_have_all_parameters(harness: SyncerHarness) -> None:
    with pytest.raises(ControllerError, match="parameter clientID is missing"):
        await harness.sync(source=make_class(**WITHOUT_IDENTITY))
    assert not harness.server.requests


async def test_refresh_interval_that_is_not_a_number_is_reported(
    account_harness: SyncerHarness, harness: SyncerHarness
) -> None:
    wanted = make_sync()
    meta = msgspec.structs.replace(wanted.metadata, annotations={REFRESH_INTERVAL: "soon"})
    wanted = msgspec.structs.replace(wanted, metadata=meta)
    error = await account_harness.sync_error(wanted=wanted)
    assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.ON_EDIT)
    assert "'soon': write a number of seconds" in error.message
    # If SecretSyncs may not choose their interval, the annotation has no effect.
    assert isinstance(await harness.sync(ABSENT, metadata_response(make_secret_meta()), wanted=wanted), Synced)


async def test_service_account_token_has_only_the_audience_of_entra(harness: SyncerHarness) -> None:
    harness.server.add_responses({"status": {"token": "a.b.c", "expirationTimestamp": "2030-01-01T00:00:00Z"}})
    identity = Identity("team", "robot", "client-1", "tenant-1")
    assert await service_account_tokens(harness.syncer.kube)(identity) == "a.b.c"
    assert harness.server.requests[0].path == "/api/v1/namespaces/team/serviceaccounts/robot/token"
    assert harness.body()["spec"]["audiences"] == [TOKEN_AUDIENCE]
    harness.server.add_responses(error_response(404))
    with pytest.raises(ProviderError, match="no ServiceAccount robot in namespace team; create it"):
        await service_account_tokens(harness.syncer.kube)(identity)


async def test_error_of_a_token_that_the_chart_does_not_grant_names_the_chart_value(harness: SyncerHarness) -> None:
    harness.server.add_responses(error_response(403))
    with pytest.raises(ProviderError) as caught:
        await service_account_tokens(harness.syncer.kube)(Identity("team", "robot", "client-1", "tenant-1"))
    assert caught.value.message == (
        "the controller may not request a token of ServiceAccount robot in namespace team; an administrator adds it to"
        " the chart's tokenRequest.serviceAccounts, or correct serviceAccountName"
    )


async def test_other_refusal_of_a_token_has_the_message_of_the_api_server(harness: SyncerHarness) -> None:
    harness.server.add_responses(error_response(422, "spec.audiences: too many"))
    with pytest.raises(Refused, match=r"spec\.audiences: too many") as caught:
        await service_account_tokens(harness.syncer.kube)(Identity("team", "robot", "client-1", "tenant-1"))
    assert caught.value.status == 422
