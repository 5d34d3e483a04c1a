"""Reading secrets, one version or several: the Azure SDK against a vault that says what a test makes it say."""

import pytest

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.errors import ObjectError
from tests.support.scripted_api_server import ScriptedResponse
from tests.unit.keyvault.reader.stage import JSON, USER, Scene, refusal

KINDS = {"secret": "secrets", "cert": "certificates", "key": "keys"}


async def test_the_newest_version_is_one_get(scene: Scene) -> None:
    scene.has("user", "me")
    assert await scene.read(USER) == ["me"]
    assert [path.rstrip("/") for path in scene.reads] == ["/secrets/user"]
    assert scene.counted == [("secrets.get", "ok")]


async def test_all_kinds_are_asked_for_in_the_api_version_of_the_cloud(scene: Scene) -> None:
    """The SDK's clients prefer newer versions, each its own, which not all clouds know."""
    for path in KINDS.values():
        scene.answers[f"/{path}"] = ScriptedResponse({"value": [], "nextLink": None}, headers=JSON)
    db = [ObjectVersionRef(VaultObject(name="db", type=kind, history=history)) for kind in KINDS for history in (1, 2)]
    await scene.read(*db)
    await scene.reader.survey(db, scene.now)
    assert {asked.query["api-version"] for asked in scene.server.requests} == {"7.4"}
    assert {asked.path.split("/")[1] for asked in scene.server.requests} == set(KINDS.values())


async def test_a_pinned_version(scene: Scene) -> None:
    scene.has("user", "old", "v0", newest=False)
    assert await scene.read(ObjectVersionRef(VaultObject(name="user", version="v0"))) == ["old"]


@pytest.mark.parametrize("value", ["", "ünïcode", "x" * 25_000])
async def test_values_arrive_as_they_are(scene: Scene, value: str) -> None:
    scene.has("user", value)
    assert await scene.read(USER) == [value]


async def test_an_answer_without_a_value_blanks_nothing(scene: Scene) -> None:
    scene.has("user", None)
    assert "no usable answer" in (await scene.fails()).message


@pytest.mark.parametrize(
    ("listed", "pinned", "expected"),
    [
        pytest.param([("a", 1, True), ("c", 3, True), ("b", 2, True)], "", ["c", "b", "a"], id="newest first"),
        pytest.param([("a", 1, True), ("b", 2, False), ("c", 3, True)], "", ["c", "a"], id="disabled are skipped"),
        pytest.param([("a", 1, True), ("b", 2, True), ("c", 3, True)], "b", ["b", "a"], id="from the pinned one on"),
    ],
)
async def test_history(scene: Scene, listed: list[tuple[str, int, bool]], pinned: str, expected: list[str]) -> None:
    scene.lists("db", *listed)
    found = VaultObject(name="db", history=3, version=pinned)
    answers = await scene.read(*(ObjectVersionRef(found, index) for index in range(3)))
    assert answers[: len(expected)] == [f"value of {version}" for version in expected]
    for missing in answers[len(expected) :]:
        assert isinstance(missing, ObjectError)
        assert f"has {len(expected)} enabled version(s)" in missing.message
    assert scene.reads.count("/secrets/db/versions") == 1


async def test_two_versions_of_one_second_are_told_apart_by_the_newest(scene: Scene) -> None:
    scene.lists("db", ("a", 5, True), ("z", 5, True))
    scene.has("db", "value of a", "a")
    found = VaultObject(name="db", history=2)
    assert await scene.read(ObjectVersionRef(found, 0), ObjectVersionRef(found, 1)) == ["value of a", "value of z"]


async def test_that_the_newest_is_disabled_does_not_hide_the_others(scene: Scene) -> None:
    scene.lists("db", ("a", 5, True), ("b", 5, True), ("c", 5, False))
    scene.answers["/secrets/db/"] = scene.answers["/secrets/db"] = refusal(403, "Forbidden", "SecretDisabled")
    assert len([item for item in await scene.read(ObjectVersionRef(VaultObject(name="db", history=2))) if item]) == 1
