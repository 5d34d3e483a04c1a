"""The groups of the poller in virtual time: who is in which, when it is looked at, and who is told what."""

import asyncio
import random
from collections.abc import Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import cast

import pytest

from controller import poll
from controller.errors import ProviderError
from controller.identity import Identity
from controller.objects import VaultObject, VersionOf
from controller.poll import FULL_READ, Group, Poller
from controller.queue import Key
from controller.refusals import throttled
from controller.survey import Survey
from controller.vaults import Vaults
from tests.unit.virtual import VirtualLoop

WHO = Identity("team", "robot", "client", "tenant")
HOURLY = Group(WHO, "cloud", "vault", 3600.0)
A, B = Key("team", "a"), Key("team", "b")
USER, PASS = VersionOf(VaultObject(name="user")), VersionOf(VaultObject(name="pass"))
SEEN = Survey(listed={"secret": {}})


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
        self.told: list[tuple[float, Key, Mapping[str, VersionOf], Survey | None]] = []
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

    def _tell(self, key: Key, wanted: Mapping[str, VersionOf], seen: Survey | None) -> None:
        self.told.append((self.loop.time(), key, wanted, seen))

    def join(self, key: Key, group: Group = HOURLY, wanted: VersionOf = USER, age: float = 0.0) -> None:
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


@pytest.mark.parametrize("error", [ProviderError("down"), RuntimeError("bug")])
def test_a_look_that_fails_leaves_it_to_each_and_comes_again(stage: Stage, error: Exception) -> None:
    stage.join(A)
    stage.seen = error
    stage.passes(2 * 3600 + 1)
    assert [seen for *_, seen in stage.told] == [None, None]


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
def test_a_vault_that_stays_busy_for_an_interval_is_for_each_to_tell(stage: Stage, seconds: float | None) -> None:
    stage.join(A)
    stage.seen = throttled("vault", seconds)
    stage.passes(2 * 3600 - 1)
    assert not stage.told
    stage.passes(2)
    assert stage.told == [(7200, A, {"k": USER}, None)]
    stage.passes(3600 - 10)
    assert len(stage.told) == 1


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
