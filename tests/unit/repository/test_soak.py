"""What a soak does is its seed's; and what it measures grows where the process does."""

import pytest

from tests.soak.gauge import Sample, growth
from tests.soak.soak import MOST_MEBIBYTES, Soak
from tests.soak.steps import ENDS, WEIGHTS, steps


def test_a_seed_says_it_all() -> None:
    assert list(steps(1, 600)) == list(steps(1, 600))
    assert list(steps(1, 600)) != list(steps(2, 600))


def test_all_deeds_come_and_the_last_half_is_one_process() -> None:
    found = list(steps(3, 3600))
    assert {step.deed for step in found} == WEIGHTS.keys()
    assert all(callable(getattr(Soak, step.deed)) for step in found)
    assert max(step.at for step in found if step.deed in ENDS) < 1800 < found[-1].at < 3600


@pytest.mark.parametrize("each", [0.0, 0.01, 0.1])
def test_growth_is_the_straight_line_through_what_came_after_the_warm_up(each: float) -> None:
    cold = [Sample(float(at), 50.0 + at, at) for at in range(10)]
    warm = [Sample(float(at), 80 + at * each + at % 2, 30 + at % 3) for at in range(10, 200)]
    found = growth([*cold, *warm], warm_up=10)
    assert found.seconds == 189
    assert found.mebibytes == pytest.approx(189 * each, abs=0.1)
    assert abs(found.descriptors) < 0.5
    assert (found.mebibytes > MOST_MEBIBYTES) == (each == 0.1)
    assert f"{found.mebibytes / 189 * 3600:+.2f} MiB/h" in str(found)
