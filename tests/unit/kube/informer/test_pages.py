"""Test the number of objects per page, which depends on the size of the answers."""

from typing import cast

import msgspec
import pytest

from controller.api.secretsync import SecretSync
from controller.errors import AnswerTooLarge
from controller.kube.client import KubeClient
from controller.kube.informer import Informer, Store
from controller.kube.resources import ListWatch, ObjectPage

MIB = 2**20
TOO_LARGE = -1


class ResourceClient:
    """A resource whose pages have these sizes in bytes. It records the number of requested objects."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = list(sizes)
        self.limits: list[int] = []

    async def list_page(self, _kube: object, _namespace: str, _token: str, limit: int) -> ObjectPage:
        self.limits.append(limit)
        size = self.sizes.pop(0)
        if size == TOO_LARGE:
            raise AnswerTooLarge("too large")
        page = msgspec.json.decode(b'{"metadata": {}}', type=ObjectPage)
        return msgspec.structs.replace(page, items=[msgspec.Raw(bytes(size))])


async def record_limits(*sizes: int) -> list[int]:
    """Return the limits of the informer's requests for these pages and for one more."""
    handle = ResourceClient(*sizes, 0)
    store: Store[SecretSync] = Store()
    informer = Informer(cast("KubeClient", None), cast("ListWatch[SecretSync]", handle), "team", store)
    while handle.sizes:
        assert (await informer.read_page("")).items
    return handle.limits


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param([MIB], [50, 50], id="one MiB keeps the limit"),
        pytest.param([MIB + 1], [50, 25], id="more than one MiB halves it"),
        pytest.param([2 * MIB] * 7, [50, 25, 12, 6, 3, 1, 1, 1], id="down to one object"),
        pytest.param([2 * MIB, MIB // 2], [50, 25, 25], id="half a MiB keeps the limit"),
        pytest.param([2 * MIB, 2 * MIB, MIB // 2 - 1], [50, 25, 12, 24], id="less than half a MiB doubles it"),
        pytest.param([2 * MIB, 0, 0], [50, 25, 50, 50], id="up to a whole page"),
        pytest.param([TOO_LARGE, MIB], [50, 6, 6], id="an answer that is too large divides it by eight"),
        pytest.param([TOO_LARGE, TOO_LARGE, 0, TOO_LARGE, MIB], [50, 6, 1, 2, 1, 1], id="at least one object"),
    ],
)
async def test_large_objects_are_requested_in_smaller_pages(sizes: list[int], expected: list[int]) -> None:
    assert await record_limits(*sizes) == expected


async def test_single_object_that_is_too_large_is_an_error() -> None:
    with pytest.raises(AnswerTooLarge):
        await record_limits(TOO_LARGE, TOO_LARGE, TOO_LARGE)
