"""Who reads the vault: what the class leaves out, and the token for Entra."""

import msgspec
import pytest

from controller.accounts import assertions
from controller.api.conditions import Reason
from controller.api.meta import CLIENT_ID, TENANT_ID
from controller.api.secretsync import REFRESH_INTERVAL
from controller.errors import ControllerError, ProviderError, Retry
from controller.identity import Identity
from controller.settings import TOKEN_AUDIENCE
from tests.unit.api_server import Answer, refusal
from tests.unit.objects_of import secret, sync
from tests.unit.sync.stage import ABSENT, Scene, sent, source

SELF = {"clientID": "", "tenantID": ""}


def account(**annotations: str) -> Answer:
    return Answer({"metadata": {"name": "robot", "annotations": annotations}})


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
    await trusting.sync(ACCOUNT, ABSENT, sent(secret()), of=source(**given))
    assert [who for who, *_ in trusting.vault.asked] == [expected]
    assert trusting.server.asked[0].path == "/api/v1/namespaces/team/serviceaccounts/robot"


async def test_a_class_that_says_it_all_asks_no_service_account(trusting: Scene) -> None:
    await trusting.sync(ABSENT, sent(secret()))
    assert trusting.vault.asked[0][0].client_id == "client-1"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Answer({"metadata": {"name": "robot"}}),
            f"annotation {CLIENT_ID} of ServiceAccount robot is missing: correct",
        ),
        (
            Answer({"metadata": {"name": "robot", "annotations": {CLIENT_ID: "a/b"}}}),
            "is 'a/b': correct it, or set the",
        ),
        (refusal(404), "there is no ServiceAccount robot in namespace team; create it"),
    ],
)
async def test_a_service_account_that_does_not_tell(trusting: Scene, answer: Answer, words: str) -> None:
    with pytest.raises(ControllerError) as caught:
        await trusting.sync(answer, of=source(**SELF))
    assert words in caught.value.message
    assert caught.value.retry is Retry.TIME  # nobody watches ServiceAccounts


async def test_unless_it_may_the_class_must_say_it_all(scene: Scene) -> None:
    with pytest.raises(ControllerError, match="parameter clientID is missing"):
        await scene.sync(of=source(**SELF))
    assert not scene.server.asked


async def test_an_interval_that_is_no_number_is_told(trusting: Scene, scene: Scene) -> None:
    wanted = sync()
    meta = msgspec.structs.replace(wanted.metadata, annotations={REFRESH_INTERVAL: "soon"})
    wanted = msgspec.structs.replace(wanted, metadata=meta)
    error = await trusting.fails(wanted=wanted)
    assert (error.reason, error.retry) == (Reason.INPUT_INVALID, Retry.EDIT)
    assert "'soon': write a number of seconds" in error.message
    # Where no SecretSync may choose, the annotation is nobody's business.
    assert (await scene.sync(ABSENT, sent(secret()), wanted=wanted)).ready


async def test_an_assertion_is_a_token_for_entra_alone(scene: Scene) -> None:
    scene.server.will_answer({"status": {"token": "a.b.c", "expirationTimestamp": "2030-01-01T00:00:00Z"}})
    who = Identity("team", "robot", "client-1", "tenant-1")
    assert await assertions(scene.syncer._kube)(who) == "a.b.c"
    assert scene.server.asked[0].path == "/api/v1/namespaces/team/serviceaccounts/robot/token"
    assert scene.body()["spec"]["audiences"] == [TOKEN_AUDIENCE]
    scene.server.will_answer(refusal(404))
    with pytest.raises(ProviderError, match="no ServiceAccount robot in namespace team; create it"):
        await assertions(scene.syncer._kube)(who)
