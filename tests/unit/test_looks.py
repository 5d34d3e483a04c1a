"""Looks at Secrets: evenly over the interval, a few together, never more than ten a second."""

import random
from collections import Counter

import pytest

from controller.looks import AT_ONCE, BEAT, Looks


class Clock:
    """Moves when told."""

    now = 1000.5

    def __call__(self) -> float:
        return self.now


def test_a_look_is_at_the_first_beat_after_its_time() -> None:
    looks = Looks(Clock())
    assert looks.book(300) == 1302
    assert looks.book(301.4) == 1302
    assert looks.book(301.6) == 1304


@pytest.mark.parametrize("count", [1, 1_000, 10_000])
def test_no_more_than_ten_a_second_and_none_is_put_off_without_need(count: int) -> None:
    dice = random.Random(8)
    looks = Looks(Clock())
    asked = [dice.uniform(0, 300) for _ in range(count)]
    moments = [looks.book(delay) for delay in asked]
    each = Counter(moments)
    assert max(each.values()) <= AT_ONCE == 10 * BEAT
    for delay, moment in zip(asked, moments, strict=True):
        beat = moment
        while (beat := beat - BEAT) >= Clock.now + delay:
            assert each[beat] == AT_ONCE, "there was room before"


def test_what_is_past_is_forgotten() -> None:
    clock = Clock()
    looks = Looks(clock)
    for _ in range(10 * AT_ONCE):
        looks.book(0)
    clock.now += 1000
    looks.book(0)
    assert len(looks._booked) == 1
