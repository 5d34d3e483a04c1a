"""The pace of calls to one vault, against the emulator's own limiter, in virtual time."""

import heapq
import itertools
from collections import Counter

import pytest

from controller.runtime.rate_limiter import BURST, LIMIT, LONGEST, MAX_PLACES, PAUSE, SLOWEST, AdaptiveRateLimiter
from tools.keyvault_emulator.faults import RateLimiter

SHOP = "shop"


def space(kind: str) -> str:
    """Return the namespace of a kind of callers: what is before the slash, if there is one."""
    return kind.partition("/")[0] if "/" in kind else SHOP


class Crowd:
    """Callers that ask the pace before each call, and come again when it says so, until each was answered once."""

    def __init__(self, limit: int, retry_after: int | None) -> None:
        self.now = 1000.0
        self.began = self.now
        self.limiter = RateLimiter(limit, retry_after)
        self.retry_after = retry_after
        self.pace = AdaptiveRateLimiter(lambda: self.now)
        self.answers: list[tuple[float, str]] = []
        self.refusals: list[float] = []
        self.closed_until = 0.0

    def call(self, *crowds: tuple[int, str, bool]) -> None:
        """`crowds`: how many of a kind, and whether they are first-timers; all come at once."""
        number = itertools.count()
        waiting = [
            (self.now, next(number), (kind, each), first) for count, kind, first in crowds for each in range(count)
        ]
        heapq.heapify(waiting)
        while waiting:
            moment, _, who, first = heapq.heappop(waiting)
            self.now = max(self.now, moment)
            wait = self.pace.seconds_until_turn(space(who[0]), who, first=first)
            if not wait:
                assert self.now >= self.closed_until, "a call inside Retry-After"
                if self.limiter.admit(self.now) is None:
                    self.pace.note_answer()
                    self.answers.append((self.now - self.began, who[0]))
                    continue
                self.refusals.append(self.now)
                self.pace.note_refusal(self.retry_after)
                self.closed_until = max(self.closed_until, self.now + (self.retry_after or PAUSE))
                wait = self.pace.seconds_until_turn(space(who[0]), who, first=first)
            heapq.heappush(waiting, (self.now + wait, next(number), who, first))


def test_within_the_limit_nobody_waits_long() -> None:
    crowd = Crowd(4000, 10)
    crowd.call((1000, "new", True))
    assert not crowd.refusals
    assert crowd.answers[int(BURST)][0] == pytest.approx(0, abs=0.01)
    assert crowd.answers[-1][0] == pytest.approx((1000 - BURST) / LIMIT, rel=0.05)


def test_a_fleet_of_one_never_meets_the_limit() -> None:
    crowd = Crowd(4000, 10)
    crowd.call((20_000, "new", True))
    assert not crowd.refusals


@pytest.mark.parametrize("retry_after", [10, None])
def test_a_throttled_vault_is_asked_at_the_pace_it_bears(retry_after: int | None) -> None:
    crowd = Crowd(25, retry_after)
    crowd.call((300, "refresh", False), (500, "new", True))
    seconds = crowd.answers[-1][0]
    assert seconds == pytest.approx(800 / 2.5, rel=0.25)
    # Each refusal is a try whether the vault bears more by now.
    assert len(crowd.refusals) < 60
    last_new = max(moment for moment, kind in crowd.answers if kind == "new")
    early = Counter(kind for moment, kind in crowd.answers if moment < last_new)
    assert early["refresh"] <= 25 + 0.1 * 300  # but for those that went before the first refusal


def test_when_the_limit_is_lifted_the_pace_comes_back() -> None:
    crowd = Crowd(25, 10)
    crowd.call((100, "new", True))
    crowd.limiter = RateLimiter(4000, 10)
    crowd.began, crowd.answers = crowd.now, []
    crowd.call((20_000, "more", True))
    assert crowd.answers[-1][0] < 600


def test_a_vault_that_refused_everything_is_soon_asked_as_before() -> None:
    crowd = Crowd(0, 10)
    for _ in range(3):
        assert crowd.pace.seconds_until_turn(SHOP, "a", first=True) == 0 or crowd.pace.is_slowed
        crowd.pace.note_refusal(10)
        crowd.now += 11
    crowd.limiter = RateLimiter(4000, 10)
    crowd.began, crowd.closed_until = crowd.now, 0.0
    crowd.call((1000, "new", True))
    assert crowd.answers[-1][0] < 120


def test_who_came_first_is_served_first() -> None:
    now = [1000.0]
    pace = AdaptiveRateLimiter(lambda: now[0])
    pace.note_refusal(10)
    first, second = pace.seconds_until_turn(SHOP, "a", first=True), pace.seconds_until_turn(SHOP, "b", first=True)
    assert 10 <= first < second
    now[0] += 10 + 1 / SLOWEST  # one call's worth at the slowest pace
    assert pace.seconds_until_turn(SHOP, "b", first=True) > 0
    assert pace.seconds_until_turn(SHOP, "a", first=True) == 0


def test_nobody_is_sent_away_for_long() -> None:
    pace = AdaptiveRateLimiter(lambda: 1000.0)
    pace.note_refusal(10)
    assert max(pace.seconds_until_turn(SHOP, number, first=True) for number in range(1000)) == LONGEST
    pace.note_refusal(120)
    assert pace.seconds_until_turn(SHOP, 0, first=True) == pytest.approx(120)


def test_who_stopped_coming_is_dropped_from_the_line() -> None:
    now = [1000.0]
    pace = AdaptiveRateLimiter(lambda: now[0])
    pace.note_refusal(1)
    for number in range(10):
        pace.seconds_until_turn(SHOP, number, first=bool(number % 2))
    now[0] += 100
    assert pace.seconds_until_turn(SHOP, "x", first=False) == 0


def moments(crowd: Crowd, kind: str) -> list[float]:
    return [moment for moment, each in crowd.answers if each == kind]


@pytest.mark.parametrize("flood", [500, 5000])
def test_flood_of_one_namespace_halves_the_rate_of_another_at_most(flood: int) -> None:
    """An editor names the victim's vault and asks for objects that it never had; the victim refreshes."""
    alone, attacked = Crowd(25, 10), Crowd(25, 10)
    for crowd in (alone, attacked):
        crowd.call((30, "warm", False))  # the vault has refused before, so that all wait
        crowd.began, crowd.answers = crowd.now, []
    alone.call((100, "victim/refresh", False))
    attacked.call((flood, "editor/new", True), (100, "victim/refresh", False))
    took = moments(alone, "victim/refresh")[-1]
    assert moments(attacked, "victim/refresh")[-1] < 2 * took + 30
    assert len([at for at in moments(attacked, "editor/new") if at < took]) >= 30  # it is not starved either


def test_namespaces_take_turns_however_long_their_lines_are() -> None:
    crowd = Crowd(25, 10)
    crowd.call((30, "warm", False))
    crowd.began, crowd.answers = crowd.now, []
    crowd.call((2000, "one/new", True), (2000, "two/new", True), (40, "three/refresh", False), (10, "four/new", True))
    last = max(moments(crowd, "four/new"))
    served = Counter(kind for at, kind in crowd.answers if at <= last)
    assert served["three/refresh"] >= 8
    assert served["one/new"] <= 25
    assert served["two/new"] <= 25


def test_within_a_namespace_initial_requests_come_before_refreshes() -> None:
    crowd = Crowd(25, 10)
    crowd.call((30, "warm", False))
    crowd.began, crowd.answers = crowd.now, []
    crowd.call((50, "shop/refresh", False), (50, "shop/new", True))
    early = [kind for _, kind in crowd.answers[:50]]
    assert early.count("shop/new") >= 45


def test_lines_of_many_callers_are_bounded_and_dropped() -> None:
    now = [1000.0]
    pace = AdaptiveRateLimiter(lambda: now[0])
    pace.note_refusal(300)
    for number in range(2 * MAX_PLACES):
        assert pace.seconds_until_turn("editor", number, first=True) >= 300
    assert len(pace.lines["editor"].first) == MAX_PLACES
    now[0] += 1000
    assert pace.seconds_until_turn("victim", "x", first=False) == 0
    assert not pace.lines


class Vault:
    """The pace of one vault, with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pace = AdaptiveRateLimiter(lambda: self.now)

    def answer(self, count: int) -> None:
        for _ in range(count):
            self.pace.note_answer()

    def wait(self, who: str, *, first: bool = True) -> float:
        return self.pace.seconds_until_turn("team", who, first=first)

    def burst(self) -> int:
        """How many may call at this moment."""
        return next(count for count in itertools.count() if self.wait(f"burst {count}"))

    def rate(self) -> float:
        """Return the calls per second that newcomers are promised now; the pace is of no use to a test after this."""
        self.burst()
        earlier = self.wait("earlier")
        return 1 / (self.wait("later") - earlier)


def test_after_a_rest_190_calls_start_at_once_and_380_follow_each_second() -> None:
    vault = Vault()
    vault.now += 1000
    assert vault.burst() == 190
    assert vault.wait("burst 190") == pytest.approx(1 / 380)
    assert vault.wait("next") == pytest.approx(2 / 380)
    vault.now += 0.5 / 380
    assert vault.wait("burst 190") == pytest.approx(0.5 / 380)
    # The sum that Azure's limit is about: 4,000 calls in any ten seconds.
    assert 3900 < 190 + 380 * 10 < 4000


@pytest.mark.parametrize("first", [True, False])
def test_each_caller_that_comes_when_it_was_promised_may_call(first: bool) -> None:
    vault = Vault()
    vault.pace.note_refusal(10)
    promised = [vault.wait(str(number), first=first) for number in range(6)]
    # Closed for ten seconds, and then one call every other second.
    assert promised == pytest.approx([12, 14, 16, 18, 20, 22])
    for number, wait in enumerate(promised):
        vault.now = 1000 + wait
        assert vault.wait(str(number), first=first) == 0
        assert vault.wait("a newcomer", first=first) > 0


def test_those_who_have_nothing_yet_go_before_all_who_refresh() -> None:
    vault = Vault()
    vault.pace.note_refusal(10)
    assert vault.wait("refresh", first=False) == pytest.approx(12)
    assert vault.wait("new", first=True) == pytest.approx(12)
    assert vault.wait("another", first=True) == pytest.approx(14)
    assert vault.wait("refresh", first=False) == pytest.approx(16)
    vault.now += 12
    assert vault.wait("new", first=True) == 0
    assert vault.wait("refresh", first=False) == pytest.approx(4)


@pytest.mark.parametrize("first", [True, False])
def test_a_place_is_kept_for_half_a_minute_after_the_promised_time(first: bool) -> None:
    vault = Vault()
    vault.pace.note_refusal(10)
    assert [vault.wait(who, first=first) for who in ("late", "next")] == pytest.approx([12, 14])
    vault.now = 1000 + 12 + 30
    assert vault.wait("next", first=first) > 0
    vault.now += 0.1
    assert vault.wait("next", first=first) == 0


def test_a_refusal_that_names_no_time_closes_for_ten_seconds() -> None:
    vault = Vault()
    vault.pace.note_refusal(None)
    assert (vault.pace.seconds_closed(), vault.pace.is_slowed) == (10, True)
    vault.now += 10
    assert vault.pace.seconds_closed() == 0
    vault.now += 10
    assert vault.pace.seconds_closed() == 0


def test_of_several_refusals_the_latest_end_counts() -> None:
    vault = Vault()
    vault.answer(100)
    vault.pace.note_refusal(10)
    vault.now += 5
    vault.pace.note_refusal(20)
    vault.pace.note_refusal(1)
    assert vault.pace.seconds_closed() == 20
    # Only the first of them says how much the vault bore: the others came of calls that were under way.
    vault.now += 20
    assert vault.rate() == pytest.approx(10)


def test_refusal_that_arrives_late_leaves_the_rate_as_it_is() -> None:
    vault = Vault()
    vault.answer(100)
    vault.pace.note_refusal(20)
    vault.now += 12  # the answers are no longer in the window before it
    vault.pace.note_refusal(1)
    vault.now += 8
    assert vault.rate() == pytest.approx(10)


def test_a_refusal_at_the_moment_of_opening_is_a_new_one() -> None:
    vault = Vault()
    vault.answer(100)
    vault.pace.note_refusal(10)
    vault.now += 10
    vault.answer(50)
    vault.pace.note_refusal(10)
    vault.now += 10
    assert vault.rate() == pytest.approx(15)


@pytest.mark.parametrize(("later", "rate"), [(0, 300), (10, 300), (10.1, 0.5)])
def test_the_pace_is_what_was_answered_in_the_ten_seconds_before(later: float, rate: float) -> None:
    vault = Vault()
    vault.answer(3000)
    vault.now += later
    vault.pace.note_refusal(1)
    vault.now += 1
    assert vault.rate() == pytest.approx(rate)


def test_more_was_answered_than_we_ever_ask_for_so_the_pace_stays() -> None:
    vault = Vault()
    vault.answer(4000)
    vault.pace.note_refusal(5)
    slowed = [vault.pace.is_slowed]
    vault.now += 5
    assert [*slowed, vault.pace.is_slowed] == [True, False]
    assert vault.rate() == pytest.approx(380)


@pytest.mark.parametrize(
    ("answers", "after", "rate"),
    [
        pytest.param(10, 59.9, 1, id="not yet a minute"),
        pytest.param(10, 60, 2, id="a minute"),
        pytest.param(9, 9.9, 0.9, id="next to nothing is known: not yet a window"),
        pytest.param(9, 10, 1.8, id="a window"),
        pytest.param(3000, 60, 380, id="never above the limit"),
    ],
)
def test_a_pace_that_was_borne_is_doubled(answers: int, after: float, rate: float) -> None:
    vault = Vault()
    vault.answer(answers)
    vault.pace.note_refusal(10)
    vault.now += 10 + after
    vault.answer(2)  # twice, and doubled once
    assert vault.rate() == pytest.approx(rate)


def test_a_doubled_pace_has_to_be_borne_as_long_before_it_is_doubled_again() -> None:
    vault = Vault()
    vault.answer(100)
    vault.pace.note_refusal(10)
    for after, slowed in [(70, True), (59, True), (1, True), (60, True), (60, True), (60, True), (60, False)]:
        vault.now += after
        vault.answer(1)
        assert vault.pace.is_slowed is slowed


def test_time_is_gained_at_the_pace_that_was_until_then() -> None:
    vault = Vault()
    vault.answer(100)
    vault.pace.note_refusal(10)
    vault.now += 10 + 60
    vault.answer(1)
    # Ten calls had been gained at ten per second; at twenty per second as many more take half a second.
    assert vault.burst() == 10
    vault.now += 0.5
    assert vault.wait("burst 10") == 0


def test_nobody_is_sent_away_for_more_than_half_a_minute_but_where_the_vault_asks_for_it() -> None:
    vault = Vault()
    vault.pace.note_refusal(10)
    assert [vault.wait(str(number)) for number in range(20)][-1] == 30
    vault.pace.note_refusal(31)
    assert vault.wait("0") == 31


def test_each_namespace_is_promised_its_turns_in_the_order_in_which_they_came() -> None:
    vault = Vault()
    vault.pace.note_refusal(10)

    def wait(namespace: str, who: str) -> float:
        return vault.pace.seconds_until_turn(namespace, who, first=True)

    callers = [("one", "a"), ("one", "b"), ("two", "a"), ("two", "b")]
    # Each is alone or behind those that came before; each namespace that is ahead has one turn more.
    assert [wait(*caller) for caller in callers] == pytest.approx([12, 14, 14, 18])
    assert [wait(*caller) for caller in callers] == pytest.approx([12, 16, 14, 18])
    vault.now += 12
    assert wait("one", "a") == 0
    # One had its turn, so it is behind two now.
    assert [wait(*caller) for caller in callers[1:]] == pytest.approx([4, 2, 6])
