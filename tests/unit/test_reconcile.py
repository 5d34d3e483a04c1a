"""When what is done, in virtual time: a day takes none."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest

from controller import looks, reconcile
from controller.api.conditions import Reason
from controller.api.meta import Unreadable
from controller.api.secretsync import REFRESH_INTERVAL, ObjectVersion, SecretSync
from controller.errors import ClassError, ControllerError, InputError, OwnershipError, ProviderError, Retry
from controller.objects import VaultObject, VersionOf
from controller.queue import Key
from controller.schedule import parse_time
from controller.settings import Settings
from controller.status import Outcome, next_status
from controller.survey import Listed, Survey
from controller.sync import Again
from tests.unit.objects_of import provider_class, sync
from tests.unit.reconcile_stage import GOOD, NOON, Stage, staged

HOUR, DAY = 3600, 86_400
SHOP = Key("team", "shop")
AWAY = ProviderError("Key Vault shop did not answer in time; check the route")
CANARY = "canary-9a31"


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    yield from staged(monkeypatch)


# The way of things


def test_a_new_one_is_synced_at_once_and_then_every_interval(stage: Stage) -> None:
    stage.has_class()
    stage.has(sync())
    stage.passes(3 * HOUR + 1)
    assert stage.times == [0, HOUR, 2 * HOUR, 3 * HOUR]


def test_between_two_syncs_only_drift_is_looked_for(stage: Stage) -> None:
    stage.has_class()
    stage.has(sync())
    stage.passes(HOUR - 1)
    assert len(stage.looked) == HOUR // 300 - 1
    assert stage.times == [0]


def test_one_who_leads_again_does_what_is_due_and_no_more(stage: Stage) -> None:
    stage.has_class()
    stage.has(sync())
    stage.passes(100)
    stage.loses_the_lease()
    stage.passes(100)
    # Another synced it meanwhile and told so: its time counts.
    stage.has(synced_ago(-200))
    stage.loses_the_lease()
    stage.passes(HOUR - 1)
    assert stage.times == [0]
    stage.passes(2)
    assert stage.times == [0, HOUR + 200]


def test_jitter_is_waited_at_the_start_after_each_interval_and_after_each_edit(stage: Stage) -> None:
    stage.reconciler._settings = Settings(jitter=60)  # and the dice give the most
    stage.reconciler.poller._jitter = 60
    stage.has_class()
    stage.has(sync(), synced_ago(2 * HOUR, name="overdue"), synced_ago(600, name="due"))
    stage.passes(2 * HOUR)
    # One look for all that read alike, when the first of them is due; and each look draws anew.
    assert stage.polls == [HOUR - 600 + 60, HOUR - 600 + 60 + HOUR + 60]
    assert stage.times == [60, *[stage.polls[0]] * 3, *[stage.polls[1]] * 3]
    stage.has(sync(generation=2))
    stage.passes(30)
    stage.has(sync(generation=3))
    stage.passes(100)
    assert [one for one in stage.synced if one[1] > 1] == [(2 * HOUR + 90, 3)]


def test_the_vault_is_not_asked_about_a_class_that_is_not_there_so_nothing_is_waited_for(stage: Stage) -> None:
    stage.reconciler._settings = Settings(jitter=60)
    stage.has(sync())
    stage.passes(1)
    assert stage.times == [0]


def test_an_interval_of_its_own_counts_from_the_last_sync_on(stage: Stage) -> None:
    stage.reconciler._settings = Settings(shortest_refresh_interval=10)
    stage.has_class()
    stage.has(sync())
    stage.passes(100)
    found = stage.reconciler.syncs.get(SHOP)
    assert isinstance(found, SecretSync)
    asking = msgspec.structs.replace(found.metadata, annotations={REFRESH_INTERVAL: "120"})
    stage.has(msgspec.structs.replace(found, metadata=asking))
    stage.passes(300)
    assert stage.times == [0, 120, 240, 360]
    stage.misread = InputError("annotation: write a number of seconds")
    unreadable = msgspec.structs.replace(asking, annotations={REFRESH_INTERVAL: "soon"})
    stage.has(msgspec.structs.replace(found, metadata=unreadable))
    stage.passes(1)
    assert stage.told[-1] == (400, Reason.INPUT_INVALID)


def test_what_a_person_edits_is_acted_on_at_once(stage: Stage) -> None:
    stage.has_class()
    stage.has(sync())
    stage.passes(100)
    stage.has(sync(generation=2))
    stage.passes(100)
    stage.has_class(generation=2)
    stage.passes(100)
    assert stage.synced == [(0, 1), (100, 2), (200, 2)]


def test_edits_of_other_classes_wake_nobody(stage: Stage) -> None:
    stage.has_class()
    stage.has(sync())
    stage.passes(100)
    stage.reconciler.classes.put(provider_class(name="other"))
    stage.passes(100)
    assert stage.times == [0]


@pytest.mark.parametrize("edited", ["the SecretSync", "the class"])
def test_an_edit_while_it_is_worked_on_is_not_lost(stage: Stage, edited: str) -> None:
    stage.takes = 10
    stage.has_class()
    stage.has(sync())
    stage.passes(5)
    if edited == "the class":
        stage.has_class(generation=2)
    else:
        stage.has(sync(generation=2))
    stage.passes(20)
    assert stage.times == [0, 10]  # not twice at the same time, and at once afterwards


def test_a_hundred_edits_in_a_row_are_two_syncs(stage: Stage) -> None:
    stage.takes = 10
    stage.has_class()
    for generation in range(1, 101):
        stage.has(sync(generation=generation))
        stage.passes(0.01)
    stage.passes(60)
    assert stage.synced == [(0, 1), (10, 100)]


def test_after_it_was_closed_workers_end_with_what_they_have(stage: Stage) -> None:
    stage.takes = 10
    stage.has_class()
    stage.has(sync())
    stage.passes(5)
    stage.has(sync(name="other"))
    stage.reconciler.close()
    stage.reconciler.poller.close()
    stage.loop.run_until_complete(asyncio.wait_for(asyncio.gather(stage.working, stage.polling), 60))
    assert len(stage.told) >= 1


# Polls


def known(*names: str, updated: str = "2030-01-01T00:00:00Z") -> Outcome:
    """A sync after which the status has these objects, each the key of its own name."""
    objects = [ObjectVersion(target_key=name, object=f"secret/{name}", version="v1", updated=updated) for name in names]
    return msgspec.structs.replace(GOOD, objects=objects)


def seen(**updated: str) -> Survey:
    """A list that shows these objects with these times."""
    return Survey(listed={"secret": {name: Listed(parse_time(text), True) for name, text in updated.items()}})


BEFORE, AFTER = "2030-01-01T00:00:00Z", "2030-01-01T12:30:00Z"


def test_a_poll_that_finds_nothing_changed_syncs_nobody(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(*(sync(name=f"s{number}", uid=f"uid-{number}") for number in range(100)))
    stage.passes(5 * HOUR + 1)
    assert len(stage.times) == 100
    assert stage.polls == [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 5 * HOUR]


def test_only_those_whose_objects_changed_are_synced_and_only_these_fetched(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(sync(), sync(["user"], name="other", uid="another"))
    stage.passes(HOUR - 1)
    stage.seen = seen(user=BEFORE, **{"pass": AFTER})
    stage.passes(2)
    assert [ask.stale for ask in stage.asked] == [None, None, frozenset({"pass"})]


def test_what_polls_confirm_is_written_once_an_hour(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.reconciler, "_settings", Settings(rotation_poll_interval=60))
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(sync())
    stage.passes(3 * HOUR + 100)
    assert len(stage.polls) == 181
    assert [moment for moment, _ in stage.told] == [0, HOUR, 2 * HOUR, 3 * HOUR]


def test_what_was_confirmed_is_not_told_where_the_next_poll_found_a_change(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn may come late: after both polls."""
    monkeypatch.setattr(reconcile, "CONFIRM_EVERY", 0)
    stage.comes_to = known("user", "pass")
    stage.has_class()
    stage.has(sync())
    stage.passes(10)
    key, wanted = Key("team", "shop"), {name: VersionOf(VaultObject(name=name)) for name in ("user", "pass")}
    for time in (BEFORE, AFTER):
        stage.reconciler._polled(key, wanted, seen(user=BEFORE, **{"pass": time}))
    before = len(stage.asked)
    stage.passes(1)
    assert [ask.stale for ask in stage.asked[before:]] == [frozenset({"pass"})]


def test_what_a_poll_finds_while_it_is_synced_is_not_lost(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.takes = 10
    stage.has_class()
    stage.has(sync())
    stage.passes(5)
    wanted = {name: VersionOf(VaultObject(name=name)) for name in ("user", "pass")}
    stage.reconciler._polled(SHOP, wanted, seen(user=BEFORE, **{"pass": AFTER}))
    stage.passes(10)
    assert stage.times == [0, 10]


def test_one_whose_confirmation_failed_is_polled_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.reconciler, "_settings", Settings(rotation_poll_interval=60))
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(sync())
    stage.passes(HOUR - 1)
    stage.misread = ProviderError("the API server is away")
    stage.passes(3)
    stage.misread = None
    stage.passes(10)
    polls = len(stage.polls)
    stage.passes(10 * 60)
    assert len(stage.polls) == polls + 10
    assert [reason for _, reason in stage.told] == [Reason.UP_TO_DATE, Reason.PROVIDER_ERROR, Reason.UP_TO_DATE]


def test_while_a_key_fails_the_others_are_not_forgotten(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": AFTER})
    stage.has_class()
    stage.has(sync())
    stage.passes(HOUR - 1)
    stage.comes_to = Outcome(reason=Reason.PARTIAL, message="pass is missing", ready=False)
    stage.passes(10)
    assert [ask.stale for ask in stage.asked] == [None, frozenset({"pass"}), None, None]


def test_who_waits_for_a_turn_at_a_busy_vault_asks_for_what_is_left(stage: Stage) -> None:
    def busy(*left: str) -> Outcome:
        return Outcome(
            reason=Reason.PARTIAL,
            message="throttled",
            ready=False,
            retry=Retry.TURN,
            retry_after=10,
            left=frozenset(left) or None,
        )

    stage.has_class()
    stage.has(sync(["a", "b", "c"]))
    for outcome in (busy(), busy("b", "c"), busy("c"), busy(), known("a", "b", "c")):
        stage.comes_to = outcome
        stage.passes(10 if stage.asked else 5)
    asked = [(moment, ask.stale) for (moment, _), ask in zip(stage.synced, stage.asked, strict=True)]
    rest = frozenset({"c"})
    assert asked == [(0, None), (10, None), (20, frozenset({"b", "c"})), (30, rest), (40, rest)]


def four(stage: Stage) -> None:
    """Four SecretSyncs that read alike and are synced; from now on everything is counted anew."""
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(*(sync(name=name, uid=name) for name in "abcd"))
    stage.passes(HOUR - 1)
    stage.told.clear()
    stage.polls.clear()
    stage.asked.clear()


def test_a_vault_that_does_not_answer_once_is_no_news(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(2)
    stage.answers(seen(user=BEFORE, **{"pass": BEFORE}), known("user", "pass"))
    stage.passes(HOUR - 10)
    assert stage.polls == [HOUR, HOUR + 2]
    assert {reason for _, reason in stage.told} == {Reason.UP_TO_DATE}  # as once in an hour
    assert not stage.asked


def test_while_a_vault_is_away_all_say_so_and_wait_for_the_look_that_finds_it_back(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(HOUR)
    assert [(moment - HOUR, reason) for moment, reason in stage.told] == [(2, Reason.PROVIDER_ERROR)] * 4
    # A list and one's values after 2, 4, 8 … 300 s: that is all that an hour costs the vault, however many there are.
    assert len(stage.polls) == len(stage.asked) + 1 == 19
    # Meanwhile one object is rotated.
    stage.told.clear()
    stage.asked.clear()
    stage.answers(seen(user=BEFORE, **{"pass": AFTER}), known("user", "pass"))
    stage.passes(301)
    assert [ask.stale for ask in stage.asked] == [frozenset({"pass"})] * 4
    assert len({moment for moment, _ in stage.told}) == 1
    assert [reason for _, reason in stage.told] == [Reason.UP_TO_DATE] * 4


def test_what_has_not_changed_while_a_vault_was_away_is_not_fetched(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(60)
    stage.told.clear()
    stage.asked.clear()
    stage.answers(seen(user=BEFORE, **{"pass": BEFORE}), known("user", "pass"))
    stage.passes(64)
    assert [reason for _, reason in stage.told] == [Reason.UP_TO_DATE] * 4
    assert [ask.stale for ask in stage.asked] == [frozenset()] * 4


@pytest.mark.parametrize("partial", [False, True])
def test_one_that_found_the_vault_away_again_and_again_is_polled_with_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, partial: bool
) -> None:
    """Looks have come through, and its tries have not: its own next one may be minutes away."""
    monkeypatch.setattr(stage.reconciler, "_settings", Settings(rotation_poll_interval=60))
    stage.comes_to = known("user", "pass")
    stage.has_class()
    stage.has(sync())
    stage.passes(1)
    some = Outcome(reason=Reason.PARTIAL, message="503", ready=False, away=True)
    stage.answers(seen(user=BEFORE, **{"pass": AFTER}), some if partial else AWAY)
    stage.passes(1200)
    assert {ask.stale for ask in stage.asked[1:]} == {frozenset({"pass"})}
    stage.comes_to = known("user", "pass")
    stage.passes(61)
    assert stage.told[-1][1] == Reason.UP_TO_DATE


def test_drift_is_looked_for_while_a_vault_is_away(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(5)
    stage.looked.clear()
    stage.passes(HOUR)
    assert len(stage.looked) == 4 * HOUR // 300


def test_a_restart_while_a_vault_is_away_waits_for_it_with_all(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(60)
    stage.told.clear()
    stage.polls.clear()
    stage.asked.clear()
    stage.loses_the_lease()
    stage.passes(60)
    began = stage.polls[0]
    assert [moment - began for moment in stage.polls] == [0, 2, 6, 14, 30]
    stage.answers(seen(user=BEFORE, **{"pass": BEFORE}), known("user", "pass"))
    stage.passes(32)
    assert [reason for _, reason in stage.told] == [Reason.UP_TO_DATE] * 4
    assert [ask.stale for ask in stage.asked[-4:]] == [frozenset()] * 4


def test_an_edit_while_a_vault_is_away_is_tried_at_once(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(HOUR)
    tries = len(stage.asked)
    stage.has(sync(name="a", uid="a", generation=2))
    stage.passes(1)
    assert [ask.stale for ask in stage.asked[tries:]] == [None]


def test_one_that_has_trouble_of_its_own_when_the_vault_is_back_is_left_to_itself(stage: Stage) -> None:
    four(stage)
    stage.answers(AWAY, AWAY)
    stage.passes(5)
    stage.told.clear()
    stage.answers(seen(user=BEFORE, **{"pass": BEFORE}), OwnershipError("a Secret of somebody else"))
    stage.passes(10)
    assert [reason for _, reason in stage.told] == [Reason.LABEL_ERROR] * 4
    assert not stage.reconciler.poller._members


def test_a_poll_that_fails_unexpectedly_ends_nothing(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.seen = ZeroDivisionError(CANARY)
    stage.has_class()
    stage.has(sync())
    stage.passes(3 * HOUR + 1)
    assert len(stage.times) == 4
    assert CANARY not in caplog.text


def test_after_a_poll_the_drift_check_fetches_everything(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": AFTER})
    stage.has_class()
    stage.has(sync())
    stage.passes(HOUR + 1)
    stage.untouched = False
    stage.passes(300)
    assert [ask.stale for ask in stage.asked] == [None, frozenset({"pass"}), None]


def test_everything_is_read_in_full_once_a_day(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(sync())
    stage.passes(3 * DAY + HOUR)
    assert [ask.stale for ask in stage.asked] == [None] * 4
    assert len(stage.polls) == 73


def test_a_throttled_vault_is_asked_when_it_is_ones_turn(stage: Stage) -> None:
    stage.comes_to = ProviderError("throttled", retry_after=25, retry=Retry.TURN)
    stage.has_class()
    stage.has(sync())
    stage.passes(130)
    assert stage.times == [0, 25, 50, 75, 100, 125]


# After a restart


def synced_ago(seconds: float, outcome: Outcome = GOOD, generation: int = 1, name: str = "shop") -> SecretSync:
    """A SecretSync that another process has synced that long ago."""
    before = sync(name=name)
    status = next_status(before.metadata, before.status, provider_class(), outcome, NOON - timedelta(seconds=seconds))
    return sync(status=status, generation=generation, name=name)


@pytest.mark.parametrize(
    ("found", "at"),
    [
        pytest.param(synced_ago(600), HOUR - 600, id="not due yet: no vault call"),
        pytest.param(synced_ago(10 * HOUR), HOUR, id="overdue: within an interval"),
        pytest.param(synced_ago(600, generation=2), 0, id="edited meanwhile"),
        pytest.param(
            synced_ago(600, Outcome(reason=Reason.PROVIDER_ERROR, message="m", ready=False)), 0, id="it had failed"
        ),
        pytest.param(synced_ago(-5 * HOUR), 0, id="in the future: the clock jumped"),
    ],
)
def test_a_restart(stage: Stage, found: SecretSync, at: float) -> None:
    stage.has_class()
    stage.has(found)
    stage.passes(at + 1)
    assert stage.times == [at]


# Failures


def test_a_failure_is_told_once_and_tried_less_and_less(stage: Stage) -> None:
    stage.comes_to = AWAY
    stage.has_class()
    stage.has(sync())
    stage.passes(HOUR)
    waits = [later - earlier for earlier, later in zip(stage.times, stage.times[1:], strict=False)]
    assert waits[:8] == [2, 4, 8, 16, 32, 64, 128, 256]
    assert set(waits[8:]) == {300}
    assert stage.told == [(0, Reason.PROVIDER_ERROR)]


def test_an_edit_gives_a_failure_its_next_try_at_once(stage: Stage) -> None:
    stage.comes_to = AWAY
    stage.has_class()
    stage.has(sync())
    stage.passes(400)
    stage.has(sync(generation=2))
    stage.passes(3)
    assert stage.times[-2:] == [400, 402]


@pytest.mark.parametrize(
    ("error", "longest"),
    [
        pytest.param(ProviderError("throttled", retry_after=120), 300, id="time"),
        pytest.param(OwnershipError("somebody else's"), 30, id="an obstacle"),
        pytest.param(ClassError("no such class"), HOUR, id="only an edit"),
    ],
)
def test_each_kind_of_failure_has_its_longest_wait(stage: Stage, error: ControllerError, longest: float) -> None:
    stage.comes_to = error
    stage.has_class()
    stage.has(sync())
    stage.passes(5 * HOUR)
    waits = [later - earlier for earlier, later in zip(stage.times, stage.times[1:], strict=False)]
    assert max(waits) == longest
    assert waits[-1] == longest
    if error.retry_after:
        assert min(waits) >= error.retry_after


def test_a_warning_is_passed_on_and_a_failure_says_nothing_of_it(stage: Stage) -> None:
    stage.has_class()
    stage.has(sync())
    stage.comes_to = msgspec.structs.replace(GOOD, warnings=("a expired",))
    stage.passes(100)
    stage.comes_to = AWAY
    stage.passes(HOUR)
    assert len(stage.told) == 2
    assert stage.warned == [("shop", "a expired")]


def test_a_missing_class_waits_for_it_and_no_longer(stage: Stage) -> None:
    stage.comes_to = ClassError("no such class")
    stage.has(sync())
    stage.passes(100)
    stage.comes_to = GOOD
    stage.has_class()
    stage.passes(1)
    assert stage.times == [0, 100]
    assert [reason for _, reason in stage.told] == [Reason.SPC_ERROR, Reason.UP_TO_DATE]


def test_what_nobody_expected_is_told_without_its_words(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.comes_to = ZeroDivisionError(CANARY)
    stage.has_class()
    stage.has(sync())
    stage.passes(1)
    assert stage.told == [(0, Reason.INTERNAL_ERROR)]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "ZeroDivisionError" in record.getMessage()
    assert CANARY not in caplog.text + repr(vars(record))


@pytest.mark.parametrize("where", ["telling", "looking"])
def test_one_that_fails_in_an_unexpected_place_takes_nobody_along(stage: Stage, where: str) -> None:
    stage.has_class()
    if where == "telling":
        stage.telling = [ZeroDivisionError(CANARY)]
    else:
        stage.untouched = ZeroDivisionError(CANARY)
    stage.has(sync())
    stage.passes(HOUR)
    stage.has(sync(name="other", uid="another"))
    stage.passes(1)
    assert stage.times[-1] == HOUR


# Somebody was faster


def test_a_status_that_met_a_conflict_is_told_soon(stage: Stage) -> None:
    stage.telling = [Again(0.1)]
    stage.has_class()
    stage.has(sync())
    stage.passes(1)
    ((moment, reason),) = stage.told
    assert moment < 0.5
    assert reason == Reason.UP_TO_DATE
    stage.passes(HOUR - 2)
    assert len(stage.times) == 2


def test_an_old_secret_is_looked_at_often_then_less(stage: Stage) -> None:
    # Within two seconds of its collection at first; and not every second for ever, should it never be collected.
    stage.comes_to = Again(1)
    stage.has_class()
    stage.has(sync())
    stage.passes(20)
    waits = [later - earlier for earlier, later in zip(stage.times, stage.times[1:], strict=False)]
    assert max(waits) <= 2
    stage.passes(HOUR)
    assert 100 <= len(stage.times) <= 200


@pytest.mark.parametrize("telling", [[], [Again(0.1)], [ZeroDivisionError(CANARY)]])
def test_an_old_secret_that_stays_is_told_after_half_a_minute(stage: Stage, telling: list[bool | Exception]) -> None:
    stage.comes_to = Again(1, "the Secret of an earlier SecretSync is still there")
    stage.telling = telling
    stage.has_class()
    stage.has(sync())
    stage.passes(20)
    assert not stage.told
    stage.passes(100)
    assert [reason for _, reason in stage.told] == [Reason.LABEL_ERROR]


@pytest.mark.parametrize("outcome", [GOOD, Outcome(reason=Reason.PROVIDER_ERROR, message="m", ready=False)])
def test_a_status_that_cannot_be_written_is_tried_less_and_less(stage: Stage, outcome: Outcome) -> None:
    stage.always_telling = False
    stage.comes_to = outcome
    stage.has_class()
    stage.has(sync())
    stage.passes(HOUR)
    assert 5 <= len(stage.times) <= 30
    stage.always_telling = True
    stage.passes(301)
    assert len(stage.told) == 1


# Drift


def test_drift_is_mended_at_once(stage: Stage) -> None:
    stage.has_class()
    stage.has(sync())
    stage.passes(1)
    stage.untouched = False
    stage.passes(300)
    assert len(stage.times) == 2
    assert stage.times[1] == stage.looked[-1]


def test_drift_whose_mending_meets_a_conflict_is_mended_soon(stage: Stage) -> None:
    stage.has_class()
    stage.has(sync())
    stage.passes(1)
    stage.untouched, stage.comes_to = False, Again(1)
    stage.passes(300.5)
    tries = len(stage.times)
    stage.untouched, stage.comes_to = True, GOOD
    stage.passes(31)
    assert len(stage.times) == tries + 1


def test_looks_are_a_few_together_and_no_more_than_ten_a_second(stage: Stage) -> None:
    stage.has_class()
    stage.has(*(sync(name=f"s{number}", uid=f"uid-{number}") for number in range(500)))
    stage.passes(HOUR - 10)
    assert len(stage.looked) > 4000
    assert max(Counter(stage.looked).values()) == looks.AT_ONCE
    assert {moment % looks.BEAT for moment in stage.looked} == {0}


# Those that are not, or no more, to be synced


def test_a_deleted_one_is_forgotten(stage: Stage) -> None:
    stage.has_class()
    stage.has(sync())
    stage.passes(1)
    stage.reconciler.syncs.drop(SHOP)
    assert len(stage.queue) == 0
    assert SHOP in stage.forgotten
    stage.passes(DAY)
    assert stage.times == [0]
    assert not stage.reconciler._memory
    assert not stage.reconciler._users


def test_one_deleted_while_it_is_worked_on_leaves_nothing_behind(stage: Stage) -> None:
    stage.takes = 10
    stage.has_class()
    stage.has(sync())
    stage.passes(5)
    stage.reconciler.syncs.drop(SHOP)
    stage.passes(DAY)
    assert stage.times == [0]
    assert len(stage.queue) == 0
    assert not stage.reconciler._memory


def test_one_about_to_be_deleted_is_left_alone(stage: Stage) -> None:
    wanted = sync()
    dying = msgspec.structs.replace(wanted.metadata, deletion_timestamp="2030-01-01T00:00:00Z")
    stage.has_class()
    stage.has(msgspec.structs.replace(wanted, metadata=dying))
    stage.passes(DAY)
    assert not stage.synced


@pytest.mark.parametrize(("name", "ours"), [("", True), ("mine", True), ("another", False)])
def test_another_controllers_is_left_alone(
    name: str, ours: bool, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage.reconciler, "_names", ("", "mine"))
    wanted = sync()
    spec = msgspec.structs.replace(wanted.spec, secret_sync_controller_name=name)
    stage.has_class()
    stage.has(msgspec.structs.replace(wanted, spec=spec))
    stage.passes(1)
    assert bool(stage.synced) is ours
    assert bool(list(stage.reconciler.ours())) is ours


def test_an_unreadable_one_is_told_once_and_synced_when_it_is_mended(stage: Stage) -> None:
    stage.has_class()
    stage.has(Unreadable(metadata=sync().metadata, problem="Expected `str` - at `$.spec.serviceAccountName`"))
    stage.passes(DAY)
    assert not stage.synced
    assert stage.told == [(0, Reason.INPUT_INVALID)]
    stage.has(sync(generation=2))
    stage.passes(1)
    assert stage.times == [DAY]


@pytest.mark.parametrize("telling", [False, Again(0.1)])
def test_an_unreadable_one_is_told_even_if_the_first_attempt_fails(stage: Stage, telling: bool | Exception) -> None:
    stage.telling = [telling]
    stage.has(Unreadable(metadata=sync().metadata, problem="Expected `str` - at `$.spec.serviceAccountName`"))
    stage.passes(300)
    assert [reason for _, reason in stage.told] == [Reason.INPUT_INVALID]


def test_a_thousand_unexpected_failures_do_not_flood_the_log(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.comes_to = ZeroDivisionError(CANARY)
    stage.has_class()
    stage.has(*(sync(name=f"s{number}", uid=f"uid-{number}") for number in range(1000)))
    stage.passes(600)
    assert 1 <= len(caplog.records) <= 120  # ten lines and a count a minute
