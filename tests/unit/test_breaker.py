"""The circuit breaker: it opens on a share of failures, and says which failed call is worth another attempt."""

import random

import pytest

from controller.breaker import HEALTHY_OUTCOMES, MAX_OUTCOMES, OPEN_SECONDS, WINDOW, CircuitBreaker


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


def test_one_failure_leaves_it_closed(breaker: CircuitBreaker) -> None:
    breaker.fail("HTTP 503")
    assert not breaker.reason()
    assert breaker.can_retry(1)


def test_failures_alone_open_it(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.fail("HTTP 503")
    breaker.fail("HTTP 503")
    assert breaker.reason() == "HTTP 503"
    clock.now += OPEN_SECONDS
    assert not breaker.reason()


def test_failures_of_different_times_are_not_added_up(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(10):
        breaker.fail("HTTP 503")
        clock.now += WINDOW
    assert not breaker.reason()


@pytest.mark.parametrize(("share", "opens"), [(0.01, False), (0.05, False), (0.2, False), (0.7, True), (1.0, True)])
def test_it_opens_on_the_share_of_failures(breaker: CircuitBreaker, clock: Clock, share: float, opens: bool) -> None:
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
        reasons.add(breaker.reason())
    assert ("HTTP 503" in reasons) == opens


def test_one_call_probes_while_the_others_wait(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip("down")
    clock.now += OPEN_SECONDS
    assert not breaker.reason()
    breaker.begin()
    assert breaker.reason() == "down"
    breaker.fail("still down")
    assert not breaker.can_retry(1)
    assert breaker.reason() == "still down"
    clock.now += OPEN_SECONDS
    breaker.begin()
    breaker.succeed()
    assert not breaker.reason()


def test_it_stays_open_for_as_long_as_the_vault_asked(breaker: CircuitBreaker, clock: Clock) -> None:
    breaker.trip("down", 60)
    clock.now += 59
    assert breaker.reason() == "down"


def test_second_retry_needs_a_vault_that_answers(breaker: CircuitBreaker) -> None:
    breaker.fail("HTTP 503")
    assert [breaker.can_retry(attempts) for attempts in (1, 2, 3)] == [True, False, False]
    for _ in range(HEALTHY_OUTCOMES):
        breaker.succeed()
    assert [breaker.can_retry(attempts) for attempts in (1, 2, 3)] == [True, True, False]
