"""Test how tools read objects that are nested as deeply as the API server accepts."""

import json
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import errors
from controller.api.secretsync import SecretSync
from controller.kube.client import KubeClient
from tools.cli.common import json_depth
from tools.cli.common.kube_client import OperatorKubeClient

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('[]{}"\\ ax')),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from('[]{}"\\'), max_size=3), inner),
)


def measure_depth(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(measure_depth, value.values() if isinstance(value, dict) else value), default=0)


@given(JSON, st.integers(0, 4))
def test_depth_equals_that_of_a_recursive_implementation(value: Any, limit: int) -> None:
    text = json.dumps(value).encode()
    assert json_depth.is_deeper_than(text, limit) == (measure_depth(value) > limit)


def encode_sync(name: str, levels: int) -> bytes:
    """Return a SecretSync whose managed fields have this many levels."""
    fields = b'{"f:a":' * levels + b"{}" + b"}" * levels
    meta = b'{"name":"%s","namespace":"n","managedFields":[{"manager":"m","fieldsV1":%s}]}' % (name.encode(), fields)
    spec = b'{"secretProviderClassName":"c","serviceAccountName":"a","secretObject":{"data":[]}}'
    return b'{"metadata":%s,"spec":%s}' % (meta, spec)


class FixedAnswerClient(KubeClient):
    """A client that returns the same bytes for every request."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def call(self, *_: Any, **__: Any) -> bytes:
        return self._answer


@pytest.mark.parametrize("levels", [100, 900, 1_500, 9_995])
async def test_deeply_nested_object_is_read_with_its_neighbours(levels: int) -> None:
    page = b'{"metadata":{},"items":[%s,%s]}' % (encode_sync("deep", levels), encode_sync("flat", 3))
    caller = OperatorKubeClient(FixedAnswerClient(page))
    assert [each.metadata.name for each in await caller.list_kind(SecretSync)] == ["deep", "flat"]
    assert [each["metadata"]["name"] for each in await caller.list_objects("/x")] == ["deep", "flat"]
    alone = OperatorKubeClient(FixedAnswerClient(encode_sync("deep", levels)))
    assert (await alone.get(SecretSync, "n", "deep")).metadata.name == "deep"
    assert (await alone.get_object("/x"))["metadata"]["name"] == "deep"


@pytest.mark.parametrize("levels", [250, 1_500, 9_995])
async def test_deep_managed_fields_are_rejected_instead_of_truncated(levels: int) -> None:
    with pytest.raises(errors.Refused, match="nested more than 200 levels"):
        await OperatorKubeClient(FixedAnswerClient(encode_sync("deep", levels))).get_metadata("/x")
    assert (await OperatorKubeClient(FixedAnswerClient(encode_sync("flat", 5))).get_metadata("/x"))["name"] == "flat"


@pytest.mark.parametrize(
    "answer",
    [b"", b"[", b"{}", b"null", b"[" * 10_000, b'{"metadata":{"name":"\xff"}}', b'{"metadata":' + b"9" * 5000 + b"}",
     b'{"metadata":{"name":"\\ud800"}}', b'{"items":[' + b"[" * 10_000, b'"' + b"\\" * 9_999],
)  # fmt: skip
async def test_invalid_answer_raises_at_most_a_short_kube_error(answer: bytes) -> None:
    caller = OperatorKubeClient(FixedAnswerClient(answer))
    for call in (caller.get(SecretSync, "n", "x"), caller.list_kind(SecretSync), caller.list_objects("/x")):
        message = ""
        try:
            await cast("Any", call)
        except errors.KubeError as error:
            message = error.message
        assert len(message) < 1000
