"""Test the rate of calls to one vault with the limiter of the emulator, in virtual time."""

import heapq
import itertools
from collections import Counter

import pytest

from controller.runtime.rate_limiter import (
    BURST,
    LIMIT,
    MAX_PLACES,
    MAX_WAIT,
    MIN_RATE,
    PAUSE,
    WINDOW,
    AdaptiveRateLimiter,
)
from tools.keyvault_emulator.faults import RateLimiter

SHOP = "shop"


def get_namespace(kind: str) -> str:
    """Return the namespace of a kind of callers: the part before the slash, or the default."""
    return kind.partition("/")[0] if "/" in kind else SHOP


class CallerSimulation:
    """Callers of one vault.

    Each asks the limiter before a call, waits for the returned time, and repeats this until it has an answer.
    """

    def __init__(self, limit: int, retry_after: int | None) -> None:
        self.now = 1000.0
        self.began = self.now
        self.vault_limiter = RateLimiter(limit, retry_after)
        self.retry_after = retry_after
        self.limiter = AdaptiveRateLimiter(lambda: self.now)
        self.answers: list[tuple[float, str]] = []
        self.refusals: list[float] = []
        self.closed_until = 0.0

    def call(self, *groups: tuple[int, str, bool]) -> None:
        """Start all callers at once. A group has a number, a kind, and whether its callers have no value yet."""
        number = itertools.count()
        waiting = [
            (self.now, next(number), (kind, each), first) for count, kind, first in groups for each in range(count)
        ]
        heapq.heapify(waiting)
        while waiting:
            moment, _, caller, first = heapq.heappop(waiting)
            self.now = max(self.now, moment)
            wait = self.limiter.seconds_until_call(get_namespace(caller[0]), caller, first=first)
            if not wait:
                assert self.now >= self.closed_until, "a call before the end of Retry-After"
                if self.vault_limiter.admit(self.now) is None:
                    self.limiter.note_answer()
                    self.answers.append((self.now - self.began, caller[0]))
                    continue
                self.refusals.append(self.now)
                self.limiter.note_refusal(self.retry_after)
                self.closed_until = max(self.closed_until, self.now + (self.retry_after or PAUSE))
                wait = self.limiter.seconds_until_call(get_namespace(caller[0]), caller, first=first)
            heapq.heappush(waiting, (self.now + wait, next(number), caller, first))


def test_calls_within_the_limit_start_at_the_allowed_rate() -> None:
    simulation = CallerSimulation(4000, 10)
    simulation.call((1000, "new", True))
    assert not simulation.refusals
    assert simulation.answers[int(BURST)][0] == pytest.approx(0, abs=0.01)
    assert simulation.answers[-1][0] == pytest.approx((1000 - BURST) / LIMIT, rel=0.05)


def test_single_controller_is_never_throttled() -> None:
    simulation = CallerSimulation(4000, 10)
    simulation.call((20_000, "new", True))
    assert not simulation.refusals


@pytest.mark.parametrize("retry_after", [10, None])
def test_throttled_vault_serves_initial_syncs_first_at_its_rate(retry_after: int | None) -> None:
    simulation = CallerSimulation(25, retry_after)
    simulation.call((300, "refresh", False), (500, "new", True))
    seconds = simulation.answers[-1][0]
    assert seconds == pytest.approx(800 / 2.5, rel=0.25)
    # Each refusal answers an attempt to raise the rate.
    assert len(simulation.refusals) < 60
    last_new = max(moment for moment, kind in simulation.answers if kind == "new")
    early = Counter(kind for moment, kind in simulation.answers if moment < last_new)
    assert early["refresh"] <= 25 + 0.1 * 300  # the calls before the first refusal are added


def test_rate_recovers_when_the_vaults_limit_is_lifted() -> None:
    simulation = CallerSimulation(25, 10)
    simulation.call((100, "new", True))
    simulation.vault_limiter = RateLimiter(4000, 10)
    simulation.began, simulation.answers = simulation.now, []
    simulation.call((20_000, "more", True))
    assert simulation.answers[-1][0] < 600


def test_rate_recovers_after_the_vault_refused_every_call() -> None:
    simulation = CallerSimulation(0, 10)
    for _ in range(3):
        assert simulation.limiter.seconds_until_call(SHOP, "a", first=True) == 0 or simulation.limiter.is_slowed
        simulation.limiter.note_refusal(10)
        simulation.now += 11
    simulation.vault_limiter = RateLimiter(4000, 10)
    simulation.began, simulation.closed_until = simulation.now, 0.0
    simulation.call((1000, "new", True))
    assert simulation.answers[-1][0] < 120


def test_first_caller_is_served_first() -> None:
    now = [1000.0]
    limiter = AdaptiveRateLimiter(lambda: now[0])
    limiter.note_refusal(10)
    first, second = limiter.seconds_until_call(SHOP, "a", first=True), limiter.seconds_until_call(SHOP, "b", first=True)
    assert 10 <= first < second
    now[0] += 10 + 1 / MIN_RATE  # the time of one call at the slowest rate
    assert limiter.seconds_until_call(SHOP, "b", first=True) > 0
    assert limiter.seconds_until_call(SHOP, "a", first=True) == 0


def test_wait_of_many_callers_is_bounded() -> None:
    limiter = AdaptiveRateLimiter(lambda: 1000.0)
    limiter.note_refusal(10)
    assert max(limiter.seconds_until_call(SHOP, number, first=True) for number in range(1000)) == MAX_WAIT
    limiter.note_refusal(120)
    assert limiter.seconds_until_call(SHOP, 0, first=True) == pytest.approx(120)


def test_caller_that_does_not_return_is_dropped_from_the_line() -> None:
    now = [1000.0]
    limiter = AdaptiveRateLimiter(lambda: now[0])
    limiter.note_refusal(1)
    for number in range(10):
        limiter.seconds_until_call(SHOP, number, first=bool(number % 2))
    now[0] += 100
    assert limiter.seconds_until_call(SHOP, "x", first=False) == 0


def list_answer_times(simulation: CallerSimulation, kind: str) -> list[float]:
    return [moment for moment, each in simulation.answers if each == kind]


@pytest.mark.parametrize("flood", [500, 5000])
def test_flood_of_one_namespace_halves_the_rate_of_another_at_most(flood: int) -> None:
    """Let an editor request new objects of a vault while another namespace refreshes its own."""
    alone, attacked = CallerSimulation(25, 10), CallerSimulation(25, 10)
    for simulation in (alone, attacked):
        simulation.call((30, "warm", False))  # after these refusals, all callers wait
        simulation.began, simulation.answers = simulation.now, []
    alone.call((100, "victim/refresh", False))
    attacked.call((flood, "editor/new", True), (100, "victim/refresh", False))
    seconds_alone = list_answer_times(alone, "victim/refresh")[-1]
    assert list_answer_times(attacked, "victim/refresh")[-1] < 2 * seconds_alone + 30
    # The editor gets its share as well.
    assert len([at for at in list_answer_times(attacked, "editor/new") if at < seconds_alone]) >= 30


def test_namespaces_are_served_alternately_despite_long_lines() -> None:
    simulation = CallerSimulation(25, 10)
    simulation.call((30, "warm", False))
    simulation.began, simulation.answers = simulation.now, []
    simulation.call(
        (2000, "one/new", True), (2000, "two/new", True), (40, "three/refresh", False), (10, "four/new", True)
    )
    last = max(list_answer_times(simulation, "four/new"))
    served = Counter(kind for at, kind in simulation.answers if at <= last)
    assert served["three/refresh"] >= 8
    assert served["one/new"] <= 25
    assert served["two/new"] <= 25


def test_within_a_namespace_initial_requests_come_before_refreshes() -> None:
    simulation = CallerSimulation(25, 10)
    simulation.call((30, "warm", False))
    simulation.began, simulation.answers = simulation.now, []
    simulation.call((50, "shop/refresh", False), (50, "shop/new", True))
    early = [kind for _, kind in simulation.answers[:50]]
    assert early.count("shop/new") >= 45


def test_line_of_a_namespace_is_bounded_and_dropped_later() -> None:
    now = [1000.0]
    limiter = AdaptiveRateLimiter(lambda: now[0])
    limiter.note_refusal(300)
    for number in range(2 * MAX_PLACES):
        assert limiter.seconds_until_call("editor", number, first=True) >= 300
    assert len(limiter.lines["editor"].first) == MAX_PLACES
    now[0] += 1000
    assert limiter.seconds_until_call("victim", "x", first=False) == 0
    assert not limiter.lines


def test_caller_in_a_full_line_keeps_its_place_and_a_further_one_gets_none() -> None:
    limiter = AdaptiveRateLimiter(lambda: 1000.0)
    limiter.note_refusal(10)
    waits = [limiter.seconds_until_call(SHOP, number, first=True) for number in [*range(MAX_PLACES + 1), 0, 1]]
    assert [waits[0], waits[1], *waits[-3:]] == [12, 14, MAX_WAIT, 12, 14]


class LimiterHarness:
    """The rate limiter of one vault, with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.limiter = AdaptiveRateLimiter(lambda: self.now)

    def note_answers(self, count: int) -> None:
        for _ in range(count):
            self.limiter.note_answer()

    def wait(self, caller: str, *, first: bool = True) -> float:
        return self.limiter.seconds_until_call("team", caller, first=first)

    def count_burst(self) -> int:
        """Return the number of callers that may call now."""
        return next(count for count in itertools.count() if self.wait(f"burst {count}"))

    def measure_rate(self) -> float:
        """Return the calls per second that new callers get now. The new callers stay in the limiter."""
        self.count_burst()
        earlier = self.wait("earlier")
        return 1 / (self.wait("later") - earlier)


def test_burst_of_190_calls_is_followed_by_380_per_second() -> None:
    harness = LimiterHarness()
    harness.now += 1000
    assert harness.count_burst() == 190
    assert harness.wait("burst 190") == pytest.approx(1 / 380)
    assert harness.wait("next") == pytest.approx(2 / 380)
    harness.now += 0.5 / 380
    assert harness.wait("burst 190") == pytest.approx(0.5 / 380)
    # Azure allows 4,000 calls in any ten seconds.
    assert 3900 < 190 + 380 * 10 < 4000


@pytest.mark.parametrize("first", [True, False])
def test_caller_that_returns_at_its_promised_time_may_call(first: bool) -> None:
    harness = LimiterHarness()
    harness.limiter.note_refusal(10)
    promised = [harness.wait(str(number), first=first) for number in range(6)]
    # No call for ten seconds, then one call every two seconds.
    assert promised == pytest.approx([12, 14, 16, 18, 20, 22])
    for number, wait in enumerate(promised):
        harness.now = 1000 + wait
        assert harness.wait(str(number), first=first) == 0
        assert harness.wait("a newcomer", first=first) > 0


def test_initial_requests_are_promised_earlier_times_than_refreshes() -> None:
    harness = LimiterHarness()
    harness.limiter.note_refusal(10)
    assert harness.wait("refresh", first=False) == pytest.approx(12)
    assert harness.wait("new", first=True) == pytest.approx(12)
    assert harness.wait("another", first=True) == pytest.approx(14)
    assert harness.wait("refresh", first=False) == pytest.approx(16)
    harness.now += 12
    assert harness.wait("new", first=True) == 0
    assert harness.wait("refresh", first=False) == pytest.approx(4)


@pytest.mark.parametrize("first", [True, False])
def test_place_is_kept_for_30_s_after_the_promised_time(first: bool) -> None:
    harness = LimiterHarness()
    harness.limiter.note_refusal(10)
    assert [harness.wait(caller, first=first) for caller in ("late", "next")] == pytest.approx([12, 14])
    harness.now = 1000 + 12 + 30
    assert harness.wait("next", first=first) > 0
    harness.now += 0.1
    assert harness.wait("next", first=first) == 0


def test_refusal_without_retry_after_stops_calls_for_ten_seconds() -> None:
    harness = LimiterHarness()
    harness.limiter.note_refusal(None)
    assert (harness.limiter.seconds_closed(), harness.limiter.is_slowed) == (10, True)
    harness.now += 10
    assert harness.limiter.seconds_closed() == 0
    harness.now += 10
    assert harness.limiter.seconds_closed() == 0


def test_latest_end_of_several_refusals_counts() -> None:
    harness = LimiterHarness()
    harness.note_answers(100)
    harness.limiter.note_refusal(10)
    harness.now += 5
    harness.limiter.note_refusal(20)
    harness.limiter.note_refusal(1)
    assert harness.limiter.seconds_closed() == 20
    # Only the first refusal sets the rate. The others answer calls that were already sent.
    harness.now += 20
    assert harness.measure_rate() == pytest.approx(10)


def test_late_refusal_does_not_change_the_rate() -> None:
    harness = LimiterHarness()
    harness.note_answers(100)
    harness.limiter.note_refusal(20)
    harness.now += 12  # the answers are no longer in the window before it
    harness.limiter.note_refusal(1)
    harness.now += 8
    assert harness.measure_rate() == pytest.approx(10)


def test_refusal_at_the_end_of_retry_after_sets_a_new_rate() -> None:
    harness = LimiterHarness()
    harness.note_answers(100)
    harness.limiter.note_refusal(10)
    harness.now += 10
    harness.note_answers(50)
    harness.limiter.note_refusal(10)
    harness.now += 10
    assert harness.measure_rate() == pytest.approx(15)


def test_shortest_wait_is_one_millisecond() -> None:
    harness = LimiterHarness()
    harness.count_burst()
    harness.now += 0.999 / 380
    assert harness.wait("burst 190") == 0.001


def test_idle_limiter_with_a_low_rate_allows_one_call() -> None:
    harness = LimiterHarness()
    harness.limiter.note_refusal(10)
    harness.now += 1000
    assert harness.count_burst() == 1


def test_answers_before_the_window_do_not_count() -> None:
    harness = LimiterHarness()
    harness.note_answers(100)
    harness.now += 5
    harness.note_answers(30)
    harness.now += 5.1
    harness.limiter.note_refusal(1)
    harness.now += 1
    assert harness.measure_rate() == pytest.approx(3)


def test_number_of_remembered_answers_is_bounded() -> None:
    harness = LimiterHarness()
    harness.note_answers(4000)
    assert len(harness.limiter.answered) == LIMIT * WINDOW == 3800


@pytest.mark.parametrize(("later", "rate"), [(0, 300), (10, 300), (10.1, 0.5)])
def test_refusal_sets_the_rate_of_answers_in_the_last_ten_seconds(later: float, rate: float) -> None:
    harness = LimiterHarness()
    harness.note_answers(3000)
    harness.now += later
    harness.limiter.note_refusal(1)
    harness.now += 1
    assert harness.measure_rate() == pytest.approx(rate)


def test_refusal_after_answers_at_full_rate_does_not_lower_it() -> None:
    harness = LimiterHarness()
    harness.note_answers(4000)
    harness.limiter.note_refusal(5)
    slowed = [harness.limiter.is_slowed]
    harness.now += 5
    assert [*slowed, harness.limiter.is_slowed] == [True, False]
    assert harness.measure_rate() == pytest.approx(380)


@pytest.mark.parametrize(
    ("answers", "after", "rate"),
    [
        pytest.param(10, 59.9, 1, id="less than a minute"),
        pytest.param(10, 60, 2, id="a minute"),
        pytest.param(9, 9.9, 0.9, id="few answers: less than a window"),
        pytest.param(9, 10, 1.8, id="few answers: a window"),
        pytest.param(3000, 60, 380, id="never above the limit"),
    ],
)
def test_rate_that_the_vault_accepted_is_doubled(answers: int, after: float, rate: float) -> None:
    harness = LimiterHarness()
    harness.note_answers(answers)
    harness.limiter.note_refusal(10)
    harness.now += 10 + after
    harness.note_answers(2)  # two answers double the rate only once
    assert harness.measure_rate() == pytest.approx(rate)


def test_doubled_rate_is_doubled_again_only_after_the_same_time() -> None:
    harness = LimiterHarness()
    harness.note_answers(100)
    harness.limiter.note_refusal(10)
    for after, slowed in [(70, True), (59, True), (1, True), (60, True), (60, True), (60, True), (60, False)]:
        harness.now += after
        harness.note_answers(1)
        assert harness.limiter.is_slowed is slowed


def test_calls_before_a_doubling_are_earned_at_the_old_rate() -> None:
    harness = LimiterHarness()
    harness.note_answers(100)
    harness.limiter.note_refusal(10)
    harness.now += 10 + 60
    harness.note_answers(1)
    # At ten per second ten calls were earned. At twenty per second ten more take half a second.
    assert harness.count_burst() == 10
    harness.now += 0.5
    assert harness.wait("burst 10") == 0


def test_wait_is_at_most_30_s_unless_retry_after_is_longer() -> None:
    harness = LimiterHarness()
    harness.limiter.note_refusal(10)
    assert [harness.wait(str(number)) for number in range(20)][-1] == 30
    harness.limiter.note_refusal(31)
    assert harness.wait("0") == 31


def test_promised_times_alternate_between_namespaces() -> None:
    harness = LimiterHarness()
    harness.limiter.note_refusal(10)

    def wait(namespace: str, caller: str) -> float:
        return harness.limiter.seconds_until_call(namespace, caller, first=True)

    callers = [("one", "a"), ("one", "b"), ("two", "a"), ("two", "b")]
    # A caller waits for the earlier callers of both namespaces, which are served alternately.
    assert [wait(*caller) for caller in callers] == pytest.approx([12, 14, 14, 18])
    assert [wait(*caller) for caller in callers] == pytest.approx([12, 16, 14, 18])
    harness.now += 12
    assert wait("one", "a") == 0
    # Namespace "one" has been served, so namespace "two" is next.
    assert [wait(*caller) for caller in callers[1:]] == pytest.approx([4, 2, 6])
