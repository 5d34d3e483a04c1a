"""Test delays, with random sources that return fixed values."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.runtime.backoff import (
    FIRST_RETRY,
    MAX_BLOCKED_SECONDS,
    MAX_RETRY_SECONDS,
    backoff_delay,
    parse_retry_after,
    random_offset,
    refresh_interval,
    seconds_until_poll,
)
from tests.support.fixed_random import FixedRandom

NOW = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
HOUR = 3600.0


MIN_DRAW, MID_DRAW, MAX_DRAW = FixedRandom(0.0), FixedRandom(0.5), FixedRandom(1.0)


@pytest.mark.parametrize(
    ("age", "jitter", "draw", "expected"),
    [
        pytest.param(600, 0, 1.0, 3000, id="the rest of the interval"),
        pytest.param(600, 60, 0.0, 3000, id="no jitter"),
        pytest.param(600, 60, 1.0, 3060, id="the whole jitter"),
        pytest.param(0, 0, 1.0, 3600, id="just synced"),
        pytest.param(3599, 0, 1.0, 1, id="nearly due"),
        pytest.param(3600, 0, 0.0, 0, id="overdue: start of the next interval"),
        pytest.param(3600, 60, 1.0, 3600, id="overdue: end of the next interval"),
        pytest.param(99_999, 0, 1.0, 3600, id="long overdue"),
        pytest.param(-3600, 60, 0.0, 0, id="in the future: the clock jumped"),
        pytest.param(-60, 60, 0.0, 3660, id="clock ahead by the jitter"),
        pytest.param(-61, 60, 0.5, 30, id="clock ahead by more than the jitter"),
        pytest.param(-99_999, 60, 1.0, 60, id="far in the future"),
    ],
)
def test_due_time_follows_age_interval_and_jitter(age: float, jitter: float, draw: float, expected: float) -> None:
    assert seconds_until_poll(age, HOUR, jitter, draw) == expected


@pytest.mark.parametrize(
    ("requested", "shortest", "expected"),
    [
        pytest.param(None, 60, HOUR, id="no request"),
        pytest.param("600", 60, 600, id="more often"),
        pytest.param("86400", 60, 86400, id="less often"),
        pytest.param("5", 60, 60, id="more often than allowed"),
        pytest.param("5", 0, HOUR, id="requests are not allowed"),
        pytest.param("soon", 0, HOUR, id="invalid, but requests are not allowed"),
        pytest.param("soon", 60, None, id="not a number"),
        pytest.param("", 60, None, id="empty"),
        pytest.param("1.5", 60, None, id="a fraction"),
        pytest.param("-5", 60, None, id="negative"),
        pytest.param("١٢", 60, None, id="other digits"),
        pytest.param("60", 60, 60, id="as often as allowed"),
        pytest.param("9" * 9, 60, 999_999_999, id="thirty years"),
        pytest.param("9" * 10, 60, None, id="ten digits"),
        pytest.param("9" * 400, 60, None, id="400 digits"),
    ],
)
def test_requested_interval_is_bounded_or_rejected(
    requested: str | None, shortest: float, expected: float | None
) -> None:
    assert refresh_interval(requested, HOUR, shortest) == expected


def test_clock_that_is_slightly_ahead_delays_the_due_time() -> None:
    # The due time is within interval and jitter, so the clock did not jump.
    assert seconds_until_poll(-5, HOUR, 60, 0.0) == pytest.approx(HOUR + 5)


@pytest.mark.parametrize(
    ("failures", "rng", "expected"),
    [
        (1, MAX_DRAW, 2.0),
        (2, MAX_DRAW, 4.0),
        (8, MAX_DRAW, 256.0),
        (9, MAX_DRAW, 300.0),
        (10_000, MAX_DRAW, MAX_RETRY_SECONDS),
        (10_000, MID_DRAW, MAX_RETRY_SECONDS * 0.75),
        (3, MID_DRAW, 6.0),
        (1, MIN_DRAW, FIRST_RETRY / 2),
        (10_000, MIN_DRAW, MAX_RETRY_SECONDS / 2),
    ],
)
def test_backoff_doubles_and_half_of_it_is_random(failures: int, rng: random.Random, expected: float) -> None:
    assert backoff_delay(failures, rng) == expected


def test_backoff_for_an_obstacle_has_a_lower_limit() -> None:
    assert backoff_delay(100, MAX_DRAW, longest=MAX_BLOCKED_SECONDS) == 30


@pytest.mark.parametrize(
    ("requested", "rng", "expected"),
    [
        (30.0, MIN_DRAW, 30.0),
        (30.0, MAX_DRAW, 32.0),
        (0.5, MIN_DRAW, 1.0),
        (299.0, MAX_DRAW, 300.0),
        (0.0, MAX_DRAW, 2.0),
    ],
)
def test_backoff_respects_the_requested_wait(requested: float, rng: random.Random, expected: float) -> None:
    assert backoff_delay(1, rng, requested) == expected


@given(st.integers(1, 10**6), st.integers(), st.floats(0, 1e12))
def test_any_backoff_is_between_one_second_and_five_minutes(failures: int, seed: int, requested: float) -> None:
    wait = backoff_delay(failures, random.Random(seed), requested)
    assert 1.0 <= wait <= MAX_RETRY_SECONDS


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "17"}, 17),
        ({"Retry-After": " 17 "}, 17),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "300"}, 300),
        ({"Retry-After": "86400"}, 300),
        ({"Retry-After": "9" * 400}, MAX_RETRY_SECONDS),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "1.5"}, None),
        ({"Retry-After": "²"}, None),
        ({"Retry-After": "٣"}, None),
        # A date counts from the time of the answer.
        ({"Retry-After": "Wed, 01 Jan 2031 00:01:00 GMT", "Date": "Wed, 01 Jan 2031 00:00:00 GMT"}, 60),
        ({"Retry-After": "Wednesday, 01-Jan-31 00:01:00 GMT", "Date": "Wed, 01 Jan 2031 00:00:00 GMT"}, 60),
        ({"Retry-After": " Wed, 01 Jan 2031 00:00:00 GMT ", "Date": "Wed, 01 Jan 2031 00:00:00 GMT"}, 0),
        ({"Retry-After": "Wed, 01 Jan 2031 00:00:00 GMT", "Date": "Thu, 02 Jan 2031 00:00:00 GMT"}, 0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": "Wed, 01 Jan 2031 00:00:00 GMT"}, MAX_RETRY_SECONDS),
        ({"Retry-After": "Wed, 01 Jan 2031 00:01:00 GMT"}, None),
        ({"Retry-After": "Wed, 01 Jan 2031 00:01:00 GMT", "Date": "soon"}, None),
        ({"Retry-After": "Wed, 01 Jan 2031 00:01:00 GMT", "Date": "Wed Jan  1 00:00:00 2031"}, None),
        ({"Retry-After": f"Wed, 01 Jan 2031 00:00:00 +{'9' * 20}", "Date": "Wed, 01 Jan 2031 00:00:00 GMT"}, None),
        ({"Retry-After": ""}, None),
    ],
)
def test_retry_after_is_parsed_and_bounded(headers: dict[str, str], expected: float | None) -> None:
    assert parse_retry_after(headers) == expected


def test_random_offset_is_within_the_interval() -> None:
    assert (random_offset(HOUR, MIN_DRAW), random_offset(HOUR, MAX_DRAW)) == (0.0, HOUR)
