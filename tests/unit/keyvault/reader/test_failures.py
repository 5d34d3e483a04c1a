"""Test the error for each failure of a vault, and the requests while a vault is down."""

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
from tests.unit.keyvault.reader.reader_harness import (
    CANARY,
    CHALLENGE,
    JSON,
    SIGN,
    USER,
    WEB,
    ReaderHarness,
    make_refusal,
)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (USER, ["secret user", "Key Vault Secrets User"]),
        (WEB, ["certificate web", "Key Vault Reader"]),
        (SIGN, ["key sign", "Key Vault Reader"]),
    ],
)
async def test_error_names_the_kind_of_object_and_the_role(
    harness: ReaderHarness, wanted: ObjectVersionRef, words: list[str]
) -> None:
    noun, role = words
    assert f"{noun} {NOT_IN_KEY_VAULT} shop" in (await harness.read_error(wanted)).message
    harness.server.default_response = lambda request: (
        make_refusal(403, "Forbidden", "ForbiddenByRbac") if "Authorization" in request.headers else CHALLENGE
    )
    assert (
        f"may not read {noun} in Key Vault shop; assign it the role {role}"
        in (await harness.read_error(wanted)).message
    )


@pytest.mark.parametrize(("history", "right"), [(1, "Get for certificates"), (2, "List for certificates")])
async def test_denial_by_an_access_policy_names_the_missing_permission(
    harness: ReaderHarness, history: int, right: str
) -> None:
    for path in ("/certificates/web", "/certificates/web/", "/certificates/web/versions"):
        harness.answers[path] = make_refusal(403, "Forbidden", "AccessDenied")
    error = await harness.read_error(ObjectVersionRef(VaultObject(name="web", type="cert", history=history)))
    assert isinstance(error, ObjectError)
    assert f"give it the permission {right} in the vault's access policies" in error.message


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            make_refusal(404, "SecretNotFound"),
            ObjectError,
            [f"secret user {NOT_IN_KEY_VAULT} shop", "create or recover"],
        ),
        (
            make_refusal(403, "Forbidden", "SecretDisabled"),
            ObjectError,
            ["secret user is disabled", "enable it", "if it belongs to a certificate whose request is pending, merge"],
        ),
        (
            make_refusal(403, "Forbidden", "ForbiddenByRbac"),
            ObjectError,
            ["client-1 may not read secret user", "assign"],
        ),
        (make_refusal(403, "Forbidden", "ForbiddenByFirewall"), ProviderError, ["firewall", "allow its address"]),
        (make_refusal(403, "Forbidden"), ObjectError, ["client-1 may not read secret user"]),
        (CHALLENGE, ProviderError, ["does not accept the token of identity client-1", "tenantID"]),
        (
            make_refusal(429, "Throttled", Retry_After="17"),
            ProviderError,
            ["throttled", "rotationPollIntervalInSeconds"],
        ),
        (make_refusal(500), ProviderError, ["HTTP 500", "tries again"]),
        (make_refusal(503), ProviderError, ["HTTP 503", "tries again"]),
        (ScriptedResponse(CANARY.encode(), status=502), ProviderError, ["HTTP 502", "tries again"]),
        (ScriptedResponse({"error": CANARY}, status=403, headers=JSON), ObjectError, ["may not read"]),
        (ScriptedResponse(b"", status=302, headers={"Location": "https://127.0.0.1:1/"}), ProviderError, ["HTTP 302"]),
    ],
)
async def test_each_refusal_names_cause_and_next_step(
    harness: ReaderHarness, answer: ScriptedResponse, kind: type[ControllerError], words: list[str]
) -> None:
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = answer
    error = await harness.read_error()
    assert isinstance(error, ObjectError) == (kind is ObjectError)
    assert isinstance(error, ProviderError)
    for word in words:
        assert word in error.message
    assert CANARY not in error.message
    assert error.retry_after == (17 if answer.status == 429 else None)
    # The second attempt is refused as well.
    assert harness.tokens_refused == (2 if answer.status == 401 else 0)


ODD = [
    b'{"value":"v","id":"https://x/secrets/user/v1","attributes":{"%s":{}}}' % name.encode()
    for name in ("updated", "exp", "nbf")
]


@pytest.mark.parametrize(
    "body", [b"", b"<html>Sign in</html>", b"null", b"[]", b'"x"', b"{}", b'{"value":"v","id":5}', *ODD]
)
async def test_invalid_body_with_a_success_status_is_an_object_error(harness: ReaderHarness, body: bytes) -> None:
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = ScriptedResponse(body, headers=JSON)
    error = await harness.read_error()
    assert isinstance(error, ObjectError)
    assert "gave no usable answer for secret user" in error.message


async def test_missing_token_is_not_counted_as_a_vault_failure(harness: ReaderHarness) -> None:
    harness.token_error = ProviderError("no federated credential")
    assert (await harness.read_error()).message == "no federated credential"
    assert harness.counted == []  # the vault received no request
    harness.token_error = None
    harness.put_secret("user", "me")
    assert await harness.read(USER) == ["me"]


async def test_entra_failure_opens_no_circuit_breaker_of_the_vault(
    harness: ReaderHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check also that a read without a token does not wait for the rate limiter."""
    waited: list[object] = []

    def wait(*arguments: object, **_: object) -> float:
        waited.append(arguments)
        return 0.0

    monkeypatch.setattr(AdaptiveRateLimiter, "seconds_until_call", wait)
    harness.token_error = ProviderError("Microsoft Entra (login.example.com) did not answer in time")
    for _ in range(50):
        assert "Microsoft Entra (login.example.com)" in (await harness.read_error()).message
    assert not waited
    harness.token_error = None
    harness.put_secret("user", "me")
    assert await harness.read(USER) == ["me"]
    assert harness.counted == [("secrets.get", "ok")]


async def test_requester_that_was_only_refused_is_not_served_first(
    harness: ReaderHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor without a role gets no priority over the other users of a vault."""
    waited: list[tuple[str, bool]] = []

    def wait(_: AdaptiveRateLimiter, namespace: str, _caller: object, *, first: bool) -> float:
        waited.append((namespace, first))
        return 0.0

    monkeypatch.setattr(AdaptiveRateLimiter, "seconds_until_call", wait)
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = make_refusal(
        403, "Forbidden", "ForbiddenByRbac"
    )
    for _ in range(2):
        await harness.read_error()
    harness.put_secret("user", "me")
    for _ in range(2):
        await harness.read(USER)
    assert waited == [("team", True), ("team", False), ("team", False), ("team", True)]


@pytest.mark.parametrize("accepts_the_new", [True, False])
async def test_refused_token_is_replaced_and_the_read_repeated(harness: ReaderHarness, accepts_the_new: bool) -> None:
    refused = make_refusal(401)
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = refused

    def replace_token(token: str) -> None:
        assert token == "token"
        if accepts_the_new:
            harness.put_secret("user", "me")

    harness.note_refusal = replace_token  # type: ignore[method-assign]
    if accepts_the_new:
        assert await harness.read(USER) == ["me"]
    else:
        assert "does not accept the token" in (await harness.read_error()).message
    assert harness.counted == [("secrets.get", "401"), ("secrets.get", "ok" if accepts_the_new else "401")]


async def test_denied_read_is_repeated_with_a_renewed_token(harness: ReaderHarness) -> None:
    """An administrator can have added the identity to a group, which only a new token names."""

    def answer(request: ReceivedRequest) -> ScriptedResponse:
        is_member = request.headers["Authorization"] == "Bearer renewed"
        return harness.answer_request(request) if is_member else make_refusal(403, "Forbidden", "ForbiddenByRbac")

    harness.server.default_response = answer
    harness.put_secret("user", "me")
    assert isinstance(await harness.read_error(), AccessDenied)
    harness.token = "renewed"
    assert await harness.read(USER) == ["me"]


async def test_failed_object_does_not_affect_others(harness: ReaderHarness) -> None:
    harness.put_secret("user", "me")
    gone, me = await harness.read(ObjectVersionRef(VaultObject(name="gone")), USER)
    assert isinstance(gone, ObjectError)
    assert me == "me"


async def test_error_keeps_no_frame_cause_or_value(harness: ReaderHarness) -> None:
    # Frames hold their locals, among them the values of other objects.
    harness.put_secret("user", CANARY)
    found = await harness.reader.read([USER, ObjectVersionRef(VaultObject(name="gone"))], since=harness.now, first=True)
    error = found[ObjectVersionRef(VaultObject(name="gone"))]
    assert isinstance(error, ObjectError)
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
    del found, error
    harness.reader.forget_values()  # the reader does so after two seconds
    gc.collect()
    assert CANARY.encode() not in [item.value.reveal() for item in gc.get_objects() if isinstance(item, VaultValue)]


# Refusals that concern the vault, the identity or the object


def make_refusal_with_text(
    status: int, text: str, inner: str = "", code: str = "Forbidden", **headers: str
) -> ScriptedResponse:
    """Return a refusal with this text and these codes."""
    error = {"code": code, "message": text} | ({"innererror": {"code": inner}} if inner else {})
    return ScriptedResponse({"error": error}, status=status, headers=JSON | headers)


REFUSALS = [
    pytest.param(
        make_refusal_with_text(
            403, "Public network access is disabled and request is not from a trusted service", "ForbiddenByConnection"
        ),
        ProviderError,
        ["private endpoint", "DNS zone", "allow public access"],
        ["role", "may not read"],
        id="public access off",
    ),
    pytest.param(
        make_refusal_with_text(403, "Request was not allowed by NSP rules", "ForbiddenByNsp"),
        ProviderError,
        ["network security perimeter", "inbound access rule"],
        ["role", "may not read"],
        id="network security perimeter",
    ),
    pytest.param(
        make_refusal_with_text(403, "does not have secrets get permission on key vault 'shop'", "ForbiddenByPolicy"),
        AccessDenied,
        ["permission Get for secrets", "access policies"],
        ["role"],
        id="access policy",
    ),
    pytest.param(
        make_refusal_with_text(
            403, "The policy requires the caller to use on-behalf-of (OBO) flow.", "ForbiddenByPolicy"
        ),
        ObjectError,
        ["access policies", "for the identity alone"],
        ["role", "permission Get"],
        id="access policy with an application",
    ),
    pytest.param(
        make_refusal_with_text(403, "x", "SomethingNew"),
        ObjectError,
        ["(SomethingNew)", "search for SomethingNew"],
        ["assign"],
        id="unknown code",
    ),
    pytest.param(
        make_refusal_with_text(403, "x", f"Forbidden By {CANARY}"),
        AccessDenied,
        ["assign it the role"],
        [CANARY],
        id="code with spaces",
    ),
    pytest.param(
        make_refusal_with_text(400, "Method GET does not allow operation 'v1'", code="BadParameter"),
        ObjectError,
        ["HTTP 400", "correct objectName"],
        ["v1", "tries again"],
        id="bad request",
    ),
    pytest.param(
        make_refusal_with_text(
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
        make_refusal_with_text(
            400, f"The specified version (7.4) is not recognized. Consider ({CANARY}).", code="BadParameter"
        ),
        ProviderError,
        ["does not know version 7.4", "set clouds.AzurePublicCloud.apiVersion among the chart's values"],
        ["at most"],
        id="api-version without an offer",
    ),
    pytest.param(
        make_refusal_with_text(401, "AKV10032: Invalid issuer. Expected one of x, found y.", code="Unauthorized"),
        ProviderError,
        ["tenantID is the vault's tenant", "(AKV10032)"],
        [],
        id="tenant",
    ),
    pytest.param(
        make_refusal_with_text(401, "AKV10022: Invalid audience. Expected x, found: y.", code="Unauthorized"),
        ProviderError,
        ["another audience", "cloudName", "(AKV10022)"],
        ["tenantID"],
        id="audience",
    ),
    pytest.param(
        make_refusal_with_text(
            401, "AKV10046: Unable to resolve the key used for signature validation.", code="Unauthorized"
        ),
        ProviderError,
        ["for the moment", "tries again by itself", "AKV10046"],
        ["tenantID"],
        id="signing key",
    ),
    pytest.param(
        make_refusal_with_text(401, "Error validating token: IDX10223", code="Unauthorized"),
        ProviderError,
        ["has expired", "clock", "IDX10223"],
        ["tenantID"],
        id="expired token",
    ),
    pytest.param(
        make_refusal_with_text(401, "AKV10000: Request is missing a Bearer or PoP token.", code="Unauthorized"),
        ProviderError,
        ["Authorization header", "proxy"],
        ["tenantID"],
        id="no token",
    ),
    pytest.param(
        make_refusal_with_text(401, "AKV19999: words", code="Unauthorized"),
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
        make_refusal_with_text(409, "is being deleted", "ObjectIsBeingDeleted", code="Conflict"),
        ObjectError,
        ["does not give secret user (HTTP 409)"],
        [],
        id="conflict",
    ),
]


@pytest.mark.parametrize(("answer", "kind", "words", "absent"), REFUSALS)
async def test_refusal_is_explained_by_its_code(
    harness: ReaderHarness, answer: ScriptedResponse, kind: type[ControllerError], words: list[str], absent: list[str]
) -> None:
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = answer
    harness.put_secret("other", "me")
    error = await harness.read_error()
    assert type(error) is kind
    for word in words:
        assert word in error.message
    for word in absent:
        assert word not in error.message
    assert harness.denials == (kind is AccessDenied)
    # A refusal of one object does not affect others. After a lasting refusal by the vault, no request follows.
    (other,) = await harness.read(ObjectVersionRef(VaultObject(name="other")))
    lasts = kind is ProviderError and (
        answer.status != 401 or "AKV10032" in str(answer.body) or "10022" in str(answer.body)
    )
    if kind is not ProviderError:
        assert other == "me"
    elif lasts:
        assert isinstance(other, ProviderError)
        assert harness.counted == [("secrets.get", str(answer.status))]


async def test_error_of_an_invalid_version_names_object_version(harness: ReaderHarness) -> None:
    answer = make_refusal_with_text(400, "Method GET does not allow operation 'v1'", code="BadParameter")
    harness.answers["/secrets/user/v1"] = answer
    error = await harness.read_error(ObjectVersionRef(VaultObject(name="user", version="v1")))
    assert isinstance(error, ObjectError)
    assert "correct objectVersion or remove it" in error.message


# Transient failures


@pytest.mark.parametrize("status", [401, 500, 502, 503, 504])
@pytest.mark.parametrize("path", ["/secrets/user", "/secrets", "/secrets/db/versions"])
async def test_single_transient_failure_is_retried(harness: ReaderHarness, status: int, path: str) -> None:
    harness.put_secret("user", "me")
    harness.put_versions("db", ("a", 1, True))
    harness.answers["/secrets"] = ScriptedResponse({"value": [], "nextLink": None}, headers=JSON)
    failed = False

    def fail_once(request: ReceivedRequest) -> ScriptedResponse:
        nonlocal failed
        if "Authorization" in request.headers and request.path.rstrip("/") == path and not failed:
            failed = True
            return make_refusal_with_text(status, "AKV10046: Unable to resolve the key", code="x")
        return harness.answer_request(request)

    harness.server.default_response = fail_once
    db = ObjectVersionRef(VaultObject(name="db", history=2))
    assert await harness.read(USER, db) == ["me", "value of a"]
    assert isinstance(await harness.reader.take_snapshot([USER], harness.now), VaultSnapshot)
    assert failed
    assert [outcome for _, outcome in harness.counted if outcome != "ok"] == [str(status)]


async def test_scattered_transient_failures_are_retried(harness: ReaderHarness) -> None:
    """Answer 1 % of the requests with 503 and 4 % with a transient 401."""
    names = [f"s{number}" for number in range(1000)]
    for name in names:
        harness.put_secret(name, name)
    number = 0

    def fail_sometimes(request: ReceivedRequest) -> ScriptedResponse:
        nonlocal number
        number += 1
        if number % 100 == 0:
            return make_refusal_with_text(503, "x", code="ServiceUnavailable")
        if number % 20 == 0:
            return make_refusal_with_text(401, "AKV10046: Unable to resolve the key", code="Unauthorized")
        return harness.answer_request(request)

    harness.server.default_response = fail_sometimes
    # The rate limiter allows 190 calls at once, and its clock moves only here.
    answers: list[object] = []
    for start in range(0, len(names), 100):
        harness.now += 1
        answers += await harness.read(
            *(ObjectVersionRef(VaultObject(name=name)) for name in names[start : start + 100])
        )
    assert answers == names
    assert len(harness.counted) < 1000 * 1.08


@pytest.mark.parametrize("wait", ["", "60"], ids=["at once", "Retry-After"])
@pytest.mark.parametrize("status", [301, 302, 304, 307, 501, 503, 505, 507, 520, 599])
async def test_unusual_status_among_successes_fails_only_its_object(
    harness: ReaderHarness, status: int, wait: str
) -> None:
    harness.put_secret("other", "me")
    other, odd = (ObjectVersionRef(VaultObject(name=name)) for name in ("other", "odd"))
    for _ in range(HEALTHY_OUTCOMES):
        assert await harness.read(other) == ["me"]
    headers = {"Retry-After": wait} if wait else {}
    harness.answers["/secrets/odd/"] = harness.answers["/secrets/odd"] = ScriptedResponse(
        b"", status=status, headers=headers
    )
    error = await harness.read_error(odd)
    assert f"HTTP {status}" in error.message
    assert await harness.read(other) == ["me"]


async def test_retry_after_of_an_outage_is_respected(harness: ReaderHarness) -> None:
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = make_refusal_with_text(
        503, "x", Retry_After="60"
    )
    harness.answers["/secrets/user"].headers["Retry-After"] = "60"
    assert (await harness.read_error()).retry_after == 60
    harness.now += 59
    await harness.read_error()
    assert harness.counted == [("secrets.get", "503")]


# A vault that is down


async def test_open_circuit_breaker_answers_a_thousand_reads_without_a_request(harness: ReaderHarness) -> None:
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = make_refusal(503)
    first = await harness.read_error()
    before = len(harness.server.requests)
    rest = await asyncio.gather(*(harness.read_error() for _ in range(1000)))
    assert {error.message for error in rest} == {first.message}
    assert len(harness.server.requests) == before


async def test_half_open_circuit_breaker_lets_one_request_through(harness: ReaderHarness) -> None:
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = make_refusal(503)
    await harness.read_error()
    before = len(harness.paths_read)
    harness.now += OPEN_SECONDS + 1
    await asyncio.gather(*(harness.read_error() for _ in range(100)))
    assert len(harness.paths_read) - before == 1
    harness.put_secret("user", "me")
    harness.now += OPEN_SECONDS + 1
    assert await harness.read(USER) == ["me"]
    assert await asyncio.gather(*(harness.read(USER) for _ in range(50))) == [["me"]] * 50


async def test_retry_after_of_a_throttled_vault_is_respected(harness: ReaderHarness) -> None:
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = make_refusal(429, Retry_After="60")
    await harness.read_error()
    before = len(harness.server.requests)
    harness.now += 59
    await harness.read_error()
    assert len(harness.server.requests) == before


async def test_hanging_vault_uses_only_its_share_of_the_slots(harness: ReaderHarness) -> None:
    harness.put_secret("user")
    await harness.read(USER)  # the client now sends its token with the first request
    hanging = 0
    full = asyncio.Event()

    def hang(_: ReceivedRequest) -> ScriptedResponse:
        nonlocal hanging
        hanging += 1
        if hanging == AT_ONCE_EACH:
            full.set()
        return ScriptedResponse(held=True)

    harness.server.default_response = hang
    many = [ObjectVersionRef(VaultObject(name=f"s{number}")) for number in range(2 * AT_ONCE_EACH)]
    reading = asyncio.create_task(harness.read(*many))
    await asyncio.wait_for(full.wait(), 10)
    for _ in range(1000):  # another request would arrive in this time
        await asyncio.sleep(0)
    assert hanging == AT_ONCE_EACH
    reading.cancel()
    await asyncio.wait([reading])
