"""Who reads the vault: what the class leaves out, and the token for Entra."""

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
from tests.unit.secretsync.syncer.stage import ABSENT, Scene, sent, source

SELF = {"clientID": "", "tenantID": ""}


def account(**annotations: str) -> ScriptedResponse:
    return ScriptedResponse({"metadata": {"name": "robot", "annotations": annotations}})


ACCOUNT = account(**{CLIENT_ID: "client-2", TENANT_ID: " tenant-2 "})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (SELF, Identity("team", "robot", "client-2", "tenant-2")),
        ({"clientID": ""}, Identity("team", "robot", "client-2", "tenant-1")),
        ({"tenantID": ""}, Identity("team", "robot", "client-1", "tenant-2")),
    ],
)
async def test_the_service_account_tells_what_the_class_leaves_out(
    trusting: Scene, given: dict[str, str], expected: Identity
) -> None:
    await trusting.sync(ACCOUNT, ABSENT, sent(make_secret_meta()), of=source(**given))
    assert [who for who, *_ in trusting.vault.asked] == [expected]
    assert trusting.server.requests[0].path == "/api/v1/namespaces/team/serviceaccounts/robot"


async def test_a_class_that_says_it_all_asks_no_service_account(trusting: Scene) -> None:
    await trusting.sync(ABSENT, sent(make_secret_meta()))
    assert trusting.vault.asked[0][0].client_id == "client-1"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            ScriptedResponse({"metadata": {"name": "robot"}}),
            f"annotation {CLIENT_ID} of ServiceAccount robot is missing: correct it, or set the SecretProviderClass's"
            " clientID",
        ),
        (
            account(**{CLIENT_ID: "client-2"}),
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
async def test_a_service_account_that_does_not_tell(trusting: Scene, answer: ScriptedResponse, words: str) -> None:
    with pytest.raises(ControllerError) as caught:
        await trusting.sync(answer, of=source(**SELF))
    assert words in caught.value.message
    assert caught.value.retry is Retry.BACKOFF  # nobody watches ServiceAccounts


async def test_unless_it_may_the_class_must_say_it_all(scene: Scene) -> None:
    with pytest.raises(ControllerError, match="parameter clientID is missing"):
        await scene.sync(of=source(**SELF))
    assert not scene.server.requests


async def test_an_interval_that_is_no_number_is_told(trusting: Scene, scene: Scene) -> None:
    wanted = make_sync()
    meta = msgspec.structs.replace(wanted.metadata, annotations={REFRESH_INTERVAL: "soon"})
    wanted = msgspec.structs.replace(wanted, metadata=meta)
    error = await trusting.fails(wanted=wanted)
    assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.ON_EDIT)
    assert "'soon': write a number of seconds" in error.message
    # Where no SecretSync may choose, the annotation is nobody's business.
    assert isinstance(await scene.sync(ABSENT, sent(make_secret_meta()), wanted=wanted), Synced)


async def test_an_assertion_is_a_token_for_entra_alone(scene: Scene) -> None:
    scene.server.add_responses({"status": {"token": "a.b.c", "expirationTimestamp": "2030-01-01T00:00:00Z"}})
    who = Identity("team", "robot", "client-1", "tenant-1")
    assert await service_account_tokens(scene.syncer.kube)(who) == "a.b.c"
    assert scene.server.requests[0].path == "/api/v1/namespaces/team/serviceaccounts/robot/token"
    assert scene.body()["spec"]["audiences"] == [TOKEN_AUDIENCE]
    scene.server.add_responses(error_response(404))
    with pytest.raises(ProviderError, match="no ServiceAccount robot in namespace team; create it"):
        await service_account_tokens(scene.syncer.kube)(who)


async def test_token_that_the_chart_does_not_grant_is_a_task_for_the_administrator(scene: Scene) -> None:
    scene.server.add_responses(error_response(403))
    with pytest.raises(ProviderError) as caught:
        await service_account_tokens(scene.syncer.kube)(Identity("team", "robot", "client-1", "tenant-1"))
    assert caught.value.message == (
        "the controller may not request a token of ServiceAccount robot in namespace team; an administrator adds it to"
        " the chart's tokenRequest.serviceAccounts, or correct serviceAccountName"
    )


async def test_other_refusal_of_a_token_stays_the_api_servers(scene: Scene) -> None:
    scene.server.add_responses(error_response(422, "spec.audiences: too many"))
    with pytest.raises(Refused, match=r"spec\.audiences: too many") as caught:
        await service_account_tokens(scene.syncer.kube)(Identity("team", "robot", "client-1", "tenant-1"))
    assert caught.value.status == 422
