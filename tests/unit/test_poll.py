"""The groups of the poller in virtual time: who is in which, when it is looked at, and who is told what."""

import asyncio
import itertools
import random
from collections.abc import Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import cast

import pytest

from controller import poll
from controller.errors import ProviderError
from controller.identity import Identity
from controller.objects import VaultObject, VersionOf
from controller.poll import FULL_READ, Group, Poller, Seen
from controller.queue import Key
from controller.refusals import throttled
from controller.survey import Survey
from controller.vaults import Vaults
from tests.unit.virtual import VirtualLoop

WHO = Identity("team", "robot", "client", "tenant")
HOURLY = Group(WHO, "cloud", "vault", 3600.0)
A, B, C = (Key("team", name) for name in "abc")
USER, PASS = VersionOf(VaultObject(name="user")), VersionOf(VaultObject(name="pass"))
SEEN = Survey(listed={"secret": {}})
AWAY = ProviderError("down")


class Dice(random.Random):
    """Always the same share of a range."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def random(self) -> float:
        return self.share

    def uniform(self, least: float, most: float) -> float:
        return least + self.share * (most - least)


class Stage:
    """A poller and its workers; the vault is the stage itself."""

    def __init__(self, loop: VirtualLoop, jitter: float = 0.0) -> None:
        self.loop = loop
        self.looks: list[tuple[float, str, Collection[VersionOf]]] = []
        self.told: list[tuple[float, Key, Mapping[str, VersionOf], Seen]] = []
        self.takes = 0.0
        self.seen: Survey | Exception = SEEN
        self.poller = Poller(jitter, cast("Vaults", self), self._tell)
        self.poller._dice = Dice(0.5)
        self.working = loop.create_task(self.poller.work())

    def reader(self, who: Identity, cloud: str, vault: str) -> "Stage":
        self._asked = f"{who.namespace}/{cloud}/{vault}"
        return self

    async def survey(self, wanted: Collection[VersionOf], _since: float) -> Survey:
        self.looks.append((self.loop.time(), self._asked, wanted))
        await asyncio.sleep(self.takes)
        if isinstance(self.seen, Exception):
            raise self.seen
        return self.seen

    def _tell(self, key: Key, wanted: Mapping[str, VersionOf], seen: Seen) -> None:
        self.told.append((self.loop.time(), key, wanted, seen))

    def join(self, key: Key, group: Group = HOURLY, wanted: VersionOf = USER, age: float | None = 0.0) -> None:
        self.poller.join(key, group, {"k": wanted}, age)

    def passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert not self.working.done()

    @property
    def times(self) -> list[float]:
        return [moment for moment, *_ in self.looks]

    @property
    def who(self) -> list[Key]:
        return [key for _, key, *_ in self.told]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    monkeypatch.setattr(poll, "time", SimpleNamespace(monotonic=loop.time))
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.fixture
def stage(loop: VirtualLoop) -> Stage:
    return Stage(loop)


def test_who_reads_alike_is_looked_at_once(stage: Stage) -> None:
    stage.join(A)
    stage.join(B, wanted=PASS)
    stage.passes(2 * 3600 + 1)
    assert stage.times == [3600, 7200]
    assert stage.looks[0][2] == {USER, PASS}
    first = sorted(stage.told[:2], key=lambda told: told[1])
    assert first == [(3600, A, {"k": USER}, SEEN), (3600, B, {"k": PASS}, SEEN)]


@pytest.mark.parametrize(
    "other",
    [
        Group(Identity("else", "robot", "client", "tenant"), "cloud", "vault", 3600.0),
        Group(Identity("team", "other", "client", "tenant"), "cloud", "vault", 3600.0),
        Group(Identity("team", "robot", "else", "tenant"), "cloud", "vault", 3600.0),
        Group(Identity("team", "robot", "client", "else"), "cloud", "vault", 3600.0),
        Group(WHO, "else", "vault", 3600.0),
        Group(WHO, "cloud", "else", 3600.0),
        Group(WHO, "cloud", "vault", 3599.0),
    ],
)
def test_who_differs_in_anything_is_looked_at_alone(stage: Stage, other: Group) -> None:
    stage.join(A)
    stage.join(B, other, PASS)
    stage.passes(3600.5)
    assert sorted(map(len, (wanted for *_, wanted in stage.looks))) == [1, 1]
    assert {asked for _, asked, _ in stage.looks} == {
        f"{group.identity.namespace}/{group.cloud}/{group.vault}" for group in (HOURLY, other)
    }


@pytest.mark.parametrize(("ages", "at"), [((0, 3000), 600), ((3000, 0), 600), ((3500, 3599, 0), 1)])
def test_the_earliest_due_member_counts(stage: Stage, ages: tuple[float, ...], at: float) -> None:
    for number, age in enumerate(ages):
        stage.join(Key("team", str(number)), age=age)
    stage.passes(at + 0.5)
    assert stage.times == [at]
    assert len(stage.told) == len(ages)


def test_a_group_that_is_overdue_is_spread_over_one_interval(stage: Stage) -> None:
    stage.join(A, age=90_000)
    stage.passes(3600)
    assert stage.times == [1800]


def test_one_draw_of_the_jitter_serves_the_whole_group(loop: VirtualLoop) -> None:
    stage = Stage(loop, jitter=100)
    stage.join(A)
    stage.poller._dice = Dice(0.9)  # … for whoever would draw of his own
    stage.join(B)
    stage.passes(3600 + 50.5)
    assert stage.times == [3650]
    stage.passes(3600 + 90)
    assert stage.times == [3650, 7340]


def test_one_who_has_left_is_not_told_and_a_group_of_nobody_not_looked_at(stage: Stage) -> None:
    stage.join(A)
    stage.join(B)
    stage.poller.leave(B)
    stage.poller.leave(B)
    stage.passes(3601)
    assert stage.who == [A]
    stage.poller.leave(A)
    assert not stage.poller._cycles
    assert not stage.poller._members
    assert not len(stage.poller._queue)
    stage.passes(10_000)
    assert stage.times == [3600]


def test_one_who_joins_another_group_has_left_the_first(stage: Stage) -> None:
    stage.join(A)
    stage.join(A, Group(WHO, "cloud", "other", 3600.0))
    stage.passes(3601)
    assert [asked for _, asked, _ in stage.looks] == ["team/cloud/other"]


def test_after_a_reset_nobody_is_looked_at_until_he_joins_again(stage: Stage) -> None:
    stage.join(A)
    stage.poller.reset()
    stage.passes(4000)
    assert not stage.looks
    stage.join(A, age=3590)
    stage.passes(11)
    assert stage.times == [4010]


def test_who_leaves_during_a_look_is_not_told_of_it(stage: Stage) -> None:
    stage.takes = 10
    stage.join(A)
    stage.join(B)
    stage.passes(3605)
    stage.poller.leave(B)
    stage.passes(10)
    assert stage.who == [A]


@pytest.mark.parametrize("way", ["leave", "reset"])
def test_a_group_that_all_leave_during_a_look_is_over(stage: Stage, way: str) -> None:
    stage.takes = 10
    stage.join(A)
    stage.passes(3605)
    stage.poller.reset() if way == "reset" else stage.poller.leave(A)
    stage.passes(10_000)
    assert stage.times == [3600]
    assert not stage.told


def test_who_comes_back_during_a_look_is_due_an_interval_from_then(stage: Stage) -> None:
    stage.takes = 10
    stage.join(A)
    stage.passes(3605)
    stage.poller.leave(A)
    stage.join(A)
    stage.passes(3600 + 1)
    assert not stage.told[1:]
    assert stage.times[0] == 3600
    assert 3600 + 3600 <= stage.times[1] <= 3605 + 3600


def test_who_wants_something_else_since_the_look_began_is_told_by_what_he_wants_now(stage: Stage) -> None:
    stage.takes = 10
    stage.join(A)
    stage.passes(3605)
    stage.join(A, wanted=PASS)
    stage.passes(10)
    assert stage.told == [(3610, A, {"k": PASS}, SEEN)]


# A vault that is away


def told(stage: Stage, since: float = 0.0) -> dict[float, list[Seen]]:
    """What all were told, by the moment; those who are to read first."""
    found: dict[float, list[Seen]] = {}
    for moment, _, _, seen in stage.told:
        if moment >= since:
            found.setdefault(moment, []).append(seen)
    return {moment: sorted(each, key=lambda seen: seen is not None) for moment, each in found.items()}


def test_one_look_that_fails_is_no_news(stage: Stage) -> None:
    stage.join(A)
    stage.seen = AWAY
    stage.passes(3601)
    assert stage.poller.waits(A)
    stage.seen = SEEN
    stage.passes(10)
    assert not stage.poller.waits(A)
    assert told(stage) == {3601.5: [SEEN]}
    stage.passes(3600)
    assert stage.times[2:] == [3601.5 + 3600]


def test_while_a_vault_is_away_one_look_after_the_other_is_for_all_and_one_member_reads(stage: Stage) -> None:
    for key in (A, B, C):
        stage.join(key)
    stage.seen = AWAY
    stage.passes(2 * 3600)
    first, second, *later = stage.times
    assert (first, second) == (3600, 3601.5)
    # … after 2, 4, 8 … 300 s, half of it by chance.
    waits = [after - before for before, after in itertools.pairwise(stage.times)]
    assert waits == [1.5, 3, 6, 12, 24, 48, 96, 192, *[225] * (len(waits) - 8)]
    assert told(stage) == {moment: [None, AWAY, AWAY] for moment in (second, *later)}
    readers = {key for _, key, _, seen in stage.told if seen is None}
    assert readers == {A, B, C}
    stage.seen = SEEN
    stage.passes(225)
    assert told(stage, 2 * 3600) == {stage.times[-1]: [SEEN] * 3}
    stage.passes(3600)
    assert stage.times[-1] - stage.times[-2] == 3600


def test_a_look_is_tried_again_when_it_was_told_to(stage: Stage) -> None:
    stage.join(A)
    stage.seen = ProviderError("down", retry_after=100)
    stage.passes(3600 + 150)
    assert stage.times == [3600, 3701]


def test_where_the_lists_alone_are_out_of_order_all_read_at_every_interval(stage: Stage) -> None:
    stage.join(A)
    stage.join(B)
    stage.seen = AWAY
    stage.passes(3602)
    stage.join(A)  # it was told to read, and could
    assert not stage.poller.waits(B)
    stage.passes(3 * 3600)
    second = stage.times[1]
    third = second + 3
    assert stage.times[2:] == [third, third + 3600, third + 2 * 3600]
    assert told(stage, third) == {moment: [None, None] for moment in stage.times[2:]}
    # … until there are lists again.
    stage.seen = SEEN
    stage.passes(3600)
    stage.seen = AWAY
    stage.passes(3600)
    assert stage.poller.waits(A)


def test_who_is_taken_in_while_his_vault_is_away_waits_with_the_others(stage: Stage) -> None:
    stage.join(A)
    stage.seen = AWAY
    stage.passes(3605)
    stage.join(B, age=None)
    stage.passes(5)
    assert told(stage, 3605).popitem()[1] == [None, AWAY]


def test_who_is_not_known_to_be_equal_is_looked_at_soon(loop: VirtualLoop) -> None:
    stage = Stage(loop, jitter=100)
    stage.join(A, age=None)
    stage.join(B)
    stage.passes(60)
    assert told(stage) == {50: [SEEN, SEEN]}


def test_a_group_that_all_leave_while_its_vault_is_away_is_over(stage: Stage) -> None:
    stage.join(A)
    stage.seen = AWAY
    stage.takes = 1
    stage.passes(3600.5)
    stage.poller.leave(A)
    stage.passes(10_000)
    assert stage.times == [3600]
    assert not stage.told
    assert not stage.poller.waits(A)


def test_a_look_that_fails_unexpectedly_is_taken_for_one_that_shows_nothing(stage: Stage) -> None:
    stage.join(A)
    stage.join(B)
    stage.seen = RuntimeError("bug")
    stage.passes(3602)
    assert told(stage) == {3601.5: [None, None]}


def test_a_look_waits_for_its_turn_at_a_busy_vault_and_nobody_asks_instead(stage: Stage) -> None:
    stage.join(A)
    stage.join(B)
    stage.seen = throttled("vault", 30)
    stage.passes(3600 + 100)
    assert stage.times == [3600, 3630, 3660, 3690]
    assert not stage.told
    stage.seen = SEEN
    stage.passes(30)
    assert [seen for *_, seen in stage.told] == [SEEN, SEEN]
    # What was put off then is forgotten when it happens again.
    stage.seen = throttled("vault", 30)
    stage.passes(3600)
    assert stage.times[4:] == [3720, 7320]
    assert len(stage.told) == 2


@pytest.mark.parametrize("seconds", [None, 30, 300])
def test_a_vault_that_stays_busy_for_an_interval_is_told_of_as_one_that_is_away(
    stage: Stage, seconds: float | None
) -> None:
    stage.join(A)
    stage.join(B)
    stage.seen = busy = throttled("vault", seconds)
    stage.passes(2 * 3600 - 1)
    assert not stage.told
    assert not stage.poller.waits(A)
    stage.passes(2)
    assert told(stage) == {7200: [busy, busy]}
    assert stage.poller.waits(A)
    stage.seen = SEEN
    stage.passes(300)
    assert stage.told[-1][-1] == SEEN
    assert not stage.poller.waits(A)


def test_who_leaves_a_group_whose_look_is_put_off_is_not_told(stage: Stage) -> None:
    stage.join(A)
    stage.seen = throttled("vault", 30)
    stage.passes(3601)
    stage.poller.leave(A)
    stage.passes(10_000)
    assert stage.times == [3600]
    assert not len(stage.poller._queue)


def test_a_vault_that_hangs_does_not_hold_up_the_others(stage: Stage) -> None:
    stage.join(A)
    stage.takes = 3000
    stage.passes(3601)
    stage.takes = 0
    stage.join(B, Group(WHO, "cloud", "other", 3600.0), age=3590)
    stage.passes(20)
    assert stage.who == [B]


def test_everybody_is_read_in_full_once_a_day_whatever_looks_show(stage: Stage) -> None:
    stage.join(A)
    stage.passes(3 * FULL_READ)
    full = [moment for moment, _, _, seen in stage.told if seen is None]
    assert full == [FULL_READ / 2, FULL_READ * 1.5, FULL_READ * 2.5]
