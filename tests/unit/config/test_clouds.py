"""Test that the clouds file of `helm test` can only add and remove one cloud, whatever its contents are."""

import json
import logging
import time
from pathlib import Path

import pytest

from controller.config.clouds import MAX_AGE, CloudRegistry, find_cloud
from controller.config.settings import BUILT_IN_CLOUDS, TEST_CLOUD, Settings
from tests.support.hostile_texts import HOSTILE_JSON

EXAMPLE_CLOUD = {"authority": "https://login.example.com", "vaultUrl": "https://{vault}.vault.example.com"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "clouds.json"


@pytest.fixture
def clouds(file: Path) -> CloudRegistry:
    return CloudRegistry(Settings(test_clouds_file=str(file)))


def test_cloud_of_the_file_is_added_replaced_and_removed(clouds: CloudRegistry, file: Path) -> None:
    clouds.reload_file()
    assert dict(clouds) == BUILT_IN_CLOUDS
    for host in ("one", "two"):
        file.write_text(json.dumps({TEST_CLOUD: EXAMPLE_CLOUD | {"authority": f"https://{host}.example.com"}}))
        clouds.reload_file()
        assert clouds[TEST_CLOUD].authority == f"https://{host}.example.com"
        assert len(clouds) == len(BUILT_IN_CLOUDS) + 1
    file.unlink()
    clouds.reload_file()
    assert dict(clouds) == BUILT_IN_CLOUDS


def test_cloud_that_is_never_removed_is_trusted_for_a_limited_time(file: Path) -> None:
    now = [1000.0]
    clouds = CloudRegistry(Settings(test_clouds_file=str(file)), lambda: now[0])
    file.write_text(json.dumps({TEST_CLOUD: EXAMPLE_CLOUD}))
    for age, trusted in ((0, True), (MAX_AGE, True), (MAX_AGE + 1, False)):
        now[0] = 1000.0 + age
        clouds.reload_file()
        assert (TEST_CLOUD in clouds) is trusted
    file.write_text(json.dumps({TEST_CLOUD: EXAMPLE_CLOUD}) + " ")
    clouds.reload_file()
    assert TEST_CLOUD in clouds


def test_file_replaces_no_cloud_of_the_administrator(clouds: CloudRegistry, file: Path) -> None:
    file.write_text(json.dumps(dict.fromkeys(BUILT_IN_CLOUDS, EXAMPLE_CLOUD)))
    clouds.reload_file()
    assert dict(clouds) == BUILT_IN_CLOUDS


@pytest.mark.parametrize("name", ["Test", "helm-test ", "Helm-Test", "helm-test-2", "", "AzurePublicCloud"])
def test_file_adds_only_the_cloud_of_helm_test(
    clouds: CloudRegistry, file: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(json.dumps({name: EXAMPLE_CLOUD, TEST_CLOUD: EXAMPLE_CLOUD}))
    with caplog.at_level(logging.WARNING):
        clouds.reload_file()
    assert clouds.keys() == {*BUILT_IN_CLOUDS, TEST_CLOUD}
    assert [str(file) in line for line in caplog.messages] == [True]
    file.write_text(json.dumps({name: EXAMPLE_CLOUD}))
    clouds.reload_file()
    assert dict(clouds) == BUILT_IN_CLOUDS


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({TEST_CLOUD: EXAMPLE_CLOUD, "Broken": {}}),
        json.dumps({TEST_CLOUD: EXAMPLE_CLOUD | {"ca": "\u00e9"}}),
        "\udcff",
    ],
)
def test_unreadable_file_adds_no_cloud_and_is_logged_once(
    clouds: CloudRegistry, file: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(json.dumps({TEST_CLOUD: EXAMPLE_CLOUD}))
    clouds.reload_file()
    assert TEST_CLOUD in clouds
    file.write_bytes(text.encode(errors="surrogateescape"))
    with caplog.at_level(logging.WARNING):
        clouds.reload_file()
        clouds.reload_file()
    [line] = caplog.messages
    assert str(file) in line
    assert dict(clouds) == BUILT_IN_CLOUDS


@pytest.mark.parametrize("text", HOSTILE_JSON.values(), ids=HOSTILE_JSON)
@pytest.mark.parametrize("frame", [b"%s", b'{"Test":%s}', b'{"Test":{"authority":%s}}'])
def test_file_with_any_bytes_adds_no_cloud(
    frame: bytes, text: bytes, clouds: CloudRegistry, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(frame % text)
    with caplog.at_level(logging.WARNING):
        clouds.reload_file()
    assert dict(clouds) == BUILT_IN_CLOUDS
    assert not any("certificates" in line for line in caplog.messages)
    assert all(len(line) < 1000 and line.isprintable() for line in caplog.messages)


@pytest.mark.parametrize(
    "content",
    [{"\x9b2J\u202e": {}}, {"x" * 5000: {}}, {TEST_CLOUD: EXAMPLE_CLOUD | {"\x9b2J\u202e": 1}}],
    ids=["name", "long name", "field"],
)
def test_names_in_an_invalid_file_cannot_disturb_the_log(
    content: object, clouds: CloudRegistry, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(json.dumps(content))
    clouds.reload_file()
    [line] = caplog.messages
    assert len(line) < 1000
    assert line.isprintable()


def test_reload_without_a_configured_file_changes_nothing() -> None:
    clouds = CloudRegistry(Settings())
    clouds.reload_file()
    assert dict(clouds) == BUILT_IN_CLOUDS


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *((name, "AzurePublicCloud") for name in ("AzurePublicCloud", "AZUREPUBLICCLOUD", "azurecloud", "AzureCloud")),
        *((name, "AzureUSGovernmentCloud") for name in ("azureusgovernmentcloud", "AZUREUSGOVERNMENT")),
        ("AzureChinacloud", "AzureChinaCloud"),
        ("stack", "Stack"),
        ("AzureGermanCloud", None),
        ("", None),
    ],
)
def test_cloud_is_found_in_any_letter_case_and_by_its_other_names(name: str, found: str | None) -> None:
    assert find_cloud(name, [*BUILT_IN_CLOUDS, "Stack"]) == found


def test_exact_name_wins_over_another_letter_case() -> None:
    assert [find_cloud(name, ["own", "Own"]) for name in ("own", "Own")] == ["own", "Own"]


@pytest.mark.parametrize("field", ["authority", "vaultUrl", "audience", "apiVersion"])
@pytest.mark.parametrize("part", ["{vault}", ":1", "/", "[::1]", "a"])
def test_long_text_in_the_file_does_not_block_the_event_loop(
    clouds: CloudRegistry, file: Path, field: str, part: str
) -> None:
    """An editor of the release's namespace can write up to 1 MiB, and the event loop reads it."""
    text = f"https://{part * (2**20 // len(part))} "
    file.write_text(json.dumps({TEST_CLOUD: EXAMPLE_CLOUD | {field: text}}))
    began = time.thread_time()
    clouds.reload_file()
    assert time.thread_time() - began < 0.2
    assert dict(clouds) == BUILT_IN_CLOUDS
