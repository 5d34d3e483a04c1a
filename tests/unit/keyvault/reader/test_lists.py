"""Test polls of a vault by its lists: the number of requests, the remembered results, and hostile lists."""

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
from controller.keyvault.listing import MAX_ORDERS, RETRY_COSTLY_LIST, RETRY_FORBIDDEN_LIST
from controller.keyvault.objects import MAX_PAGE_ITEMS
from tests.support.scripted_api_server import ScriptedResponse
from tests.unit.keyvault.reader.reader_harness import (
    CHALLENGE,
    JSON,
    USER,
    ReaderHarness,
    make_item,
    make_refusal,
    serve_list,
)

DAY = RETRY_COSTLY_LIST


def make_secret_refs(count: int, **changes: Any) -> list[ObjectVersionRef]:
    return [ObjectVersionRef(VaultObject(name=f"s{number}", **changes)) for number in range(count)]


async def poll(
    harness: ReaderHarness, *wanted: ObjectVersionRef
) -> tuple[list[str], dict[str, dict[str, ListedObject]]]:
    """Return the paths that one poll requested, and the objects that it listed."""
    before = len(harness.server.requests)
    seen = await harness.reader.take_snapshot(wanted, harness.now)
    listed = {kind: dict(objects) for kind, objects in seen.listed.items()}
    return [request.path for request in harness.server.requests[before:]], listed


# Number of requests


@pytest.mark.parametrize(("count", "is_read"), [(MAX_PAGE_ITEMS, True), (MAX_PAGE_ITEMS + 1, False), (20_000, False)])
async def test_page_with_more_items_than_key_vault_sends_is_refused(
    harness: ReaderHarness, count: int, is_read: bool
) -> None:
    items = [{"id": f"{harness.server.url}/secrets/s{number}"} for number in range(count)]
    harness.answers["/secrets"] = ScriptedResponse({"value": items, "nextLink": None}, headers=JSON)
    if is_read:
        assert len((await poll(harness, USER))[1]["secret"]) == count
        return
    with pytest.raises(ProviderError, match="no usable answer"):
        await poll(harness, USER)


async def test_list_reports_every_object_with_a_lower_case_name(harness: ReaderHarness) -> None:
    serve_list(harness, [make_item(harness, "User", 9), make_item(harness, "off", 10, False)])
    paths, listed = await poll(harness, USER)
    assert paths == ["/secrets"]
    assert listed == {
        "secret": {
            "user": ListedObject(datetime.fromtimestamp(9, UTC), True),
            "off": ListedObject(datetime.fromtimestamp(10, UTC), False),
        }
    }
    assert harness.counted == [("secrets.list", "ok")]


async def test_list_with_no_more_pages_than_gets_is_read_to_the_end(harness: ReaderHarness) -> None:
    serve_list(harness, [make_item(harness, "a")], [make_item(harness, "b")], [make_item(harness, "c")])
    paths, listed = await poll(harness, *make_secret_refs(3))
    assert paths == ["/secrets"] * 3
    assert set(listed["secret"]) == {"a", "b", "c"}


async def test_objects_of_a_page_are_reported_before_the_next_page_is_requested(harness: ReaderHarness) -> None:
    serve_list(harness, [make_item(harness, "A")], [make_item(harness, "b")], [make_item(harness, "c")])
    reported: list[tuple[str, str, int]] = []
    await harness.reader.take_snapshot(
        make_secret_refs(3),
        harness.now,
        on_listed=lambda kind, name, _: reported.append((kind, name, len(harness.server.requests))),
    )
    before = reported[0][2] - 1
    assert reported == [("secret", name, before + page) for page, name in enumerate("abc", 1)]


async def test_objects_of_a_page_are_reported_from_the_oldest_change_on(harness: ReaderHarness) -> None:
    serve_list(harness, [make_item(harness, name, updated) for name, updated in (("a", 30), ("b", 10), ("c", 20))])
    reported: list[str] = []
    await harness.reader.take_snapshot(
        make_secret_refs(3), harness.now, on_listed=lambda _kind, name, _state: reported.append(name)
    )
    assert reported == ["b", "c", "a"]


async def test_list_that_costs_more_than_gets_is_avoided_for_a_day(harness: ReaderHarness) -> None:
    serve_list(harness, *[[make_item(harness, f"x{page}")] for page in range(5)])
    assert await poll(harness, *make_secret_refs(2)) == (["/secrets"] * 2, {})
    harness.now += DAY - 1
    assert await poll(harness, *make_secret_refs(2)) == ([], {})
    assert await poll(harness, USER) == ([], {})
    # For five objects, a list needs no more requests than gets.
    paths, listed = await poll(harness, *make_secret_refs(5))
    assert len(paths) == len(listed["secret"]) == 5
    harness.now += 2
    assert await poll(harness, *make_secret_refs(2)) == (["/secrets"] * 2, {})


@pytest.mark.parametrize("inner", ["ForbiddenByRbac", "AccessDenied", "ForbiddenByPolicy", ""])
async def test_forbidden_list_is_replaced_by_gets_for_less_than_an_hour(harness: ReaderHarness, inner: str) -> None:
    harness.answers["/secrets"] = make_refusal(403, "Forbidden", inner)
    harness.put_secret("user", "me")
    assert await poll(harness, USER) == (["/secrets"], {})
    assert RETRY_FORBIDDEN_LIST < 3600
    harness.now += RETRY_FORBIDDEN_LIST - 1
    assert await poll(harness, *make_secret_refs(1000)) == ([], {})
    assert await harness.read(USER) == ["me"]  # the circuit breaker is closed
    harness.now += 2
    serve_list(harness, [make_item(harness, "user")])
    assert (await poll(harness, USER))[1].keys() == {"secret"}


@pytest.mark.parametrize("inner", ["ForbiddenByFirewall", "ForbiddenByConnection", "ForbiddenByNsp", "SomethingNew"])
async def test_refusal_unrelated_to_lists_does_not_replace_them(harness: ReaderHarness, inner: str) -> None:
    harness.answers["/secrets"] = make_refusal(403, "Forbidden", inner)
    with pytest.raises(ProviderError):
        await harness.reader.take_snapshot([USER], harness.now)
    harness.now += 60
    serve_list(harness, [make_item(harness, "user")])
    assert (await poll(harness, USER))[1]["secret"].keys() == {"user"}


@pytest.mark.parametrize("kind", ["text/html", "text/plain"])
async def test_page_of_a_proxy_is_not_a_forbidden_list(harness: ReaderHarness, kind: str) -> None:
    page = ScriptedResponse(b"blocked", status=403, headers={"Content-Type": kind})
    harness.answers["/secrets"] = page
    with pytest.raises(ProviderError, match="check the proxy and firewall"):
        await harness.reader.lister.list_all("secret", 9)
    assert harness.reader.lister.list_refusal("secret") is None
    assert harness.denials == 0


async def test_forbidden_list_is_retried_if_gets_are_forbidden_too(harness: ReaderHarness) -> None:
    for path in ("/secrets", "/secrets/user", "/secrets/user/"):
        harness.answers[path] = make_refusal(403, "Forbidden", "ForbiddenByRbac")
    assert await poll(harness, USER) == (["/secrets"], {})
    await harness.read_error()
    harness.now += 60
    serve_list(harness, [make_item(harness, "user")])
    assert (await poll(harness, USER))[1].keys() == {"secret"}


async def test_each_kind_has_its_own_list_and_refusal(harness: ReaderHarness) -> None:
    harness.answers["/secrets"] = make_refusal(403, "Forbidden", "ForbiddenByRbac")
    kinds = [ObjectVersionRef(VaultObject(name="web", type=kind)) for kind in ("secret", "cert", "key")]
    for path, each in (("/certificates", "id"), ("/keys", "kid")):
        found = make_item(harness, "web", path=path)
        harness.answers[path] = ScriptedResponse(
            {"value": [{each: found["id"]} | found], "nextLink": None}, headers=JSON
        )
    paths, listed = await poll(harness, *kinds)
    assert sorted(paths) == ["/certificates", "/keys", "/secrets"]
    assert {kind: set(objects) for kind, objects in listed.items()} == {"cert": {"web"}, "key": {"web"}}
    assert sorted((await poll(harness, *kinds))[0]) == ["/certificates", "/keys"]


async def test_object_with_history_has_its_versions_listed_at_each_poll(harness: ReaderHarness) -> None:
    harness.put_versions("db", ("a", 1, True), ("b", 2, True), ("c", 3, False))
    found = VaultObject(name="db", history=2)
    for versions in (("b", "a"), ("b", "a")):
        harness.now += 1
        seen = await harness.reader.take_snapshot([ObjectVersionRef(found, 0), ObjectVersionRef(found, 1)], harness.now)
        assert (seen.listed, seen.versions) == ({}, {found: versions})
    assert harness.paths_read == ["/secrets/db/versions"] * 2


async def test_poll_ignores_versions_that_cannot_be_listed(harness: ReaderHarness) -> None:
    seen = await harness.reader.take_snapshot([ObjectVersionRef(VaultObject(name="db", history=2))], harness.now)
    assert not seen.versions


@pytest.mark.parametrize(
    "answer", [make_refusal(503), make_refusal(429), CHALLENGE, ScriptedResponse(b"<html>", headers=JSON)]
)
async def test_failed_list_is_not_replaced_by_gets(harness: ReaderHarness, answer: ScriptedResponse) -> None:
    harness.answers["/secrets"] = answer
    with pytest.raises(ProviderError):
        await harness.reader.take_snapshot([USER], harness.now)
    harness.now += 60
    serve_list(harness, [make_item(harness, "user")])
    assert (await poll(harness, USER))[1]["secret"].keys() == {"user"}


async def test_object_that_is_missing_in_an_empty_list_is_read(harness: ReaderHarness) -> None:
    serve_list(harness, [])
    assert (await poll(harness, USER))[1] == {"secret": {}}
    seen = await harness.reader.take_snapshot([USER], harness.now)
    assert seen.stale_keys({"k": USER}, []) == {"k"}


async def test_poll_keeps_no_versions_in_the_cache(harness: ReaderHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "KEEP_SHARED", 0)
    harness.put_versions("db", ("a", 1, True), ("b", 2, True))
    await harness.reader.take_snapshot([ObjectVersionRef(VaultObject(name="db", history=2))], harness.now)
    await asyncio.sleep(0.01)
    assert not harness.reader.versions.kept


# Hostile lists


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
async def test_next_page_at_another_address_is_not_requested(harness: ReaderHarness, link: str) -> None:
    """Reject the address, because the request would carry the token to another host."""
    serve_list(harness, [make_item(harness, "user")], link=link.format(harness.server.url))
    with pytest.raises(ProviderError, match="another host"):
        await harness.reader.take_snapshot(make_secret_refs(3), harness.now)
    assert len(harness.server.requests) == 1


@pytest.mark.parametrize(
    "braces", ["{vaultBaseUrl:>9999999}", "{vaultBaseUrl}", "{x}/keys/other", "{x}", "{0}", "{", "}}"]
)
async def test_braces_in_the_address_of_a_page_are_only_text(harness: ReaderHarness, braces: str) -> None:
    """The SDK fills in templates: it would pad the address to any length, or drop a part of it."""
    serve_list(harness, [make_item(harness, "a")], link=f"{harness.server.url}/secrets?a={braces}")
    assert await poll(harness, *make_secret_refs(2)) == (["/secrets"] * 2, {})
    assert harness.server.requests[-1].query["a"] == braces


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
async def test_invalid_list_is_reported_as_no_usable_answer(harness: ReaderHarness, body: Any) -> None:
    for path in ("/secrets", "/secrets/db/versions"):
        harness.answers[path] = ScriptedResponse(body, headers=JSON)
    with pytest.raises(ProviderError, match="no usable answer"):
        await harness.reader.take_snapshot(make_secret_refs(3), harness.now)
    harness.now += 60
    (answer,) = await harness.read(ObjectVersionRef(VaultObject(name="db", history=2)))
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
async def test_odd_item_does_not_invalidate_its_page(harness: ReaderHarness, odd: Any) -> None:
    good = make_item(harness, "user")
    serve_list(harness, [odd, good, odd], [odd], [make_item(harness, "pass")])
    assert set((await poll(harness, *make_secret_refs(3)))[1]["secret"]) == {"user", "pass"}
    harness.put_versions("db", ("a", 1, True), ("b", 2, True))
    harness.answers["/secrets/db/versions"].body["value"] += [odd, make_item(harness, "db")]
    harness.server.default_response = harness.answer_request
    db = VaultObject(name="db", history=2)
    assert await harness.read(ObjectVersionRef(db, 0), ObjectVersionRef(db, 1)) == ["value of b", "value of a"]


@pytest.mark.parametrize("odd", ODD_ATTRIBUTES, ids=str)
async def test_object_with_odd_attributes_is_read_at_every_poll(harness: ReaderHarness, odd: Any) -> None:
    serve_list(harness, [make_item(harness, "pass"), {"id": f"{harness.server.url}/secrets/user", "attributes": odd}])
    listed = (await poll(harness, *make_secret_refs(3)))[1]["secret"]
    assert listed.keys() == {"user", "pass"}
    assert listed["user"].updated is None
    known = [ObjectVersion(target_key="k", object=str(USER), version="v1", updated="1970-01-01T00:00:09Z")]
    assert VaultSnapshot(listed={"secret": listed}).stale_keys({"k": USER}, known) == {"k"}


async def test_endless_list_of_versions_is_abandoned(harness: ReaderHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_PAGES", 9)
    harness.put_versions("db", ("a", 1, True))
    first = harness.answers["/secrets/db/versions"].body["value"]
    more = f"{harness.server.url}/secrets/db/versions?api-version=7.6&$skiptoken=1"
    harness.answers["/secrets/db/versions"] = ScriptedResponse({"value": first, "nextLink": more}, headers=JSON)
    (error,) = await harness.read(ObjectVersionRef(VaultObject(name="db", history=2)))
    assert isinstance(error, ObjectError)
    assert "more versions than" in error.message
    assert len(harness.paths_read) == 9


# Values: their age, and the reads that share them


async def test_concurrent_reads_share_one_get(harness: ReaderHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "KEEP_SHARED", 0)
    harness.put_secret("user", "me")
    reads = await asyncio.gather(*(harness.reader.read([USER], since=harness.now, first=False) for _ in range(50)))
    assert len(harness.paths_read) == 1
    answers = [found[USER] for found in reads]
    assert {item.value.reveal() for item in answers if isinstance(item, VaultValue)} == {b"me"}
    # A moment after the last read, the cache is empty.
    await asyncio.sleep(0.01)
    assert not harness.reader.values.kept


@pytest.mark.parametrize(("ahead", "age", "kept"), [(0, 1, False), (0, 60, True), (3600, 1, False), (-3600, 60, True)])
async def test_age_of_a_value_is_measured_by_the_servers_clock(
    harness: ReaderHarness, ahead: int, age: int, kept: bool
) -> None:
    """Compare two times of the vault, so that a difference between the clocks has no effect."""
    server = datetime.now(UTC) + timedelta(seconds=ahead)
    changed = int((server - timedelta(seconds=age)).timestamp())
    body = {"id": f"{harness.server.url}/secrets/user/v1", "value": "me", "attributes": {"updated": changed}}
    answer = ScriptedResponse(body, headers=JSON | {"Date": format_datetime(server, usegmt=True)})
    harness.answers["/secrets/user"] = harness.answers["/secrets/user/"] = answer
    found = (await harness.reader.read([USER], since=harness.now, first=True))[USER]
    assert isinstance(found, VaultValue)
    assert found.updated == (datetime.fromtimestamp(changed, UTC) if kept else None)


# Rate limits


@pytest.mark.parametrize("seconds", [7, 60])
async def test_no_request_is_sent_before_retry_after_ends(harness: ReaderHarness, seconds: int) -> None:
    harness.answers["/secrets"] = harness.answers["/secrets/user/"] = make_refusal(
        429, "Throttled", Retry_After=str(seconds)
    )
    harness.answers["/secrets/user"] = harness.answers["/secrets/user/"]
    assert isinstance(await harness.read_error(), ProviderError)
    sent = len(harness.server.requests)
    for moment in (0.0, 1.0, seconds / 2, seconds - 0.01):
        harness.now = 1000.0 + moment
        error = await harness.read_error()
        assert error.retry_after
        assert moment + error.retry_after >= seconds
        with pytest.raises(ProviderError):
            await harness.reader.take_snapshot([USER], harness.now)
    assert len(harness.server.requests) == sent
    harness.put_secret("user", "me")
    harness.now = 1000.0 + seconds + 60  # the rate is low now, so one call waits for it
    assert await harness.read(USER) == ["me"]


async def test_refusal_stops_all_requests_that_are_not_yet_sent(harness: ReaderHarness) -> None:
    """Check the rate limiter again after the wait for a connection."""
    harness.server.default_response = lambda _: make_refusal(429, "Throttled", Retry_After="30")
    answers = await harness.reader.read(make_secret_refs(200), since=harness.now, first=True)
    assert all(isinstance(answer, ProviderError) for answer in answers.values())
    assert len(harness.server.requests) <= 24


async def test_cached_orders_of_versions_are_bounded(harness: ReaderHarness) -> None:
    for number in range(MAX_ORDERS + 20):
        harness.now += 10  # so that the rate limit has no effect
        harness.put_versions(f"s{number}", ("v1", 1, True), ("v2", 2, True))
        await harness.read(ObjectVersionRef(VaultObject(name=f"s{number}", history=2)))
    assert len(harness.reader.lister.version_orders) == MAX_ORDERS
