"""Test the settings: each variable is read, and an invalid one is reported with the accepted values."""

import json
import ssl
from pathlib import Path

import pytest
from msgspec import structs

from controller.config.settings import BUILT_IN_CLOUDS, Cloud, Settings, SettingsError
from tools.local_cluster.pki import ClusterAuthority

EXAMPLE_CLOUD = {"authority": "https://login.example.com", "vaultUrl": "https://{vault}.vault.example.com"}


def read_settings(**environment: str) -> Settings:
    return Settings.from_environment(environment)


def test_every_variable_is_optional() -> None:
    assert read_settings() == Settings()
    assert read_settings(PATH="/bin", HOME="/") == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("ROTATION_POLL_INTERVAL", "60", 60),
        ("ENABLE_PARTIAL_SECRET_SYNC", "false", False),
        ("ENABLE_PARTIAL_SECRET_SYNC", "true", True),
        ("JITTER", "0", 0),
        ("JITTER", "", 0),
        ("DRIFT_INTERVAL", "5", 5),
        ("SHORTEST_REFRESH_INTERVAL", "60", 60),
        ("NORMAL_EVENTS", "false", False),
        ("IDENTITY_FROM_SERVICE_ACCOUNT", "true", True),
        ("AKV_SYNC", "false", False),
        ("CONTROLLER_NAME", "blue", "blue"),
        ("WATCH_NAMESPACES", "a, b ,c", ("a", "b", "c")),
        ("WATCH_NAMESPACES", "a,b,a", ("a", "b")),
        ("WATCH_NAMESPACES", "", ()),
        ("DEFAULT_CLOUD", "AzureChinaCloud", "AzureChinaCloud"),
        ("CLOUDS_FILE", "/etc/clouds.json", "/etc/clouds.json"),
        ("CA_FILE", "/etc/ca.pem", "/etc/ca.pem"),
        ("TEST_CLOUDS_FILE", "/etc/test.json", "/etc/test.json"),
        ("PROBE_SECRET_TYPE", "example.com/no", "example.com/no"),
        ("ALLOWED_SECRET_TYPES", "Opaque, kubernetes.io/tls", ("Opaque", "kubernetes.io/tls")),
        ("POLICIES_NAME", "mine.home", "mine.home"),
        ("SERVICE_ACCOUNT", "scribe", "scribe"),
        ("LEASE_NAME", "shop", "shop"),
        ("LEASE_DURATION", "60", 60),
        ("LEASE_RENEW_INTERVAL", "15", 15),
        ("POD_NAMESPACE", "azure-secret-store", "azure-secret-store"),
        ("POD_NAME", "pod-1", "pod-1"),
        ("LISTEN_ADDRESS", "127.0.0.1", "127.0.0.1"),
        ("LISTEN_PORT", "0", 0),
        ("HEALTH_PORT", "0", 0),
        ("METRICS_TLS_FOLDER", "/etc/metrics", "/etc/metrics"),
        ("METRICS_AUTHENTICATION", "true", True),
        ("OTLP_ENDPOINT", "https://collector.shop.svc:4318", "https://collector.shop.svc:4318"),
        ("OTLP_FOLDER", "/etc/logs", "/etc/logs"),
        ("LOG_LEVEL", "debug", "debug"),
    ],
)
def test_variable_sets_the_field_of_its_name(variable: str, text: str, expected: object) -> None:
    assert getattr(read_settings(**{variable: text}), variable.lower()) == expected


def test_table_above_has_every_setting() -> None:
    marks = [mark for mark in test_variable_sets_the_field_of_its_name.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert {variable.lower() for variable, *_ in marks[0].args[1]} == set(Settings.__struct_fields__)


@pytest.mark.parametrize(
    ("variable", "text", "accepted"),
    [
        ("ROTATION_POLL_INTERVAL", "soon", "`int`"),
        ("ROTATION_POLL_INTERVAL", "0", "`int` >= 1"),
        ("ROTATION_POLL_INTERVAL", "1.5", "`int`"),
        ("ENABLE_PARTIAL_SECRET_SYNC", "perhaps", "`bool`"),
        ("JITTER", "-1", "`int` >= 0"),
        ("DRIFT_INTERVAL", "-1", "`int` >= 1"),
        *(
            ("WATCH_NAMESPACES", text, "not a namespace's name")
            for text in (
                ",",
                " ",
                "\n",
                " , ",
                "a,",
                ",a",
                "a,,b",
                "a b",
                "a;b",
                "Shop",
                "-a",
                "a-",
                "a.b",
                "*",
                "x" * 64,
            )
        ),
        ("LISTEN_PORT", "65536", "`int` <= 65535"),
        ("LISTEN_PORT", "http", "`int`"),
        ("HEALTH_PORT", "65536", "`int` <= 65535"),
        ("LOG_LEVEL", "loud", "write one of debug, info, warning, error"),
        ("LOG_LEVEL", "INFO", "write one of debug, info, warning, error"),
    ],
)
def test_invalid_variable_is_reported_with_the_accepted_values(variable: str, text: str, accepted: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(**{variable: text})
    assert variable in str(caught.value)
    assert accepted in str(caught.value)
    assert "\n" not in str(caught.value)


# Clouds


def read_clouds(folder: Path, content: object, **environment: str) -> dict[str, Cloud]:
    file = folder / "clouds.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_settings(CLOUDS_FILE=str(file), **environment).clouds()


def test_built_in_clouds_need_no_file() -> None:
    assert read_settings().clouds() == BUILT_IN_CLOUDS
    assert {
        name: (cloud.authority, cloud.vault_url.format(vault="shop"), cloud.audience)
        for name, cloud in BUILT_IN_CLOUDS.items()
    } == {
        "AzurePublicCloud": (
            "https://login.microsoftonline.com",
            "https://shop.vault.azure.net",
            "https://vault.azure.net",
        ),
        "AzureUSGovernmentCloud": (
            "https://login.microsoftonline.us",
            "https://shop.vault.usgovcloudapi.net",
            "https://vault.usgovcloudapi.net",
        ),
        "AzureChinaCloud": (
            "https://login.chinacloudapi.cn",
            "https://shop.vault.azure.cn",
            "https://vault.azure.cn",
        ),
    }


def test_file_adds_clouds_and_can_replace_one(tmp_path: Path) -> None:
    found = read_clouds(tmp_path, {"Lab": EXAMPLE_CLOUD, "AzurePublicCloud": EXAMPLE_CLOUD}, DEFAULT_CLOUD="Lab")
    assert found["Lab"] == found["AzurePublicCloud"]
    assert found["Lab"].authority == "https://login.example.com"
    assert found["Lab"].audience == "https://vault.azure.net"
    assert found["AzureChinaCloud"] == BUILT_IN_CLOUDS["AzureChinaCloud"]


def test_entry_under_a_built_in_name_changes_the_fields_that_it_sets(tmp_path: Path) -> None:
    found = read_clouds(tmp_path, {"AzureChinaCloud": {"apiVersion": "2016-10-01"}})["AzureChinaCloud"]
    assert found == structs.replace(BUILT_IN_CLOUDS["AzureChinaCloud"], api_version="2016-10-01")


def test_every_cloud_has_the_same_api_version_unless_it_says_otherwise(tmp_path: Path) -> None:
    versions = {name: cloud.api_version for name, cloud in read_clouds(tmp_path, {"Lab": EXAMPLE_CLOUD}).items()}
    assert versions == dict.fromkeys(["Lab", *BUILT_IN_CLOUDS], "7.4")


@pytest.mark.parametrize("version", ["7.0", "7.6-preview.2", "2016-10-01", "2025-06-01-preview"])
def test_api_version_is_a_number_or_a_date(tmp_path: Path, version: str) -> None:
    assert read_clouds(tmp_path, {"Lab": EXAMPLE_CLOUD | {"apiVersion": version}})["Lab"].api_version == version


@pytest.mark.parametrize("version", ["", "latest", "7", "v7.4", "7.4&x=1", "7.4/..", "2016-10", 7.4])
def test_api_version_of_another_form_is_named(tmp_path: Path, version: object) -> None:
    with pytest.raises(SettingsError, match=r"cloud Lab: .*apiVersion"):
        read_clouds(tmp_path, {"Lab": EXAMPLE_CLOUD | {"apiVersion": version}})


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        pytest.param({"authority": EXAMPLE_CLOUD["authority"]}, ["vaultUrl"], id="a missing field"),
        pytest.param(EXAMPLE_CLOUD | {"vaultURL": "x"}, ["vaultURL"], id="a misspelt field"),
        pytest.param(
            EXAMPLE_CLOUD | {"authority": "http://login.example.com"}, ["authority"], id="an authority without TLS"
        ),
        pytest.param(EXAMPLE_CLOUD | {"authority": "https://a@evil"}, ["authority"], id="a user in the address"),
        pytest.param(
            EXAMPLE_CLOUD | {"vaultUrl": "https://vault.example.com"}, ["vaultUrl"], id="no place for the vault's name"
        ),
        pytest.param(
            EXAMPLE_CLOUD | {"vaultUrl": "http://{vault}.example.com"}, ["vaultUrl"], id="a vault without TLS"
        ),
        pytest.param(
            EXAMPLE_CLOUD | {"vaultUrl": "https://x/?{vault}"}, ["vaultUrl"], id="the vault's name in a query"
        ),
        pytest.param(EXAMPLE_CLOUD | {"authority": "https://a:port"}, ["authority"], id="a port that is no number"),
        pytest.param(EXAMPLE_CLOUD | {"authority": "https://a:65536"}, ["authority"], id="a port that is too high"),
        pytest.param(
            EXAMPLE_CLOUD | {"vaultUrl": "https://{vault}.a:0"}, ["vaultUrl"], id="a port of the vault that is too low"
        ),
        pytest.param(EXAMPLE_CLOUD | {"ca": 1}, ["ca"], id="a wrong type"),
        pytest.param("x", [], id="a text instead of an object"),
        pytest.param(EXAMPLE_CLOUD | {"ca": "not a certificate"}, ["ca"], id="an invalid CA"),
        pytest.param(EXAMPLE_CLOUD | {"ca": "\u00e9"}, ["ca"], id="a CA that is not ASCII"),
    ],
)
def test_invalid_entry_is_reported_with_its_field(entry: object, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_clouds(tmp_path, {"Fine": EXAMPLE_CLOUD, "Broken": entry})
    for word in ["CLOUDS_FILE", "Broken", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', "[" * 100_000, '{"a":' + "[" * 100_000])
def test_file_without_a_json_object_is_reported(content: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"CLOUDS_FILE .*clouds\.json"):
        read_clouds(tmp_path, content)


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"CLOUDS_FILE .*none\.json"):
        read_settings(CLOUDS_FILE=str(tmp_path / "none.json")).clouds()


def test_bundle_is_trusted_in_every_cloud_besides_its_own_certificates(tmp_path: Path) -> None:
    own, bundle = (ClusterAuthority(tmp_path, name).pair.cert for name in ("own", "bundle"))
    found = read_clouds(tmp_path, {"Lab": EXAMPLE_CLOUD | {"ca": own.read_text()}}, CA_FILE=str(bundle))
    trusted = {name: cloud.ca.count("BEGIN CERTIFICATE") for name, cloud in found.items()}
    assert trusted == {"Lab": 2, **dict.fromkeys(BUILT_IN_CLOUDS, 1)}
    for cloud in found.values():
        assert bundle.read_text() in cloud.ca
        ssl.create_default_context(cadata=cloud.ca)


def test_text_of_any_language_beside_certificates_is_ignored(tmp_path: Path) -> None:
    own, bundle = (ClusterAuthority(tmp_path, name).pair.cert for name in ("own", "bundle"))
    bundle.write_bytes("# F\u0151tan\u00fas\u00edtv\u00e1ny\n".encode() + b"# \xff\n" + bundle.read_bytes())
    entry = EXAMPLE_CLOUD | {"ca": f"# \u00dc\n{own.read_text()}"}
    found = read_clouds(tmp_path, {"Lab": entry}, CA_FILE=str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=found["Lab"].ca)
    assert context.cert_store_stats()["x509_ca"] == 2


@pytest.mark.parametrize("content", [None, "not a certificate", "\u00e9"])
def test_unusable_bundle_is_reported(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    with pytest.raises(SettingsError, match=r"CA_FILE .*/ca\.pem: .*(No such file|expected certificates in PEM)"):
        read_settings(CA_FILE=str(file)).clouds()


def test_unknown_default_cloud_is_reported_with_the_known_ones() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(DEFAULT_CLOUD="Lab").clouds()
    for word in ("DEFAULT_CLOUD", "'Lab'", *BUILT_IN_CLOUDS):
        assert word in str(caught.value)
