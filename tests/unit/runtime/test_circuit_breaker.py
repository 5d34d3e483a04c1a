"""Test the circuit breaker: it opens at a share of failures, and decides which failed calls are retried."""

import random

import pytest

from controller.runtime.circuit_breaker import (
    HEALTHY_OUTCOMES,
    MAX_OUTCOMES,
    OPEN_SECONDS,
    WINDOW,
    BreakersBySubject,
    CircuitBreaker,
)


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock)


def test_single_failure_does_not_open_the_breaker(breaker: CircuitBreaker) -> None:
    breaker.fail("HTTP 503")
    assert not breaker.open_reason()
    assert breaker.retries_left(1)


def test_two_failures_without_a_success_open_the_breaker(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.fail("HTTP 503")
    breaker.fail("HTTP 503")
    assert breaker.open_reason() == "HTTP 503"
    clock.now += OPEN_SECONDS
    assert not breaker.open_reason()


def test_failures_of_different_times_are_not_added_up(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(10):
        breaker.fail("HTTP 503")
        clock.now += WINDOW
    assert not breaker.open_reason()


@pytest.mark.parametrize(("share", "opens"), [(0.01, False), (0.05, False), (0.2, False), (0.7, True), (1.0, True)])
def test_breaker_opens_only_at_a_high_share_of_failures(
    breaker: CircuitBreaker, clock: Clock, share: float, opens: bool
) -> None:
    rng = random.Random(3)
    for _ in range(MAX_OUTCOMES):
        breaker.succeed()
    reasons = set()
    for _ in range(1000):
        clock.now += 0.01
        if rng.random() < share:
            breaker.fail("HTTP 503")
        else:
            breaker.succeed()
        reasons.add(breaker.open_reason())
    assert ("HTTP 503" in reasons) == opens


def test_half_open_breaker_lets_one_call_through(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip("down")
    clock.now += OPEN_SECONDS
    assert not breaker.open_reason()
    breaker.begin()
    assert breaker.open_reason() == "down"
    breaker.fail("still down")
    assert breaker.retries_left(1) == 0
    assert breaker.open_reason() == "still down"
    clock.now += OPEN_SECONDS
    breaker.begin()
    breaker.succeed()
    assert not breaker.open_reason()


def test_breaker_stays_open_until_retry_after_ends(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip("down", 60)
    clock.now += 59
    assert breaker.open_reason() == "down"


def test_failure_with_retry_after_opens_unless_most_calls_succeed(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.succeed()
    breaker.succeed()
    breaker.fail("HTTP 503", 60)
    assert not breaker.open_reason()
    clock.now += WINDOW
    breaker.fail("HTTP 503", 60)
    clock.now += 59
    assert breaker.open_reason() == "HTTP 503"


def test_second_retry_needs_a_vault_that_answers(breaker: CircuitBreaker) -> None:
    breaker.fail("HTTP 503")
    assert [breaker.retries_left(attempts) for attempts in (1, 2, 3)] == [1, 0, 0]
    for _ in range(HEALTHY_OUTCOMES):
        breaker.succeed()
    assert [breaker.retries_left(attempts) for attempts in (1, 2, 3)] == [2, 1, 0]


def test_open_breaker_blocks_calls_for_five_seconds(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip("down")
    clock.now += 4.5
    assert breaker.open_reason() == "down"
    clock.now += 0.5
    assert not breaker.open_reason()


def count_failures_until_open(breaker: CircuitBreaker) -> int:
    """Return the number of successive failures that open the breaker."""
    for count in range(1, 100):
        breaker.fail("HTTP 503")
        if breaker.open_reason():
            return count
    raise AssertionError("the breaker never opens")


def test_breaker_opens_if_half_of_the_last_50_outcomes_are_failures(breaker: CircuitBreaker) -> None:
    for _ in range(100):
        breaker.succeed()
    assert count_failures_until_open(breaker) == 25


def test_oldest_of_fifty_outcomes_still_counts(breaker: CircuitBreaker) -> None:
    breaker.fail("HTTP 503")
    for _ in range(25):
        breaker.succeed()
    assert count_failures_until_open(breaker) == 24


@pytest.mark.parametrize(("later", "opens"), [(29.9, True), (30.0, False)])
def test_outcomes_count_for_half_a_minute(breaker: CircuitBreaker, clock: Clock, later: float, opens: bool) -> None:
    breaker.fail("HTTP 503")
    clock.now += later
    breaker.fail("HTTP 503")
    assert bool(breaker.open_reason()) == opens


@pytest.mark.parametrize(
    ("outcomes", "retried"),
    [
        pytest.param("SSSF", False, id="too few outcomes"),
        pytest.param("SSSSF", True, id="most succeeded"),
        pytest.param("FSSSF", True, id="three of five"),
        pytest.param("FFFSSS", False, id="half"),
        pytest.param("FFFFSS", False, id="fewer than half"),
    ],
)
def test_second_retry_needs_five_outcomes_of_which_most_are_answers(
    breaker: CircuitBreaker, outcomes: str, retried: bool
) -> None:
    for outcome in outcomes:
        if outcome == "S":
            breaker.succeed()
        else:
            breaker.fail("HTTP 503")
    assert not breaker.open_reason()
    assert breaker.retries_left(1)
    assert bool(breaker.retries_left(2)) == retried


@pytest.mark.parametrize(("later", "retried"), [(29.9, True), (30.0, False)])
def test_second_retry_needs_answers_of_the_last_half_minute(
    breaker: CircuitBreaker, clock: Clock, later: float, retried: bool
) -> None:
    for _ in range(HEALTHY_OUTCOMES):
        breaker.succeed()
    clock.now += later
    breaker.fail("HTTP 503")
    assert bool(breaker.retries_left(2)) == retried


def test_failures_that_are_retried_leave_the_decision_to_the_retries() -> None:
    now = 0.0
    breaker = CircuitBreaker(lambda: now)
    for _ in range(10):
        breaker.fail("HTTP 503", retries=True)
        assert not breaker.open_reason()
    breaker.fail("HTTP 503")
    assert breaker.open_reason() == "HTTP 503"
    now = OPEN_SECONDS
    assert not breaker.open_reason()
    breaker.begin()
    breaker.fail("still down", retries=True)  # a probe is not retried
    assert breaker.open_reason() == "still down"


@pytest.mark.parametrize(
    ("outcomes", "opens"),
    [
        pytest.param("-a -a -a -a -a", False, id="one subject"),
        pytest.param("-a -b", True, id="two subjects"),
        pytest.param("-a -a -", True, id="a subject, and a failure of any call"),
        pytest.param("-a - -a", True, id="a failure of any call, and a subject"),
        pytest.param("-a +b -a -a -a", False, id="one subject beside a healthy one"),
        pytest.param("-b +b -a -a -a", False, id="a healthy one that failed once"),
        pytest.param("+b -b -a", True, id="a healthy one that fails now"),
        pytest.param("+c +d +e -a -b -a -b", False, id="two subjects beside three healthy ones"),
        pytest.param("+c +c +c +c +c -a -b", True, id="two subjects beside a healthy one that is often read"),
    ],
)
def test_failures_of_one_subject_count_as_one(breaker: CircuitBreaker, outcomes: str, opens: bool) -> None:
    for outcome in outcomes.split():
        subject = outcome[1:] or None
        if outcome[0] == "+":
            breaker.succeed(subject)
        else:
            breaker.fail("HTTP 503", subject=subject)
    assert bool(breaker.open_reason()) == opens


def test_retry_after_of_one_subject_affects_only_it(breaker: CircuitBreaker) -> None:
    breaker.fail("HTTP 503", 60, subject="a")
    assert not breaker.open_reason()
    breaker.fail("HTTP 503", 60, subject="b")
    assert breaker.open_reason()


def test_open_breaker_of_a_subject_affects_no_other(clock: Clock) -> None:
    breakers: BreakersBySubject[str] = BreakersBySubject(clock, 9)
    for _ in range(2):
        breakers.begin("a")
        breakers.fail("a", "HTTP 503")
    assert (breakers.open_reason("a"), breakers.open_reason("b")) == ("HTTP 503", "")
    assert (breakers.is_tripped("a"), breakers.is_tripped("b")) == (True, False)
    clock.now += OPEN_SECONDS
    assert not breakers.open_reason("a")
    breakers.begin("a")
    assert breakers.open_reason("a")  # the others wait for the result of the probe
    breakers.succeed("a")
    assert (breakers.open_reason("a"), breakers.is_tripped("a"), list(breakers)) == ("", False, [])


def test_subject_that_failed_once_is_called_again(clock: Clock) -> None:
    breakers: BreakersBySubject[str] = BreakersBySubject(clock, 9)
    breakers.fail("a", "HTTP 503")
    assert (breakers.open_reason("a"), breakers.is_tripped("a")) == ("", False)


def test_retried_failures_of_a_subject_do_not_open_its_breaker(clock: Clock) -> None:
    breakers: BreakersBySubject[str] = BreakersBySubject(clock, 9)
    for _ in range(3):
        breakers.fail("a", "HTTP 503", retries=True)
    assert not breakers.is_tripped("a")
    breakers.fail("a", "HTTP 503")
    assert breakers.is_tripped("a")


def test_failing_subjects_are_bounded_and_the_oldest_is_forgotten(clock: Clock) -> None:
    breakers: BreakersBySubject[int] = BreakersBySubject(clock, 3)
    for subject in (1, 2, 3, 1, 4):
        breakers.fail(subject, "HTTP 503")
    assert list(breakers) == [3, 1, 4]
    assert breakers.open_reason(1)  # it failed twice
