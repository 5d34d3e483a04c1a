"""Federation: an Entra on loopback over real TLS, asked by the Azure SDK; each refusal gives cause and next step."""

import asyncio
import base64
import json
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs

import pytest
from azure.core.credentials import TokenRequestOptions

from controller import errors
from controller.config.settings import TOKEN_AUDIENCE, Cloud
from controller.keyvault import credentials
from controller.keyvault.credentials import (
    CHALLENGE_AGAIN,
    MAX_CLAIMS,
    REMEMBER_FAILURE,
    RENEW_BEFORE,
    RENEW_FORBIDDEN,
    FederatedCredential,
    Identity,
)
from controller.keyvault.transport import new_session, new_transport
from tests.support import canaries
from tests.support.canaries import SOME_FORMS
from tests.support.scripted_api_server import ScriptedApiServer, ScriptedResponse, run_api_server
from tools.local_cluster.pki import ClusterAuthority

WHO = Identity(namespace="team", service_account="robot", client_id="client-1", tenant_id="tenant-1")
ISSUER = "https://oidc.example.com/cluster"
CANARY = "canary-3b7c"


def jwt(**claims: object) -> str:
    """Return a token that says so, signed by nobody."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.{CANARY}"


def token(text: str = "token", lives: int = 3600) -> ScriptedResponse:
    return ScriptedResponse(
        {"token_type": "Bearer", "access_token": text, "expires_in": lives},
        headers={"Content-Type": "application/json"},
    )


def refusal(number: str, status: int = 400) -> ScriptedResponse:
    """As Entra refuses: the number, words of its own, ids of the request."""
    text = f"{number}: Words of Entra {CANARY}. Trace ID: 1 Correlation ID: 2 Timestamp: 2030-01-01 00:00:00Z"
    body = {"error": "invalid_client", "error_description": text, "error_codes": [], "trace_id": "1"}
    return ScriptedResponse(body, status=status, headers={"Content-Type": "application/json"})


class Scene:
    """A credential, the Entra that it asks, and a clock for both."""

    def __init__(self, entra: ScriptedApiServer, credential: Callable[["Scene"], FederatedCredential]) -> None:
        self.entra = entra
        self.now = 1_900_000_000.0
        self.assertions = 0
        self.no_assertion: errors.ControllerError | None = None
        self.credential = credential(self)

    @property
    def steady(self) -> float:
        """The clock that only goes on."""
        return self.now - 1_000_000

    async def assertion(self) -> str:
        """Return a new ServiceAccount token; one that yields to the loop, as a request would."""
        self.assertions += 1
        await asyncio.sleep(0)
        if self.no_assertion:
            raise self.no_assertion
        return jwt(iss=ISSUER, number=self.assertions)

    async def ask(self) -> str:
        return (await self.credential.get_token_info("https://proposed.example/.default")).token

    async def fails(self) -> errors.ControllerError:
        with pytest.raises(errors.ControllerError) as caught:
            await self.ask()
        return caught.value


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClusterAuthority:
    return ClusterAuthority(tmp_path_factory.mktemp("pki"), "entra")


@pytest.fixture
async def scene(authority: ClusterAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    pair = authority.issue("server", user="server", hosts=["127.0.0.1"])
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.cert, pair.key)
    session = new_session(authority.pair.cert.read_text())
    async with session, run_api_server(tls) as entra:
        cloud = Cloud(
            authority=entra.url, vault_url="https://{vault}.example.com", audience="https://vault.example.com"
        )
        scene = Scene(entra, lambda scene: FederatedCredential(WHO, cloud, new_transport(session), scene.assertion))
        monkeypatch.setattr(time, "time", lambda: scene.now)
        monkeypatch.setattr(
            credentials, "time", SimpleNamespace(time=lambda: scene.now, monotonic=lambda: scene.steady)
        )
        async with scene.credential:
            yield scene


def test_the_subject_is_the_service_accounts() -> None:
    assert WHO.subject == "system:serviceaccount:team:robot"


# Tokens


async def test_an_exchange_asks_for_the_clouds_audience_whatever_a_challenge_proposes(scene: Scene) -> None:
    scene.entra.add_responses(token("t1"))
    assert await scene.ask() == "t1"
    (asked,) = scene.entra.requests
    form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
    assert asked.path == "/tenant-1/oauth2/v2.0/token"
    assert form["scope"] == "https://vault.example.com/.default"
    assert form["client_id"] == "client-1"
    assert form["client_assertion"] == jwt(iss=ISSUER, number=1)
    assert form["grant_type"] == "client_credentials"


async def test_a_token_serves_until_shortly_before_its_end(scene: Scene) -> None:
    scene.entra.add_responses(token("t1"), token("t2"))
    assert await scene.ask() == "t1"
    scene.now += 3600 - RENEW_BEFORE - 1
    assert await scene.ask() == "t1"
    scene.now += 2
    assert [await scene.ask(), await scene.ask()] == ["t2", "t2"]
    assert (len(scene.entra.requests), scene.assertions) == (2, 2)


async def test_the_sdks_older_form_gives_the_same(scene: Scene) -> None:
    scene.entra.add_responses(token("t1"))
    old = await scene.credential.get_token("x", tenant_id="another", claims="c")
    assert (old.token, old.expires_on) == ("t1", int(scene.now) + 3600)
    assert await scene.ask() == "t1"


async def test_a_thousand_concurrent_askers_are_one_exchange(scene: Scene) -> None:
    scene.entra.add_responses(token("t1"))
    assert set(await asyncio.gather(*(scene.ask() for _ in range(1000)))) == {"t1"}
    assert (len(scene.entra.requests), scene.assertions) == (1, 1)


async def test_an_asker_that_gives_up_leaves_the_way_free(scene: Scene) -> None:
    scene.entra.add_responses(ScriptedResponse(held=True))
    first, second = asyncio.create_task(scene.ask()), asyncio.create_task(scene.ask())
    await scene.entra.idle.wait()
    scene.entra.add_responses(token("t1"))
    first.cancel()
    assert await second == "t1"


async def test_closing_forgets_the_token(scene: Scene) -> None:
    scene.entra.add_responses(token("t1"))
    await scene.ask()
    await scene.credential.close()
    assert "t1" not in repr(vars(scene.credential))


# Failures


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
        ("AADSTS900382", "another cloud", "correct cloudName or tenantID"),
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
async def test_each_number_gives_cause_and_next_step(scene: Scene, number: str, cause: str, step: str) -> None:
    scene.entra.add_responses(refusal(number))
    error = await scene.fails()
    assert isinstance(error, errors.ProviderError)
    assert cause in error.message
    assert step in error.message
    assert error.message.endswith(f"({number})")


@pytest.mark.parametrize(
    "answer",
    [refusal("AADSTS700213"), refusal("AADSTS1"), refusal("no number"), ScriptedResponse(CANARY.encode(), status=400)],
)
async def test_neither_token_nor_entras_own_words_reach_the_message(scene: Scene, answer: ScriptedResponse) -> None:
    scene.entra.add_responses(answer)
    error = await scene.fails()
    assert CANARY not in error.message
    assert jwt(iss=ISSUER, number=1) not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({"error_codes": [700016]}, "700016"),
        ({"error_codes": [50166, 700016]}, "50166"),
        ({"error_description": None, "error_codes": [123]}, "123"),
        ({"error_description": "", "error_codes": [123]}, "123"),
        ({"error_description": "AADSTS123: x", "error_codes": [700016]}, "123"),
    ],
)
async def test_number_without_a_description_is_kept(scene: Scene, fields: dict[str, object], number: str) -> None:
    body = {"error": "invalid_client", **fields}
    scene.entra.add_responses(ScriptedResponse(body, status=400, headers={"Content-Type": "application/json"}))
    assert (await scene.fails()).message.endswith(f"(AADSTS{number})")


@pytest.mark.parametrize(
    "text", ["AADSTS\u0667\u0660", "AADSTS\uff17\uff10\uff10", "AADSTS", "AADSTS1234567890", "AADSTSx"]
)
async def test_number_in_other_digits_is_no_number(scene: Scene, text: str) -> None:
    body = {"error": "invalid_client", "error_description": text}
    scene.entra.add_responses(ScriptedResponse(body, status=400, headers={"Content-Type": "application/json"}))
    assert (await scene.fails()).message.endswith("gave no usable answer; the controller tries again by itself")


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500])
async def test_no_form_of_a_text_of_entra_reaches_the_message(scene: Scene, status: int) -> None:
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
            scene.now += 2 * REMEMBER_FAILURE
            headers = {"Content-Type": "application/json", "Retry-After": "1"}
            scene.entra.add_responses(ScriptedResponse(json.dumps(body).encode(), status=status, headers=headers))
            assert not canaries.find_forms((await scene.fails()).message)


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
    ],
)
async def test_an_entra_that_is_busy_is_not_said_to_refuse(
    scene: Scene, answer: ScriptedResponse, retry_after: float | None
) -> None:
    scene.entra.add_responses(answer)
    error = await scene.fails()
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
async def test_a_body_that_makes_no_sense_is_no_refusal(
    scene: Scene, body: bytes, content_type: str, status: int
) -> None:
    scene.entra.add_responses(ScriptedResponse(body, status=status, headers={"Content-Type": content_type}))
    error = await scene.fails()
    assert isinstance(error, errors.ProviderError)
    assert "Microsoft Entra" in error.message
    assert "tries again" in error.message
    assert "refused" not in error.message


async def test_an_entra_that_cannot_be_reached(scene: Scene) -> None:
    scene.entra.add_responses(ScriptedResponse(b"{", headers={"Content-Length": "500"}, broken=True))
    error = await scene.fails()
    assert isinstance(error, errors.ProviderError)
    assert "Microsoft Entra" in error.message
    assert "refused" not in error.message


async def test_entra_that_hangs_is_named_and_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a vault's request is given up: else the vault would be blamed."""
    monkeypatch.setattr(credentials, "EXCHANGE_SECONDS", 0.2)
    failed: list[str] = []
    scene.credential.count_failure = failed.append

    async def hangs(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(scene.credential.sdk_credential, "get_token_info", hangs)
    error = await scene.fails()
    host = scene.entra.url.partition("://")[2]
    assert error.message.startswith(f"Microsoft Entra ({host}) did not answer in time")
    assert isinstance(error, errors.ProviderError)
    assert failed == [host]


async def test_without_an_assertion_there_is_no_exchange(scene: Scene) -> None:
    scene.no_assertion = errors.ProviderError("there is no ServiceAccount robot")
    assert (await scene.fails()).message == "there is no ServiceAccount robot"
    assert not scene.entra.requests


async def test_one_failure_answers_a_thousand_and_is_forgotten(scene: Scene) -> None:
    scene.entra.add_responses(refusal("AADSTS700213"))
    failures = await asyncio.gather(*(scene.ask() for _ in range(1000)), return_exceptions=True)
    assert len({str(failure) for failure in failures}) == 1
    assert all(isinstance(failure, errors.ProviderError) for failure in failures)
    assert (len(scene.entra.requests), scene.assertions) == (1, 1)
    scene.now += REMEMBER_FAILURE + 1
    scene.entra.add_responses(token("t1"))
    assert await scene.ask() == "t1"


async def test_who_leads_again_is_not_held_up_by_what_was_not_sent_meanwhile(scene: Scene) -> None:
    scene.no_assertion = errors.NotLeading("this process does not lead any more")
    assert isinstance(await scene.fails(), errors.NotLeading)
    scene.no_assertion = None
    scene.entra.add_responses(token("t1"))
    assert await scene.ask() == "t1"


async def test_a_remembered_failure_does_not_grow(scene: Scene) -> None:
    scene.entra.add_responses(refusal("AADSTS700213"))
    depths = set()
    for _ in range(5):
        depths.add(len(traceback.extract_tb((await scene.fails()).__traceback__)))
    assert max(depths) < 10
    assert len(depths) <= 2


@pytest.mark.parametrize("entra_fails", [True, False])
async def test_while_renewal_fails_the_old_token_serves_to_its_end(scene: Scene, entra_fails: bool) -> None:
    scene.entra.add_responses(token("t1"))
    await scene.ask()
    scene.now += 3600 - RENEW_BEFORE + 1
    if entra_fails:
        scene.entra.add_responses(*[refusal("AADSTS700213")] * 10)
    else:
        scene.no_assertion = errors.Unreachable("the Kubernetes API did not answer in time")
    assert [await scene.ask() for _ in range(3)] == ["t1"] * 3
    assert scene.assertions == 2  # that renewal failed is remembered as well
    scene.now += RENEW_BEFORE
    assert isinstance(await scene.fails(), errors.ProviderError if entra_fails else errors.KubeError)


async def test_token_that_a_vault_refuses_is_replaced_but_not_at_once_again(scene: Scene) -> None:
    scene.entra.add_responses(token("t1"), token("t2"), refusal("AADSTS700213"))
    assert await scene.ask() == "t1"
    # The exchange that just made this token is not another caller's: it brought nothing newer.
    assert not scene.credential.note_refusal("t1")
    assert await scene.ask() == "t1"
    scene.now += REMEMBER_FAILURE
    assert scene.credential.note_refusal("t1")
    assert await scene.ask() == "t2"
    for _ in range(9):
        assert scene.credential.note_refusal("t1")  # of a caller that was under way with the old one
        assert not scene.credential.note_refusal("t2")
        assert await scene.ask() == "t2"
    # One vault of several may be the wrong one: where there is no other token, this one goes on serving.
    scene.now += REMEMBER_FAILURE
    assert scene.credential.note_refusal("t2")
    for _ in range(9):
        assert await scene.ask() == "t2"
        assert not scene.credential.note_refusal("t2")
    assert scene.assertions == 3


async def test_lasting_denial_renews_the_token_within_minutes_and_not_more_often(scene: Scene) -> None:
    """Group memberships are in the token: what an administrator grants is in the next one."""
    scene.entra.add_responses(*[token(f"t{number}") for number in range(1, 400)])
    assert await scene.ask() == "t1"
    seen = []
    for _ in range(60):  # an hour, with a denial every ten seconds
        for _ in range(6):
            scene.now += 10
            scene.credential.note_forbidden()
            seen.append(await scene.ask())
        if scene.assertions == 3:
            break
    assert 60 <= RENEW_FORBIDDEN <= 600
    assert seen.count("t1") == RENEW_FORBIDDEN / 10 - 1
    assert seen.count("t2") == RENEW_FORBIDDEN / 10


def claims_options(text: str = '{"access_token":{"nbf":{"essential":true}}}') -> TokenRequestOptions:
    return {"claims": text}


async def test_claims_challenge_costs_one_exchange(scene: Scene) -> None:
    scene.entra.add_responses(token("t1"), token("t2"), token("t3"))
    assert await scene.ask() == "t1"
    answers = await asyncio.gather(*(scene.credential.get_token_info("x", options=claims_options()) for _ in range(24)))
    assert {answer.token for answer in answers} == {"t2"}
    form = parse_qs(scene.entra.requests[-1].body.decode())
    assert "essential" in form["claims"][0]
    # A vault that is never content costs an exchange a minute.
    scene.now += CHALLENGE_AGAIN - 1
    assert (await scene.credential.get_token_info("x", options=claims_options())).token == "t2"
    assert await scene.ask() == "t2"
    assert scene.assertions == 2
    scene.now += 1
    assert (await scene.credential.get_token_info("x", options=claims_options())).token == "t3"
    # What the challenge asked for is not asked for again.
    scene.now += 3600
    scene.entra.add_responses(token("t4"))
    assert await scene.ask() == "t4"
    assert "claims" not in parse_qs(scene.entra.requests[-1].body.decode())


async def test_claims_without_end_are_not_passed_on(scene: Scene) -> None:
    scene.entra.add_responses(token("t1"))
    assert await scene.ask() == "t1"
    found = await scene.credential.get_token_info("x", options=claims_options("x" * (MAX_CLAIMS + 1)))
    assert found.token == "t1"
    assert scene.assertions == 1


async def test_a_token_that_lives_shorter_than_the_margin_does_not_make_a_storm(scene: Scene) -> None:
    scene.entra.add_responses(*[token("short", lives=120)] * 5)
    assert {await scene.ask() for _ in range(5)} == {"short"}
    assert scene.assertions == 1


@pytest.mark.parametrize(
    "text", ["", "a.b", "a.!.c", "a.e30.c", "a.W10.c", "a.bnVsbA.c", "a.é.c", "..", "a." + "x" * 9999 + ".c"]
)
async def test_an_assertion_of_any_shape_gives_a_message(
    scene: Scene, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def odd() -> str:
        return text

    monkeypatch.setattr(scene.credential, "new_assertion", odd)
    scene.entra.add_responses(refusal("AADSTS700211"))
    assert "(AADSTS700211)" in (await scene.fails()).message
