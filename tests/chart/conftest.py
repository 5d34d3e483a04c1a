"""For the tests of the chart, which run helm hundreds of times."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def no_garbage_collection_in_helm() -> Iterator[None]:
    """Let helm free no memory: a run ends after a tenth of a second, and to free memory takes a fifth of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOGC", "off")
        yield
