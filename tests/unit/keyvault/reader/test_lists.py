"""Looking at a vault by its lists: how many calls that costs, what is remembered, and what a hostile list comes to."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from controller.api.secretsync import ObjectVersion
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.snapshot import ListedObject, VaultSnapshot
from controller.domain.values import VaultValue
from controller.errors import ObjectError, ProviderError
from controller.keyvault import listing, reader
from controller.keyvault.listing import ALLOWED_AGAIN, CHEAPER_AGAIN, MAX_ORDERS
from tests.support.scripted_api_server import ScriptedResponse
from tests.unit.keyvault.reader.stage import CHALLENGE, JSON, USER, Scene, item, refusal, serve_list

DAY = CHEAPER_AGAIN


def secrets(count: int, **changes: Any) -> list[ObjectVersionRef]:
    return [ObjectVersionRef(VaultObject(name=f"s{number}", **changes)) for number in range(count)]


async def look(scene: Scene, *wanted: ObjectVersionRef) -> tuple[list[str], dict[str, dict[str, ListedObject]]]:
    """Return what one look asked for, and what it listed."""
    before = len(scene.server.requests)
    seen = await scene.reader.survey(wanted, scene.now)
    listed = {kind: dict(objects) for kind, objects in seen.listed.items()}
    return [asked.path for asked in scene.server.requests[before:]], listed


# What it costs


async def test_a_list_tells_of_everything_and_names_are_compared_in_small_letters(scene: Scene) -> None:
    serve_list(scene, [item(scene, "User", 9), item(scene, "off", 10, False)])
    asked, listed = await look(scene, USER)
    assert asked == ["/secrets"]
    assert listed == {
        "secret": {
            "user": ListedObject(datetime.fromtimestamp(9, UTC), True),
            "off": ListedObject(datetime.fromtimestamp(10, UTC), False),
        }
    }
    assert scene.counted == [("secrets.list", "ok")]


async def test_pages_are_read_to_the_end_where_they_are_fewer_than_gets(scene: Scene) -> None:
    serve_list(scene, [item(scene, "a")], [item(scene, "b")], [item(scene, "c")])
    asked, listed = await look(scene, *secrets(3))
    assert asked == ["/secrets"] * 3
    assert set(listed["secret"]) == {"a", "b", "c"}


async def test_objects_of_a_page_are_reported_before_the_next_page_is_requested(scene: Scene) -> None:
    serve_list(scene, [item(scene, "A")], [item(scene, "b")], [item(scene, "c")])
    reported: list[tuple[str, str, int]] = []
    await scene.reader.survey(
        secrets(3), scene.now, on_listed=lambda kind, name, _: reported.append((kind, name, len(scene.server.requests)))
    )
    before = reported[0][2] - 1
    assert reported == [("secret", name, before + page) for page, name in enumerate("abc", 1)]


async def test_a_list_that_turns_out_dearer_is_given_up_and_not_begun_for_a_day(scene: Scene) -> None:
    serve_list(scene, *[[item(scene, f"x{page}")] for page in range(5)])
    assert await look(scene, *secrets(2)) == (["/secrets"] * 2, {})
    scene.now += DAY - 1
    assert await look(scene, *secrets(2)) == ([], {})
    assert await look(scene, USER) == ([], {})
    # More gets would be dearer than the list, after all.
    asked, listed = await look(scene, *secrets(5))
    assert len(asked) == len(listed["secret"]) == 5
    scene.now += 2
    assert await look(scene, *secrets(2)) == (["/secrets"] * 2, {})


@pytest.mark.parametrize("inner", ["ForbiddenByRbac", "AccessDenied", "ForbiddenByPolicy", ""])
async def test_forbidden_list_is_replaced_by_gets_for_less_than_an_hour(scene: Scene, inner: str) -> None:
    scene.answers["/secrets"] = refusal(403, "Forbidden", inner)
    scene.has("user", "me")
    assert await look(scene, USER) == (["/secrets"], {})
    assert ALLOWED_AGAIN < 3600
    scene.now += ALLOWED_AGAIN - 1
    assert await look(scene, *secrets(1000)) == ([], {})
    assert await scene.read(USER) == ["me"]  # the vault is not taken for down
    scene.now += 2
    serve_list(scene, [item(scene, "user")])
    assert (await look(scene, USER))[1].keys() == {"secret"}


@pytest.mark.parametrize("inner", ["ForbiddenByFirewall", "ForbiddenByConnection", "ForbiddenByNsp", "SomethingNew"])
async def test_refusal_that_is_not_about_lists_keeps_the_lists(scene: Scene, inner: str) -> None:
    scene.answers["/secrets"] = refusal(403, "Forbidden", inner)
    with pytest.raises(ProviderError):
        await scene.reader.survey([USER], scene.now)
    scene.now += 60
    serve_list(scene, [item(scene, "user")])
    assert (await look(scene, USER))[1]["secret"].keys() == {"user"}


async def test_forbidden_list_is_asked_again_if_gets_are_forbidden_too(scene: Scene) -> None:
    for path in ("/secrets", "/secrets/user", "/secrets/user/"):
        scene.answers[path] = refusal(403, "Forbidden", "ForbiddenByRbac")
    assert await look(scene, USER) == (["/secrets"], {})
    await scene.fails()
    scene.now += 60
    serve_list(scene, [item(scene, "user")])
    assert (await look(scene, USER))[1].keys() == {"secret"}


async def test_each_kind_has_its_own_list_and_its_own_refusal(scene: Scene) -> None:
    scene.answers["/secrets"] = refusal(403, "Forbidden", "ForbiddenByRbac")
    kinds = [ObjectVersionRef(VaultObject(name="web", type=kind)) for kind in ("secret", "cert", "key")]
    for path, each in (("/certificates", "id"), ("/keys", "kid")):
        found = item(scene, "web", path=path)
        scene.answers[path] = ScriptedResponse({"value": [{each: found["id"]} | found], "nextLink": None}, headers=JSON)
    asked, listed = await look(scene, *kinds)
    assert sorted(asked) == ["/certificates", "/keys", "/secrets"]
    assert {kind: set(objects) for kind, objects in listed.items()} == {"cert": {"web"}, "key": {"web"}}
    assert sorted((await look(scene, *kinds))[0]) == ["/certificates", "/keys"]


async def test_an_object_with_history_has_its_versions_listed_each_time(scene: Scene) -> None:
    scene.lists("db", ("a", 1, True), ("b", 2, True), ("c", 3, False))
    found = VaultObject(name="db", history=2)
    for versions in (("b", "a"), ("b", "a")):
        scene.now += 1
        seen = await scene.reader.survey([ObjectVersionRef(found, 0), ObjectVersionRef(found, 1)], scene.now)
        assert (seen.listed, seen.versions) == ({}, {found: versions})
    assert scene.reads == ["/secrets/db/versions"] * 2


async def test_versions_that_cannot_be_listed_are_for_the_read_to_tell(scene: Scene) -> None:
    seen = await scene.reader.survey([ObjectVersionRef(VaultObject(name="db", history=2))], scene.now)
    assert not seen.versions


@pytest.mark.parametrize("answer", [refusal(503), refusal(429), CHALLENGE, ScriptedResponse(b"<html>", headers=JSON)])
async def test_a_vault_that_fails_is_no_reason_to_get_instead(scene: Scene, answer: ScriptedResponse) -> None:
    scene.answers["/secrets"] = answer
    with pytest.raises(ProviderError):
        await scene.reader.survey([USER], scene.now)
    scene.now += 60
    serve_list(scene, [item(scene, "user")])
    assert (await look(scene, USER))[1]["secret"].keys() == {"user"}


async def test_an_empty_list_is_believed_of_nothing(scene: Scene) -> None:
    serve_list(scene, [])
    assert (await look(scene, USER))[1] == {"secret": {}}
    seen = await scene.reader.survey([USER], scene.now)
    assert seen.stale_keys({"k": USER}, []) == {"k"}


async def test_nothing_is_kept_of_a_look(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "KEEP_SHARED", 0)
    scene.lists("db", ("a", 1, True), ("b", 2, True))
    await scene.reader.survey([ObjectVersionRef(VaultObject(name="db", history=2))], scene.now)
    await asyncio.sleep(0.01)
    assert not scene.reader.versions.kept


# Lists that no vault makes


@pytest.mark.parametrize(
    "link",
    [
        "https://127.0.0.1:1/secrets?api-version=7.6",
        "https://vault.example.com/secrets",
        "http://127.0.0.1/secrets",
        "https://[",
        "{0}@vault.example.com/secrets",
        "{0}\\@vault.example.com/secrets",
        "/secrets",
        "{0}/another-vault/secrets",
        "{0}/secrets/db/versions",
        "{0}/keys",
        "{0}/secretsx",
        "{0}",
        "{0}/secrets/../other/secrets",
    ],
)
async def test_the_next_page_is_never_another_hosts(scene: Scene, link: str) -> None:
    """Its address comes with the answer, and the token would go along."""
    serve_list(scene, [item(scene, "user")], link=link.format(scene.server.url))
    with pytest.raises(ProviderError, match="another host"):
        await scene.reader.survey(secrets(3), scene.now)
    assert len(scene.server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"value": None},
        {"value": 5},
        {"value": "text"},
        {"value": [], "nextLink": 5},
        [],
        5,
        b"[" * 100_000,
    ],
)
async def test_a_list_that_makes_no_sense_is_no_usable_answer(scene: Scene, body: Any) -> None:
    for path in ("/secrets", "/secrets/db/versions"):
        scene.answers[path] = ScriptedResponse(body, headers=JSON)
    with pytest.raises(ProviderError, match="no usable answer"):
        await scene.reader.survey(secrets(3), scene.now)
    scene.now += 60
    (answer,) = await scene.read(ObjectVersionRef(VaultObject(name="db", history=2)))
    assert isinstance(answer, ProviderError)


ODD_ITEMS: list[Any] = [
    None,
    5,
    "text",
    [],
    {},
    {"id": 5},
    {"id": "no address"},
    {"id": "https://x/"},
    {"id": "https://["},
    {"id": "https://x/secrets/a\x1b[31m/1"},
    {"id": "https://x/secrets/a/1\x1b[31m"},
    {"id": "https://x/secrets/a/1\u202e"},
    {"id": "https://x/secrets/a/" + "f" * 65},
    {"attributes": {"enabled": True}},
    {"kid": None},
]
ODD_ATTRIBUTES: list[Any] = [
    5,
    "text",
    [],
    {"updated": 10**30},
    {"updated": "soon"},
    {"updated": -(10**15), "created": {}},
    {"enabled": "yes"},
    {"created": 1.5},
]


@pytest.mark.parametrize("odd", ODD_ITEMS, ids=str)
async def test_odd_item_does_not_void_its_page(scene: Scene, odd: Any) -> None:
    good = item(scene, "user")
    serve_list(scene, [odd, good, odd], [odd], [item(scene, "pass")])
    assert set((await look(scene, *secrets(3)))[1]["secret"]) == {"user", "pass"}
    scene.lists("db", ("a", 1, True), ("b", 2, True))
    scene.answers["/secrets/db/versions"].body["value"] += [odd, item(scene, "db")]
    scene.server.default_response = scene.answer_request
    db = VaultObject(name="db", history=2)
    assert await scene.read(ObjectVersionRef(db, 0), ObjectVersionRef(db, 1)) == ["value of b", "value of a"]


@pytest.mark.parametrize("odd", ODD_ATTRIBUTES, ids=str)
async def test_object_with_odd_attributes_is_read_at_every_poll(scene: Scene, odd: Any) -> None:
    serve_list(scene, [item(scene, "pass"), {"id": f"{scene.server.url}/secrets/user", "attributes": odd}])
    listed = (await look(scene, *secrets(3)))[1]["secret"]
    assert listed.keys() == {"user", "pass"}
    assert listed["user"].updated is None
    known = [ObjectVersion(target_key="k", object=str(USER), version="v1", updated="1970-01-01T00:00:09Z")]
    assert VaultSnapshot(listed={"secret": listed}).stale_keys({"k": USER}, known) == {"k"}


async def test_a_list_of_versions_without_end_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_PAGES", 9)
    scene.lists("db", ("a", 1, True))
    first = scene.answers["/secrets/db/versions"].body["value"]
    more = f"{scene.server.url}/secrets/db/versions?api-version=7.6&$skiptoken=1"
    scene.answers["/secrets/db/versions"] = ScriptedResponse({"value": first, "nextLink": more}, headers=JSON)
    (error,) = await scene.read(ObjectVersionRef(VaultObject(name="db", history=2)))
    assert isinstance(error, ObjectError)
    assert "more versions than" in error.message
    assert len(scene.reads) == 9


# Values: how old they may be, and whose they are


async def test_one_get_serves_all_who_asked_before_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "KEEP_SHARED", 0)
    scene.has("user", "me")
    reads = await asyncio.gather(*(scene.reader.read([USER], since=scene.now, first=False) for _ in range(50)))
    assert len(scene.reads) == 1
    answers = [found[USER] for found in reads]
    assert {item.value.reveal() for item in answers if isinstance(item, VaultValue)} == {b"me"}
    # Nobody reads any more, so a moment later no value is kept.
    await asyncio.sleep(0.01)
    assert not scene.reader.values.kept


@pytest.mark.parametrize(("ahead", "age", "kept"), [(0, 1, False), (0, 60, True), (3600, 1, False), (-3600, 60, True)])
async def test_the_servers_clock_says_whether_a_value_has_settled(
    scene: Scene, ahead: int, age: int, kept: bool
) -> None:
    """A clock that is off by an hour, theirs or ours, makes no difference: both times are theirs."""
    server = datetime.now(UTC) + timedelta(seconds=ahead)
    changed = int((server - timedelta(seconds=age)).timestamp())
    body = {"id": f"{scene.server.url}/secrets/user/v1", "value": "me", "attributes": {"updated": changed}}
    answer = ScriptedResponse(body, headers=JSON | {"Date": format_datetime(server, usegmt=True)})
    scene.answers["/secrets/user"] = scene.answers["/secrets/user/"] = answer
    found = (await scene.reader.read([USER], since=scene.now, first=True))[USER]
    assert isinstance(found, VaultValue)
    assert found.updated == (datetime.fromtimestamp(changed, UTC) if kept else None)


# The pace


@pytest.mark.parametrize("seconds", [7, 60])
async def test_nobody_calls_inside_retry_after(scene: Scene, seconds: int) -> None:
    scene.answers["/secrets"] = scene.answers["/secrets/user/"] = refusal(429, "Throttled", Retry_After=str(seconds))
    scene.answers["/secrets/user"] = scene.answers["/secrets/user/"]
    assert isinstance(await scene.fails(), ProviderError)
    asked = len(scene.server.requests)
    for moment in (0.0, 1.0, seconds / 2, seconds - 0.01):
        scene.now = 1000.0 + moment
        error = await scene.fails()
        assert error.retry_after
        assert moment + error.retry_after >= seconds
        with pytest.raises(ProviderError):
            await scene.reader.survey([USER], scene.now)
    assert len(scene.server.requests) == asked
    scene.has("user", "me")
    scene.now = 1000.0 + seconds + 60  # its pace is slow now: one call needs its time
    assert await scene.read(USER) == ["me"]


async def test_those_under_way_when_the_vault_refuses_are_the_last(scene: Scene) -> None:
    """Callers that wait for a connection look at the pace once more before they call."""
    scene.server.default_response = lambda _: refusal(429, "Throttled", Retry_After="30")
    answers = await scene.reader.read(secrets(200), since=scene.now, first=True)
    assert all(isinstance(answer, ProviderError) for answer in answers.values())
    assert len(scene.server.requests) <= 24


async def test_orders_of_versions_are_bounded_however_many_objects_are_named(scene: Scene) -> None:
    for number in range(MAX_ORDERS + 20):
        scene.now += 10  # so that the vault's rate is no matter
        scene.lists(f"s{number}", ("v1", 1, True), ("v2", 2, True))
        await scene.read(ObjectVersionRef(VaultObject(name=f"s{number}", history=2)))
    assert len(scene.reader.lister.version_orders) == MAX_ORDERS
