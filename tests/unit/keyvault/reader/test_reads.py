"""Test reads of one or several versions of a secret, with the Azure SDK and a scripted vault."""

import pytest

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.errors import ControllerError, InputError, ObjectError
from controller.keyvault.reader import MAX_READ
from tests.support.scripted_api_server import ScriptedResponse
from tests.unit.keyvault.reader.reader_harness import JSON, USER, ReaderHarness, make_refusal

KINDS = {"secret": "secrets", "cert": "certificates", "key": "keys"}


async def test_newest_version_needs_one_get(harness: ReaderHarness) -> None:
    harness.put_secret("user", "me")
    assert await harness.read(USER) == ["me"]
    assert [path.rstrip("/") for path in harness.paths_read] == ["/secrets/user"]
    assert harness.counted == [("secrets.get", "ok")]


async def test_all_kinds_are_requested_in_the_clouds_api_version(harness: ReaderHarness) -> None:
    """Replace the newer versions that the SDK's clients prefer, because some clouds do not support them."""
    for path in KINDS.values():
        harness.answers[f"/{path}"] = ScriptedResponse({"value": [], "nextLink": None}, headers=JSON)
    db = [ObjectVersionRef(VaultObject(name="db", type=kind, history=history)) for kind in KINDS for history in (1, 2)]
    await harness.read(*db)
    await harness.reader.take_snapshot(db, harness.now)
    assert {request.query["api-version"] for request in harness.server.requests} == {"7.4"}
    assert {request.path.split("/")[1] for request in harness.server.requests} == set(KINDS.values())


async def test_pinned_version_is_read(harness: ReaderHarness) -> None:
    harness.put_secret("user", "old", "v0", newest=False)
    assert await harness.read(ObjectVersionRef(VaultObject(name="user", version="v0"))) == ["old"]


@pytest.mark.parametrize("value", ["", "ünïcode", "x" * 25_000])
async def test_value_is_read_unchanged(harness: ReaderHarness, value: str) -> None:
    harness.put_secret("user", value)
    assert await harness.read(USER) == [value]


async def test_values_of_one_read_are_bounded_together(harness: ReaderHarness) -> None:
    """One namespace can read many SecretSyncs at once, and must not fill the controller's memory."""
    names, size = [f"s{number}" for number in range(9)], MAX_READ // 8
    for name in names:
        harness.put_secret(name, "x" * size)
    refs = [ObjectVersionRef(VaultObject(name=name)) for name in names]
    assert await harness.read(*refs[:8]) == ["x" * size] * 8
    found = await harness.read(*refs)
    (error,) = (item for item in found if isinstance(item, ControllerError))
    assert isinstance(error, InputError)
    assert error.message == (
        "its objects in Key Vault shop have more than 2 MiB together, and a Secret has at most 1 MiB;"
        " split the SecretSync"
    )
    assert await harness.read(refs[0]) == ["x" * size]


async def test_answer_without_a_value_is_an_error(harness: ReaderHarness) -> None:
    harness.put_secret("user", None)
    assert "no usable answer" in (await harness.read_error()).message


@pytest.mark.parametrize(
    ("listed", "pinned", "expected"),
    [
        pytest.param([("a", 1, True), ("c", 3, True), ("b", 2, True)], "", ["c", "b", "a"], id="newest first"),
        pytest.param([("a", 1, True), ("b", 2, False), ("c", 3, True)], "", ["c", "a"], id="disabled are skipped"),
        pytest.param([("a", 1, True), ("b", 2, True), ("c", 3, True)], "b", ["b", "a"], id="from the pinned one on"),
    ],
)
async def test_history_has_enabled_versions_from_newest_to_oldest(
    harness: ReaderHarness, listed: list[tuple[str, int, bool]], pinned: str, expected: list[str]
) -> None:
    harness.put_versions("db", *listed)
    found = VaultObject(name="db", history=3, version=pinned)
    answers = await harness.read(*(ObjectVersionRef(found, index) for index in range(3)))
    assert answers[: len(expected)] == [f"value of {version}" for version in expected]
    for missing in answers[len(expected) :]:
        assert isinstance(missing, ObjectError)
        assert f"has {len(expected)} enabled version(s)" in missing.message
    assert harness.paths_read.count("/secrets/db/versions") == 1


async def test_newest_of_two_versions_of_one_second_comes_first(harness: ReaderHarness) -> None:
    harness.put_versions("db", ("a", 5, True), ("z", 5, True))
    harness.put_secret("db", "value of a", "a")
    found = VaultObject(name="db", history=2)
    assert await harness.read(ObjectVersionRef(found, 0), ObjectVersionRef(found, 1)) == ["value of a", "value of z"]


async def test_unknown_order_of_two_versions_of_one_second_is_an_error(harness: ReaderHarness) -> None:
    """Do not guess the newest version, and ask again at the next read."""
    harness.put_versions("db", ("a", 5, True), ("b", 5, True))
    history = [ObjectVersionRef(VaultObject(name="db", history=2), index) for index in range(2)]
    harness.answers["/secrets/db/"] = ScriptedResponse(b"<html>", headers=JSON)
    assert {type(found) for found in await harness.read(*history)} == {ObjectError}
    harness.put_secret("db", "value of a", "a")
    assert await harness.read(*history) == ["value of a", "value of b"]


async def test_disabled_newest_version_does_not_hide_others(harness: ReaderHarness) -> None:
    harness.put_versions("db", ("a", 5, True), ("b", 5, True), ("c", 5, False))
    harness.answers["/secrets/db/"] = harness.answers["/secrets/db"] = make_refusal(403, "Forbidden", "SecretDisabled")
    assert len([item for item in await harness.read(ObjectVersionRef(VaultObject(name="db", history=2))) if item]) == 1
