"""Test that decoding any JSON text ends with a value or with `Undecodable`."""

import contextlib
import json
from typing import Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller.api.meta import PartialObject
from controller.api.secretsync import SecretSync
from controller.kube.resources import ObjectPage, WatchEvent
from controller.runtime.json_decoding import MAX_DEPTH, Undecodable, cut_nesting, decode_json, replace_lone_surrogates

SPEC = b'{"secretProviderClassName":"c","serviceAccountName":"r","secretObject":{"data":[]}}'


def make_nested_object(levels: int) -> bytes:
    """Return a SecretSync in which deep `managedFields` come before the name, as the API server sends them."""
    fields = b'{"f:x":' * levels + b"{}" + b"}" * levels
    return b'{"metadata":{"managedFields":[{"fieldsV1":%b}],"name":"a","namespace":"n"},"spec":%b}' % (fields, SPEC)


@pytest.mark.parametrize("levels", [0, 10, 63, 64, 65, 900, 1500, 9995, 100_000])
def test_object_of_any_depth_is_decoded(levels: int) -> None:
    raw = make_nested_object(levels)
    assert decode_json(raw, PartialObject).metadata.name == "a"
    assert decode_json(raw, SecretSync).spec.service_account_name == "r"
    event = decode_json(b'{"type":"ADDED","object":%b}' % raw, WatchEvent)
    assert decode_json(event.object, SecretSync).metadata.name == "a"
    page = decode_json(b'{"metadata":{"continue":"t"},"items":[%b,%b]}' % (raw, make_nested_object(0)), ObjectPage)
    assert [decode_json(item, PartialObject).metadata.name for item in page.items] == ["a", "a"]
    assert page.metadata.continue_ == "t"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"]" * 200_000,
        b'"' + b"\\" * 200_001,
        b'{"metadata":{"name":"\xff"}}',
        b'{"metadata":{"generation":' + b"9" * 5000 + b"}}",
        b'{"metadata":{"generation":NaN}}',
        b'{"metadata":{"name":null}}',
        b'{"metadata":[]}',
        b'{"metadata":{"name":"a"}',
    ],
)
def test_invalid_text_raises_undecodable(raw: bytes) -> None:
    with pytest.raises(Undecodable) as caught:
        decode_json(raw, PartialObject)
    assert len(caught.value.problem) <= 500


@given(st.binary(max_size=300) | st.text(alphabet='{}[]":,\\a1 ', max_size=300).map(str.encode))
def test_any_text_is_decoded_or_raises_undecodable(raw: bytes) -> None:
    for shape in (PartialObject, ObjectPage, WatchEvent, SecretSync):
        with contextlib.suppress(Undecodable):
            decode_json(raw, shape)
    cut_nesting(raw)


@pytest.mark.parametrize(
    ("raw", "problem", "is_json"),
    [
        (b'{"metadata":{"name":"a"}', "it is not valid JSON", False),
        (b'{"metadata":{"name":5}}', "Expected `str`, got `int` - at `$.metadata.name`", True),
    ],
)
def test_problem_distinguishes_invalid_json_from_another_shape(raw: bytes, problem: str, is_json: bool) -> None:
    with pytest.raises(Undecodable) as caught:
        decode_json(raw, PartialObject)
    assert (str(caught.value), caught.value.problem, caught.value.is_json) == (problem, problem, is_json)


def test_problem_without_a_kind_is_not_valid_json() -> None:
    assert not Undecodable("it is not valid JSON").is_json


def test_problem_with_a_long_value_has_500_characters() -> None:
    with pytest.raises(Undecodable) as caught:
        decode_json(b'"%b"' % (b"x" * 1000), Literal["a"])  # type: ignore[arg-type]
    assert len(caught.value.problem) == 500


@pytest.mark.parametrize("error", [RecursionError, OverflowError, MemoryError])
def test_any_failure_of_the_decoder_is_undecodable(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(msgspec.json, "decode", fail)
    with pytest.raises(Undecodable, match=r"^it is not valid JSON$"):
        decode_json(b"{}", PartialObject)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=40,
)


def cut_value(value: object, depth: int) -> object:
    """Return the expected result of `cut_nesting`."""
    if isinstance(value, list):
        return [cut_value(each, depth - 1) for each in value] if depth else []
    if isinstance(value, dict):
        return {name: cut_value(each, depth - 1) for name, each in value.items()} if depth else {}
    return value


@given(JSON, st.integers(min_value=0, max_value=5))
def test_values_below_the_depth_limit_become_empty(value: object, depth: int) -> None:
    found = msgspec.json.decode(cut_nesting(msgspec.json.encode(value), depth))
    assert cut_value(found, depth) == cut_value(value, depth)
    assert cut_value(found, depth + 1) == found


@pytest.mark.parametrize(
    ("raw", "depth", "expected"),
    [
        (b"[1, [2, [3]], 4]", 0, b"[]"),
        (b"[1, [2, [3]], 4]", 1, b"[1, [], 4]"),
        (b"[1, [2, [3]], 4]", 2, b"[1, [2, [3]], 4]"),
        (b"[[[[]]],[[[]]]]", 1, b"[[],[]]"),
        (b'{"a":{"b":{"c":1}}}', 1, b'{"a":{}}'),
        pytest.param(b"[1", 1, b"[1", id="incomplete at the limit"),
        pytest.param(b"[[[1", 2, b"[[[", id="incomplete at the limit of empty containers"),
        pytest.param(b"[[[1", 1, b"[[", id="incomplete below the limit"),
        pytest.param(b"[[]]]", 0, b"[]]", id="a bracket too many"),
    ],
)
def test_containers_at_the_depth_limit_become_empty(raw: bytes, depth: int, expected: bytes) -> None:
    assert cut_nesting(raw, depth) == expected


def test_64_levels_remain_around_an_empty_container() -> None:
    assert cut_nesting(b"[" * 70 + b"]" * 70) == b"[" * 65 + b"]" * 65


def test_object_within_the_depth_limit_is_unchanged() -> None:
    raw = make_nested_object(MAX_DEPTH - 10)
    assert cut_nesting(raw) == raw


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=20))
@example("\ud800")
@example("\ud83d\ude00")
@example("\\\ud800\\ud800")
@example("\ud800\ud83d\ude00\udc00")
def test_only_lone_surrogates_are_replaced(text: str) -> None:
    paired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert msgspec.json.decode(replace_lone_surrogates(json.dumps(text).encode())) == paired
