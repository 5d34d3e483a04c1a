"""How many objects are asked for at once, by how large the answers are."""

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
    """Answers with pages of these sizes in bytes, and keeps how many objects were asked for."""

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


async def limits(*sizes: int) -> list[int]:
    """Return what a reflector asks for until it has these answers, and then for one more."""
    handle = ResourceClient(*sizes, 0)
    store: Store[SecretSync] = Store()
    reflector = Informer(cast("KubeClient", None), cast("ListWatch[SecretSync]", handle), "team", store)
    while handle.sizes:
        await reflector.read_page("")
    return handle.limits


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param([MIB], [50, 50], id="a mebibyte is right"),
        pytest.param([MIB + 1], [50, 25], id="more is halved"),
        pytest.param([2 * MIB] * 7, [50, 25, 12, 6, 3, 1, 1, 1], id="down to one object"),
        pytest.param([2 * MIB, MIB // 2], [50, 25, 25], id="half a mebibyte is right"),
        pytest.param([2 * MIB, 2 * MIB, MIB // 2 - 1], [50, 25, 12, 24], id="less is doubled"),
        pytest.param([2 * MIB, 0, 0], [50, 25, 50, 50], id="up to a whole page"),
        pytest.param([TOO_LARGE, MIB], [50, 6, 6], id="an eighth where an answer was not even read"),
        pytest.param([TOO_LARGE, TOO_LARGE, 0, TOO_LARGE, MIB], [50, 6, 1, 2, 1, 1], id="at least one object"),
    ],
)
async def test_large_objects_are_asked_for_in_smaller_pages(sizes: list[int], expected: list[int]) -> None:
    assert await limits(*sizes) == expected


async def test_one_object_that_is_too_large_is_an_error() -> None:
    with pytest.raises(AnswerTooLarge):
        await limits(TOO_LARGE, TOO_LARGE, TOO_LARGE)
