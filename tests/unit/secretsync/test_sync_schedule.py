"""The schedule of drift checks: even over the interval, in batches, at most ten per second."""

import random
from collections import Counter

import pytest

from controller.secretsync.sync_schedule import MAX_PER_TICK, TICK, DriftScheduler, first_delay
from tests.support.fixed_random import FixedRandom


class Clock:
    """A clock that the test sets."""

    now = 1000.5

    def __call__(self) -> float:
        return self.now


def test_drift_check_runs_at_the_first_tick_after_its_time() -> None:
    scheduler = DriftScheduler(Clock())
    assert scheduler.reserve(300) == 1302
    assert scheduler.reserve(301.4) == 1302
    assert scheduler.reserve(301.6) == 1304


@pytest.mark.parametrize("count", [1, 1_000, 10_000])
def test_drift_checks_run_at_most_ten_per_second_and_otherwise_in_time(count: int) -> None:
    rng = random.Random(8)
    scheduler = DriftScheduler(Clock())
    asked = [rng.uniform(0, 300) for _ in range(count)]
    moments = [scheduler.reserve(delay) for delay in asked]
    each = Counter(moments)
    assert max(each.values()) <= MAX_PER_TICK == 10 * TICK
    for delay, moment in zip(asked, moments, strict=True):
        tick = moment
        while (tick := tick - TICK) >= Clock.now + delay:
            assert each[tick] == MAX_PER_TICK, "an earlier tick had room"


def test_past_reservations_are_deleted() -> None:
    clock = Clock()
    scheduler = DriftScheduler(clock)
    for _ in range(10 * MAX_PER_TICK):
        scheduler.reserve(0)
    clock.now += 1000
    scheduler.reserve(0)
    assert len(scheduler.reserved) == 1


@pytest.mark.parametrize(
    ("is_new", "draw", "seconds"),
    [(False, 0.0, 0), (False, 1.0, 300), (True, 0.0, 150), (True, 0.5, 225), (True, 1.0, 300)],
)
def test_first_check_of_a_new_sync_waits_half_an_interval(is_new: bool, draw: float, seconds: float) -> None:
    assert first_delay(300, is_new, FixedRandom(draw)) == seconds
