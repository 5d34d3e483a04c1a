"""Drift checks: evenly over the interval, a few together, never more than ten a second."""

import random
from collections import Counter

import pytest

from controller.secretsync.drift import MAX_PER_TICK, TICK, DriftScheduler, first_delay
from tests.support.fixed_random import FixedRandom


class Clock:
    """Moves when told."""

    now = 1000.5

    def __call__(self) -> float:
        return self.now


def test_a_check_is_at_the_first_tick_after_its_time() -> None:
    scheduler = DriftScheduler(Clock())
    assert scheduler.reserve(300) == 1302
    assert scheduler.reserve(301.4) == 1302
    assert scheduler.reserve(301.6) == 1304


@pytest.mark.parametrize("count", [1, 1_000, 10_000])
def test_no_more_than_ten_a_second_and_none_is_put_off_without_need(count: int) -> None:
    rng = random.Random(8)
    scheduler = DriftScheduler(Clock())
    asked = [rng.uniform(0, 300) for _ in range(count)]
    moments = [scheduler.reserve(delay) for delay in asked]
    each = Counter(moments)
    assert max(each.values()) <= MAX_PER_TICK == 10 * TICK
    for delay, moment in zip(asked, moments, strict=True):
        tick = moment
        while (tick := tick - TICK) >= Clock.now + delay:
            assert each[tick] == MAX_PER_TICK, "there was room before"


def test_what_is_past_is_forgotten() -> None:
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
def test_a_new_sync_is_not_checked_while_its_secret_is_written(is_new: bool, draw: float, seconds: float) -> None:
    assert first_delay(300, is_new, FixedRandom(draw)) == seconds
