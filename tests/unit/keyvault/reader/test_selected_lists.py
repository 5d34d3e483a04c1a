"""Test lists that are compared with selections: the requests, and the results if a list fails."""

from typing import Any

import pytest

from controller.api.select import Select
from controller.domain.selection import Query, SelectedObject, SelectionSighting
from controller.errors import AccessDenied, ObjectError
from controller.keyvault import listing
from controller.keyvault.listing import RETRY_COSTLY_LIST, RETRY_FORBIDDEN_LIST
from tests.unit.keyvault.reader.reader_harness import USER, ReaderHarness, make_item, make_refusal, serve_list

SHOP = Query(entries=(Select(name_prefix="shop-"),))


def make_item_with(harness: ReaderHarness, name: str, **more: Any) -> dict[str, Any]:
    return make_item(harness, name) | more


async def test_poll_answers_a_selection_by_its_list_alone(harness: ReaderHarness) -> None:
    pages = [[make_item(harness, f"other-{page}-{number}") for number in range(25)] for page in range(4)]
    pages[2][7] = make_item_with(harness, "shop-a", managed=True)
    serve_list(harness, *pages, [make_item(harness, "user")])
    seen = await harness.reader.take_snapshot([USER], harness.now, [SHOP])
    assert harness.paths_read == ["/secrets"] * 5
    assert seen.sightings == (SelectionSighting(matches=((SelectedObject("shop-a", True),),), totals=(1,)),)
    # The snapshot keeps only the listed objects that a SecretSync reads.
    assert seen.listed["secret"].keys() == {"user"}
    assert seen.compared == 101


async def test_object_with_invalid_tags_matches_no_tag(harness: ReaderHarness) -> None:
    tags = [{"app": "shop"}, {"app": 1}, [], "app", None, {"app": None}]
    serve_list(
        harness, [make_item_with(harness, f"s{number}", tags=each, managed=each) for number, each in enumerate(tags)]
    )
    queries = [Query(entries=(Select(tags={"app": "shop"}), Select(types=["cert"])))]
    (seen,) = (await harness.reader.select(queries)).sightings
    assert seen == SelectionSighting(matches=((SelectedObject("s0"),), ()), totals=(1, 0))


async def test_forbidden_list_is_reported_and_not_repeated_by_polls(harness: ReaderHarness) -> None:
    harness.answers["/secrets"] = make_refusal(403, "Forbidden", "ForbiddenByRbac")
    for _ in range(2):
        seen = await harness.reader.take_snapshot([USER], harness.now, [SHOP])
        (error,) = seen.sightings
        assert isinstance(error, AccessDenied)
        assert "may not read the list of secrets in Key Vault shop" in error.message
        assert not seen.listed
    assert harness.paths_read == ["/secrets"]
    # An edit of the AKVSync requests the list at once. After its success, polls request it again.
    serve_list(harness, [make_item(harness, "shop-a")])
    del harness.answers["/secrets"]
    (sighting,) = (await harness.reader.select([SHOP])).sightings
    assert isinstance(sighting, SelectionSighting)
    assert (await harness.reader.take_snapshot([USER], harness.now, [SHOP])).listed
    assert harness.paths_read == ["/secrets"] * 3


async def test_poll_retries_a_forbidden_list_within_an_hour(harness: ReaderHarness) -> None:
    harness.answers["/secrets"] = make_refusal(403, "Forbidden", "ForbiddenByRbac")
    await harness.reader.take_snapshot([], harness.now, [SHOP])
    harness.now += RETRY_FORBIDDEN_LIST
    await harness.reader.take_snapshot([], harness.now, [SHOP])
    assert harness.paths_read == ["/secrets"] * 2


async def test_vault_that_is_too_large_is_reported_and_not_listed_for_a_day(
    harness: ReaderHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_SELECTED_PAGES", 4)
    serve_list(harness, *([[]] * 5))
    (error,) = (await harness.reader.take_snapshot([], harness.now, [SHOP])).sightings
    assert isinstance(error, ObjectError)
    assert "more than 100 secrets" in error.message
    assert len(harness.paths_read) == 4
    harness.now += RETRY_COSTLY_LIST / 2
    await harness.reader.take_snapshot([], harness.now, [SHOP])
    assert len(harness.paths_read) == 4


async def test_object_is_removed_only_after_the_vault_confirms_it(harness: ReaderHarness) -> None:
    """Require the vault's own answer, because an incomplete list or a gateway's 404 proves no removal."""
    harness.put_secret("back")
    harness.answers["/secrets/off/"] = make_refusal(403, "Forbidden", "SecretDisabled")
    harness.answers["/secrets/gateway/"] = make_refusal(404, "Whatever")
    harness.answers["/secrets/denied/"] = make_refusal(403, "Forbidden", "ForbiddenByRbac")
    serve_list(harness, [make_item(harness, "there"), make_item(harness, "off", enabled=False)])
    confirm = frozenset({"there", "off", "deleted", "back", "gateway", "denied"})
    query = Query(entries=(Select(),), known=confirm, confirm=confirm)
    (seen,) = (await harness.reader.take_snapshot([], harness.now, [query])).sightings
    assert isinstance(seen, SelectionSighting)
    assert seen.gone == {"off", "deleted"}
    assert sorted(harness.paths_read) == sorted(["/secrets"] + [f"/secrets/{name}/" for name in confirm - {"there"}])
