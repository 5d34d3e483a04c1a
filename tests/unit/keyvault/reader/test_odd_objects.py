"""Test that an invalid body fails only its own object. Others are read at once, and no circuit breaker opens."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.snapshot import VaultSnapshot
from controller.domain.values import VaultValue
from controller.errors import ObjectError
from tests.support.scripted_api_server import ScriptedResponse
from tests.unit.keyvault.reader.reader_harness import JSON, ReaderHarness, make_refusal

OTHER = ObjectVersionRef(VaultObject(name="other"))
KINDS = {"secret": "secrets", "cert": "certificates", "key": "keys"}
GOOD: dict[str, dict[str, Any]] = {
    "secret": {"value": "v", "id": "https://x/secrets/odd/v1", "attributes": {"enabled": True, "updated": 9}},
    "cert": {"cer": "AAAA", "id": "https://x/certificates/odd/v1", "attributes": {"enabled": True}, "policy": {}},
    "key": {
        "key": {"kid": "https://x/keys/odd/v1", "kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ", "key_ops": []},
        "attributes": {"enabled": True},
    },
}
BODIES = [
    pytest.param(b"", id="empty"),
    pytest.param(b"<html>Sign in</html>", id="HTML"),
    pytest.param(b"null", id="null"),
    pytest.param(b"{}", id="no field"),
    pytest.param(b"[]", id="list"),
    pytest.param(b'{"value": null, "id": "https://x/secrets/odd/v1"}', id="value null"),
    pytest.param(b'{"value": "\\ud800", "id": "https://x/secrets/odd/v1"}', id="lone surrogate"),
    pytest.param(b'{"value": "\xff", "id": "https://x/secrets/odd/v1"}', id="bytes that are not UTF-8"),
    pytest.param(b"[" * 100_000, id="deep"),
    pytest.param(b'{"value": "' + b"x" * (3 << 20) + b'"}', id="huge"),
    pytest.param(b'{"value": "v", "id": "https://x/secrets/odd/v1"', id="cut short"),
    pytest.param(b'{"value": "v", "attributes": {}}', id="no id"),
    pytest.param(b'{"error": {"code": "Forbidden"}}', id="error with success as its status"),
]


async def read_both(harness: ReaderHarness, kind: str, answer: ScriptedResponse) -> None:
    """Read the odd object, then another one, and check that the vault answers both."""
    harness.put_secret("other", "me")
    for path in (f"/{KINDS[kind]}/odd", f"/{KINDS[kind]}/odd/", f"/{KINDS[kind]}/odd/versions"):
        harness.answers[path] = answer
    harness.now += 1
    odd = ObjectVersionRef(VaultObject(name="odd", type=kind))
    several = ObjectVersionRef(VaultObject(name="odd", type=kind, history=2))
    found = await harness.reader.read([odd, several], since=harness.now, first=True)
    for item in found.values():
        assert isinstance(item, ObjectError | VaultValue)
    assert await harness.read(OTHER) == ["me"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", BODIES)
async def test_odd_body_affects_only_its_object(harness: ReaderHarness, kind: str, body: bytes) -> None:
    await read_both(harness, kind, ScriptedResponse(body, headers=JSON))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "version", ["1\x1b[31m", "1\u202e", pytest.param("f" * 1_500_000, id="large"), "a b", "%1b", "-"]
)
async def test_version_of_another_form_is_no_usable_answer(harness: ReaderHarness, kind: str, version: str) -> None:
    """Reject the id, because it would appear in statuses, events and log lines."""
    body = json.loads(json.dumps(GOOD[kind]))
    holder = body["key"] if kind == "key" else body
    name = "kid" if kind == "key" else "id"
    holder[name] = holder[name].removesuffix("v1") + version
    harness.answers[f"/{KINDS[kind]}/odd"] = harness.answers[f"/{KINDS[kind]}/odd/"] = ScriptedResponse(
        body, headers=JSON
    )
    found = await harness.reader.read(
        [ObjectVersionRef(VaultObject(name="odd", type=kind))], since=harness.now, first=True
    )
    for answer in found.values():
        assert isinstance(answer, ObjectError)
        assert answer.message.isprintable()
        assert len(answer.message) < 500


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["BadParameter", "BadRequest", "InvalidRequestUri", ""])
@pytest.mark.parametrize("status", [201, 202, 206, 299, 400, 404, 405, 409, 410, 412, 422])
async def test_refusal_of_a_request_affects_only_its_object(
    harness: ReaderHarness, kind: str, code: str, status: int
) -> None:
    await read_both(harness, kind, make_refusal(status, code))


ODD_FIELDS = pytest.mark.parametrize(
    "field",
    [
        pytest.param(rb'"tags":{"a":"\ud800"}', id="lone surrogate"),
        pytest.param(rb'"tags":{"\udc00\ud83d\ude00\\\ud83d":"b"}', id="surrogates in a name"),
        pytest.param(b'"tags":' + b"[" * 100_000 + b"]" * 100_000, id="lists in lists"),
        pytest.param(b'"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="objects in objects"),
        pytest.param(b'"tags":{"a":"\xff"}', id="no UTF-8"),
        pytest.param(b'"x":%s' % (b"9" * 5_000), id="number of 5,000 digits"),
    ],
)


@ODD_FIELDS
async def test_unused_odd_field_does_not_prevent_the_read(harness: ReaderHarness, field: bytes) -> None:
    """Read the secret, because the CSI provider does so as well."""
    body = b'{"value":"me","id":"https://x/secrets/other/1","attributes":{},%s}' % field
    harness.answers["/secrets/other"] = harness.answers["/secrets/other/"] = ScriptedResponse(body, headers=JSON)
    assert await harness.read(OTHER) == ["me"]


@pytest.mark.parametrize("value", ["\\ud800", "x\\udc00y", "\\ud83d\\ud83d\\ude00"])
async def test_lone_surrogate_in_a_value_is_never_replaced(harness: ReaderHarness, value: str) -> None:
    body = f'{{"value":"{value}","id":"https://x/secrets/other/1","tags":{{"a":"{value}"}}}}'
    harness.answers["/secrets/other"] = harness.answers["/secrets/other/"] = ScriptedResponse(
        body.encode(), headers=JSON
    )
    assert isinstance(await harness.read_error(OTHER), ObjectError)


@ODD_FIELDS
async def test_odd_item_of_a_list_affects_only_that_object(harness: ReaderHarness, field: bytes) -> None:
    good = b'{"id":"https://x/secrets/other","attributes":{"enabled":true,"updated":9}}'
    body = b'{"value":[{"id":"https://x/secrets/odd",%s},%s],"nextLink":null}' % (field, good)
    harness.answers["/secrets"] = ScriptedResponse(body, headers=JSON)
    assert isinstance(await harness.reader.take_snapshot([OTHER], harness.now), VaultSnapshot)
    assert harness.counted == [("secrets.list", "ok")]


@pytest.mark.parametrize(
    "date",
    [
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2020 00:00:00 +99999999999999999",
        "Mon, 01 Jan 2020 00:00:99999999999999999999999 GMT",
        "9" * 400,
        "",
    ],
)
async def test_odd_date_of_an_answer_does_not_prevent_the_read(harness: ReaderHarness, date: str) -> None:
    harness.put_secret("other", "me")
    for answer in harness.answers.values():
        answer.headers["Date"] = date
    assert await harness.read(OTHER) == ["me"]


async def test_date_of_year_9999_does_not_stop_the_reader(harness: ReaderHarness) -> None:
    """Wait a second, after which the time plus the difference of the clocks would be in the year 10000."""
    harness.put_secret("other", "me")
    for answer in harness.answers.values():
        answer.headers["Date"] = "Fri, 31 Dec 9999 23:59:59 GMT"
    assert await harness.read(OTHER) == ["me"]
    await asyncio.sleep(1.1)
    for answer in harness.answers.values():
        answer.headers["Date"] = ""
    assert await harness.read(OTHER) == ["me"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def change_fields(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    """Return a good body in which some fields are absent or have another value."""
    copy: dict[str, Any] = json.loads(json.dumps(body))
    places = [(copy, field) for field in copy]
    places += [(inner, field) for inner in copy.values() if isinstance(inner, dict) for field in inner]
    for holder, field in draw(st.lists(st.sampled_from(places), min_size=1, max_size=3)):
        if draw(st.booleans()):
            holder.pop(field, None)
        else:
            holder[field] = draw(JSON_VALUES)
    return copy


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_any_change_of_a_good_body_affects_only_its_object(
    harness: ReaderHarness, kind: str, data: st.DataObject
) -> None:
    body = data.draw(change_fields(GOOD[kind]) | JSON_VALUES)
    await read_both(harness, kind, ScriptedResponse(json.dumps(body).encode(), headers=JSON))
