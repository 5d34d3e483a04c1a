"""Test that a seed determines the steps of a soak run, and that the run measures the growth of the process."""

import pytest

from tests.soak.actions import SoakActions
from tests.soak.process_growth import ProcessSample, measure_growth
from tests.soak.soak import MAX_GROWTH_MEBIBYTES
from tests.soak.steps import ACTION_WEIGHTS, PROCESS_ENDING_ACTIONS, draw_steps


def test_equal_seeds_draw_equal_steps() -> None:
    assert list(draw_steps(1, 600)) == list(draw_steps(1, 600))
    assert list(draw_steps(1, 600)) != list(draw_steps(2, 600))


def test_soak_draws_all_actions_and_ends_no_process_in_the_second_half() -> None:
    steps = list(draw_steps(3, 3600))
    assert {step.action for step in steps} == ACTION_WEIGHTS.keys()
    assert all(callable(getattr(SoakActions, step.action)) for step in steps)
    assert max(step.at for step in steps if step.action in PROCESS_ENDING_ACTIONS) < 1800 < steps[-1].at < 3600


@pytest.mark.parametrize("mebibytes_per_second", [0.0, 0.01, 0.1])
def test_growth_is_the_slope_after_the_warm_up(mebibytes_per_second: float) -> None:
    cold = [ProcessSample(float(at), 50.0 + at, at) for at in range(10)]
    warm = [ProcessSample(float(at), 80 + at * mebibytes_per_second + at % 2, 30 + at % 3) for at in range(10, 200)]
    growth = measure_growth([*cold, *warm], warm_up_seconds=10)
    assert growth.seconds == 189
    assert growth.mebibytes == pytest.approx(189 * mebibytes_per_second, abs=0.1)
    assert abs(growth.descriptors) < 0.5
    assert (growth.mebibytes > MAX_GROWTH_MEBIBYTES) == (mebibytes_per_second == 0.1)
    assert f"{growth.mebibytes / 189 * 3600:+.2f} MiB/h" in str(growth)
