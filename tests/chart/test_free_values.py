"""Values that the chart copies into manifests: it refuses those that the API server would refuse, with their path."""

from typing import Any

import pytest

from tests.chart.rendering import nested, render
from tests.support.free_values import ACCEPTED, REFUSED
from tools.cli.common import helm


@pytest.mark.parametrize(("path", "value", "named"), REFUSED, ids=lambda part: str(part)[:60])
def test_value_that_the_api_server_would_refuse_is_refused_by_path(path: str, value: Any, named: str) -> None:
    with pytest.raises(helm.BadValues) as refused:
        render(given=nested({path: value}))
    assert any(problem.startswith(f"{named}:") for problem in refused.value.problems), refused.value.problems


@pytest.mark.parametrize(("path", "value"), ACCEPTED, ids=lambda part: str(part)[:60])
def test_value_that_the_api_server_accepts_is_accepted(path: str, value: Any) -> None:
    assert render(given=nested({path: value}))
