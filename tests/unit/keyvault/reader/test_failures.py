"""What is said of each failure, and who hears it while a vault is down."""

import asyncio
import gc

import pytest

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.snapshot import VaultSnapshot
from controller.domain.values import VaultValue
from controller.errors import AccessDenied, ControllerError, ObjectError, ProviderError
from controller.keyvault.client import AT_ONCE_EACH
from controller.runtime.circuit_breaker import HEALTHY_OUTCOMES, OPEN_SECONDS
from controller.runtime.rate_limiter import AdaptiveRateLimiter
from tests.support.messages import NOT_IN_KEY_VAULT
from tests.support.scripted_api_server import ReceivedRequest, ScriptedResponse
from tests.unit.keyvault.reader.stage import CANARY, CHALLENGE, JSON, SIGN, USER, WEB, Scene, refusal


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (USER, ["secret user", "Key Vault Secrets User"]),
        (WEB, ["certificate web", "Key Vault Reader"]),
        (SIGN, ["key sign", "Key Vault Reader"]),
    ],
)
async def test_each_kind_is_called_by_its_name(scene: Scene, wanted: ObjectVersionRef, words: list[str]) -> None:
    noun, role = words
    assert f"{noun} {NOT_IN_KEY_VAULT} shop" in (await scene.fails(wanted)).message
    scene.server.default_response = lambda asked: (
        refusal(403, "Forbidden", "ForbiddenByRbac") if "Authorization" in asked.headers else CHALLENGE
    )
    assert f"may not read {noun} in Key Vault shop; assign it the role {role}" in (await scene.fails(wanted)).message


@pytest.mark.parametrize(("history", "right"), [(1, "Get for certificates"), (2, "List for certificates")])
async def test_a_vault_with_access_policies(scene: Scene, history: int, right: str) -> None:
    for path in ("/certificates/web", "/certificates/web/", "/certificates/web/versions"):
        scene.answers[path] = refusal(403, "Forbidden", "AccessDenied")
    error = await scene.fails(ObjectVersionRef(VaultObject(name="web", type="cert", history=history)))
    assert isinstance(error, ObjectError)
    assert f"give it the permission {right} in the vault's access policies" in error.message


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refusal(404, "SecretNotFound"), ObjectError, [f"secret user {NOT_IN_KEY_VAULT} shop", "create or recover"]),
        (refusal(403, "Forbidden", "SecretDisabled"), ObjectError, ["secret user is disabled", "enable it"]),
        (refusal(403, "Forbidden", "ForbiddenByRbac"), ObjectError, ["client-1 may not read secret user", "assign"]),
        (refusal(403, "Forbidden", "ForbiddenByFirewall"), ProviderError, ["firewall", "allow its address"]),
        (refusal(403, "Forbidden"), ObjectError, ["client-1 may not read secret user"]),
        (CHALLENGE, ProviderError, ["does not accept the token of identity client-1", "tenantID"]),
        (refusal(429, "Throttled", Retry_After="17"), ProviderError, ["throttled", "rotationPollIntervalInSeconds"]),
        (refusal(500), ProviderError, ["HTTP 500", "tries again"]),
        (refusal(503), ProviderError, ["HTTP 503", "tries again"]),
        (ScriptedResponse(CANARY.encode(), status=502), ProviderError, ["HTTP 502", "tries again"]),
        (ScriptedResponse({"error": CANARY}, status=403, headers=JSON), ObjectError, ["may not read"]),
        (ScriptedResponse(b"", status=302, headers={"Location": "https://127.0.0.1:1/"}), ProviderError, ["HTTP 302"]),
    ],
)
async def test_each_refusal_gives_cause_and_next_step(
    scene: Scene, answer: ScriptedResponse, kind: type[ControllerError], words: list[str]
) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = answer
    error = await scene.fails()
    assert isinstance(error, ObjectError) == (kind is ObjectError)
    assert isinstance(error, ProviderError)
    for word in words:
        assert word in error.message
    assert CANARY not in error.message
    assert error.retry_after == (17 if answer.status == 429 else None)
    # The second attempt is refused as well.
    assert scene.tokens_refused == (2 if answer.status == 401 else 0)


ODD = [
    b'{"value":"v","id":"https://x/secrets/user/v1","attributes":{"%s":{}}}' % name.encode()
    for name in ("updated", "exp", "nbf")
]


@pytest.mark.parametrize(
    "body", [b"", b"<html>Sign in</html>", b"null", b"[]", b'"x"', b"{}", b'{"value":"v","id":5}', *ODD]
)
async def test_a_good_status_with_a_body_that_makes_no_sense(scene: Scene, body: bytes) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = ScriptedResponse(body, headers=JSON)
    error = await scene.fails()
    assert isinstance(error, ObjectError)
    assert "gave no usable answer for secret user" in error.message


async def test_without_a_token_the_vault_is_not_blamed(scene: Scene) -> None:
    scene.no_token = ProviderError("no federated credential")
    assert (await scene.fails()).message == "no federated credential"
    assert scene.counted == []  # it is no fault of the vault
    scene.no_token = None
    scene.has("user", "me")
    assert await scene.read(USER) == ["me"]


async def test_fault_of_entra_opens_no_breaker_of_a_vault(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it take a place in the vault's waiting line: the token is there before the vault is asked."""
    waited: list[object] = []

    def wait(*arguments: object, **_: object) -> float:
        waited.append(arguments)
        return 0.0

    monkeypatch.setattr(AdaptiveRateLimiter, "seconds_until_turn", wait)
    scene.no_token = ProviderError("Microsoft Entra (login.example.com) did not answer in time")
    for _ in range(50):
        assert "Microsoft Entra (login.example.com)" in (await scene.fails()).message
    assert not waited
    scene.no_token = None
    scene.has("user", "me")
    assert await scene.read(USER) == ["me"]
    assert scene.counted == [("secrets.get", "ok")]


async def test_requester_that_was_only_refused_is_not_served_first(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor without a role asks for a victim's vault: that is no initial sync."""
    waited: list[tuple[str, bool]] = []

    def wait(_: AdaptiveRateLimiter, namespace: str, _who: object, *, first: bool) -> float:
        waited.append((namespace, first))
        return 0.0

    monkeypatch.setattr(AdaptiveRateLimiter, "seconds_until_turn", wait)
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refusal(403, "Forbidden", "ForbiddenByRbac")
    for _ in range(2):
        await scene.fails()
    scene.has("user", "me")
    for _ in range(2):
        await scene.read(USER)
    assert waited == [("team", True), ("team", False), ("team", False), ("team", True)]


@pytest.mark.parametrize("takes_the_other", [True, False])
async def test_where_a_token_is_refused_and_there_is_another_it_is_tried(scene: Scene, takes_the_other: bool) -> None:
    refused = refusal(401)
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refused

    def another(token: str) -> bool:
        assert token == "token"
        if takes_the_other:
            scene.has("user", "me")
        return True

    scene.note_refusal = another  # type: ignore[method-assign]
    if takes_the_other:
        assert await scene.read(USER) == ["me"]
    else:
        assert "does not accept the token" in (await scene.fails()).message
    assert scene.counted == [("secrets.get", "401"), ("secrets.get", "ok" if takes_the_other else "401")]


async def test_one_objects_failure_leaves_the_others_alone(scene: Scene) -> None:
    scene.has("user", "me")
    gone, me = await scene.read(ObjectVersionRef(VaultObject(name="gone")), USER)
    assert isinstance(gone, ObjectError)
    assert me == "me"


async def test_errors_keep_neither_frames_nor_causes(scene: Scene) -> None:
    # Frames hold their locals, among them the values of other objects.
    scene.has("user", CANARY)
    found = await scene.reader.read([USER, ObjectVersionRef(VaultObject(name="gone"))], since=scene.now, first=True)
    error = found[ObjectVersionRef(VaultObject(name="gone"))]
    assert isinstance(error, ObjectError)
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
    del found, error
    scene.reader.forget_values()  # as happens two seconds later
    gc.collect()
    assert CANARY.encode() not in [item.value.reveal() for item in gc.get_objects() if isinstance(item, VaultValue)]


# Which of them concern the vault, which the identity, which the object


def worded(status: int, text: str, inner: str = "", code: str = "Forbidden", **headers: str) -> ScriptedResponse:
    """Return a refusal with Key Vault's own text."""
    error = {"code": code, "message": text} | ({"innererror": {"code": inner}} if inner else {})
    return ScriptedResponse({"error": error}, status=status, headers=JSON | headers)


REFUSALS = [
    pytest.param(
        worded(
            403, "Public network access is disabled and request is not from a trusted service", "ForbiddenByConnection"
        ),
        ProviderError,
        ["private endpoint", "DNS zone", "allow public access"],
        ["role", "may not read"],
        id="public access off",
    ),
    pytest.param(
        worded(403, "Request was not allowed by NSP rules", "ForbiddenByNsp"),
        ProviderError,
        ["network security perimeter", "inbound access rule"],
        ["role", "may not read"],
        id="network security perimeter",
    ),
    pytest.param(
        worded(403, "does not have secrets get permission on key vault 'shop'", "ForbiddenByPolicy"),
        AccessDenied,
        ["permission Get for secrets", "access policies"],
        ["role"],
        id="access policy",
    ),
    pytest.param(
        worded(403, "The policy requires the caller to use on-behalf-of (OBO) flow.", "ForbiddenByPolicy"),
        ObjectError,
        ["access policies", "for the identity alone"],
        ["role", "permission Get"],
        id="access policy with an application",
    ),
    pytest.param(
        worded(403, "x", "SomethingNew"),
        ObjectError,
        ["(SomethingNew)", "search for SomethingNew"],
        ["assign"],
        id="unknown code",
    ),
    pytest.param(
        worded(403, "x", f"Forbidden By {CANARY}"),
        AccessDenied,
        ["assign it the role"],
        [CANARY],
        id="code with spaces",
    ),
    pytest.param(
        worded(400, "Method GET does not allow operation 'v1'", code="BadParameter"),
        ObjectError,
        ["HTTP 400", "correct objectName"],
        ["v1", "tries again"],
        id="bad request",
    ),
    pytest.param(
        worded(
            400,
            "The specified version (7.4) is not recognized. Consider using the latest supported version (2016-10-01).",
            code="BadParameter",
        ),
        ProviderError,
        ["does not know version 7.4", "at most 2016-10-01", "set clouds.AzurePublicCloud.apiVersion to '2016-10-01'"],
        ["tries again"],
        id="api-version",
    ),
    pytest.param(
        worded(400, f"The specified version (7.4) is not recognized. Consider ({CANARY}).", code="BadParameter"),
        ProviderError,
        ["does not know version 7.4", "set clouds.AzurePublicCloud.apiVersion among the chart's values"],
        ["at most"],
        id="api-version without an offer",
    ),
    pytest.param(
        worded(401, "AKV10032: Invalid issuer. Expected one of x, found y.", code="Unauthorized"),
        ProviderError,
        ["tenantID is the vault's tenant", "(AKV10032)"],
        [],
        id="tenant",
    ),
    pytest.param(
        worded(401, "AKV10022: Invalid audience. Expected x, found: y.", code="Unauthorized"),
        ProviderError,
        ["another audience", "cloudName", "(AKV10022)"],
        ["tenantID"],
        id="audience",
    ),
    pytest.param(
        worded(401, "AKV10046: Unable to resolve the key used for signature validation.", code="Unauthorized"),
        ProviderError,
        ["for the moment", "tries again by itself", "AKV10046"],
        ["tenantID"],
        id="signing key",
    ),
    pytest.param(
        worded(401, "Error validating token: IDX10223", code="Unauthorized"),
        ProviderError,
        ["has expired", "clock", "IDX10223"],
        ["tenantID"],
        id="expired token",
    ),
    pytest.param(
        worded(401, "AKV10000: Request is missing a Bearer or PoP token.", code="Unauthorized"),
        ProviderError,
        ["Authorization header", "proxy"],
        ["tenantID"],
        id="no token",
    ),
    pytest.param(
        worded(401, "AKV19999: words", code="Unauthorized"),
        ProviderError,
        ["search for AKV19999"],
        ["tenantID", "words"],
        id="number without a text",
    ),
    pytest.param(
        ScriptedResponse({"error": {"innererror": {"code": "ForbiddenByRbac"}}}, status=403, headers=JSON),
        AccessDenied,
        ["assign it the role"],
        [],
        id="no code of its own",
    ),
    pytest.param(
        worded(409, "is being deleted", "ObjectIsBeingDeleted", code="Conflict"),
        ObjectError,
        ["does not give secret user (HTTP 409)"],
        [],
        id="conflict",
    ),
]


@pytest.mark.parametrize(("answer", "kind", "words", "never"), REFUSALS)
async def test_refusal_is_told_by_its_code(
    scene: Scene, answer: ScriptedResponse, kind: type[ControllerError], words: list[str], never: list[str]
) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = answer
    scene.has("other", "me")
    error = await scene.fails()
    assert type(error) is kind
    for word in words:
        assert word in error.message
    for word in never:
        assert word not in error.message
    assert scene.denials == (kind is AccessDenied)
    # What concerns the object alone leaves the others alone; what concerns the vault and lasts is not asked again.
    (other,) = await scene.read(ObjectVersionRef(VaultObject(name="other")))
    lasts = kind is ProviderError and (
        answer.status != 401 or "AKV10032" in str(answer.body) or "10022" in str(answer.body)
    )
    if kind is not ProviderError:
        assert other == "me"
    elif lasts:
        assert isinstance(other, ProviderError)
        assert scene.counted == [("secrets.get", str(answer.status))]


async def test_version_that_is_not_an_id_is_named(scene: Scene) -> None:
    answer = worded(400, "Method GET does not allow operation 'v1'", code="BadParameter")
    scene.answers["/secrets/user/v1"] = answer
    error = await scene.fails(ObjectVersionRef(VaultObject(name="user", version="v1")))
    assert isinstance(error, ObjectError)
    assert "correct objectVersion or remove it" in error.message


# Passing faults


@pytest.mark.parametrize("status", [401, 500, 502, 503, 504])
@pytest.mark.parametrize("path", ["/secrets/user", "/secrets", "/secrets/db/versions"])
async def test_single_failure_is_not_seen_by_the_caller(scene: Scene, status: int, path: str) -> None:
    scene.has("user", "me")
    scene.lists("db", ("a", 1, True))
    scene.answers["/secrets"] = ScriptedResponse({"value": [], "nextLink": None}, headers=JSON)
    failed = False

    def once(asked: ReceivedRequest) -> ScriptedResponse:
        nonlocal failed
        if "Authorization" in asked.headers and asked.path.rstrip("/") == path and not failed:
            failed = True
            return worded(status, "AKV10046: Unable to resolve the key", code="x")
        return scene.answer_request(asked)

    scene.server.default_response = once
    db = ObjectVersionRef(VaultObject(name="db", history=2))
    assert await scene.read(USER, db) == ["me", "value of a"]
    assert isinstance(await scene.reader.survey([USER], scene.now), VaultSnapshot)
    assert failed
    assert [outcome for _, outcome in scene.counted if outcome != "ok"] == [str(status)]


async def test_one_percent_of_failures_is_seen_by_no_caller(scene: Scene) -> None:
    """1 % of 503 and 5 % of transient 401, spread evenly, over 1,000 objects."""
    names = [f"s{number}" for number in range(1000)]
    for name in names:
        scene.has(name, name)
    number = 0

    def some(asked: ReceivedRequest) -> ScriptedResponse:
        nonlocal number
        number += 1
        if number % 100 == 0:
            return worded(503, "x", code="ServiceUnavailable")
        if number % 20 == 0:
            return worded(401, "AKV10046: Unable to resolve the key", code="Unauthorized")
        return scene.answer_request(asked)

    scene.server.default_response = some
    # The pace allows 190 calls at once; in this scene its clock stands still.
    answers: list[object] = []
    for start in range(0, len(names), 100):
        scene.now += 1
        answers += await scene.read(*(ObjectVersionRef(VaultObject(name=name)) for name in names[start : start + 100]))
    assert answers == names
    assert len(scene.counted) < 1000 * 1.08


@pytest.mark.parametrize("wait", ["", "60"], ids=["at once", "Retry-After"])
@pytest.mark.parametrize("status", [301, 302, 304, 307, 501, 503, 505, 507, 520, 599])
async def test_odd_status_among_many_answers_concerns_its_caller_alone(scene: Scene, status: int, wait: str) -> None:
    scene.has("other", "me")
    other, odd = (ObjectVersionRef(VaultObject(name=name)) for name in ("other", "odd"))
    for _ in range(HEALTHY_OUTCOMES):
        assert await scene.read(other) == ["me"]
    headers = {"Retry-After": wait} if wait else {}
    scene.answers["/secrets/odd/"] = scene.answers["/secrets/odd"] = ScriptedResponse(
        b"", status=status, headers=headers
    )
    error = await scene.fails(odd)
    assert f"HTTP {status}" in error.message
    assert await scene.read(other) == ["me"]


async def test_retry_after_of_an_outage_is_kept(scene: Scene) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = worded(503, "x", Retry_After="60")
    scene.answers["/secrets/user"].headers["Retry-After"] = "60"
    assert (await scene.fails()).retry_after == 60
    scene.now += 59
    await scene.fails()
    assert scene.counted == [("secrets.get", "503")]


# A vault that is down


async def test_a_vault_that_is_down_is_asked_once_by_a_thousand(scene: Scene) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refusal(503)
    first = await scene.fails()
    before = len(scene.server.requests)
    rest = await asyncio.gather(*(scene.fails() for _ in range(1000)))
    assert {error.message for error in rest} == {first.message}
    assert len(scene.server.requests) == before


async def test_afterwards_one_tries_and_the_others_hear_what_they_heard(scene: Scene) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refusal(503)
    await scene.fails()
    before = len(scene.reads)
    scene.now += OPEN_SECONDS + 1
    await asyncio.gather(*(scene.fails() for _ in range(100)))
    assert len(scene.reads) - before == 1
    scene.has("user", "me")
    scene.now += OPEN_SECONDS + 1
    assert await scene.read(USER) == ["me"]
    assert await asyncio.gather(*(scene.read(USER) for _ in range(50))) == [["me"]] * 50


async def test_retry_after_is_kept(scene: Scene) -> None:
    scene.answers["/secrets/user/"] = scene.answers["/secrets/user"] = refusal(429, Retry_After="60")
    await scene.fails()
    before = len(scene.server.requests)
    scene.now += 59
    await scene.fails()
    assert len(scene.server.requests) == before


async def test_one_vault_does_not_take_every_slot(scene: Scene) -> None:
    scene.has("user")
    await scene.read(USER)  # the challenge has been met
    hanging = 0
    full = asyncio.Event()

    def hang(_: ReceivedRequest) -> ScriptedResponse:
        nonlocal hanging
        hanging += 1
        if hanging == AT_ONCE_EACH:
            full.set()
        return ScriptedResponse(held=True)

    scene.server.default_response = hang
    many = [ObjectVersionRef(VaultObject(name=f"s{number}")) for number in range(2 * AT_ONCE_EACH)]
    reading = asyncio.create_task(scene.read(*many))
    await asyncio.wait_for(full.wait(), 10)
    for _ in range(1000):  # time enough for one more to arrive
        await asyncio.sleep(0)
    assert hanging == AT_ONCE_EACH
    reading.cancel()
    await asyncio.wait([reading])
