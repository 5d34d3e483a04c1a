"""Test workload identity federation with the Azure SDK and a scripted Entra on loopback over real TLS."""

import asyncio
import base64
import json
import random
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs

import pytest
from azure.core.credentials import TokenRequestOptions
from azure.core.exceptions import (
    HttpResponseError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseTimeoutError,
)

from controller import errors
from controller.config.settings import TOKEN_AUDIENCE, Cloud
from controller.keyvault import credentials
from controller.keyvault.credentials import (
    EXCHANGE_SECONDS,
    REMEMBER_FAILURE,
    RENEW_BEFORE,
    RENEW_FORBIDDEN,
    FederatedCredential,
    Identity,
    read_claims,
)
from controller.keyvault.transport import new_session, new_transport
from tests.support import canaries
from tests.support.canaries import SOME_FORMS
from tests.support.scripted_api_server import ScriptedApiServer, ScriptedResponse, run_api_server
from tools.local_cluster.pki import ClusterAuthority

IDENTITY = Identity(namespace="team", service_account="robot", client_id="client-1", tenant_id="tenant-1")
ISSUER = "https://oidc.example.com/cluster"
CANARY = "canary-3b7c"


def encode_jwt(**claims: object) -> str:
    """Return an unsigned token with these claims."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.{CANARY}"


def make_token_response(text: str = "token", lifetime: int = 3600) -> ScriptedResponse:
    return ScriptedResponse(
        {"token_type": "Bearer", "access_token": text, "expires_in": lifetime},
        headers={"Content-Type": "application/json"},
    )


def make_refusal(number: str, status: int = 400) -> ScriptedResponse:
    """Return a refusal in Entra's format: the number, a text and ids of the request."""
    text = f"{number}: Words of Entra {CANARY}. Trace ID: 1 Correlation ID: 2 Timestamp: 2030-01-01 00:00:00Z"
    body = {"error": "invalid_client", "error_description": text, "error_codes": [], "trace_id": "1"}
    return ScriptedResponse(body, status=status, headers={"Content-Type": "application/json"})


class EntraHarness:
    """A credential, a scripted Entra and their clock."""

    def __init__(self, entra: ScriptedApiServer, credential: Callable[["EntraHarness"], FederatedCredential]) -> None:
        self.entra = entra
        self.now = 1_900_000_000.0
        self.assertions = 0
        self.assertion_error: errors.ControllerError | None = None
        self.credential = credential(self)

    @property
    def monotonic_time(self) -> float:
        """Return the time of the monotonic clock."""
        return self.now - 1_000_000

    async def assertion(self) -> str:
        """Return a new ServiceAccount token. Yield to the event loop before, as a request does."""
        self.assertions += 1
        await asyncio.sleep(0)
        if self.assertion_error:
            raise self.assertion_error
        return encode_jwt(iss=ISSUER, number=self.assertions)

    async def get_token(self) -> str:
        return (await self.credential.get_token_info("https://proposed.example/.default")).token

    async def get_error(self) -> errors.ControllerError:
        with pytest.raises(errors.ControllerError) as caught:
            await self.get_token()
        return caught.value


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClusterAuthority:
    return ClusterAuthority(tmp_path_factory.mktemp("pki"), "entra")


@pytest.fixture
async def harness(
    authority: ClusterAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[EntraHarness]:
    pair = authority.issue("server", user="server", hosts=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    session = new_session(authority.pair.cert.read_text())
    async with session, run_api_server(tls) as entra:
        cloud = Cloud(
            authority=entra.url, vault_url="https://{vault}.example.com", audience="https://vault.example.com"
        )
        harness = EntraHarness(
            entra, lambda harness: FederatedCredential(IDENTITY, cloud, new_transport(session), harness.assertion)
        )
        monkeypatch.setattr(time, "time", lambda: harness.now)
        monkeypatch.setattr(
            credentials, "time", SimpleNamespace(time=lambda: harness.now, monotonic=lambda: harness.monotonic_time)
        )
        async with harness.credential:
            yield harness


def test_subject_names_the_service_account() -> None:
    assert IDENTITY.subject == "system:serviceaccount:team:robot"


# Tokens


async def test_exchange_requests_the_clouds_audience_despite_a_challenge(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_token_response("t1"))
    assert await harness.get_token() == "t1"
    (request,) = harness.entra.requests
    form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
    assert request.path == "/tenant-1/oauth2/v2.0/token"
    assert form["scope"] == "https://vault.example.com/.default"
    assert form["client_id"] == "client-1"
    assert form["client_assertion"] == encode_jwt(iss=ISSUER, number=1)
    assert form["grant_type"] == "client_credentials"
    assert "claims" not in form
    assert form["client_assertion"] not in repr(vars(harness.credential))


async def test_token_is_used_until_shortly_before_it_expires(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_token_response("t1"), make_token_response("t2"))
    assert await harness.get_token() == "t1"
    harness.now += 3299
    assert await harness.get_token() == "t1"
    harness.now += 1
    assert [await harness.get_token(), await harness.get_token()] == ["t2", "t2"]
    assert (len(harness.entra.requests), harness.assertions) == (2, 2)


async def test_older_method_of_the_sdk_returns_the_same_token(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_token_response("t1"))
    old = await harness.credential.get_token("x", tenant_id="another", claims="c")
    assert (old.token, old.expires_on) == ("t1", int(harness.now) + 3600)
    assert await harness.get_token() == "t1"


async def test_thousand_concurrent_callers_share_one_exchange(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_token_response("t1"))
    assert set(await asyncio.gather(*(harness.get_token() for _ in range(1000)))) == {"t1"}
    assert (len(harness.entra.requests), harness.assertions) == (1, 1)


async def test_cancelled_caller_does_not_block_others(harness: EntraHarness) -> None:
    harness.entra.add_responses(ScriptedResponse(held=True))
    first, second = asyncio.create_task(harness.get_token()), asyncio.create_task(harness.get_token())
    await harness.entra.idle.wait()
    harness.entra.add_responses(make_token_response("t1"))
    first.cancel()
    assert await second == "t1"


async def test_closed_credential_holds_no_token(harness: EntraHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.entra.add_responses(make_token_response("t1"))
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    async with harness.credential as entered:
        assert entered is harness.credential
        await harness.get_token()
        monkeypatch.setattr(entered.sdk_credential, "close", close)
    assert "t1" not in repr(vars(harness.credential))
    assert closed == [True]


async def test_call_that_outlives_its_credential_gets_a_token(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_token_response("t1"), make_token_response("t2"))
    async with harness.credential:
        await harness.get_token()
    assert await harness.get_token() == "t1"  # from the cache of the SDK


async def test_refusal_after_the_credential_closed_replaces_the_token(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_token_response("t1"), make_token_response("t2"))
    async with harness.credential as entered:
        await harness.get_token()
    harness.now += REMEMBER_FAILURE
    entered.note_refusal("t1")
    assert await harness.get_token() == "t2"


# Failures


HTML = {"Content-Type": "text/html"}
UNREACHABLE = (50166, 501661, 90061, 900612)


@pytest.mark.parametrize(
    ("number", "cause", "step"),
    [
        ("AADSTS700211", "names this cluster's issuer", f"issuer {ISSUER}"),
        ("AADSTS700212", "names another audience", f"audience {TOKEN_AUDIENCE}"),
        ("AADSTS700213", "names this ServiceAccount", "subject system:serviceaccount:team:robot"),
        ("AADSTS7002138", "differs from the subject in letter case", "subject system:serviceaccount:team:robot"),
        ("AADSTS70021", "matches this ServiceAccount's token", "give it a federated credential"),
        ("AADSTS70025", "has no federated credential", "give it a federated credential"),
        ("AADSTS700016", "is unknown in tenant tenant-1", "correct clientID or tenantID"),
        ("AADSTS90002", "tenant tenant-1 does not exist", "correct tenantID"),
        ("AADSTS900023", "is not a valid tenant name or id", "correct tenantID"),
        ("AADSTS700024", "outside its valid time", "set the clock"),
        ("AADSTS700027", "could not verify", f"published at {ISSUER}"),
        ("AADSTS7000272", "could not verify", "publish the keys"),
        *(
            (f"AADSTS{number}", "could not fetch or read the keys", f"issuer {ISSUER}; publish")
            for number in UNREACHABLE
        ),
        *(
            (f"AADSTS{number}", "belongs to another cloud", "correct cloudName or tenantID")
            for number in (90038, 900382, 900432)
        ),
        *(
            (f"AADSTS{number}", "adds tenant restrictions", "add tenant tenant-1 to the tenants that it allows")
            for number in (500021, 5000211, 500022)
        ),
        *(
            (f"AADSTS{number}", f"forbids federated credentials of issuer {ISSUER}", "allow this issuer in the policy")
            for number in (700223, 700238)
        ),
        ("AADSTS7000112", "is disabled in tenant tenant-1", "enable its service principal"),
        ("AADSTS7000229", "no service principal in tenant tenant-1", "az ad sp create --id client-1"),
        ("AADSTS53003", "Conditional Access policy of tenant tenant-1", "exclude this workload identity"),
        ("AADSTS50020", "another identity provider", "use an identity of that tenant"),
        (
            "AADSTS500011",
            "audience https://vault.example.com is unknown in tenant tenant-1",
            "correct tenantID, cloudName",
        ),
        ("AADSTS1002012", "https://vault.example.com/.default", "the cloud's audience in the chart's clouds"),
        ("AADSTS50058", "expects a sign-in", "check that clientID"),
        ("AADSTS999999", "Entra refused identity client-1", "search for AADSTS999999 in Microsoft's documentation"),
    ],
)
async def test_each_entra_error_names_cause_and_next_step(
    harness: EntraHarness, number: str, cause: str, step: str
) -> None:
    harness.entra.add_responses(make_refusal(number))
    error = await harness.get_error()
    assert isinstance(error, errors.ProviderError)
    assert cause in error.message
    assert step in error.message
    assert error.message.endswith(f"({number})")


@pytest.mark.parametrize(
    "answer",
    [
        make_refusal("AADSTS700213"),
        make_refusal("AADSTS1"),
        make_refusal("no number"),
        ScriptedResponse(CANARY.encode(), status=400),
    ],
)
async def test_error_contains_neither_the_token_nor_entras_text(
    harness: EntraHarness, answer: ScriptedResponse
) -> None:
    harness.entra.add_responses(answer)
    error = await harness.get_error()
    assert CANARY not in error.message
    assert encode_jwt(iss=ISSUER, number=1) not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({"error_codes": [700016]}, "700016"),
        ({"error_codes": [50166, 700016]}, "50166"),
        ({"error_description": None, "error_codes": [123]}, "123"),
        ({"error_description": "", "error_codes": [123]}, "123"),
        ({"error_description": "AADSTS123: x", "error_codes": [700016]}, "123"),
        ({"error_description": "x", "error_codes": [700016]}, "700016"),
        ({"error_codes": ["700016"]}, "700016"),
        ({"error_description": "aadsts700016: x"}, "700016"),
        ({"error": {"code": "AADSTS700016", "message": "x"}}, "700016"),
        ({"error": {"code": "x", "message": "AADSTS700016: x", "innererror": {"code": "y"}}}, "700016"),
    ],
)
async def test_error_code_without_a_description_is_reported(
    harness: EntraHarness, fields: dict[str, object], number: str
) -> None:
    body = {"error": "invalid_client", **fields}
    harness.entra.add_responses(ScriptedResponse(body, status=400, headers={"Content-Type": "application/json"}))
    assert (await harness.get_error()).message.endswith(f"(AADSTS{number})")


@pytest.mark.parametrize(
    "text", ["AADSTS\u0667\u0660", "AADSTS\uff17\uff10\uff10", "AADSTS", "AADSTS1234567890", "AADSTSx"]
)
async def test_malformed_error_code_is_not_reported(harness: EntraHarness, text: str) -> None:
    body = {"error": "invalid_client", "error_description": text}
    harness.entra.add_responses(ScriptedResponse(body, status=400, headers={"Content-Type": "application/json"}))
    assert (await harness.get_error()).message.endswith(
        "HTTP 400 without an error number; check the proxy and firewall to it"
    )


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
async def test_no_form_of_entras_text_reaches_the_message(harness: EntraHarness, status: int) -> None:
    for form in SOME_FORMS:
        quoted = form(canaries.CANARY)
        for body in (
            {"error": quoted, "error_description": quoted, "suberror": quoted, "claims": quoted, "error_uri": quoted},
            {"error": "invalid_client", "error_description": f"AADSTS70021: {quoted}", "error_codes": [quoted]},
            {"error": "invalid_client", "error_description": f"{quoted} AADSTS1234567", "trace_id": quoted},
            {"error": {"code": quoted, "message": quoted, "innererror": {"code": quoted}}},
            [quoted],
            quoted,
        ):
            harness.now += 2 * REMEMBER_FAILURE
            headers = {"Content-Type": "application/json", "Retry-After": "1"}
            answer = ScriptedResponse(json.dumps(body).encode(), status=status, headers=headers)
            harness.entra.default_response = lambda _, answer=answer: answer
            assert not canaries.find_forms((await harness.get_error()).message)


@pytest.mark.parametrize(
    ("answer", "retry_after"),
    [
        (ScriptedResponse(b"", status=429, headers={"Retry-After": "17"}), 17),
        (
            ScriptedResponse(
                {"error": "temporarily_unavailable"}, status=503, headers={"Content-Type": "application/json"}
            ),
            None,
        ),
        (ScriptedResponse(b"<html>", status=500, headers=HTML), None),
        (ScriptedResponse(b"<html>", status=502, headers={**HTML, "Retry-After": "17"}), 17),
        (ScriptedResponse(b"{", status=503, headers={"Content-Type": "application/json"}), None),
        (ScriptedResponse([], status=504), None),
    ],
)
async def test_busy_entra_is_not_reported_as_a_refusal(
    harness: EntraHarness, answer: ScriptedResponse, retry_after: float | None
) -> None:
    harness.entra.add_responses(answer, answer)
    error = await harness.get_error()
    assert isinstance(error, errors.ProviderError)
    assert f"HTTP {answer.status}" in error.message
    assert "tries again" in error.message
    assert error.retry_after == retry_after


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Sign in</html>",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b'{"access_token":"x"}',
        b'{"expires_in":5}',
        b'{"access_token":"x","expires_in":"soon"}',
        b'{"access_token":"x","expires_in":-1}',
        b'{"access_token":"x","expires_in":0}',
        b'{"access_token":"x","expires_in":5}',
        b'{"access_token":null,"expires_in":3600}',
        b'{"access_token":"","expires_in":3600}',
        b'{"access_token":7,"expires_in":3600}',
        b'{"access_token":["x"],"expires_in":3600}',
        b'{"access_token":{"x":1},"expires_in":3600}',
        b'{"access_token":"x\\r\\nX-Admin: yes","expires_in":3600}',
        b'{"access_token":"x y","expires_in":3600}',
        b'{"access_token":"x\\u00e9","expires_in":3600}',
        b'{"access_token":"\\ud800","expires_in":3600}',
        pytest.param(b'{"access_token":"%s","expires_in":3600}' % (b"x" * 65_537), id="huge token"),
        b'{"access_token":"x","expires_in":172802}',
        b'{"access_token":"x","expires_in":1e400}',
        pytest.param(b'{"access_token":"x","expires_in":%s}' % (b"9" * 400), id="lifetime of 400 digits"),
        pytest.param(b"[" * 100_000, id="deeply nested"),
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
@pytest.mark.parametrize("status", [200, 502])
async def test_invalid_body_is_not_reported_as_a_refusal(
    harness: EntraHarness, body: bytes, content_type: str, status: int
) -> None:
    harness.entra.add_responses(*[ScriptedResponse(body, status=status, headers={"Content-Type": content_type})] * 2)
    error = await harness.get_error()
    assert isinstance(error, errors.ProviderError)
    assert "Microsoft Entra" in error.message
    assert "tries again" in error.message
    assert "refused" not in error.message


async def test_broken_connection_is_not_reported_as_a_refusal(harness: EntraHarness) -> None:
    harness.entra.add_responses(*[ScriptedResponse(b"{", headers={"Content-Length": "500"}, broken=True)] * 2)
    error = await harness.get_error()
    assert isinstance(error, errors.ProviderError)
    assert "Microsoft Entra" in error.message
    assert "refused" not in error.message


async def test_hanging_entra_is_reported_by_its_host(harness: EntraHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names Entra. After a timeout of the vault's request, it would name the vault."""
    monkeypatch.setattr(credentials, "EXCHANGE_SECONDS", 0.2)
    failed: list[str] = []
    harness.credential.count_failure = failed.append

    async def hang(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(harness.credential.sdk_credential, "get_token_info", hang)
    error = await harness.get_error()
    host = harness.entra.url.partition("://")[2]
    assert error.message.startswith(f"Microsoft Entra ({host}) did not answer in time")
    assert isinstance(error, errors.ProviderError)
    assert failed == [host]


async def test_missing_assertion_causes_no_exchange(harness: EntraHarness) -> None:
    harness.assertion_error = errors.ProviderError("there is no ServiceAccount robot")
    assert (await harness.get_error()).message == "there is no ServiceAccount robot"
    assert not harness.entra.requests


async def test_failure_is_shared_by_callers_and_expires(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_refusal("AADSTS700213"))
    failures = await asyncio.gather(*(harness.get_token() for _ in range(1000)), return_exceptions=True)
    assert len({str(failure) for failure in failures}) == 1
    assert all(isinstance(failure, errors.ProviderError) for failure in failures)
    harness.now += 9.5
    await harness.get_error()
    assert (len(harness.entra.requests), harness.assertions) == (1, 1)
    harness.now += 0.5
    harness.entra.add_responses(make_token_response("t1"))
    assert await harness.get_token() == "t1"


async def test_failure_with_retry_after_is_remembered_for_that_time(harness: EntraHarness) -> None:
    harness.entra.add_responses(
        ScriptedResponse(b"", status=429, headers={"Retry-After": "17"}), make_token_response("t1")
    )
    await harness.get_error()
    harness.now += 16.5
    assert (await harness.get_error()).retry_after == 17
    assert len(harness.entra.requests) == 1
    harness.now += 0.5
    assert await harness.get_token() == "t1"


@pytest.mark.parametrize("number", ["50196", "90055"])
async def test_entra_that_gets_too_many_requests_gets_one_a_minute(harness: EntraHarness, number: str) -> None:
    """Entra sends these refusals with status 400 and without a Retry-After."""
    harness.entra.default_response = lambda _: make_refusal(f"AADSTS{number}")
    start = harness.now
    while harness.now < start + 300:
        error = await harness.get_error()
        harness.now += 5
    assert len(harness.entra.requests) == 5
    assert error.retry_after == 60
    assert error.message.endswith(
        " gets too many requests for tokens of this identity or tenant; the controller tries again by itself"
        f" (AADSTS{number})"
    )


async def test_throttled_renewal_is_repeated_once_a_minute(harness: EntraHarness) -> None:
    """One of the identity's vaults refuses the token that the others accept."""
    harness.entra.add_responses(make_token_response("t1"))
    assert await harness.get_token() == "t1"
    harness.entra.default_response = lambda _: make_refusal("AADSTS50196")
    for _ in range(48):
        harness.now += 5
        harness.credential.note_refusal("t1")
        assert await harness.get_token() == "t1"
    assert len(harness.entra.requests) == 1 + 4


async def test_retry_after_of_too_many_requests_counts(harness: EntraHarness) -> None:
    refusal = make_refusal("AADSTS50196")
    headers = {**refusal.headers, "Retry-After": "17"}
    harness.entra.add_responses(ScriptedResponse(refusal.body, status=400, headers=headers))
    assert (await harness.get_error()).retry_after == 17


async def test_missing_leadership_is_not_remembered_as_a_failure(harness: EntraHarness) -> None:
    harness.assertion_error = errors.NotLeading("this process does not lead any more")
    assert isinstance(await harness.get_error(), errors.NotLeading)
    harness.assertion_error = None
    harness.entra.add_responses(make_token_response("t1"))
    assert await harness.get_token() == "t1"


async def test_traceback_of_a_remembered_failure_does_not_grow(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_refusal("AADSTS700213"))
    depths = set()
    for _ in range(5):
        depths.add(len(traceback.extract_tb((await harness.get_error()).__traceback__)))
    assert max(depths) < 10
    assert len(depths) <= 2


@pytest.mark.parametrize("entra_fails", [True, False])
async def test_token_is_used_until_it_expires_if_renewal_fails(harness: EntraHarness, entra_fails: bool) -> None:
    harness.entra.add_responses(make_token_response("t1"))
    await harness.get_token()
    harness.now += 3600 - RENEW_BEFORE + 1
    if entra_fails:
        harness.entra.add_responses(*[make_refusal("AADSTS700213")] * 10)
    else:
        harness.assertion_error = errors.Unreachable("the Kubernetes API did not answer in time")
    assert [await harness.get_token() for _ in range(3)] == ["t1"] * 3
    assert harness.assertions == 2  # the failed renewal is remembered
    harness.now += RENEW_BEFORE - 1
    assert isinstance(await harness.get_error(), errors.ProviderError if entra_fails else errors.KubeError)


async def test_renewal_that_fails_slowly_is_remembered(harness: EntraHarness) -> None:
    """Otherwise each request of the identity would wait for another exchange, although its token is valid."""

    async def fail_slowly() -> str:
        harness.assertions += 1
        harness.now += EXCHANGE_SECONDS
        raise errors.Unreachable("the Kubernetes API did not answer in time")

    harness.entra.add_responses(make_token_response("t1"))
    await harness.get_token()
    harness.now += RENEW_FORBIDDEN
    harness.credential.note_forbidden()
    harness.credential.new_assertion = fail_slowly
    assert [await harness.get_token() for _ in range(3)] == ["t1"] * 3
    assert harness.assertions == 2


async def test_refused_token_is_replaced_once_per_interval(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_token_response("t1"), make_token_response("t2"), make_refusal("AADSTS700213"))
    assert await harness.get_token() == "t1"
    harness.credential.note_refusal("t1")  # its exchange is too recent for another one
    assert await harness.get_token() == "t1"
    harness.now += REMEMBER_FAILURE
    harness.credential.note_refusal("t1")
    assert await harness.get_token() == "t2"
    harness.now += REMEMBER_FAILURE - 1
    for _ in range(9):
        harness.credential.note_refusal("t1")  # from a caller that still used the old token
        harness.credential.note_refusal("t2")
        assert await harness.get_token() == "t2"
    harness.now += 1
    harness.credential.note_refusal("t1")
    assert await harness.get_token() == "t2"
    assert harness.assertions == 2
    # One vault of several may cause the refusals, so without a new token the old one stays in use.
    harness.credential.note_refusal("t2")
    for _ in range(9):
        assert await harness.get_token() == "t2"
        harness.credential.note_refusal("t2")
    assert harness.assertions == 3


async def test_lasting_denial_renews_the_token_once_every_few_minutes(harness: EntraHarness) -> None:
    """Renew the token, because it lists the group memberships, which an administrator may have changed."""
    harness.entra.add_responses(*[make_token_response(f"t{number}") for number in range(1, 400)])
    assert await harness.get_token() == "t1"
    tokens = []
    for _ in range(60):  # an hour, with a denial every ten seconds
        for _ in range(6):
            harness.now += 10
            harness.credential.note_forbidden()
            tokens.append(await harness.get_token())
        if harness.assertions == 3:
            break
    assert 60 <= RENEW_FORBIDDEN <= 600
    assert tokens.count("t1") == RENEW_FORBIDDEN / 10 - 1
    assert tokens.count("t2") == RENEW_FORBIDDEN / 10


def claims_options(text: str = '{"access_token":{"nbf":{"essential":true}}}') -> TokenRequestOptions:
    return {"claims": text}


async def test_claims_challenge_causes_one_exchange_per_minute(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_token_response("t1"), make_token_response("t2"), make_token_response("t3"))
    assert await harness.get_token() == "t1"
    answers = await asyncio.gather(
        *(harness.credential.get_token_info("x", options=claims_options()) for _ in range(24))
    )
    assert {answer.token for answer in answers} == {"t2"}
    form = parse_qs(harness.entra.requests[-1].body.decode())
    assert "essential" in form["claims"][0]
    # A vault that repeats its challenge causes one exchange per minute.
    harness.now += 59
    assert (await harness.credential.get_token_info("x", options=claims_options())).token == "t2"
    assert await harness.get_token() == "t2"
    assert harness.assertions == 2
    harness.now += 1
    assert (await harness.credential.get_token_info("x", options=claims_options())).token == "t3"
    # Later exchanges do not repeat the claims of the challenge.
    harness.now += 3600
    harness.entra.add_responses(make_token_response("t4"))
    assert await harness.get_token() == "t4"
    assert "claims" not in parse_qs(harness.entra.requests[-1].body.decode())


@pytest.mark.parametrize(("size", "expected"), [(4096, "t2"), (4097, "t1")])
async def test_oversized_claims_are_not_sent_to_entra(harness: EntraHarness, size: int, expected: str) -> None:
    harness.entra.add_responses(make_token_response("t1"), make_token_response("t2"))
    assert await harness.get_token() == "t1"
    found = await harness.credential.get_token_info("x", options=claims_options("x" * size))
    assert found.token == expected


@pytest.mark.parametrize("monotonic_time", [0.0, 50.0, 1e9], ids=["at boot", "soon after boot", "later"])
async def test_challenge_before_the_first_exchange_is_answered(harness: EntraHarness, monotonic_time: float) -> None:
    harness.now = 1_000_000 + monotonic_time
    harness.entra.add_responses(make_token_response("t1"))
    assert (await harness.credential.get_token_info("x", options=claims_options())).token == "t1"
    assert "essential" in parse_qs(harness.entra.requests[0].body.decode())["claims"][0]


async def test_token_that_expires_within_the_margin_is_still_reused(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_token_response("short", lifetime=120), make_token_response("next"))
    assert {await harness.get_token() for _ in range(5)} == {"short"}
    harness.now += 59
    assert await harness.get_token() == "short"
    harness.now += 1
    assert await harness.get_token() == "next"


@pytest.mark.parametrize(("lifetime", "is_used"), [(9, False), (10, True), (172_800, True), (172_801, False)], ids=str)
async def test_token_with_an_impossible_lifetime_is_not_used(
    harness: EntraHarness, lifetime: int, is_used: bool
) -> None:
    harness.entra.add_responses(make_token_response("t1", lifetime=lifetime))
    if is_used:
        assert await harness.get_token() == "t1"
    else:
        assert (await harness.get_error()).message.endswith(
            ") gave no usable answer; the controller tries again by itself, and if it lasts, check the proxy and"
            " firewall to it"
        )


@pytest.mark.parametrize(
    "text", ["", "a.b", "a.!.c", "a.e30.c", "a.W10.c", "a.bnVsbA.c", "a.é.c", "..", "a." + "x" * 9999 + ".c"]
)
async def test_malformed_assertion_still_gives_an_error_message(
    harness: EntraHarness, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def return_text() -> str:
        return text

    monkeypatch.setattr(harness.credential, "new_assertion", return_text)
    harness.entra.add_responses(make_refusal("AADSTS700211"))
    message = (await harness.get_error()).message
    assert "issuer the cluster's, subject" in message
    assert message.endswith("(AADSTS700211)")


@pytest.mark.parametrize("length", range(8))
def test_claims_are_read_from_a_token_of_any_length(length: int) -> None:
    claims = {"iss": "x" * length}
    assert read_claims(encode_jwt(**claims)) == claims


NUMBERS = ("50033", "90006", "90012", "90024", "90033", "90090")
TRANSIENT = [
    *(
        pytest.param(ScriptedResponse(b"<html>", status=status, headers=HTML), id=str(status))
        for status in (500, 502, 503, 504)
    ),
    pytest.param(
        ScriptedResponse({"error": "temporarily_unavailable", "error_codes": [90033]}, status=503), id="90033"
    ),
    *(pytest.param(make_refusal(f"AADSTS{number}"), id=number) for number in NUMBERS),
    pytest.param(ScriptedResponse(b"{", headers={"Content-Length": "500"}, broken=True), id="cut off"),
    pytest.param(ScriptedResponse(b"<html>", headers=HTML), id="page of a proxy"),
]
FINAL = [
    pytest.param(make_refusal("AADSTS700213"), id="refusal"),
    pytest.param(make_refusal("AADSTS1234567"), id="refusal with a number without a text"),
    pytest.param(ScriptedResponse(b"", status=400), id="400"),
    pytest.param(ScriptedResponse(b"", status=499), id="499"),
    pytest.param(ScriptedResponse(b"", status=429), id="429"),
    pytest.param(ScriptedResponse(b"", status=429, headers={"Retry-After": "17"}), id="429 with Retry-After"),
    pytest.param(ScriptedResponse(b"", status=503, headers={"Retry-After": "17"}), id="503 with Retry-After"),
    pytest.param(ScriptedResponse(b"<html>", status=403, headers=HTML), id="403 of a proxy"),
    pytest.param(ScriptedResponse(b"<html>", status=429, headers=HTML), id="429 of a gateway"),
    pytest.param(ScriptedResponse(b"<html>", status=503, headers={**HTML, "Retry-After": "17"}), id="503 of a gateway"),
]


@pytest.mark.parametrize("status", [400, 403, 407, 451, 499])
@pytest.mark.parametrize("body", [b"", b"<html>blocked by secret-proxy</html>", b"plain text"])
@pytest.mark.parametrize("headers", [HTML, {}, {"Content-Type": "text/plain"}])
async def test_refusal_of_a_proxy_is_reported_with_its_status(
    harness: EntraHarness, status: int, body: bytes, headers: dict[str, str]
) -> None:
    harness.entra.add_responses(ScriptedResponse(body, status=status, headers=headers))
    message = (await harness.get_error()).message
    assert message.endswith(f" answered with HTTP {status} without an error number; check the proxy and firewall to it")


@pytest.mark.parametrize("answer", TRANSIENT)
async def test_transient_failure_is_repeated_once_for_all_callers(
    harness: EntraHarness, answer: ScriptedResponse
) -> None:
    failed: list[str] = []
    harness.credential.count_failure = failed.append
    harness.entra.add_responses(answer, make_token_response("t1"))
    assert set(await asyncio.gather(*(harness.get_token() for _ in range(100)))) == {"t1"}
    assert (len(harness.entra.requests), harness.assertions, len(failed)) == (2, 1, 1)


@pytest.mark.parametrize("answer", TRANSIENT)
async def test_lasting_failure_is_repeated_only_the_first_time(harness: EntraHarness, answer: ScriptedResponse) -> None:
    """In an hour of an outage, Entra gets no more calls than without a repetition."""
    failed: list[str] = []
    harness.credential.count_failure = failed.append
    for exchanges in range(3):
        harness.entra.add_responses(*[answer] * (1 if exchanges else 2))
        for _ in range(5):
            await harness.get_error()
        assert len(harness.entra.requests) == len(failed) == 2 + exchanges
        harness.now += REMEMBER_FAILURE + 1
    harness.entra.add_responses(make_token_response("t1", lifetime=600), answer, make_token_response("t2"))
    assert await harness.get_token() == "t1"
    harness.now += 601
    assert await harness.get_token() == "t2"


@pytest.mark.parametrize("answer", FINAL)
async def test_refusal_is_not_repeated(harness: EntraHarness, answer: ScriptedResponse) -> None:
    harness.entra.add_responses(answer)
    await harness.get_error()
    assert len(harness.entra.requests) == 1


def make_http_error(status: int | None) -> HttpResponseError:
    error = HttpResponseError("x")
    error.status_code = status
    return error


NO_ANSWER = (
    " gave no usable answer; the controller tries again by itself, and if it lasts, check the proxy and firewall to it"
)


@pytest.mark.parametrize(
    ("raised", "calls", "words"),
    [
        *(
            pytest.param(kind("x"), 2, NO_ANSWER, id=kind.__name__)
            for kind in (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)
        ),
        pytest.param(ServiceRequestError("x"), 2, "Microsoft Entra", id="no connection"),
        pytest.param(ServiceRequestTimeoutError("x"), 1, "Microsoft Entra", id="no connection in time"),
        pytest.param(ServiceResponseTimeoutError("x"), 1, "Microsoft Entra", id="no answer in time"),
        pytest.param(make_http_error(None), 2, NO_ANSWER, id="no status"),
        pytest.param(make_http_error(399), 2, NO_ANSWER, id="a status that is no failure"),
    ],
)
async def test_error_of_the_sdk_is_repeated_once_unless_it_is_a_timeout(
    harness: EntraHarness, monkeypatch: pytest.MonkeyPatch, raised: Exception, calls: int, words: str
) -> None:
    called: list[str] = []

    async def fail(scope: str, **_: object) -> None:
        called.append(scope)
        raise raised

    monkeypatch.setattr(harness.credential.sdk_credential, "get_token_info", fail)
    error = await harness.get_error()
    assert isinstance(error, errors.ProviderError)
    assert words in error.message
    assert called == ["https://vault.example.com/.default"] * calls


@pytest.mark.parametrize(("chance", "pause"), [(min, 0.2), (max, 0.3)], ids=["shortest", "longest"])
async def test_exchange_is_repeated_after_200_ms_within_40_s(
    harness: EntraHarness, monkeypatch: pytest.MonkeyPatch, chance: Callable[..., float], pause: float
) -> None:
    pauses: list[float] = []
    limits: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    def timeout(seconds: float) -> asyncio.Timeout:
        limits.append(seconds)
        return asyncio.timeout(seconds)

    monkeypatch.setattr(random, "uniform", chance)
    monkeypatch.setattr(credentials, "asyncio", SimpleNamespace(sleep=sleep, timeout=timeout))
    harness.entra.add_responses(ScriptedResponse(b"", status=503), make_token_response("t1"))
    assert await harness.get_token() == "t1"
    assert pauses == pytest.approx([pause])
    assert limits == [40]


async def test_repeated_exchange_keeps_the_claims_of_a_challenge(harness: EntraHarness) -> None:
    harness.entra.add_responses(make_token_response("t1"), ScriptedResponse(b"", status=503), make_token_response("t2"))
    await harness.get_token()
    challenge = TokenRequestOptions(claims='{"access_token":{}}')
    assert (await harness.credential.get_token_info(options=challenge)).token == "t2"
    sent = [parse_qs(request.body.decode()).get("claims") for request in harness.entra.requests]
    assert sent[1] == sent[2] != sent[0]


async def test_both_exchanges_together_have_the_time_of_one(
    harness: EntraHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "EXCHANGE_SECONDS", 0.5)
    harness.entra.add_responses(ScriptedResponse(b"", status=503), ScriptedResponse(held=True))
    assert "did not answer in time" in (await harness.get_error()).message


@pytest.mark.parametrize("number", NUMBERS)
async def test_error_of_unavailable_entra_has_its_number_and_no_identity(harness: EntraHarness, number: str) -> None:
    harness.entra.add_responses(*[make_refusal(f"AADSTS{number}")] * 2)
    message = (await harness.get_error()).message
    assert message.endswith(f"is not available for the moment; the controller tries again by itself (AADSTS{number})")
