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

from tests.unit.keyvault_emulator.scene import CLIENT, OTHER_TENANT, SCOPE, SUBJECT, TENANT, VAULT, Scene
from tools.keyvault_emulator import EmulatorError

STRANGER = rsa.generate_private_key(65537, 2048)


def post(scene: Scene, tenant: str = TENANT, **changes: str | None) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of a token request. `changes` replace its parameters, or remove them if None."""
    form = {
        "grant_type": "client_credentials",
        "client_id": CLIENT,
        "scope": SCOPE,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": scene.issuer.token(),
        **changes,
    }
    response = requests.post(
        f"{scene.emulator.authority}/{tenant}/oauth2/v2.0/token",
        data={key: value for key, value in form.items() if value is not None},
        headers={"client-request-id": "44444444-4444-4444-4444-444444444444"},
        verify=str(scene.emulator.ca_file),
        timeout=10,
    )
    return response.status_code, response.json()


def test_token_is_a_signed_jwt(scene: Scene) -> None:
    scene.emulator.set_token_lifetime(1234)
    status, body = post(scene)
    assert status == 200
    assert (body["token_type"], body["expires_in"]) == ("Bearer", 1234)
    keys = requests.get(
        f"{scene.emulator.authority}/{TENANT}/discovery/v2.0/keys",
        verify=str(scene.emulator.ca_file),
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
    scene.emulator.set_token_lifetime(86400)
    assert post(scene)[1]["refresh_in"] == 43200


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
        (401, "invalid_client", 700027, "invalid signature", {"key": STRANGER}),
        (401, "invalid_client", 7000272, "identifier other used to sign", {"kid": "other", "key": STRANGER}),
    ],
)
def test_mismatched_assertion_is_refused_with_entras_text(
    scene: Scene, status: int, error: str, code: int, text: str, changes: dict[str, Any]
) -> None:
    got, body = post(scene, client_assertion=scene.issuer.token(**changes))
    assert (got, body["error"], body["error_codes"]) == (status, error, [code])
    assert body["error_description"].startswith(f"AADSTS{code}: ")
    assert text in body["error_description"]
    assert re.search(
        r" Trace ID: [0-9a-f-]{36} Correlation ID: 44444444-4444-4444-4444-444444444444 "
        r"Timestamp: \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$",
        body["error_description"],
    )
    assert body["correlation_id"] == "44444444-4444-4444-4444-444444444444"
    assert body["error_uri"] == f"{scene.emulator.url}/error?code={code}"
    assert set(body) == {
        "error",
        "error_description",
        "error_codes",
        "timestamp",
        "trace_id",
        "correlation_id",
        "error_uri",
    }
    assert scene.emulator.counters() == {f"entra/token/{status}": 1}


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
        (400, "invalid_scope", 70011, {"scope": "vault"}),
        (400, "invalid_resource", 500011, {"scope": "https://elsewhere.example/.default"}),
        (401, "invalid_client", 7000218, {"client_assertion": None}),
        (400, "invalid_request", 50027, {"client_assertion": "rubbish"}),
    ],
)
def test_invalid_request_is_refused_with_entras_text(
    scene: Scene, status: int, error: str, code: int, changes: dict[str, str | None]
) -> None:
    got, body = post(scene, **changes)  # type: ignore[arg-type]
    assert (got, body["error"], body["error_codes"]) == (status, error, [code])
    assert body["error_description"].startswith(f"AADSTS{code}: ")


def test_subject_of_another_issuer_is_refused(scene: Scene) -> None:
    scene.emulator.federate(CLIENT, "https://elsewhere", "someone")
    status, body = post(scene, client_assertion=scene.issuer.token(sub="someone"))
    assert (status, body["error_codes"]) == (401, [70021])
    assert f"Assertion Issuer: '{scene.issuer.url}'. Assertion Subject: 'someone'." in body["error_description"]


def test_azure_identity_raises_the_refusal(scene: Scene) -> None:
    with (
        scene.credential(scene.issuer.token(sub="system:serviceaccount:shop:other")) as credential,
        pytest.raises(ClientAuthenticationError, match=r"AADSTS700213: .* 'system:serviceaccount:shop:other'"),
    ):
        credential.get_token(SCOPE)


async def test_azure_identity_raises_the_refusal_with_asyncio(scene: Scene) -> None:
    scene.emulator.unfederate(CLIENT, scene.issuer.url, SUBJECT)
    async with scene.async_credential() as credential:
        with pytest.raises(ClientAuthenticationError, match="AADSTS70025"):
            await credential.get_token(SCOPE)


def test_clock_skew_is_accepted_up_to_five_minutes(scene: Scene) -> None:
    now = int(time.time())
    assertion = scene.issuer.token(nbf=now, exp=now + 600)
    for offset, status in [(-290, 200), (-310, 401), (600 + 290, 200), (600 + 310, 401)]:
        scene.emulator.set_clock(offset)
        got, body = post(scene, client_assertion=assertion)
        assert (offset, got) == (offset, status)
        assert got == 200 or body["error_codes"] == [700024]


def test_unsigned_or_symmetrically_signed_assertion_is_refused(scene: Scene) -> None:
    claims = jwt.decode(scene.issuer.token(), options={"verify_signature": False})
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": scene.issuer.kid})
    assert post(scene, client_assertion=unsigned)[1]["error_codes"] == [700027]
    symmetric = jwt.encode(claims, b"x" * 64, algorithm="HS256", headers={"kid": scene.issuer.kid})
    assert post(scene, client_assertion=symmetric)[1]["error_codes"] == [700027]


def test_keys_are_cached_while_the_issuer_is_offline(scene: Scene) -> None:
    scene.issuer.asked.clear()
    assert [post(scene)[0] for _ in range(3)] == [200, 200, 200]
    assert scene.issuer.asked == ["/.well-known/openid-configuration", "/openid/v1/jwks"]
    scene.issuer.stop()
    try:
        assert post(scene)[0] == 200
        scene.emulator.restart()
        assert post(scene)[0] == 200
        unknown = scene.issuer.token(kid="other")
        assert post(scene, client_assertion=unknown)[1]["error_codes"] == [7000272]
        scene.emulator.trust_issuer(scene.issuer.url, scene.issuer.ca_file)
        assert post(scene)[1]["error_codes"] == [50166]
    finally:
        scene.issuer.start()
    assert post(scene)[0] == 200


def test_new_key_of_the_issuer_is_found_with_bounded_requests(scene: Scene) -> None:
    assert post(scene)[0] == 200
    scene.emulator.restart()  # what was fetched is kept, when it was looked for is not
    scene.issuer.roll("second")
    scene.issuer.asked.clear()
    assert post(scene)[0] == 200
    assert len(scene.issuer.asked) == 2
    for number in range(5):
        assert post(scene, client_assertion=scene.issuer.token(kid=f"made-up-{number}"))[0] == 401
    assert len(scene.issuer.asked) == 2


def test_discovery_uses_only_allowed_and_trusted_hosts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.emulator.federate(CLIENT, "https://127.0.0.1:1", SUBJECT)
    assert post(scene, client_assertion=scene.issuer.token(iss="https://127.0.0.1:1"))[1]["error_codes"] == [50166]
    scene.emulator.trust_issuer(scene.issuer.url, scene.emulator.ca_file)
    assert post(scene)[1]["error_codes"] == [50166]
    monkeypatch.setattr(scene.issuer, "claimed", "https://someone.else")
    scene.emulator.trust_issuer(scene.issuer.url, scene.issuer.ca_file)
    assert post(scene)[1]["error_codes"] == [50166]


def test_issuer_without_dns_is_found_at_its_configured_address(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "https://kubernetes.default.svc.cluster.local"
    monkeypatch.setattr(scene.issuer, "claimed", name)
    scene.emulator.federate(CLIENT, name, SUBJECT)
    scene.emulator.trust_issuer(name, scene.issuer.ca_file, discovery=scene.issuer.url)
    assert post(scene, client_assertion=scene.issuer.token(iss=name))[0] == 200


def test_issuer_with_given_keys_gets_no_request(scene: Scene) -> None:
    jwks = requests.get(f"{scene.issuer.url}/openid/v1/jwks", verify=str(scene.issuer.ca_file), timeout=10).json()
    scene.emulator.trust_issuer(scene.issuer.url, None, jwks=jwks)
    scene.issuer.asked.clear()
    assert post(scene)[0] == 200
    assert scene.issuer.asked == []


def test_identity_has_at_most_20_federated_credentials(scene: Scene) -> None:
    for number in range(19):
        scene.emulator.federate(CLIENT, scene.issuer.url, f"subject-{number}")
    scene.emulator.federate(CLIENT, scene.issuer.url, SUBJECT)
    with pytest.raises(EmulatorError, match="20 federated credentials"):
        scene.emulator.federate(CLIENT, scene.issuer.url, "one-more")


def test_msal_gets_a_token_by_instance_and_tenant_discovery(scene: Scene) -> None:
    with requests.Session() as session:
        session.trust_env = False  # else a CA bundle named in the environment replaces this one
        session.verify = str(scene.emulator.ca_file)
        application = msal.ConfidentialClientApplication(
            CLIENT,
            client_credential={"client_assertion": scene.issuer.token},
            authority=f"{scene.emulator.authority}/{TENANT}",
            instance_discovery=f"{scene.emulator.authority}/common/discovery/instance",
            http_client=session,
        )
        granted = application.acquire_token_for_client([SCOPE])
        assert granted is not None
        assert granted["access_token"]
        refused = requests.get(
            f"{scene.emulator.authority}/{OTHER_TENANT}/v2.0/.well-known/openid-configuration",
            verify=session.verify,
            timeout=10,
        )
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_tenant")
    counters = scene.emulator.counters()
    assert counters["entra/instance/200"] >= 1
    assert counters["entra/discovery/200"] >= 1
    assert counters["entra/token/200"] == 1


def test_removed_identity_gets_no_token_and_no_secret(scene: Scene) -> None:
    scene.emulator.assign_role(CLIENT, VAULT)
    scene.emulator.set_secret(VAULT, "pin", "1")
    token = scene.access_token()
    scene.emulator.remove_identity(CLIENT)
    assert post(scene)[1]["error_codes"] == [700016]
    response = requests.get(
        f"{scene.emulator.url}/{VAULT}/secrets/pin?api-version=7.4",
        headers={"Authorization": f"Bearer {token}"},
        verify=str(scene.emulator.ca_file),
        timeout=10,
    )
    assert response.status_code == 403
