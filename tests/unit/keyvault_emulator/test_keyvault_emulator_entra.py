"""Test Entra's token endpoint and discovery with azure-identity, MSAL and plain HTTPS."""

import re
import time
from typing import Any

import jwt
import msal  # type: ignore[import-untyped]
import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.unit.keyvault_emulator.emulator_harness import (
    CLIENT,
    OTHER_TENANT,
    SCOPE,
    SUBJECT,
    TENANT,
    VAULT,
    EmulatorHarness,
)
from tools.keyvault_emulator import EmulatorError

UNKNOWN_KEY = rsa.generate_private_key(65537, 2048)


def post(emulator_harness: EmulatorHarness, tenant: str = TENANT, **changes: str | None) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of a token request. `changes` replace its parameters, or remove them if None."""
    form = {
        "grant_type": "client_credentials",
        "client_id": CLIENT,
        "scope": SCOPE,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": emulator_harness.issuer.token(),
        **changes,
    }
    response = requests.post(
        f"{emulator_harness.emulator.authority}/{tenant}/oauth2/v2.0/token",
        data={key: value for key, value in form.items() if value is not None},
        headers={"client-request-id": "44444444-4444-4444-4444-444444444444"},
        verify=str(emulator_harness.emulator.ca_file),
        timeout=10,
    )
    return response.status_code, response.json()


def test_token_is_a_signed_jwt(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.set_token_lifetime(1234)
    status, body = post(emulator_harness)
    assert status == 200
    assert (body["token_type"], body["expires_in"]) == ("Bearer", 1234)
    keys = requests.get(
        f"{emulator_harness.emulator.authority}/{TENANT}/discovery/v2.0/keys",
        verify=str(emulator_harness.emulator.ca_file),
        timeout=10,
    ).json()["keys"]
    assert [key["kid"] for key in keys] == [jwt.get_unverified_header(body["access_token"])["kid"]]
    claims = jwt.decode(
        body["access_token"], jwt.PyJWK(keys[0]), algorithms=["RS256"], audience="https://vault.azure.net"
    )
    assert (claims["tid"], claims["appid"], claims["idtyp"]) == (TENANT, CLIENT, "app")
    assert claims["iss"] == f"https://sts.windows.net/{TENANT}/"
    assert claims["exp"] - claims["iat"] == 1234
    assert abs(claims["iat"] - time.time()) < 5
    emulator_harness.emulator.set_token_lifetime(86400)
    assert post(emulator_harness)[1]["refresh_in"] == 43200


@pytest.mark.parametrize(
    ("status", "error", "code", "text", "changes"),
    [
        (401, "invalid_client", 700211, "assertion issuer 'https://elsewhere'", {"iss": "https://elsewhere"}),
        (401, "invalid_client", 700212, "assertion audience 'api://other'", {"aud": ["api://other"]}),
        (
            401,
            "invalid_client",
            700212,
            "assertion audience",
            {"aud": ["api://AzureADTokenExchange", "more"]},
        ),
        (401, "invalid_client", 700213, "assertion subject 'someone'", {"sub": "someone"}),
        (401, "invalid_client", 7002138, "not with case-sensitive", {"sub": SUBJECT.upper()}),
        (401, "invalid_client", 700024, "not within its valid time range", {"exp": 1000, "nbf": 500}),
        (401, "invalid_client", 700024, "not within its valid time range", {"nbf": int(time.time()) + 4000}),
        (401, "invalid_client", 700024, "not within its valid time range", {"exp": None}),
        (401, "invalid_client", 700027, "invalid signature", {"key": UNKNOWN_KEY}),
        (401, "invalid_client", 7000272, "identifier other used to sign", {"kid": "other", "key": UNKNOWN_KEY}),
    ],
)
def test_mismatched_assertion_is_refused_with_entras_text(
    emulator_harness: EmulatorHarness, status: int, error: str, code: int, text: str, changes: dict[str, Any]
) -> None:
    got, body = post(emulator_harness, client_assertion=emulator_harness.issuer.token(**changes))
    assert (got, body["error"], body["error_codes"]) == (status, error, [code])
    assert body["error_description"].startswith(f"AADSTS{code}: ")
    assert text in body["error_description"]
    assert re.search(
        r" Trace ID: [0-9a-f-]{36} Correlation ID: 44444444-4444-4444-4444-444444444444 "
        r"Timestamp: \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$",
        body["error_description"],
    )
    assert body["correlation_id"] == "44444444-4444-4444-4444-444444444444"
    assert body["error_uri"] == f"{emulator_harness.emulator.url}/error?code={code}"
    assert set(body) == {
        "error",
        "error_description",
        "error_codes",
        "timestamp",
        "trace_id",
        "correlation_id",
        "error_uri",
    }
    assert emulator_harness.emulator.counters() == {f"entra/token/{status}": 1}


@pytest.mark.parametrize(
    ("status", "error", "code", "changes"),
    [
        (400, "invalid_request", 90002, {"tenant": OTHER_TENANT}),
        (400, "invalid_request", 900023, {"tenant": "no~tenant"}),
        (400, "unauthorized_client", 700016, {"client_id": OTHER_TENANT}),
        (400, "invalid_request", 900144, {"client_id": None}),
        (400, "invalid_request", 900144, {"scope": None}),
        (400, "unsupported_grant_type", 70003, {"grant_type": "password"}),
        (400, "invalid_scope", 1002012, {"scope": "https://vault.azure.net/user_impersonation"}),
        (400, "invalid_scope", 1002012, {"scope": "openid offline_access profile"}),
        (400, "invalid_scope", 70011, {"scope": "vault"}),
        (400, "invalid_scope", 70011, {"scope": f"{SCOPE} https://graph.microsoft.com/.default"}),
        (400, "invalid_resource", 500011, {"scope": "https://elsewhere.example/.default"}),
        (401, "invalid_client", 7000218, {"client_assertion": None}),
        (400, "invalid_request", 50027, {"client_assertion": "rubbish"}),
    ],
)
def test_invalid_request_is_refused_with_entras_text(
    emulator_harness: EmulatorHarness, status: int, error: str, code: int, changes: dict[str, str | None]
) -> None:
    got, body = post(emulator_harness, **changes)  # type: ignore[arg-type]
    assert (got, body["error"], body["error_codes"]) == (status, error, [code])
    assert body["error_description"].startswith(f"AADSTS{code}: ")


def test_scopes_of_openid_beside_a_resource_are_ignored(emulator_harness: EmulatorHarness) -> None:
    status, body = post(emulator_harness, scope=f"{SCOPE} openid offline_access profile")
    assert status == 200, body
    assert jwt.decode(body["access_token"], options={"verify_signature": False})["aud"] == "https://vault.azure.net"


def test_subject_of_another_issuer_is_refused(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.federate(CLIENT, "https://elsewhere", "someone")
    status, body = post(emulator_harness, client_assertion=emulator_harness.issuer.token(sub="someone"))
    assert (status, body["error_codes"]) == (401, [70021])
    assert (
        f"Assertion Issuer: '{emulator_harness.issuer.url}'. Assertion Subject: 'someone'." in body["error_description"]
    )


def test_azure_identity_raises_the_refusal(emulator_harness: EmulatorHarness) -> None:
    with (
        emulator_harness.credential(
            emulator_harness.issuer.token(sub="system:serviceaccount:shop:other")
        ) as credential,
        pytest.raises(ClientAuthenticationError, match=r"AADSTS700213: .* 'system:serviceaccount:shop:other'"),
    ):
        credential.get_token(SCOPE)


async def test_azure_identity_raises_the_refusal_with_asyncio(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.unfederate(CLIENT, emulator_harness.issuer.url, SUBJECT)
    async with emulator_harness.async_credential() as credential:
        with pytest.raises(ClientAuthenticationError, match="AADSTS70025"):
            await credential.get_token(SCOPE)


def test_clock_skew_is_accepted_up_to_five_minutes(emulator_harness: EmulatorHarness) -> None:
    now = int(time.time())
    assertion = emulator_harness.issuer.token(nbf=now, exp=now + 600)
    for offset, status in [(-290, 200), (-310, 401), (600 + 290, 200), (600 + 310, 401)]:
        emulator_harness.emulator.set_clock(offset)
        got, body = post(emulator_harness, client_assertion=assertion)
        assert (offset, got) == (offset, status)
        assert got == 200 or body["error_codes"] == [700024]


def test_unsigned_or_symmetrically_signed_assertion_is_refused(emulator_harness: EmulatorHarness) -> None:
    claims = jwt.decode(emulator_harness.issuer.token(), options={"verify_signature": False})
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": emulator_harness.issuer.kid})
    assert post(emulator_harness, client_assertion=unsigned)[1]["error_codes"] == [700027]
    symmetric = jwt.encode(claims, b"x" * 64, algorithm="HS256", headers={"kid": emulator_harness.issuer.kid})
    assert post(emulator_harness, client_assertion=symmetric)[1]["error_codes"] == [700027]


def test_keys_are_cached_while_the_issuer_is_offline(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.issuer.requested_paths.clear()
    assert [post(emulator_harness)[0] for _ in range(3)] == [200, 200, 200]
    assert emulator_harness.issuer.requested_paths == ["/.well-known/openid-configuration", "/openid/v1/jwks"]
    emulator_harness.issuer.stop()
    try:
        assert post(emulator_harness)[0] == 200
        emulator_harness.emulator.restart()
        assert post(emulator_harness)[0] == 200
        unknown = emulator_harness.issuer.token(kid="other")
        assert post(emulator_harness, client_assertion=unknown)[1]["error_codes"] == [7000272]
        emulator_harness.emulator.trust_issuer(emulator_harness.issuer.url, emulator_harness.issuer.ca_file)
        assert post(emulator_harness)[1]["error_codes"] == [50166]
    finally:
        emulator_harness.issuer.start()
    assert post(emulator_harness)[0] == 200


def test_new_key_of_the_issuer_is_found_with_bounded_requests(emulator_harness: EmulatorHarness) -> None:
    assert post(emulator_harness)[0] == 200
    # The restarted emulator keeps the fetched keys, but not the time of the last request.
    emulator_harness.emulator.restart()
    emulator_harness.issuer.roll("second")
    emulator_harness.issuer.requested_paths.clear()
    assert post(emulator_harness)[0] == 200
    assert len(emulator_harness.issuer.requested_paths) == 2
    for number in range(5):
        assert post(emulator_harness, client_assertion=emulator_harness.issuer.token(kid=f"made-up-{number}"))[0] == 401
    assert len(emulator_harness.issuer.requested_paths) == 2


def test_discovery_uses_only_allowed_and_trusted_hosts(
    emulator_harness: EmulatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator_harness.emulator.federate(CLIENT, "https://127.0.0.1:1", SUBJECT)
    assert post(emulator_harness, client_assertion=emulator_harness.issuer.token(iss="https://127.0.0.1:1"))[1][
        "error_codes"
    ] == [50166]
    emulator_harness.emulator.trust_issuer(emulator_harness.issuer.url, emulator_harness.emulator.ca_file)
    assert post(emulator_harness)[1]["error_codes"] == [50166]
    monkeypatch.setattr(emulator_harness.issuer, "claimed", "https://someone.else")
    emulator_harness.emulator.trust_issuer(emulator_harness.issuer.url, emulator_harness.issuer.ca_file)
    assert post(emulator_harness)[1]["error_codes"] == [50166]


def test_issuer_without_dns_is_found_at_its_configured_address(
    emulator_harness: EmulatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "https://kubernetes.default.svc.cluster.local"
    monkeypatch.setattr(emulator_harness.issuer, "claimed", name)
    emulator_harness.emulator.federate(CLIENT, name, SUBJECT)
    emulator_harness.emulator.trust_issuer(name, emulator_harness.issuer.ca_file, discovery=emulator_harness.issuer.url)
    assert post(emulator_harness, client_assertion=emulator_harness.issuer.token(iss=name))[0] == 200


def test_issuer_with_given_keys_gets_no_request(emulator_harness: EmulatorHarness) -> None:
    jwks = requests.get(
        f"{emulator_harness.issuer.url}/openid/v1/jwks", verify=str(emulator_harness.issuer.ca_file), timeout=10
    ).json()
    emulator_harness.emulator.trust_issuer(emulator_harness.issuer.url, None, jwks=jwks)
    emulator_harness.issuer.requested_paths.clear()
    assert post(emulator_harness)[0] == 200
    assert emulator_harness.issuer.requested_paths == []


def test_identity_has_at_most_20_federated_credentials(emulator_harness: EmulatorHarness) -> None:
    for number in range(19):
        emulator_harness.emulator.federate(CLIENT, emulator_harness.issuer.url, f"subject-{number}")
    emulator_harness.emulator.federate(CLIENT, emulator_harness.issuer.url, SUBJECT)
    with pytest.raises(EmulatorError, match="20 federated credentials"):
        emulator_harness.emulator.federate(CLIENT, emulator_harness.issuer.url, "one-more")


def test_msal_gets_a_token_by_instance_and_tenant_discovery(emulator_harness: EmulatorHarness) -> None:
    with requests.Session() as session:
        session.trust_env = False  # otherwise, a CA bundle of the environment replaces this one
        session.verify = str(emulator_harness.emulator.ca_file)
        application = msal.ConfidentialClientApplication(
            CLIENT,
            client_credential={"client_assertion": emulator_harness.issuer.token},
            authority=f"{emulator_harness.emulator.authority}/{TENANT}",
            instance_discovery=f"{emulator_harness.emulator.authority}/common/discovery/instance",
            http_client=session,
        )
        granted = application.acquire_token_for_client([SCOPE])
        assert granted is not None
        assert granted["access_token"]
        refused = requests.get(
            f"{emulator_harness.emulator.authority}/{OTHER_TENANT}/v2.0/.well-known/openid-configuration",
            verify=session.verify,
            timeout=10,
        )
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_tenant")
    counters = emulator_harness.emulator.counters()
    assert counters["entra/instance/200"] >= 1
    assert counters["entra/discovery/200"] >= 1
    assert counters["entra/token/200"] == 1


def test_removed_identity_gets_no_token_and_no_secret(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    emulator_harness.emulator.set_secret(VAULT, "pin", "1")
    token = emulator_harness.access_token()
    emulator_harness.emulator.remove_identity(CLIENT)
    assert post(emulator_harness)[1]["error_codes"] == [700016]
    response = requests.get(
        f"{emulator_harness.emulator.url}/{VAULT}/secrets/pin?api-version=7.4",
        headers={"Authorization": f"Bearer {token}"},
        verify=str(emulator_harness.emulator.ca_file),
        timeout=10,
    )
    assert response.status_code == 403
