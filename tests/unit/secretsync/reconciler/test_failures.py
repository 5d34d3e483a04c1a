"""What fails, is in the way, or was changed by somebody else's hand, in virtual time."""

import logging
from collections import Counter

import msgspec
import pytest

from controller.api.conditions import Reason
from controller.api.secretsync import SecretSync
from controller.domain.status import Failed, PartiallySynced, Reportable, Requeue
from controller.errors import (
    AccessDenied,
    ClassError,
    ControllerError,
    ObjectError,
    OwnershipError,
    ProviderError,
    UnusableValue,
)
from controller.secretsync import drift
from controller.secretsync.status_reporter import ReportResult
from controller.secretsync.work_state import CLASS_PATIENCE
from tests.support.builders import make_sync
from tests.unit.secretsync.reconciler.stage import (
    AFTER,
    AWAY,
    BEFORE,
    CANARY,
    GOOD,
    HOUR,
    SHOP,
    Stage,
    known,
    seen,
    synced_ago,
)

# Failures


def test_a_failure_is_told_once_and_tried_less_and_less(stage: Stage) -> None:
    stage.comes_to = AWAY
    stage.has_class()
    stage.has(make_sync())
    stage.passes(HOUR)
    waits = [later - earlier for earlier, later in zip(stage.times, stage.times[1:], strict=False)]
    assert waits[:8] == [2, 4, 8, 16, 32, 64, 128, 256]
    assert set(waits[8:]) == {300}
    assert stage.told == [(0, Reason.PROVIDER_ERROR)]


def rotates(stage: Stage) -> None:
    """One SecretSync, synced; the poll that comes in a second finds one of its objects changed."""
    stage.comes_to = known("user", "pass")
    stage.seen = seen(user=BEFORE, **{"pass": BEFORE})
    stage.has_class()
    stage.has(make_sync())
    stage.passes(HOUR - 1)
    stage.forgets()
    stage.seen = seen(user=BEFORE, **{"pass": AFTER})


def test_single_failure_during_a_rotation_is_not_reported(stage: Stage) -> None:
    rotates(stage)
    stage.comes_to = AWAY
    stage.passes(2)
    assert [task.keys for task in stage.asked] == [frozenset({"pass"})]
    assert not stage.told
    stage.comes_to = known("user", "pass", updated=AFTER)
    stage.passes(4)
    # What was left to fetch is fetched, and nothing else.
    assert [task.keys for task in stage.asked] == [frozenset({"pass"})] * 2
    assert [reason for _, reason in stage.told] == [GOOD.reason] * 2  # one more records the poll


def test_second_failure_during_a_rotation_is_reported(stage: Stage) -> None:
    rotates(stage)
    stage.comes_to = AWAY
    stage.passes(10)
    assert len(stage.asked) > 1
    assert [reason for _, reason in stage.told] == [Reason.PROVIDER_ERROR]


@pytest.mark.parametrize("error", [ObjectError("secret pass is disabled"), AccessDenied("may not read secret pass")])
def test_failure_of_one_object_is_reported_at_once(stage: Stage, error: ControllerError) -> None:
    rotates(stage)
    stage.comes_to = error
    stage.passes(1.5)
    assert [reason for _, reason in stage.told] == [Reason.PROVIDER_ERROR]


def test_single_failure_after_an_edit_is_reported_at_once(stage: Stage) -> None:
    rotates(stage)
    stage.comes_to = AWAY
    found = stage.reconciler.syncs.get(SHOP)
    assert isinstance(found, SecretSync)
    stage.has(make_sync(generation=2, status=found.status))
    stage.passes(0.5)
    assert [reason for _, reason in stage.told] == [Reason.PROVIDER_ERROR]


def test_an_edit_gives_a_failure_its_next_try_at_once(stage: Stage) -> None:
    stage.comes_to = AWAY
    stage.has_class()
    stage.has(make_sync())
    stage.passes(400)
    stage.has(make_sync(generation=2))
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
    stage.has(make_sync())
    stage.passes(5 * HOUR)
    waits = [later - earlier for earlier, later in zip(stage.times, stage.times[1:], strict=False)]
    assert max(waits) == longest
    assert waits[-1] == longest
    if error.retry_after:
        assert min(waits) >= error.retry_after


LACKING = UnusableValue("secret pass has no property", version="v2", updated=AFTER)


@pytest.mark.parametrize(
    "outcome",
    [Failed(LACKING), PartiallySynced(message="m", failed={"pass": LACKING}, objects=known("user").objects or [])],
)
def test_unusable_value_waits_for_the_poll_that_finds_another(stage: Stage, outcome: Reportable) -> None:
    stage.answers(seen(user=BEFORE, **{"pass": AFTER}), outcome)
    stage.unusable = {"pass": LACKING}
    stage.has_class()
    stage.has(make_sync(["user", "pass"] if isinstance(outcome, PartiallySynced) else ["pass"]))
    stage.passes(5 * HOUR + 1)
    assert stage.times == [0, *stage.polls]
    assert [task.keys for task in stage.asked] == [None] + [frozenset()] * 5
    assert len(stage.told) == 1  # each attempt finds the same
    stage.answers(seen(user=BEFORE, **{"pass": "2030-01-02T00:00:00Z"}), known("user", "pass"))
    stage.passes(HOUR)
    assert stage.asked[-1].keys == frozenset({"pass"})
    assert stage.told[-1][1] == GOOD.reason


def test_unusable_value_is_read_after_an_edit_at_once(stage: Stage) -> None:
    stage.comes_to = Failed(LACKING)
    stage.unusable = {"pass": LACKING}
    stage.has_class()
    stage.has(make_sync(["pass"]))
    stage.passes(100)
    stage.has(make_sync(["pass"], generation=2))
    stage.passes(1)
    assert stage.times == [0, 100]


def test_a_warning_is_passed_on_and_a_failure_says_nothing_of_it(stage: Stage) -> None:
    stage.has_class()
    stage.has(make_sync())
    stage.comes_to = msgspec.structs.replace(GOOD, warnings=("a expired",))
    stage.passes(100)
    stage.comes_to = AWAY
    stage.passes(HOUR)
    assert len(stage.told) == 2
    assert stage.warned == [("shop", "a expired")]


def test_a_missing_class_waits_for_it_and_no_longer(stage: Stage) -> None:
    stage.comes_to = ClassError("no such class")
    stage.has(make_sync())
    stage.passes(100)
    stage.comes_to = GOOD
    stage.has_class()
    stage.passes(1)
    assert stage.times == [CLASS_PATIENCE, 100]
    assert [reason for _, reason in stage.told] == [Reason.SPC_ERROR, Reason.UP_TO_DATE]


@pytest.mark.parametrize("late", [0.0, 0.5, CLASS_PATIENCE - 0.01])
def test_a_class_seen_after_its_sync_costs_no_report(stage: Stage, late: float) -> None:
    stage.has(make_sync())
    stage.passes(late)
    stage.has_class()
    stage.passes(100)
    assert stage.times == [late]
    assert stage.told == [(late, Reason.UP_TO_DATE)]


def test_a_sync_with_a_status_does_not_wait_for_its_class(stage: Stage) -> None:
    stage.comes_to = ClassError("no such class")
    stage.has(synced_ago(10))
    stage.passes(1)
    assert stage.times == [0]


def test_what_nobody_expected_is_told_without_its_words(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.comes_to = ZeroDivisionError(CANARY)
    stage.has_class()
    stage.has(make_sync())
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
    stage.has(make_sync())
    stage.passes(HOUR)
    stage.has(make_sync(name="other", uid="another"))
    stage.passes(1)
    assert stage.times[-1] == HOUR


def test_a_thousand_unexpected_failures_do_not_flood_the_log(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.comes_to = ZeroDivisionError(CANARY)
    stage.has_class()
    stage.has(*(make_sync(name=f"s{number}", uid=f"uid-{number}") for number in range(1000)))
    stage.passes(600)
    assert 1 <= len(caplog.records) <= 120  # ten lines and a count a minute


# Somebody was faster


def test_a_status_that_met_a_conflict_is_told_soon(stage: Stage) -> None:
    stage.telling = [ReportResult.OUTDATED]
    stage.has_class()
    stage.has(make_sync())
    stage.passes(1)
    ((moment, reason),) = stage.told
    assert moment < 0.5
    assert reason == Reason.UP_TO_DATE
    stage.passes(HOUR - 2)
    assert len(stage.times) == 2


def test_an_old_secret_is_looked_at_often_then_less(stage: Stage) -> None:
    # Within two seconds of its collection at first; and not every second for ever, should it never be collected.
    stage.comes_to = Requeue(1)
    stage.has_class()
    stage.has(make_sync())
    stage.passes(20)
    waits = [later - earlier for earlier, later in zip(stage.times, stage.times[1:], strict=False)]
    assert max(waits) <= 2
    stage.passes(HOUR)
    assert 100 <= len(stage.times) <= 200


@pytest.mark.parametrize("telling", [[], [ReportResult.OUTDATED], [ZeroDivisionError(CANARY)]])
def test_an_old_secret_that_stays_is_told_after_half_a_minute(
    stage: Stage, telling: list[ReportResult | Exception]
) -> None:
    stage.comes_to = Requeue(1, "the Secret of an earlier SecretSync is still there")
    stage.telling = telling
    stage.has_class()
    stage.has(make_sync())
    stage.passes(20)
    assert not stage.told
    stage.passes(100)
    assert [reason for _, reason in stage.told] == [Reason.LABEL_ERROR]


@pytest.mark.parametrize("outcome", [GOOD, Failed(ObjectError("m"))])
def test_a_status_that_cannot_be_written_is_tried_less_and_less(stage: Stage, outcome: Reportable) -> None:
    stage.always_telling = ReportResult.NOT_WRITTEN
    stage.comes_to = outcome
    stage.has_class()
    stage.has(make_sync())
    stage.passes(HOUR)
    assert 5 <= len(stage.times) <= 30
    stage.always_telling = ReportResult.DONE
    stage.passes(301)
    assert len({moment for moment, _ in stage.told}) == 1


# Drift


def test_drift_is_mended_at_once(stage: Stage) -> None:
    stage.has_class()
    stage.has(make_sync())
    stage.passes(1)
    stage.untouched = False
    stage.passes(300)
    assert len(stage.times) == 2
    assert stage.times[1] == stage.looked[-1]


def test_drift_whose_mending_meets_a_conflict_is_mended_soon(stage: Stage) -> None:
    stage.has_class()
    stage.has(make_sync())
    stage.passes(1)
    stage.untouched, stage.comes_to = False, Requeue(1)
    stage.passes(300.5)
    tries = len(stage.times)
    stage.untouched, stage.comes_to = True, GOOD
    stage.passes(31)
    assert len(stage.times) == tries + 1


def test_looks_are_a_few_together_and_no_more_than_ten_a_second(stage: Stage) -> None:
    stage.has_class()
    stage.has(*(make_sync(name=f"s{number}", uid=f"uid-{number}") for number in range(500)))
    stage.passes(HOUR - 10)
    assert len(stage.looked) > 4000
    assert max(Counter(stage.looked).values()) == drift.MAX_PER_TICK
    assert {moment % drift.TICK for moment in stage.looked} == {0}
