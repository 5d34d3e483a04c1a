"""Test that the emulator's answers have the fields, types, headers and texts of recorded Azure answers.

A shape is a JSON value in which a type replaces a variable value, and `Text` replaces a text with a fixed form.
"""

import itertools
import json
import re
from typing import Any, NamedTuple

import pytest
import requests
from azure.core.exceptions import HttpResponseError

from controller.config.settings import KEY_VAULT_API_VERSION
from tests.support.certificates import encode_pem_bundle, issue_certificate
from tests.unit.keyvault_emulator.emulator_harness import CLIENT, TENANT, VAULT, EmulatorHarness
from tools.keyvault_emulator import EmulatorError
from tools.keyvault_emulator.azure.entra_numbers import AADSTS
from tools.keyvault_emulator.azure.keyvault import API_VERSIONS, PAGE

HOST = f"https://{VAULT}.vault.azure.net"
ID = "[0-9a-f]{32}"
GUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
CALLER = f"appid={GUID};oid={GUID};iss=https://sts.windows.net/{TENANT}/"


class Text(NamedTuple):
    """A text that matches a pattern."""

    pattern: str


def find_difference(found: Any, shape: Any, path: str = "$") -> str:
    """Return the first place where `found` does not have the shape, or an empty text."""
    if isinstance(shape, Text):
        fits = isinstance(found, str) and re.fullmatch(shape.pattern, found, re.DOTALL)
        return "" if fits else f"{path}: {found!r} is not {shape.pattern!r}"
    if isinstance(shape, type):
        return "" if type(found) is shape else f"{path}: {found!r} is not {shape.__name__}"
    if isinstance(shape, dict) and isinstance(found, dict):
        if found.keys() != shape.keys():
            return f"{path}: {sorted(found)}, not {sorted(shape)}"
        return next(filter(None, (find_difference(found[key], shape[key], f"{path}.{key}") for key in shape)), "")
    if isinstance(shape, list) and isinstance(found, list) and len(shape) in (1, len(found)):
        shapes = shape * len(found) if len(shape) == 1 else shape
        pairs = zip(found, shapes, strict=True)
        return next(filter(None, (find_difference(each, wanted, f"{path}[]") for each, wanted in pairs)), "")
    return "" if found == shape else f"{path}: {found!r} is not {shape!r}"


TIMES = {"enabled": bool, "created": int, "updated": int}
RECOVERY = {"recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90}
VALIDITY = {"nbf": int, "exp": int}
CERTIFICATE = {
    "id": Text(f"{HOST}/certificates/web/{ID}"),
    "kid": Text(f"{HOST}/keys/web/{ID}"),
    "sid": Text(f"{HOST}/secrets/web/{ID}"),
    "x5t": Text("[-_0-9A-Za-z]{27}"),
    "cer": Text("[+/=0-9A-Za-z]+"),
    "attributes": TIMES | VALIDITY | RECOVERY,
    "tags": {},
}
RSA = {
    "kid": Text(f"{HOST}/keys/[a-z-]+/{ID}"),
    "kty": Text("RSA(-HSM)?"),
    "key_ops": ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"],
    "n": Text("[-_0-9A-Za-z]{342}"),
    "e": Text("AQAB|AAEAAQ"),
}
EC = {
    "kid": Text(f"{HOST}/keys/[a-z-]+/{ID}"),
    "kty": Text("EC(-HSM)?"),
    "key_ops": ["sign", "verify"],
    "crv": Text("P-(256|256K|384|521)"),
    "x": Text("[-_0-9A-Za-z]{43,88}"),
    "y": Text("[-_0-9A-Za-z]{43,88}"),
}
RELEASE = {
    "contentType": "application/json; charset=utf-8",
    "data": Text("[-_0-9A-Za-z]+"),
    "immutable": False,
}
SHAPES: dict[str, Any] = {
    "secrets/pin": {
        "value": "1",
        "id": Text(f"{HOST}/secrets/pin/{ID}"),
        "attributes": TIMES | RECOVERY,
    },
    "secrets/web": {
        "value": str,
        "contentType": "application/x-pem-file",
        "id": Text(f"{HOST}/secrets/web/{ID}"),
        "managed": True,
        "attributes": TIMES | VALIDITY | RECOVERY,
        "tags": {},
        "kid": Text(f"{HOST}/keys/web/{ID}"),
    },
    "certificates/web": CERTIFICATE
    | {
        "policy": {
            "id": f"{HOST}/certificates/web/policy",
            "key_props": {"exportable": True, "kty": "EC", "crv": "P-256", "reuse_key": False},
            "secret_props": {"contentType": "application/x-pem-file"},
            "x509_props": {
                "subject": "CN=shop",
                "ekus": list,
                "key_usage": list,
                "validity_months": int,
                "basic_constraints": {"ca": False},
            },
            "lifetime_actions": list,
            "issuer": {"name": str},
            "attributes": TIMES,
        },
        "pending": {"id": f"{HOST}/certificates/web/pending"},
    },
    "certificates/web/{version}": CERTIFICATE
    | {"subject": str, "issuer": str, "sans": {"dns_names": list}, "serialnumber": Text("[0-9A-F]{32,}")},
    "certificates/soon": {
        "id": Text(f"{HOST}/certificates/soon/{ID}"),
        "attributes": TIMES | VALIDITY | RECOVERY | {"enabled": False},
        "policy": dict,
        "pending": {"id": f"{HOST}/certificates/soon/pending"},
    },
    "secrets": {
        "value": [
            {"id": f"{HOST}/secrets/pin", "attributes": TIMES | RECOVERY},
            {
                "contentType": "application/x-pkcs12",
                "id": f"{HOST}/secrets/soon",
                "managed": True,
                "attributes": TIMES | VALIDITY | RECOVERY | {"enabled": False},
            },
            {
                "contentType": "application/x-pem-file",
                "id": f"{HOST}/secrets/web",
                "managed": True,
                "attributes": TIMES | VALIDITY | RECOVERY,
                "tags": {},
            },
        ],
        "nextLink": None,
    },
    "certificates/soon/policy": {
        "id": f"{HOST}/certificates/soon/policy",
        "issuer": {"name": str},
        "attributes": {"enabled": True},
    },
    "certificates/soon/pending": {
        "id": f"{HOST}/certificates/soon/pending",
        "issuer": dict,
        "csr": str,
        "cancellation_requested": False,
        "status": "inProgress",
        "status_details": str,
    },
    "certificates/issuers": {"value": [], "nextLink": None},
    "certificates/soon/versions": {"value": [], "nextLink": None},
    "certificates/none/versions": {"value": [], "nextLink": None},
    "keys/rsa": {"key": RSA, "attributes": TIMES | RECOVERY},
    "keys/rsa-hsm": {"key": RSA, "attributes": TIMES | RECOVERY},
    "keys/ec": {"key": EC, "attributes": TIMES | RECOVERY},
    "keys/ec-k": {"key": EC, "attributes": TIMES | RECOVERY},
    "keys/ec-hsm": {"key": EC, "attributes": TIMES | RECOVERY},
    "keys/released": {"key": EC, "attributes": TIMES | RECOVERY | {"exportable": True}, "release_policy": RELEASE},
    "certificates": {
        "value": [
            {
                "id": f"{HOST}/certificates/web",
                "x5t": Text("[-_0-9A-Za-z]{27}"),
                "attributes": TIMES | VALIDITY,
                "tags": {},
                "subject": "",
            }
        ],
        "nextLink": None,
    },
    "keys/ec/versions": {
        "value": [{"kid": Text(f"{HOST}/keys/ec/{ID}"), "attributes": TIMES | RECOVERY}],
        "nextLink": None,
    },
}
HEADERS = {
    "Cache-Control": "no-cache",
    "Pragma": "no-cache",
    "Content-Type": "application/json; charset=utf-8",
    "Expires": "-1",
    "x-ms-keyvault-region": "westeurope",
    "x-ms-client-request-id": GUID,
    "x-ms-request-id": GUID,
    "x-ms-keyvault-service-version": r"1\.9\.[0-9]+\.[0-9]+",
    "x-ms-keyvault-network-info": r"conn_type=Ipv4;addr=[0-9.]+;act_addr_fam=InterNetwork;",
    "X-Content-Type-Options": "nosniff",
    "Strict-Transport-Security": "max-age=31536000;includeSubDomains",
    "Date": r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT",
}


class Reply(NamedTuple):
    """The answer of the vault to a plain GET."""

    status: int
    headers: Any
    body: Any

    @property
    def error(self) -> tuple[int, str, str | None, str]:
        """Return the status, code, inner code and message of a refusal."""
        error = self.body["error"]
        return self.status, error["code"], error.get("innererror", {}).get("code"), error["message"]


def send_get(
    emulator_harness: EmulatorHarness, path: str, *, token: str, query: str = f"api-version={KEY_VAULT_API_VERSION}"
) -> Reply:
    url = path if path.startswith("https:") else f"{emulator_harness.emulator.url}/{VAULT}/{path}?{query}"
    headers = {"Authorization": f"Bearer {token}"}
    answer = requests.get(url, headers=headers, verify=str(emulator_harness.emulator.ca_file), timeout=10)
    return Reply(answer.status_code, answer.headers, answer.json())


@pytest.fixture
def token(emulator_harness: EmulatorHarness) -> str:
    emulator_harness.emulator.assign_role(CLIENT, VAULT, "Key Vault Administrator")
    return emulator_harness.access_token()


def test_answers_have_the_shapes_of_recorded_ones(emulator_harness: EmulatorHarness, token: str) -> None:
    emulator = emulator_harness.emulator
    emulator.set_secret(VAULT, "pin", "1")
    version = emulator.import_certificate(VAULT, "web", encode_pem_bundle(issue_certificate("shop")))
    emulator.request_certificate(VAULT, "soon")
    emulator.create_key(VAULT, "rsa")
    emulator.create_key(VAULT, "rsa-hsm", "RSA-HSM")
    emulator.create_key(VAULT, "ec", "EC", curve="P-521")
    emulator.create_key(VAULT, "ec-k", "EC", curve="P-256K")
    emulator.create_key(VAULT, "ec-hsm", "EC-HSM", curve="P-384")
    emulator.create_key(VAULT, "released", "EC-HSM", release_policy=True)
    wrong = {}
    for path, shape in SHAPES.items():
        reply = send_get(emulator_harness, path.format(version=version), token=token)
        assert reply.status == 200, (path, reply.body)
        wrong[path] = find_difference(reply.body, shape)
        for name, pattern in HEADERS.items():
            assert re.fullmatch(pattern, reply.headers.get(name, "")), (path, name, reply.headers.get(name))
    assert {path: text for path, text in wrong.items() if text} == {}


def test_different_shape_is_found() -> None:
    good = {"id": f"{HOST}/secrets/pin/{'0' * 32}", "attributes": TIMES, "value": ["x"]}
    shape = {"id": Text(f"{HOST}/secrets/pin/{ID}"), "attributes": dict, "value": [str]}
    assert not find_difference(good, shape)
    for change in ({"id": "x"}, {"attributes": None}, {"value": [1]}, {"more": 1}):
        assert find_difference(good | change, shape)


REFUSALS = [
    (
        "secrets/none",
        404,
        "SecretNotFound",
        None,
        r"A secret with \(name/id\) none was not found in this key vault\. .*",
    ),
    ("keys/none", 404, "KeyNotFound", None, r"A key with \(name/id\) none was not found in this key vault\. .*"),
    ("secrets/soon", 403, "Forbidden", "SecretDisabled", "Operation get is not allowed on a disabled secret."),
    (f"certificates/soon/{'0' * 32}", 404, "CertificateNotFound", None, rf".* soon/{'0' * 32} was not found .*"),
    ("certificates/soon/v1", 400, "BadParameter", None, "Method GET does not allow operation 'v1'"),
    ("certificates/contacts", 404, "ContactsNotFound", None, ".*"),
    ("certificates/none/pending", 404, "PendingCertificateNotFound", None, "Pending certificate not found: none"),
    ("secrets/pin/v1", 400, "BadParameter", None, "Method GET does not allow operation 'v1'"),
    ("keys/rsa/latest", 400, "BadParameter", None, "Method GET does not allow operation 'latest'"),
]


def test_refusals_of_objects_have_the_texts_of_recorded_ones(emulator_harness: EmulatorHarness, token: str) -> None:
    emulator_harness.emulator.set_secret(VAULT, "pin", "1")
    emulator_harness.emulator.create_key(VAULT, "rsa")
    emulator_harness.emulator.request_certificate(VAULT, "soon")
    for path, status, code, inner, text in REFUSALS:
        found = send_get(emulator_harness, path, token=token).error
        assert found[:3] == (status, code, inner), path
        assert re.fullmatch(text, found[3], re.DOTALL), found[3]


def test_refusal_by_the_network_has_its_own_code(emulator_harness: EmulatorHarness, token: str) -> None:
    emulator = emulator_harness.emulator
    cases = {
        "ForbiddenByFirewall": (emulator.firewall, True, "Client address is not authorized"),
        "ForbiddenByConnection": (emulator.public_access, False, "Public network access is disabled"),
        "ForbiddenByNsp": (emulator.perimeter, True, "Request was not allowed by NSP rules"),
    }
    for inner, (switch, state, text) in cases.items():
        switch(VAULT, state)
        status, code, found, message = send_get(emulator_harness, "secrets", token=token).error
        assert (status, code, found) == (403, "Forbidden", inner)
        assert message.startswith(text)
        assert re.search(rf"Caller: {CALLER}\r\nVault: {VAULT};location=westeurope", message)
        switch(VAULT, not state)
    assert send_get(emulator_harness, "secrets", token=token).status == 200


def test_refusal_by_role_or_policy_has_its_own_code(emulator_harness: EmulatorHarness, token: str) -> None:
    emulator = emulator_harness.emulator
    emulator.set_secret(VAULT, "pin", "1")
    emulator.revoke_role(CLIENT, VAULT)
    _, _, inner, message = send_get(emulator_harness, "secrets", token=token).error
    assert inner == "ForbiddenByRbac"
    assert re.fullmatch(
        r"Caller is not authorized to perform action on resource\.\r\nIf role assignments, .* propagation time\.\r\n"
        rf"Caller: {CALLER}\r\nAction: 'Microsoft\.KeyVault/vaults/secrets/readMetadata/action'\r\n"
        rf"Resource: '/subscriptions/{GUID}/resourcegroups/[a-z]+/providers/microsoft\.keyvault/vaults/{VAULT}'\r\n"
        rf"Assignment: \(not found\)\r\nDecisionReason: 'DeniedWithNoValidRBAC' \r\n"
        rf"Vault: {VAULT};location=westeurope\r\n",
        message,
    )
    emulator.set_policy(CLIENT, VAULT, {"secrets": ["list"]})
    words = f"The user, group or application '{CALLER}' does not have secrets get permission on key vault .*"
    for code in ("AccessDenied", "ForbiddenByPolicy"):
        emulator.policy_refusals(VAULT, code)
        _, _, inner, message = send_get(emulator_harness, "secrets/pin", token=token).error
        assert inner == code
        assert re.fullmatch(words, message)
    emulator.policy_refusals(VAULT, on_behalf_of=True)
    for path in ("secrets", "secrets/pin"):
        _, _, inner, message = send_get(emulator_harness, path, token=token).error
        assert inner == "ForbiddenByPolicy"
        assert re.fullmatch(
            rf"The policy requires the caller '{CALLER}' to use on-behalf-of \(OBO\) flow\. .*", message
        )


# Versions of the REST API


@pytest.mark.parametrize("version", API_VERSIONS)
def test_known_api_version_is_served(emulator_harness: EmulatorHarness, token: str, version: str) -> None:
    assert send_get(emulator_harness, "secrets", token=token, query=f"api-version={version}").status == 200


@pytest.mark.parametrize("version", ["7.7", "2099-01-01", "7.4-preview", "latest", "7.4 "])
def test_unknown_api_version_is_refused_with_the_newest_one(
    emulator_harness: EmulatorHarness, token: str, version: str
) -> None:
    error = send_get(emulator_harness, "secrets", token=token, query=f"api-version={version}").error
    text = f"The specified version ({version}) is not recognized. Consider using the latest supported version ({{}})."
    assert error == (400, "BadParameter", None, text.format(API_VERSIONS[-1]))


def test_vault_can_be_limited_to_older_api_versions(emulator_harness: EmulatorHarness, token: str) -> None:
    emulator_harness.emulator.api_versions(VAULT, ["2016-10-01", "7.0", "7.1"])
    assert send_get(emulator_harness, "secrets", token=token, query="api-version=7.1").status == 200
    assert (
        send_get(emulator_harness, "secrets", token=token)
        .error[3]
        .endswith("Consider using the latest supported version (7.1).")
    )


# Pages


def list_pages(
    emulator_harness: EmulatorHarness, token: str, query: str = "api-version=7.4"
) -> list[tuple[list[str], str | None]]:
    """Return the names on each page of the list of secrets, and the address of the next page."""
    found: list[tuple[list[str], str | None]] = []
    path: str | None = "secrets"
    while path:
        body = send_get(emulator_harness, path, token=token, query=query).body
        path = body["nextLink"]
        found.append(([item["id"].rpartition("/")[2] for item in body["value"]], path))
        assert len(found) < 200
    return found


def test_list_can_have_short_and_empty_pages_in_its_middle(emulator_harness: EmulatorHarness, token: str) -> None:
    names = [f"s{number:02}" for number in range(80)]
    for name in names:
        emulator_harness.emulator.set_secret(VAULT, name, "1")
    assert [len(listed) for listed, _ in list_pages(emulator_harness, token)] == [25, 25, 25, 5]
    # A deleted object still takes its place in the page.
    for name in names[20:55]:
        emulator_harness.emulator.delete_secret(VAULT, name)
    assert [len(listed) for listed, _ in list_pages(emulator_harness, token)] == [20, 0, 20, 5]
    emulator_harness.emulator.page_sizes(VAULT, [24, 0, 0, 3])
    found = list_pages(emulator_harness, token)
    assert [len(listed) for listed, _ in found][:5] == [20, 0, 0, 0, 0]
    assert list(itertools.chain.from_iterable(listed for listed, _ in found)) == names[:20] + names[55:]
    with pytest.raises(EmulatorError, match="a list of only empty pages never ends"):
        emulator_harness.emulator.page_sizes(VAULT, [0, 0])


def test_next_link_has_the_form_of_azure(emulator_harness: EmulatorHarness, token: str) -> None:
    for number in range(PAGE + 1):
        emulator_harness.emulator.set_secret(VAULT, f"s{number:02}", "1")
    base = re.escape(f"{emulator_harness.emulator.url}/{VAULT}/secrets")
    link = list_pages(emulator_harness, token)[0][1]
    assert re.fullmatch(rf"{base}\?api-version=7\.4&\$skiptoken=[-_0-9A-Za-z]+", link or "")
    link = list_pages(emulator_harness, token, "api-version=7.4&maxresults=20")[0][1]
    assert re.fullmatch(rf"{base}\?api-version=7\.4&\$skiptoken=[-_0-9A-Za-z]+&maxresults=20", link or "")
    with emulator_harness.secrets() as client:
        assert len(list(client.list_properties_of_secrets())) == PAGE + 1


def test_pending_request_becomes_a_certificate_after_the_merge(emulator_harness: EmulatorHarness, token: str) -> None:
    emulator_harness.emulator.request_certificate(VAULT, "web")
    with emulator_harness.certificates() as client:
        assert client.get_certificate("web").cer is None
        assert list(client.list_properties_of_certificates()) == []
        emulator_harness.emulator.import_certificate(VAULT, "web", encode_pem_bundle(issue_certificate("shop")))
        assert client.get_certificate("web").cer
    assert send_get(emulator_harness, "certificates/web/pending", token=token).status == 404


# Throttling and Entra


def test_throttling_has_retry_after_only_if_configured(emulator_harness: EmulatorHarness, token: str) -> None:
    emulator_harness.emulator.throttle(VAULT, 0)
    reply = send_get(emulator_harness, "secrets", token=token)
    assert "Retry-After" not in reply.headers
    assert reply.error[:2] == (429, "Throttled")
    assert reply.error[3].endswith("Reason: VaultRequestTypeLimitReached")
    emulator_harness.emulator.throttle(VAULT, 0, 7)
    assert send_get(emulator_harness, "secrets", token=token).headers["Retry-After"] == "7"


@pytest.mark.parametrize("number", [*AADSTS, 9999999])
def test_entra_can_refuse_with_any_error_code(emulator_harness: EmulatorHarness, number: int) -> None:
    emulator_harness.emulator.refuse_tokens(number, times=1)
    with emulator_harness.credential() as credential:
        with pytest.raises(HttpResponseError, match=f"AADSTS{number}: "):
            credential.get_token("https://vault.azure.net/.default")
        assert credential.get_token("https://vault.azure.net/.default").token


def test_entra_answers_have_its_headers(emulator_harness: EmulatorHarness) -> None:
    url = f"{emulator_harness.emulator.url}/{TENANT}/oauth2/v2.0/token"
    answer = requests.post(url, data={"client_id": CLIENT}, verify=str(emulator_harness.emulator.ca_file), timeout=10)
    body = json.loads(answer.text)
    keys = {"error", "error_description", "error_codes", "timestamp", "trace_id", "correlation_id", "error_uri"}
    assert body.keys() == keys
    assert answer.headers["Cache-Control"] == "no-store, no-cache"
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"
    assert {"P3P", "x-ms-ests-server", "X-XSS-Protection", "x-ms-request-id"} <= set(answer.headers)
