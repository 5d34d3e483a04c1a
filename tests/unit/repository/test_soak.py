"""Test the soak: a seed determines its steps, and it measures the growth of the process."""

import pytest

from tests.soak.gauge import Sample, growth
from tests.soak.soak import MAX_MEBIBYTES, Soak
from tests.soak.steps import ENDS, WEIGHTS, steps


def test_equal_seeds_give_equal_steps() -> None:
    assert list(steps(1, 600)) == list(steps(1, 600))
    assert list(steps(1, 600)) != list(steps(2, 600))


def test_soak_has_all_kinds_of_steps_and_no_restart_in_the_last_half() -> None:
    found = list(steps(3, 3600))
    assert {step.deed for step in found} == WEIGHTS.keys()
    assert all(callable(getattr(Soak, step.deed)) for step in found)
    assert max(step.at for step in found if step.deed in ENDS) < 1800 < found[-1].at < 3600


@pytest.mark.parametrize("each", [0.0, 0.01, 0.1])
def test_growth_is_the_slope_after_the_warm_up(each: float) -> None:
    cold = [Sample(float(at), 50.0 + at, at) for at in range(10)]
    warm = [Sample(float(at), 80 + at * each + at % 2, 30 + at % 3) for at in range(10, 200)]
    found = growth([*cold, *warm], warm_up=10)
    assert found.seconds == 189
    assert found.mebibytes == pytest.approx(189 * each, abs=0.1)
    assert abs(found.descriptors) < 0.5
    assert (found.mebibytes > MAX_MEBIBYTES) == (each == 0.1)
    assert f"{found.mebibytes / 189 * 3600:+.2f} MiB/h" in str(found)
