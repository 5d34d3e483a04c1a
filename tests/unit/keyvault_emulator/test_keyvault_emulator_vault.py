"""Test Key Vault's data plane with the official clients and plain HTTPS."""

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.keyvault.secrets import SecretClient

from tests.support.certificates import encode_pem_bundle, issue_certificate
from tests.unit.keyvault_emulator.emulator_harness import CLIENT, OTHER_TENANT, SCOPE, TENANT, VAULT, EmulatorHarness
from tools.keyvault_emulator import EmulatorError


def get(
    emulator_harness: EmulatorHarness, path: str, token: str | None = None, host: str | None = None
) -> tuple[int, Any, Any]:
    """Return status, headers and JSON of a plain GET."""
    headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **({"Host": host} if host else {})}
    url = emulator_harness.emulator.url + path
    response = requests.get(url, headers=headers, verify=str(emulator_harness.emulator.ca_file), timeout=10)
    return response.status_code, response.headers, response.json()


def test_versions_are_listed_by_id_and_the_last_set_is_the_newest(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    ids = [emulator_harness.emulator.set_secret(VAULT, "pin", str(number)) for number in range(30)]
    with emulator_harness.secrets() as client:
        listed = [each.version for each in client.list_properties_of_secret_versions("pin")]
        assert listed == sorted(ids)
        assert listed != ids
        assert client.get_secret("pin").value == "29"
        assert client.get_secret("pin", ids[3]).value == "3"
        assert list(client.list_properties_of_secret_versions("nothing")) == []
        pages = list(client.list_properties_of_secrets(max_page_size=1).by_page())
        assert [[each.name for each in page] for page in pages] == [["pin"]]


def test_expired_secret_is_served_and_times_have_whole_seconds(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    past, future = datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)
    before = int(time.time())
    emulator_harness.emulator.set_secret(VAULT, "old", "x", not_before=past, expires=past, tags={"team": "shop"})
    emulator_harness.emulator.set_secret(VAULT, "early", "y", not_before=future, expires=future)
    with emulator_harness.secrets() as client:
        old = client.get_secret("old")
        assert (old.value, old.properties.expires_on, old.properties.not_before) == ("x", past, past)
        assert old.properties.tags == {"team": "shop"}
        assert old.properties.recovery_level == "Recoverable+Purgeable"
        assert old.properties.created_on is not None
        assert old.properties.created_on.microsecond == 0
        assert before <= old.properties.created_on.timestamp() <= time.time()
        assert client.get_secret("early").value == "y"
        listed = {each.name: each for each in client.list_properties_of_secrets()}
        assert (listed["early"].not_before, listed["early"].enabled) == (future, True)

        emulator_harness.emulator.set_clock(3600)
        emulator_harness.emulator.set_attributes(VAULT, "old", expires=future)
        changed = client.get_secret("old").properties
        assert changed.expires_on == future
        assert changed.updated_on is not None
        assert changed.updated_on - old.properties.created_on >= timedelta(seconds=3600)
        assert changed.created_on == old.properties.created_on
        emulator_harness.emulator.set_attributes(VAULT, "old", updated=past, created=past)
        assert client.get_secret("old").properties.updated_on == past


def test_disabled_version_is_listed_but_not_served(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    first = emulator_harness.emulator.set_secret(VAULT, "pin", "1")
    emulator_harness.emulator.set_secret(VAULT, "pin", "2")
    emulator_harness.emulator.disable_secret(VAULT, "pin")
    with emulator_harness.secrets() as client:
        with pytest.raises(HttpResponseError) as refused:
            client.get_secret("pin")
        assert refused.value.status_code == 403
        assert refused.value.error is not None
        assert refused.value.error.code == "Forbidden"
        assert refused.value.error.innererror == {"code": "SecretDisabled"}
        assert [each.enabled for each in client.list_properties_of_secrets()] == [False]
        assert client.get_secret("pin", first).value == "1"
        emulator_harness.emulator.enable_secret(VAULT, "pin")
        assert client.get_secret("pin").value == "2"


def test_deleted_secret_is_missing_until_it_is_recovered(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    version = emulator_harness.emulator.set_secret(VAULT, "pin", "1")
    emulator_harness.emulator.delete_secret(VAULT, "pin")
    with emulator_harness.secrets() as client:
        for wanted in (None, version):
            with pytest.raises(ResourceNotFoundError) as refused:
                client.get_secret("pin", wanted)
            assert refused.value.error is not None
            assert refused.value.error.code == "SecretNotFound"
        assert list(client.list_properties_of_secrets()) == []
        with pytest.raises(EmulatorError, match="recover or purge"):
            emulator_harness.emulator.set_secret(VAULT, "pin", "2")
        emulator_harness.emulator.recover_secret(VAULT, "pin")
        assert client.get_secret("pin", version).value == "1"
        emulator_harness.emulator.delete_secret(VAULT, "pin")
        emulator_harness.emulator.purge_secret(VAULT, "pin")
        emulator_harness.emulator.set_secret(VAULT, "pin", "3")
        with pytest.raises(ResourceNotFoundError):
            client.get_secret("pin", version)
    with pytest.raises(EmulatorError, match="no deleted secret 'pin'"):
        emulator_harness.emulator.recover_secret(VAULT, "pin")


def test_missing_object_or_invalid_request_is_refused(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT, "Key Vault Administrator")
    emulator_harness.emulator.set_secret(VAULT, "pin", "1")
    token = emulator_harness.access_token()
    version = "?api-version=2025-07-01"
    for path, status, code in [
        (f"/{VAULT}/secrets/none{version}", 404, "SecretNotFound"),
        (f"/{VAULT}/secrets/pin/{'0' * 32}{version}", 404, "SecretNotFound"),
        (f"/{VAULT}/certificates/pin{version}", 404, "CertificateNotFound"),
        (f"/{VAULT}/keys/pin{version}", 404, "KeyNotFound"),
        (f"/{VAULT}/secrets/under_score{version}", 400, "BadParameter"),
        (f"/{VAULT}/secrets/pin", 400, "BadParameter"),
        (f"/{VAULT}/secrets{version}&maxresults=26", 400, "BadParameter"),
        (f"/{VAULT}/secrets{version}&maxresults=no", 400, "BadParameter"),
        (f"/{VAULT}/secrets{version}&$skiptoken=no", 400, "BadParameter"),
        (f"/none/secrets/pin{version}", 404, "VaultNotFound"),
        (f"/{VAULT}/elsewhere{version}", 404, "NotFound"),
    ]:
        got, _, body = get(emulator_harness, path, token)
        assert (path, got, body["error"]["code"]) == (path, status, code)


def test_links_have_the_host_of_the_request(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    for number in range(26):
        emulator_harness.emulator.set_secret(VAULT, f"s{number:02}", str(number))
    token, host = emulator_harness.access_token(), f"{VAULT}.vault.azure.net"
    status, headers, body = get(emulator_harness, "/secrets?api-version=7.4", token, host)
    assert status == 200
    assert body["nextLink"].startswith(f"https://{host}:443/secrets?api-version=7.4&$skiptoken=")
    assert headers["x-ms-request-id"]
    assert get(emulator_harness, "/secrets/s03/?api-version=7.4", token, host)[2]["value"] == "3"
    _, _, body = get(emulator_harness, f"/{VAULT}/secrets?api-version=7.4", token)
    assert body["nextLink"].startswith(f"{emulator_harness.emulator.url}/{VAULT}/secrets?")
    _, headers, body = get(emulator_harness, "/secrets?api-version=7.4", host=host)
    assert headers["WWW-Authenticate"] == (
        f'Bearer authorization="https://{host}/{TENANT}", resource="https://vault.azure.net"'
    )


def test_token_for_another_vault_or_tenant_is_refused(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    emulator_harness.emulator.add_vault("far-vault", OTHER_TENANT)
    emulator_harness.emulator.add_vault("gov-vault", TENANT, suffix="vault.usgovcloudapi.net")
    emulator_harness.emulator.set_secret(VAULT, "pin", "1")
    emulator_harness.emulator.set_token_lifetime(600)
    good = emulator_harness.access_token()
    pin = f"/{VAULT}/secrets/pin?api-version=7.4"

    def read_refusal(path: str, token: str | None) -> str:
        status, headers, body = get(emulator_harness, path, token)
        assert status == 401
        assert headers["WWW-Authenticate"].startswith(f'Bearer authorization="{emulator_harness.emulator.url}/')
        assert body["error"]["code"] == "Unauthorized"
        return str(body["error"]["message"])

    assert read_refusal(pin, None).startswith("AKV10000: ")
    assert read_refusal(pin, emulator_harness.access_token("https://management.azure.com/.default")) == (
        "AKV10022: Invalid audience. Expected https://vault.azure.net, found: https://management.azure.com."
    )
    assert read_refusal("/gov-vault/secrets/pin", good).startswith(
        "AKV10022: Invalid audience. Expected https://vault.usgovcloudapi.net, "
    )
    foreign = read_refusal("/far-vault/secrets/pin", good)
    assert foreign.startswith(f"AKV10032: Invalid issuer. Expected one of https://sts.windows.net/{OTHER_TENANT}/, ")
    assert foreign.endswith(f"found https://sts.windows.net/{TENANT}/.")
    head, body, signature = good.split(".")
    forged = json.loads(base64.urlsafe_b64decode(body + "==")) | {"appid": "someone else"}
    swapped = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")
    assert read_refusal(pin, f"{head}.{swapped}.{signature}") == "Error validating token: IDX10511"
    assert read_refusal(pin, "not.a.token") == "Error validating token: IDX12741"
    assert read_refusal(pin, emulator_harness.issuer.token()).startswith("AKV10046: ")
    assert get(emulator_harness, pin, good)[0] == 200
    emulator_harness.emulator.set_clock(600 + 300 - 5)
    assert get(emulator_harness, pin, good)[0] == 200
    emulator_harness.emulator.set_clock(600 + 300 + 5)
    assert read_refusal(pin, good) == "Error validating token: IDX10223"
    emulator_harness.emulator.set_clock(-400)
    assert read_refusal(pin, good) == "Error validating token: IDX10222"
    emulator_harness.emulator.set_clock(0)
    emulator_harness.emulator.roll_signing_key()
    assert read_refusal(pin, good).startswith("AKV10046: ")
    assert get(emulator_harness, pin, emulator_harness.access_token())[0] == 200


def test_each_role_allows_its_operations(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.set_secret(VAULT, "pin", "1")
    emulator_harness.emulator.import_certificate(VAULT, "web", encode_pem_bundle(issue_certificate("shop")))
    token = emulator_harness.access_token()
    operations = [
        "secrets/pin",
        "secrets",
        "secrets/pin/versions",
        "certificates/web",
        "certificates",
        "keys/web",
        "keys",
    ]

    def list_allowed(*roles: str) -> set[str]:
        for role in roles:
            emulator_harness.emulator.assign_role(CLIENT, VAULT, role)
        statuses = {each: get(emulator_harness, f"/{VAULT}/{each}?api-version=7.4", token)[0] for each in operations}
        assert set(statuses.values()) <= {200, 403}
        emulator_harness.emulator.revoke_role(CLIENT, VAULT)
        return {each for each, status in statuses.items() if status == 200}

    metadata = {"secrets", "secrets/pin/versions"}
    public = {"certificates/web", "certificates", "keys/web", "keys"}
    assert list_allowed() == set()
    assert list_allowed("Key Vault Secrets User") == metadata | {"secrets/pin"}
    assert list_allowed("Key Vault Reader") == metadata | public
    assert list_allowed("Key Vault Crypto User") == {"keys/web", "keys"}
    assert list_allowed("Key Vault Reader", "Key Vault Secrets User") == set(operations)
    with pytest.raises(EmulatorError, match="role: 'Boss' is not known; the roles are Key Vault Secrets User"):
        emulator_harness.emulator.assign_role(CLIENT, VAULT, "Boss")


def test_refusal_has_the_code_and_text_of_key_vault(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.set_secret(VAULT, "pin", "1")

    def read_refusal(call: str, *arguments: str) -> tuple[str | None, str]:
        with emulator_harness.secrets() as client, pytest.raises(HttpResponseError) as refused:
            tuple(getattr(client, call)(*arguments))
        assert refused.value.status_code == 403
        error = refused.value.error
        assert error is not None
        assert error.code == "Forbidden"
        inner: Any = error.innererror
        return inner["code"], str(error.message)

    inner, message = read_refusal("get_secret", "pin")
    assert inner == "ForbiddenByRbac"
    assert f"appid={CLIENT};" in message
    assert "Action: 'Microsoft.KeyVault/vaults/secrets/getSecret/action'" in message
    assert f"/vaults/{VAULT}/secrets/pin'" in message
    assert "'Microsoft.KeyVault/vaults/secrets/readMetadata/action'" in read_refusal("list_properties_of_secrets")[1]

    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    emulator_harness.emulator.firewall(VAULT, True)
    inner, message = read_refusal("get_secret", "pin")
    assert inner == "ForbiddenByFirewall"
    assert "Client address: 127.0.0.1" in message
    emulator_harness.emulator.firewall(VAULT, False)

    emulator_harness.emulator.set_policy(CLIENT, VAULT, {"secrets": ["get"]})
    with emulator_harness.secrets() as client:
        assert client.get_secret("pin").value == "1"
    inner, message = read_refusal("list_properties_of_secrets")
    assert inner == "AccessDenied"
    assert f"does not have secrets list permission on key vault '{VAULT};" in message
    with pytest.raises(EmulatorError, match="Invalid enum value 'sign'"):
        emulator_harness.emulator.set_policy(CLIENT, VAULT, {"keys": ["sign"]})  # type: ignore[list-item]


def test_identity_reads_only_vaults_with_a_role_assignment(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.add_vault("second", TENANT)
    for vault in (VAULT, "second"):
        emulator_harness.emulator.set_secret(vault, "pin", vault)
    emulator_harness.emulator.assign_role(CLIENT, VAULT)
    with emulator_harness.credential() as credential:
        with emulator_harness.secrets(credential=credential) as client:
            assert client.get_secret("pin").value == VAULT
        with emulator_harness.secrets("second", credential=credential) as client, pytest.raises(HttpResponseError):
            client.get_secret("pin")
        emulator_harness.emulator.assign_role(CLIENT, "second")
        with emulator_harness.secrets("second", credential=credential) as client:
            assert client.get_secret("pin").value == "second"
    by_client = emulator_harness.emulator.counters(by_client=True)
    assert by_client[f"second/secrets.get/403/{CLIENT}"] == 1
    assert by_client[f"{VAULT}/secrets.get/401/-"] == 1


def test_official_client_verifies_the_challenge_by_default(emulator_harness: EmulatorHarness) -> None:
    with emulator_harness.credential() as credential:
        url = emulator_harness.emulator.vault_pattern.format(vault=VAULT)
        with (
            SecretClient(url, credential, **emulator_harness.options) as client,
            pytest.raises(ValueError, match="challenge"),
        ):
            client.get_secret("pin")


def test_wrong_tenant_is_refused_before_any_vault_request(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.add_tenant(OTHER_TENANT)
    with (
        emulator_harness.credential(tenant=OTHER_TENANT) as credential,
        pytest.raises(ClientAuthenticationError, match="AADSTS700016"),
    ):
        credential.get_token(SCOPE)
