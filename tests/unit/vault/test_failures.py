"""What is said of each failure, and who hears it while a vault is down."""

import asyncio
import gc

import pytest

from controller.calls import AT_ONCE_EACH, LEAVE_ALONE
from controller.errors import ControllerError, ObjectError, ProviderError
from controller.fetched import Fetched
from controller.objects import VaultObject, VersionOf
from tests.unit.api_server import Answer, Asked
from tests.unit.vault.stage import CANARY, CHALLENGE, JSON, SIGN, USER, WEB, Scene, refusal


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (USER, ["secret user", "Key Vault Secrets User"]),
        (WEB, ["certificate web", "Key Vault Reader"]),
        (SIGN, ["key sign", "Key Vault Reader"]),
    ],
)
async def test_each_kind_is_called_by_its_name(scene: Scene, wanted: VersionOf, words: list[str]) -> None:
    noun, role = words
    assert f"{noun} is not in Key Vault shop" in (await scene.fails(wanted)).message
    scene.server.otherwise = lambda asked: (
        refusal(403, "Forbidden", "ForbiddenByRbac") if "Authorization" in asked.headers else CHALLENGE
    )
    assert f"may not read {noun} in Key Vault shop; assign it the role {role}" in (await scene.fails(wanted)).message


@pytest.mark.parametrize(("history", "right"), [(1, "Get for certificates"), (2, "List for certificates")])
async def test_a_vault_with_access_policies(scene: Scene, history: int, right: str) -> None:
    for path in ("/certificates/web", "/certificates/web/", "/certificates/web/versions"):
        scene.answers[path] = refusal(403, "Forbidden", "AccessDenied")
    error = await scene.fails(VersionOf(VaultObject(name="web", type="cert", history=history)))
    assert isinstance(error, ObjectError)
    assert f"give it the permission {right} in the vault's access policies" in error.message


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refusal(404, "SecretNotFound"), ObjectError, ["secret user is not in Key Vault shop", "create or recover"]),
        (refusal(403, "Forbidden", "SecretDisabled"), ObjectError, ["secret user is disabled", "enable it"]),
        (refusal(403, "Forbidden", "ForbiddenByRbac"), ObjectError, ["client-1 may not read secret user", "assign"]),
        (refusal(403, "Forbidden", "ForbiddenByFirewall"), ProviderError, ["firewall", "allow its address"]),
        (refusal(403, "Forbidden"), ObjectError, ["client-1 may not read secret user"]),
        (CHALLENGE, ProviderError, ["does not accept the token of identity client-1", "tenantID"]),
        (refusal(429, "Throttled", Retry_After="17"), ProviderError, ["throttled", "rotationPollIntervalInSeconds"]),
        (refusal(500), ProviderError, ["HTTP 500", "tries again"]),
        (refusal(503), ProviderError, ["HTTP 503", "tries again"]),
        (Answer(CANARY.encode(), status=502), ProviderError, ["HTTP 502", "tries again"]),
        (Answer({"error": CANARY}, status=403, headers=JSON), ObjectError, ["may not read"]),
        (Answer(b"", status=302, headers={"Location": "https://127.0.0.1:1/"}), ProviderError, ["HTTP 302"]),
    ],
)
async def test_each_refusal_gives_cause_and_next_step(
    scene: Scene, answer: Answer, kind: type[ControllerError], words: list[str]
) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = answer
    error = await scene.fails()
    assert type(error) is kind
    for word in words:
        assert word in error.message
    assert CANARY not in error.message
    assert error.retry_after == (17 if answer.status == 429 else None)
    assert scene.tokens_refused == (1 if answer.status == 401 else 0)


ODD = [
    b'{"value":"v","id":"https://x/secrets/user/v1","attributes":{"%s":{}}}' % name.encode()
    for name in ("updated", "exp", "nbf")
]


@pytest.mark.parametrize(
    "body", [b"", b"<html>Sign in</html>", b"null", b"[]", b'"x"', b"{}", b'{"value":"v","id":5}', *ODD]
)
async def test_a_good_status_with_a_body_that_makes_no_sense(scene: Scene, body: bytes) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = Answer(body, headers=JSON)
    error = await scene.fails()
    assert isinstance(error, ProviderError)
    assert "gave no usable answer" in error.message


async def test_without_a_token_the_vault_is_not_blamed(scene: Scene) -> None:
    scene.no_token = ProviderError("no federated credential")
    assert (await scene.fails()).message == "no federated credential"
    assert scene.counted == [("secrets.get", "no token")]
    scene.no_token = None
    scene.has("user", "me")
    assert await scene.read(USER) == ["me"]


@pytest.mark.parametrize("takes_the_other", [True, False])
async def test_where_a_token_is_refused_and_there_is_another_it_is_tried(scene: Scene, takes_the_other: bool) -> None:
    refused = refusal(401)
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refused

    def another(_sent: float) -> bool:
        if takes_the_other:
            scene.has("user", "me")
        return True

    scene.refused = another  # type: ignore[method-assign]
    if takes_the_other:
        assert await scene.read(USER) == ["me"]
    else:
        assert "does not accept the token" in (await scene.fails()).message
    assert len(scene.reads) == 2
    assert scene.counted == [("secrets.get", "ok" if takes_the_other else "401")]


async def test_one_objects_failure_leaves_the_others_alone(scene: Scene) -> None:
    scene.has("user", "me")
    gone, me = await scene.read(VersionOf(VaultObject(name="gone")), USER)
    assert isinstance(gone, ObjectError)
    assert me == "me"


async def test_errors_keep_neither_frames_nor_causes(scene: Scene) -> None:
    # Frames hold their locals, among them the values of other objects.
    scene.has("user", CANARY)
    found = await scene.reader.read([USER, VersionOf(VaultObject(name="gone"))], since=scene.now, first=True)
    error = found[VersionOf(VaultObject(name="gone"))]
    assert isinstance(error, ObjectError)
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
    del found, error
    scene.reader._forget_values()  # as happens two seconds later
    gc.collect()
    assert CANARY.encode() not in [item.value.reveal() for item in gc.get_objects() if isinstance(item, Fetched)]


# A vault that is down


async def test_a_vault_that_is_down_is_asked_once_by_a_thousand(scene: Scene) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refusal(503)
    first = await scene.fails()
    before = len(scene.server.asked)
    rest = await asyncio.gather(*(scene.fails() for _ in range(1000)))
    assert {error.message for error in rest} == {first.message}
    assert len(scene.server.asked) == before


async def test_afterwards_one_tries_and_the_others_hear_what_they_heard(scene: Scene) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refusal(503)
    await scene.fails()
    before = len(scene.reads)
    scene.now += LEAVE_ALONE + 1
    await asyncio.gather(*(scene.fails() for _ in range(100)))
    assert len(scene.reads) - before == 1
    scene.has("user", "me")
    scene.now += LEAVE_ALONE + 1
    assert await scene.read(USER) == ["me"]
    assert await asyncio.gather(*(scene.read(USER) for _ in range(50))) == [["me"]] * 50


async def test_retry_after_is_kept(scene: Scene) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refusal(429, Retry_After="60")
    await scene.fails()
    before = len(scene.server.asked)
    scene.now += 59
    await scene.fails()
    assert len(scene.server.asked) == before


async def test_one_vault_does_not_take_every_slot(scene: Scene) -> None:
    scene.has("user")
    await scene.read(USER)  # the challenge has been met
    hanging = 0
    full = asyncio.Event()

    def hang(_: Asked) -> Answer:
        nonlocal hanging
        hanging += 1
        if hanging == AT_ONCE_EACH:
            full.set()
        return Answer(held=True)

    scene.server.otherwise = hang
    many = [VersionOf(VaultObject(name=f"s{number}")) for number in range(2 * AT_ONCE_EACH)]
    reading = asyncio.create_task(scene.read(*many))
    await asyncio.wait_for(full.wait(), 10)
    for _ in range(1000):  # time enough for one more to arrive
        await asyncio.sleep(0)
    assert hanging == AT_ONCE_EACH
    reading.cancel()
    await asyncio.wait([reading])
