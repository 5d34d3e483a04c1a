"""Lists that are compared with selections: which calls that takes, and what is answered where a list fails."""

from typing import Any

import pytest

from controller.api.select import Select
from controller.domain.selection import Query, SelectedObject, SelectionSighting
from controller.errors import AccessDenied, ObjectError
from controller.keyvault import listing
from controller.keyvault.listing import ALLOWED_AGAIN, CHEAPER_AGAIN
from tests.unit.keyvault.reader.stage import USER, Scene, item, refusal, serve_list

SHOP = Query(entries=(Select(name_prefix="shop-"),))


def tagged(scene: Scene, name: str, **more: Any) -> dict[str, Any]:
    return item(scene, name) | more


async def test_a_poll_answers_a_selection_by_its_list_alone(scene: Scene) -> None:
    pages = [[item(scene, f"other-{page}-{number}") for number in range(25)] for page in range(4)]
    pages[2][7] = tagged(scene, "shop-a", managed=True)
    serve_list(scene, *pages, [item(scene, "user")])
    seen = await scene.reader.survey([USER], scene.now, [SHOP])
    assert scene.reads == ["/secrets"] * 5
    assert seen.sightings == (SelectionSighting(matches=((SelectedObject("shop-a", True),),), totals=(1,)),)
    # Of the list only what somebody reads is kept.
    assert seen.listed["secret"].keys() == {"user"}
    assert seen.compared == 101


async def test_odd_tags_are_as_good_as_none(scene: Scene) -> None:
    tags = [{"app": "shop"}, {"app": 1}, [], "app", None, {"app": None}]
    serve_list(scene, [tagged(scene, f"s{number}", tags=each, managed=each) for number, each in enumerate(tags)])
    queries = [Query(entries=(Select(tags={"app": "shop"}), Select(types=["cert"])))]
    (seen,) = (await scene.reader.select(queries)).sightings
    assert seen == SelectionSighting(matches=((SelectedObject("s0"),), ()), totals=(1, 0))


async def test_a_list_that_is_forbidden_is_told_and_not_asked_for_again_by_polls(scene: Scene) -> None:
    scene.answers["/secrets"] = refusal(403, "Forbidden", "ForbiddenByRbac")
    for _ in range(2):
        seen = await scene.reader.survey([USER], scene.now, [SHOP])
        (error,) = seen.sightings
        assert isinstance(error, AccessDenied)
        assert "may not read the list of secrets in Key Vault shop" in error.message
        assert not seen.listed
    assert scene.reads == ["/secrets"]
    # An edit of the AKVSync asks at once, and the next polls do when that was allowed.
    serve_list(scene, [item(scene, "shop-a")])
    del scene.answers["/secrets"]
    (sighting,) = (await scene.reader.select([SHOP])).sightings
    assert isinstance(sighting, SelectionSighting)
    assert (await scene.reader.survey([USER], scene.now, [SHOP])).listed
    assert scene.reads == ["/secrets"] * 3


async def test_a_poll_tries_a_forbidden_list_within_the_hour(scene: Scene) -> None:
    scene.answers["/secrets"] = refusal(403, "Forbidden", "ForbiddenByRbac")
    await scene.reader.survey([], scene.now, [SHOP])
    scene.now += ALLOWED_AGAIN
    await scene.reader.survey([], scene.now, [SHOP])
    assert scene.reads == ["/secrets"] * 2


async def test_a_vault_that_is_too_large_is_told_and_left_alone_for_a_day(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_SELECTED_PAGES", 4)
    serve_list(scene, *([[]] * 5))
    (error,) = (await scene.reader.survey([], scene.now, [SHOP])).sightings
    assert isinstance(error, ObjectError)
    assert "more than 100 secrets" in error.message
    assert len(scene.reads) == 4
    scene.now += CHEAPER_AGAIN / 2
    await scene.reader.survey([], scene.now, [SHOP])
    assert len(scene.reads) == 4


async def test_what_is_to_be_removed_is_got_first(scene: Scene) -> None:
    """Not listed is not enough, nor is a 404 of a gateway: the vault itself must say that an object is gone."""
    scene.has("back")
    scene.answers["/secrets/off/"] = refusal(403, "Forbidden", "SecretDisabled")
    scene.answers["/secrets/gateway/"] = refusal(404, "Whatever")
    scene.answers["/secrets/denied/"] = refusal(403, "Forbidden", "ForbiddenByRbac")
    serve_list(scene, [item(scene, "there"), item(scene, "off", enabled=False)])
    confirm = frozenset({"there", "off", "deleted", "back", "gateway", "denied"})
    query = Query(entries=(Select(),), known=confirm, confirm=confirm)
    (seen,) = (await scene.reader.survey([], scene.now, [query])).sightings
    assert isinstance(seen, SelectionSighting)
    assert seen.gone == {"off", "deleted"}
    assert sorted(scene.reads) == sorted(["/secrets"] + [f"/secrets/{name}/" for name in confirm - {"there"}])
