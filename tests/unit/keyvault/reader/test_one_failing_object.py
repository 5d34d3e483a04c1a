"""Test that an object that always fails delays no other object, and that the number of its requests is bounded."""

import asyncio

import pytest

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.snapshot import VaultSnapshot
from controller.errors import ProviderError
from controller.keyvault.client import MAX_FAILING
from controller.runtime.circuit_breaker import OPEN_SECONDS
from tests.support.scripted_api_server import ReceivedRequest, ScriptedResponse
from tests.unit.keyvault.reader.reader_harness import JSON, ReaderHarness, make_refusal

ODD, GOOD, NEW = (ObjectVersionRef(VaultObject(name=name)) for name in ("odd", "good", "new"))

FAILURES = [
    *(pytest.param(make_refusal(status, "x"), id=str(status)) for status in (302, 408, 500, 502, 503, 504, 599)),
    pytest.param(make_refusal(503, "x", Retry_After="60"), id="503 with Retry-After"),
    pytest.param(ScriptedResponse(b"<html>", status=502, headers={"Content-Type": "text/html"}), id="gateway"),
    pytest.param(ScriptedResponse(b"{", headers={"Content-Length": "500"}, broken=True), id="cut off"),
]


def fail_object(harness: ReaderHarness, answer: ScriptedResponse, *names: str) -> None:
    """Let all requests for these objects fail."""

    def respond(request: ReceivedRequest) -> ScriptedResponse:
        is_odd = len(parts := request.path.split("/")) > 2 and parts[2] in names
        return answer if is_odd and "Authorization" in request.headers else harness.answer_request(request)

    harness.server.default_response = respond


def count_requests(harness: ReaderHarness, name: str) -> int:
    return sum(f"/{name}" in path for path in harness.paths_read)


@pytest.mark.parametrize("answer", FAILURES)
async def test_object_that_always_fails_delays_no_other(harness: ReaderHarness, answer: ScriptedResponse) -> None:
    harness.put_secret("good", "me")
    harness.put_secret("new", "you")
    harness.answers["/secrets"] = ScriptedResponse({"value": [], "nextLink": None}, headers=JSON)
    fail_object(harness, answer, "odd")
    for _ in range(10):
        harness.now += 2.5
        assert isinstance(await harness.read_error(ODD), ProviderError)
    failed, good = await harness.read(ODD, GOOD)
    assert isinstance(failed, ProviderError)
    assert good == "me"
    assert await harness.read(NEW) == ["you"]
    assert isinstance(await harness.reader.take_snapshot([GOOD], harness.now), VaultSnapshot)


@pytest.mark.parametrize("answer", FAILURES)
async def test_object_that_always_fails_is_requested_rarely(harness: ReaderHarness, answer: ScriptedResponse) -> None:
    """A thousand SecretSyncs of one identity can want the same object."""
    fail_object(harness, answer, "odd")
    first = await harness.read_error(ODD)
    before = count_requests(harness, "odd")
    assert before <= 2
    rest = await asyncio.gather(*(harness.read_error(ODD) for _ in range(1000)))
    assert {error.message for error in rest} == {first.message}
    assert count_requests(harness, "odd") == before
    for _ in range(10):
        harness.now += OPEN_SECONDS + 0.1
        await asyncio.gather(*(harness.read_error(ODD) for _ in range(10)))
    assert count_requests(harness, "odd") <= before + 10
    fail_object(harness, answer)
    harness.put_secret("odd", "well")
    harness.now += 61
    assert await harness.read(ODD) == ["well"]
    assert await harness.read(ODD) == ["well"]


async def test_failures_of_two_objects_are_an_outage(harness: ReaderHarness) -> None:
    fail_object(harness, make_refusal(503, "x"), "odd", "odd2")
    harness.put_secret("good", "me")
    await harness.read_error(ODD)
    await harness.read_error(ObjectVersionRef(VaultObject(name="odd2")))
    assert isinstance(await harness.read_error(GOOD), ProviderError)
    assert not count_requests(harness, "good")
    harness.now += OPEN_SECONDS
    assert await harness.read(GOOD) == ["me"]


@pytest.mark.parametrize("alias", ["", "other"])
async def test_one_certificate_read_in_three_ways_is_one_object(harness: ReaderHarness, alias: str) -> None:
    harness.put_secret("good", "me")
    fail_object(harness, make_refusal(500, "x"), "web", "WEB")
    for name, kind in (("web", "secret"), ("WEB", "secret"), ("web", "cert"), ("web", "key")):
        await harness.read_error(ObjectVersionRef(VaultObject(name=name, type=kind, alias=alias)))
    assert await harness.read(GOOD) == ["me"]


async def test_failing_version_does_not_prevent_the_read_of_other_versions(harness: ReaderHarness) -> None:
    harness.put_versions("db", ("a", 3, True), ("b", 2, True), ("c", 1, True))
    harness.answers["/secrets/db/b"] = make_refusal(500, "x")
    history = VaultObject(name="db", history=3)
    wanted = [ObjectVersionRef(history, index) for index in range(3)]
    for _ in range(5):
        newest, odd, oldest = await harness.read(*wanted)
        assert (newest, oldest) == ("value of a", "value of c")
        assert isinstance(odd, ProviderError)
        harness.now += 1


async def test_object_whose_versions_cannot_be_listed_delays_no_other(harness: ReaderHarness) -> None:
    harness.put_versions("db", ("a", 1, True))
    harness.put_versions("good", ("b", 1, True))
    harness.answers["/secrets/db/versions"] = make_refusal(500, "x")
    db, good = (ObjectVersionRef(VaultObject(name=name, history=2)) for name in ("db", "good"))
    for _ in range(5):
        assert isinstance(await harness.read_error(db), ProviderError)
    assert await harness.read(good) == ["value of b"]


async def test_refused_connection_is_an_outage_at_once(harness: ReaderHarness) -> None:
    """The refused connection does not depend on the object, so the failure of one object is enough."""
    harness.put_secret("good", "me")
    harness.reader.client.url = "https://127.0.0.1:1"
    assert "cannot be reached" in (await harness.read_error(ODD)).message
    assert len(harness.counted) == 2
    assert "cannot be reached" in (await harness.read_error(GOOD)).message
    assert len(harness.counted) == 2


async def test_remembered_failing_objects_are_bounded(harness: ReaderHarness) -> None:
    answer = make_refusal(503, "x", Retry_After="60")
    harness.put_secret("good", "me")
    for number in range(MAX_FAILING + 20):
        fail_object(harness, answer, name := f"odd-{number}")
        await harness.read_error(ObjectVersionRef(VaultObject(name=name)))
        harness.now += 61
    assert len(harness.reader.client.failing_names()) <= MAX_FAILING
