"""What a look at a vault comes to for each SecretSync that reads it, in virtual time."""

import pytest

from controller.api.conditions import Reason
from controller.api.secretsync import SecretSync
from controller.config.settings import Settings
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.status import Failed, Outcome, PartiallySynced, Requeue
from controller.errors import ObjectError, ProviderError, Retry
from controller.keyvault.errors import throttled_error
from controller.runtime.work_queue import Key
from controller.secretsync import work_state
from tests.support.builders import make_sync
from tests.unit.secretsync.reconciler.stage import AFTER, AWAY, BEFORE, CANARY, DAY, HOUR, SHOP, Stage, known, seen

EVERY_MINUTE = pytest.mark.parametrize("settings", [Settings(rotation_poll_interval=60)])


def test_a_poll_that_finds_nothing_changed_syncs_nobody(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(*(make_sync(name=f"s{number}", uid=f"uid-{number}") for number in range(100)))
    stage.passes(5 * HOUR + 1)
    assert len(stage.times) == 100
    assert stage.polls == [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 5 * HOUR]


def test_only_those_whose_objects_changed_are_synced_and_only_these_fetched(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(make_sync(), make_sync(["user"], name="other", uid="another"))
    stage.passes(HOUR - 1)
    stage.seen = seen(user=BEFORE, **{"pass": AFTER})
    stage.passes(2)
    assert [task.keys for task in stage.asked] == [None, None, frozenset({"pass"})]


@EVERY_MINUTE
def test_polls_that_follow_each_other_fast_are_recorded_every_hour(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(make_sync())
    stage.passes(HOUR + 100)
    assert len(stage.polls) == 61
    assert [moment for moment, _ in stage.told] == [0, 60, HOUR + 60]


def test_what_was_confirmed_is_not_told_where_the_next_poll_found_a_change(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn may come late: after both polls."""
    monkeypatch.setattr(work_state, "CONFIRM_EVERY", 0)
    stage.comes_to = known("user", "pass")
    stage.has_class()
    stage.has(make_sync())
    stage.passes(10)
    key, wanted = Key("team", "shop"), {name: ObjectVersionRef(VaultObject(name=name)) for name in ("user", "pass")}
    for time in (BEFORE, AFTER):
        stage.reconciler.handle_poll(key, wanted, seen(user=BEFORE, **{"pass": time}))
    before = len(stage.asked)
    stage.passes(1)
    assert [task.keys for task in stage.asked[before:]] == [frozenset({"pass"})]


def test_what_a_poll_finds_while_it_is_synced_is_not_lost(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.takes = 10
    stage.has_class()
    stage.has(make_sync())
    stage.passes(5)
    wanted = {name: ObjectVersionRef(VaultObject(name=name)) for name in ("user", "pass")}
    stage.reconciler.handle_poll(SHOP, wanted, seen(user=BEFORE, **{"pass": AFTER}))
    stage.passes(10)
    assert stage.times == [0, 10]


FAILURES = [
    pytest.param(AWAY, id="the vault is away"),
    pytest.param(ObjectError("secret pass is disabled"), id="an object is missing"),
    pytest.param(Requeue(1), id="a conflict"),
    pytest.param(
        PartiallySynced(message="m", failed={"pass": throttled_error("shop", None)}, objects=[]),
        id="a turn at a busy vault",
    ),
]


def attempts(stage: Stage, comes_to: Outcome | Exception) -> None:
    """Start an attempt for one of two objects, which will have that outcome."""
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(make_sync())
    stage.passes(HOUR - 1)
    stage.forgets()
    stage.answers(seen(user=BEFORE, **{"pass": AFTER}), comes_to)
    stage.takes = 10
    stage.passes(5)
    assert [task.keys for task in stage.asked] == [frozenset({"pass"})]


@pytest.mark.parametrize("comes_to", FAILURES)
def test_an_edit_during_an_attempt_that_fails_makes_the_next_one_ask_for_everything(
    stage: Stage, comes_to: Outcome | Exception
) -> None:
    attempts(stage, comes_to)
    found = stage.reconciler.syncs.get(SHOP)
    assert isinstance(found, SecretSync)
    stage.has(make_sync(generation=2, status=found.status))
    stage.passes(10)
    assert [task.keys for task in stage.asked[1:]] == [None]


@pytest.mark.parametrize("comes_to", FAILURES)
def test_what_a_poll_finds_during_an_attempt_that_fails_is_what_the_next_one_asks_for(
    stage: Stage, comes_to: Outcome | Exception
) -> None:
    attempts(stage, comes_to)
    wanted = {name: ObjectVersionRef(VaultObject(name=name)) for name in ("user", "pass")}
    stage.reconciler.handle_poll(SHOP, wanted, seen(user=AFTER, **{"pass": AFTER}))
    stage.passes(20)
    assert [task.keys for task in stage.asked[1:2]] == [frozenset({"user", "pass"})]


def test_a_poll_that_fails_does_not_displace_what_an_earlier_one_found(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.has_class()
    stage.has(make_sync())
    stage.passes(10)
    stage.forgets()
    wanted = {name: ObjectVersionRef(VaultObject(name=name)) for name in ("user", "pass")}
    stage.reconciler.handle_poll(SHOP, wanted, seen(user=BEFORE, **{"pass": AFTER}))
    stage.reconciler.handle_poll(SHOP, wanted, AWAY)
    stage.passes(1)
    assert [task.keys for task in stage.asked] == [frozenset({"pass"})]


@EVERY_MINUTE
def test_one_whose_confirmation_failed_is_polled_again(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(make_sync())
    stage.passes(HOUR + 59)  # the next poll is one that is recorded
    stage.misread = ProviderError("the API server is away")
    stage.passes(3)
    stage.misread = None
    stage.passes(10)
    polls = len(stage.polls)
    stage.passes(10 * 60)
    assert len(stage.polls) == polls + 10
    told = [reason for _, reason in stage.told]
    assert told.count(Reason.PROVIDER_ERROR) == 1
    assert set(told) == {Reason.UP_TO_DATE, Reason.PROVIDER_ERROR}


def test_while_a_key_fails_the_others_are_not_forgotten(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": AFTER})
    stage.has_class()
    stage.has(make_sync())
    stage.passes(HOUR - 1)
    stage.comes_to = Failed(ObjectError("pass is missing"))
    stage.passes(10)
    assert [task.keys for task in stage.asked] == [None, frozenset({"pass"}), None, None]


def test_who_waits_for_a_turn_at_a_busy_vault_asks_for_what_is_left(stage: Stage) -> None:
    def busy(*left: str) -> Outcome:
        error = throttled_error("shop", 10)
        failed = dict.fromkeys(left, error)
        return PartiallySynced(message="throttled", failed=failed, objects=[]) if left else Failed(error)

    stage.has_class()
    stage.has(make_sync(["a", "b", "c"]))
    for outcome in (busy(), busy("b", "c"), busy("c"), busy(), known("a", "b", "c")):
        stage.comes_to = outcome
        stage.passes(10 if stage.asked else 5)
    asked = [(moment, task.keys) for (moment, _), task in zip(stage.synced, stage.asked, strict=True)]
    rest = frozenset({"c"})
    assert asked == [(0, None), (10, None), (20, frozenset({"b", "c"})), (30, rest), (40, rest)]


def test_a_poll_that_fails_unexpectedly_ends_nothing(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.seen = ZeroDivisionError(CANARY)
    stage.has_class()
    stage.has(make_sync())
    stage.passes(3 * HOUR + 1)
    assert len(stage.times) == 4
    assert CANARY not in caplog.text


def test_after_a_poll_the_drift_check_fetches_everything(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": AFTER})
    stage.has_class()
    stage.has(make_sync())
    stage.passes(HOUR + 1)
    stage.untouched = False
    stage.passes(300)
    assert [task.keys for task in stage.asked] == [None, frozenset({"pass"}), None]


def test_everything_is_read_in_full_once_a_day(stage: Stage) -> None:
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(make_sync())
    stage.passes(3 * DAY + HOUR)
    assert [task.keys for task in stage.asked] == [None] * 4
    assert len(stage.polls) == 73


def test_a_throttled_vault_is_asked_when_it_is_ones_turn(stage: Stage) -> None:
    stage.comes_to = ProviderError("throttled", retry_after=25, retry=Retry.THROTTLED)
    stage.has_class()
    stage.has(make_sync())
    stage.passes(130)
    assert stage.times == [0, 25, 50, 75, 100, 125]
