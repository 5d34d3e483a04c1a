"""Test every transition of the state of one SecretSync, without an event loop."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.secretsync import GroupPoll, SecretSyncStatus
from controller.domain.snapshot import PollResult, VaultSnapshot
from controller.domain.status import Failed, PartiallySynced, Reportable
from controller.errors import Retry
from controller.secretsync.class_reader import EDIT_INTERVAL
from controller.secretsync.tasks import CONFIRM_EVERY, NO_KEYS, Confirm, Fetch, Task
from controller.secretsync.work_state import (
    CheckDrift,
    Edited,
    InProgress,
    MakeAttempt,
    OnPoll,
    Plan,
    PlannedTask,
    Sleep,
    Undecided,
    WorkState,
    delay_after,
    is_unreported,
)
from tests.support.fixed_random import FixedRandom
from tests.unit.secretsync.samples import (
    BOTH,
    DATE,
    DISABLED,
    LACKING,
    NOW,
    PASS,
    READY,
    REPORT_UNREACHABLE,
    THROTTLED,
    UNREACHABLE,
    USER,
    WANTED,
    make_condition,
    make_failed,
    make_partial,
    make_snapshot,
    make_status,
)

INTERVAL = 3600.0
LONGEST, SHORTEST = FixedRandom(1.0), FixedRandom(0.0)
RECORD = Confirm(GroupPoll(group="x", time="2030-01-01T00:00:00Z"))


def test_initial_state_is_undecided() -> None:
    state = WorkState()
    assert msgspec.structs.astuple(state) == (Undecided(None), None, -math.inf, 0, 0, "", None, -math.inf, None)
    assert state.seconds_until_due(NOW) == 0
    assert (Fetch(NOW).keys, Confirm().poll) == (None, None)


@pytest.mark.parametrize(
    ("plan", "drift_check", "action"),
    [
        (PlannedTask(Fetch(NOW), NOW), NOW + 5, MakeAttempt(Fetch(NOW))),
        (PlannedTask(Fetch(NOW), NOW - 1), NOW - 1, MakeAttempt(Fetch(NOW))),
        (PlannedTask(Fetch(NOW), NOW + 9), NOW + 5, Sleep(5)),
        (PlannedTask(Fetch(NOW), NOW + 4), NOW + 5, Sleep(4)),
        (PlannedTask(Fetch(NOW), NOW + 4), NOW, CheckDrift()),
        (PlannedTask(Fetch(NOW), NOW + 9), None, Sleep(9)),
        (PlannedTask(RECORD, NOW), NOW - 5, MakeAttempt(RECORD)),
        (OnPoll(), NOW + 5, Sleep(5)),
        (OnPoll(), NOW - 5, CheckDrift()),
        (OnPoll(Fetch(NOW)), NOW + 5, Sleep(5)),
        pytest.param(Edited(Fetch(NOW)), NOW + 5, Sleep(0), id="edited while its class was parsed"),
    ],
)
def test_next_action(plan: Plan, drift_check: float | None, action: object) -> None:
    assert WorkState(plan, drift_check).next_action(NOW) == action


@pytest.mark.parametrize(
    ("plan", "drift_check", "seconds"),
    [(PlannedTask(Fetch(NOW), NOW + 9), 5, 5), (PlannedTask(Fetch(NOW), NOW + 4), 5, 4), (OnPoll(), -1, 0)],
)
def test_delay_after_a_drift_check(plan: Plan, drift_check: float, seconds: float) -> None:
    assert WorkState(plan, NOW + drift_check).delay_after_check(NOW) == seconds


@pytest.mark.parametrize(
    ("plan", "after"),
    [
        (OnPoll(), PlannedTask(Fetch(NOW - 2), NOW - 2)),
        (PlannedTask(RECORD, NOW + 9), PlannedTask(Fetch(NOW - 2), NOW - 2)),
        (PlannedTask(Fetch(NOW - 9), NOW + 9), PlannedTask(Fetch(NOW - 2), NOW - 2)),
        (PlannedTask(Fetch(NOW - 9, PASS), NOW + 9), PlannedTask(Fetch(NOW - 2, PASS), NOW - 2)),
        pytest.param(Edited(Fetch(NOW, PASS)), Edited(Fetch(NOW, PASS)), id="edited during the check"),
    ],
)
def test_drift_makes_an_attempt_due(plan: Plan, after: Plan) -> None:
    state = WorkState(plan)
    state.on_drift(NOW - 2)
    assert state.plan == after


def test_missing_class_is_reported_two_seconds_after_it_was_first_missed() -> None:
    state = WorkState()
    assert [state.seconds_until_class(NOW + later) for later in (0, 0.5, 2, 9)] == [2.0, 1.5, 0.0, 0.0]


# Edits


def test_first_edit_is_handled_at_once_and_the_next_ones_once_a_second() -> None:
    state = WorkState(PlannedTask(Fetch(NOW), NOW + 99), failures=3, requeues=4, reported="x")
    assert state.on_edit(NOW) == 0
    assert (state.failures, state.requeues, state.plan) == (0, 0, Edited(Fetch(NOW)))
    assert state.take_edit(NOW) == Fetch(NOW)
    assert (state.plan, state.reported) == (Undecided(Fetch(NOW)), "")
    assert state.take_edit(NOW) is None
    assert state.on_edit(NOW + 0.25) == EDIT_INTERVAL - 0.25
    assert state.on_edit(NOW + 5) == 0


@pytest.mark.parametrize(
    ("plan", "fetched"),
    [
        (OnPoll(), PASS),
        (InProgress(), PASS),
        (PlannedTask(Confirm(), NOW), PASS),
        (PlannedTask(Fetch(0.0, USER), NOW + 9), BOTH),
        (OnPoll(Fetch(0.0, USER)), BOTH),
        (Edited(Fetch(0.0, USER)), BOTH),
        (Undecided(Fetch(0.0, USER)), BOTH),
        pytest.param(PlannedTask(Fetch(0.0), NOW + 9), None, id="all keys are fetched anyway"),
        pytest.param(Undecided(None), None, id="new SecretSync"),
        pytest.param(PlannedTask(REPORT_UNREACHABLE, NOW), None, id="the vault could not be read"),
    ],
)
def test_edit_of_some_keys_fetches_only_these_and_pending_ones(plan: Plan, fetched: frozenset[str] | None) -> None:
    state = WorkState(plan)
    state.on_edit(5.0, PASS)
    assert state.plan == Edited(Fetch(5.0, fetched))


def test_edit_without_keys_fetches_all() -> None:
    state = WorkState(OnPoll())
    state.on_edit(5.0, PASS)
    state.on_edit(6.0)
    assert state.plan == Edited(Fetch(6.0))


@pytest.mark.parametrize(("keys", "fetched"), [(USER, BOTH), (None, None)])
def test_edit_of_another_key_also_fetches_the_unusable_ones(
    keys: frozenset[str] | None, fetched: frozenset[str] | None
) -> None:
    state = WorkState(OnPoll())
    state.on_edit(NOW, keys)
    assert state.take_edit(NOW + 1, {"pass": LACKING}) == Fetch(NOW, fetched)
    assert state.plan == Undecided(Fetch(NOW, fetched))


# Polls


def handle_poll(state: WorkState, result: PollResult, before: SecretSyncStatus | None = None) -> bool:
    return state.on_poll(WANTED, result, before or make_status(), NOW, DATE)


@pytest.mark.parametrize(
    "plan", [OnPoll(), InProgress(), PlannedTask(Confirm(), NOW), PlannedTask(REPORT_UNREACHABLE, NOW)]
)
def test_poll_that_found_a_change_makes_an_attempt_due(plan: Plan) -> None:
    state = WorkState(plan)
    assert handle_poll(state, make_snapshot("pass")) is True
    assert state.plan == PlannedTask(Fetch(NOW, PASS), NOW)


def test_poll_that_found_no_change_leaves_the_plan() -> None:
    state = WorkState(OnPoll())
    assert handle_poll(state, make_snapshot()) is False
    assert state.plan == OnPoll()


@pytest.mark.parametrize(
    ("edit", "result", "after"),
    [
        (Fetch(1.0), make_snapshot("pass"), Fetch(NOW)),
        (Fetch(1.0, USER), make_snapshot("pass"), Fetch(NOW, BOTH)),
        (Fetch(1.0, USER), None, Fetch(NOW)),
        (Fetch(1.0, USER), REPORT_UNREACHABLE.error, Fetch(1.0, USER)),
    ],
)
def test_edit_also_fetches_what_a_poll_found_stale_before_it_was_taken(
    edit: Fetch, result: PollResult, after: Fetch
) -> None:
    state = WorkState(Edited(edit))
    assert handle_poll(state, result) is False
    assert (state.plan, state.equal_at) == (Edited(after), None)


def test_poll_during_the_decision_about_an_edit_decides_it() -> None:
    state = WorkState(Undecided(Fetch(1.0, USER)))
    assert handle_poll(state, make_snapshot("pass")) is True
    assert state.plan == PlannedTask(Fetch(NOW, BOTH), NOW)


@pytest.mark.parametrize("plan", [OnPoll(), InProgress()])
def test_failed_poll_is_reported_once(plan: Plan) -> None:
    state = WorkState(plan)
    assert handle_poll(state, REPORT_UNREACHABLE.error) is True
    assert state.plan == PlannedTask(REPORT_UNREACHABLE, NOW)
    state.plan, state.reported = plan, REPORT_UNREACHABLE.error.message
    assert handle_poll(state, REPORT_UNREACHABLE.error) is False
    assert state.plan == plan


@pytest.mark.parametrize(
    ("plan", "result"),
    [
        (PlannedTask(Fetch(NOW, PASS), NOW + 9), REPORT_UNREACHABLE.error),
        (OnPoll(Fetch(NOW, PASS)), REPORT_UNREACHABLE.error),
        (PlannedTask(RECORD, NOW), REPORT_UNREACHABLE.error),
        (PlannedTask(RECORD, NOW), make_snapshot()),
        (PlannedTask(Fetch(NOW), NOW + 9), make_snapshot()),
        (Undecided(Fetch(NOW, NO_KEYS)), make_snapshot()),
    ],
)
def test_poll_without_a_change_replaces_no_task(plan: Plan, result: PollResult) -> None:
    state = WorkState(plan)
    assert handle_poll(state, result, make_status(age=CONFIRM_EVERY)) is False
    assert state.plan == plan


@pytest.mark.parametrize("age", [0, CONFIRM_EVERY])
def test_fetch_runs_if_the_vault_returns_before_the_failure_is_stored(age: float) -> None:
    state = WorkState(InProgress())
    state.leave_keys(None, NOW)
    state.settle_attempt(UNREACHABLE, True, INTERVAL, SHORTEST, NOW)
    # The vault is back while the failure is being written to the status, which still says that the Secret is equal.
    assert handle_poll(state, make_snapshot(), make_status(age=age)) is True
    state.was_reported(UNREACHABLE.message)
    # As after any outage, the poll has shown that no value needs to be fetched.
    assert state.next_action(NOW) == MakeAttempt(Fetch(NOW, NO_KEYS))
    assert state.equal_at is None


@pytest.mark.parametrize("age", [0, CONFIRM_EVERY])
def test_failure_that_passed_before_its_report_is_not_reported(age: float) -> None:
    state = WorkState(OnPoll())
    assert handle_poll(state, REPORT_UNREACHABLE.error)
    assert handle_poll(state, make_snapshot(), make_status(age=age)) is bool(age)
    assert state.plan == (PlannedTask(Confirm(), NOW) if age else OnPoll())


@pytest.mark.parametrize(
    ("began", "is_fetched"), [(NOW - 1, False), (NOW, False), (NOW + 0.1, True)], ids=["before", "with", "after"]
)
def test_poll_that_began_before_the_fetch_of_all_keys_is_ignored(began: float, is_fetched: bool) -> None:
    state = WorkState()
    state.start_attempt(Fetch(NOW))
    # The attempt has not written its status yet, so every key looks stale.
    poll = VaultSnapshot(since=began)
    assert state.on_poll(WANTED, poll, SecretSyncStatus(), NOW + 1, DATE) is is_fetched


@pytest.mark.parametrize("keys", [None, PASS])
def test_poll_counts_for_keys_that_could_not_be_fetched(keys: frozenset[str] | None) -> None:
    state = WorkState()
    state.start_attempt(Fetch(NOW))
    state.leave_keys(keys, NOW)
    assert state.on_poll(WANTED, VaultSnapshot(since=NOW - 1), SecretSyncStatus(), NOW + 1, DATE)


@pytest.mark.parametrize("task", [Fetch(NOW, PASS), RECORD])
def test_poll_counts_while_only_some_keys_are_fetched(task: Task) -> None:
    state = WorkState()
    state.start_attempt(task)
    assert state.on_poll(WANTED, VaultSnapshot(since=NOW - 1), SecretSyncStatus(), NOW + 1, DATE)


@pytest.mark.parametrize(
    ("result", "before", "is_equal"),
    [
        (make_snapshot(), make_status(), True),
        (make_snapshot(), make_status(age=CONFIRM_EVERY), True),
        (make_snapshot("pass"), make_status(), False),
        (make_snapshot(), make_status(ready=False), False),
        (REPORT_UNREACHABLE.error, make_status(), False),
        (None, make_status(), False),
    ],
)
def test_poll_that_found_the_secret_equal_is_remembered(
    result: PollResult, before: SecretSyncStatus, is_equal: bool
) -> None:
    state = WorkState(OnPoll())
    handle_poll(state, result, before)
    assert state.equal_at == (DATE if is_equal else None)


@pytest.mark.parametrize(
    ("plan", "is_taken"),
    [
        (OnPoll(), True),
        (InProgress(), True),
        (PlannedTask(Confirm(), NOW + 9), True),
        (PlannedTask(Fetch(NOW), NOW), False),
        (PlannedTask(REPORT_UNREACHABLE, NOW), False),
        (OnPoll(Fetch(NOW)), False),
        (Undecided(), False),
        (Edited(Fetch(NOW)), False),
    ],
)
def test_record_of_a_poll_does_not_replace_another_task(plan: Plan, is_taken: bool) -> None:
    state = WorkState(plan)
    poll = GroupPoll(group="y", time="2030-01-01T00:00:00Z")
    assert state.confirm(poll, NOW) is is_taken
    assert state.plan == (PlannedTask(Confirm(poll), NOW) if is_taken else plan)


# Attempts


@pytest.mark.parametrize(
    ("plan", "keys", "after"),
    [
        (InProgress(), PASS, PlannedTask(Fetch(NOW, PASS), NOW)),
        (InProgress(), None, PlannedTask(Fetch(NOW), NOW)),
        (PlannedTask(RECORD, NOW), PASS, PlannedTask(Fetch(NOW, PASS), NOW)),
        (PlannedTask(REPORT_UNREACHABLE, NOW), PASS, PlannedTask(Fetch(NOW, PASS), NOW)),
        (PlannedTask(Fetch(NOW - 1, USER), NOW), PASS, PlannedTask(Fetch(NOW, BOTH), NOW)),
        (PlannedTask(Fetch(NOW - 1, PASS), NOW), None, PlannedTask(Fetch(NOW), NOW)),
        (PlannedTask(Fetch(NOW - 1), NOW), PASS, PlannedTask(Fetch(NOW), NOW)),
        (Edited(Fetch(NOW - 1, USER)), PASS, Edited(Fetch(NOW, BOTH))),
    ],
)
def test_left_keys_are_fetched_with_those_of_an_event_meanwhile(
    plan: Plan, keys: frozenset[str] | None, after: Plan
) -> None:
    state = WorkState(plan)
    state.leave_keys(keys, NOW)
    assert state.plan == after


@pytest.mark.parametrize(
    ("plan", "task", "after"),
    [
        (InProgress(), RECORD, PlannedTask(RECORD, NOW)),
        (InProgress(), Fetch(1.0, PASS), PlannedTask(Fetch(NOW, PASS), NOW)),
        (Edited(Fetch(1.0, USER)), Fetch(1.0, PASS), Edited(Fetch(NOW, BOTH))),
        pytest.param(Edited(Fetch(1.0, USER)), RECORD, Edited(Fetch(1.0, USER)), id="the edit needs no other key"),
        (PlannedTask(Fetch(1.0, USER), NOW), RECORD, PlannedTask(Fetch(1.0, USER), NOW)),
    ],
)
def test_task_without_a_result_is_left(plan: Plan, task: Task, after: Plan) -> None:
    state = WorkState(plan)
    state.leave_task(task, NOW)
    assert state.plan == after


@pytest.mark.parametrize(
    ("result", "waits_for_poll", "plan", "after", "failures"),
    [
        (READY, False, InProgress(), OnPoll(), 0),
        pytest.param(
            READY, False, PlannedTask(RECORD, NOW), PlannedTask(RECORD, NOW), 0, id="an event planned the next one"
        ),
        (READY, False, Edited(Fetch(1.0)), Edited(Fetch(1.0)), 0),
        (make_failed(), True, PlannedTask(Fetch(1.0, PASS), NOW), OnPoll(Fetch(1.0, PASS)), 0),
        (make_failed(), True, Edited(Fetch(1.0)), Edited(Fetch(1.0)), 0),
        (make_failed(), False, PlannedTask(Fetch(1.0, PASS), NOW), PlannedTask(Fetch(1.0, PASS), NOW + 8), 3),
        (make_failed(), False, Edited(Fetch(1.0)), Edited(Fetch(1.0)), 3),
        pytest.param(make_failed(), False, Undecided(Fetch(1.0)), Undecided(Fetch(1.0), NOW + 8), 3, id="unreadable"),
        (make_partial(DISABLED), False, PlannedTask(Fetch(1.0, PASS), NOW), PlannedTask(Fetch(1.0, PASS), NOW + 8), 3),
        (
            make_failed(retry=Retry.THROTTLED, retry_after=7.0),
            False,
            PlannedTask(Fetch(1.0), NOW),
            PlannedTask(Fetch(1.0), NOW + 7),
            2,
        ),
        (
            make_failed(retry=Retry.ON_EDIT),
            False,
            PlannedTask(Fetch(1.0), NOW),
            PlannedTask(Fetch(1.0), NOW + INTERVAL),
            3,
        ),
        (Failed(LACKING), False, InProgress(), OnPoll(), 0),
        (make_partial(LACKING), False, InProgress(), OnPoll(), 0),
        (make_partial(LACKING), False, PlannedTask(Fetch(NOW), NOW), PlannedTask(Fetch(NOW), NOW), 0),
    ],
)
def test_plan_after_an_attempt(
    result: Reportable, waits_for_poll: bool, plan: Plan, after: Plan, failures: int
) -> None:
    state = WorkState(plan, failures=2)
    state.settle_attempt(result, waits_for_poll, INTERVAL, LONGEST, NOW)
    assert (state.plan, state.failures) == (after, failures)


def test_attempt_after_a_failure_waits_for_the_budget_of_its_namespace() -> None:
    state = WorkState(PlannedTask(Fetch(1.0), NOW))
    state.settle_attempt(make_failed(), False, INTERVAL, LONGEST, NOW, least=99.0)
    assert state.plan == PlannedTask(Fetch(1.0), NOW + 99)


@pytest.mark.parametrize(
    ("given", "failures", "seconds"),
    [
        ({"retry": Retry.BACKOFF}, 1, 2),
        ({"retry": Retry.BACKOFF}, 3, 8),
        ({"retry": Retry.BACKOFF}, 40, 300),
        ({"retry": Retry.BACKOFF, "retry_after": 20.0}, 1, 22),
        ({"retry": Retry.BLOCKED}, 40, 30),
        ({"retry": Retry.THROTTLED}, 40, 2),
        ({"retry": Retry.THROTTLED, "retry_after": 20.0}, 40, 20),
        ({"retry": Retry.ON_EDIT}, 40, INTERVAL),
    ],
)
def test_delay_after(given: dict[str, Any], failures: int, seconds: float) -> None:
    assert delay_after(make_failed(**given), failures, INTERVAL, LONGEST) == seconds


# Reports


@pytest.mark.parametrize(
    ("plan", "task", "after"),
    [
        (OnPoll(), Fetch(1.0, PASS), PlannedTask(Fetch(NOW, PASS), NOW + 2)),
        (OnPoll(), Fetch(1.0), PlannedTask(Fetch(NOW), NOW + 2)),
        pytest.param(OnPoll(), RECORD, PlannedTask(RECORD, NOW + 2), id="no value is fetched to record a poll"),
        (OnPoll(Fetch(1.0)), REPORT_UNREACHABLE, PlannedTask(Fetch(1.0), NOW + 2)),
        (PlannedTask(Fetch(1.0, USER), NOW + 1), Fetch(1.0, PASS), PlannedTask(Fetch(NOW, BOTH), NOW + 1)),
        (PlannedTask(Fetch(1.0, USER), NOW + 99), Fetch(1.0, PASS), PlannedTask(Fetch(NOW, BOTH), NOW + 2)),
        (Edited(Fetch(1.0, USER)), Fetch(1.0, PASS), Edited(Fetch(NOW, BOTH))),
        pytest.param(Undecided(Fetch(1.0), NOW + 99), None, Undecided(Fetch(1.0), NOW + 2), id="unreadable"),
    ],
)
def test_report_that_failed_is_repeated_soon(plan: Plan, task: Task | None, after: Plan) -> None:
    state = WorkState(plan, reported="before")
    state.was_not_reported(task, 2.0, NOW)
    assert (state.plan, state.requeues, state.reported) == (after, 1, "before")
    state.was_reported("done")
    assert (state.requeues, state.reported) == (0, "done")


def test_requeues_are_reported_after_half_a_minute() -> None:
    state, moment, waits = WorkState(PlannedTask(Fetch(1.0, PASS), NOW)), NOW, []
    while not state.settle_requeue(1.0, moment):
        waits.append(state.seconds_until_due(moment))
        moment += waits[-1]
    assert len(waits) == 14
    assert waits[:3] == [1, 2, 2]
    assert moment - NOW < 30
    assert state.seconds_until_due(moment) == 15
    for _ in range(99):
        state.settle_requeue(1.0, moment)
    assert state.seconds_until_due(moment) == 30
    assert state.plan == PlannedTask(Fetch(1.0, PASS), moment + 30)


def test_decision_that_waits_for_the_class_remains_open() -> None:
    state = WorkState(Undecided(Fetch(1.0, PASS)))
    assert state.settle_requeue(1.5, NOW) is False
    assert (state.plan, state.seconds_until_due(NOW)) == (Undecided(Fetch(1.0, PASS), NOW + 1.5), 1.5)


@pytest.mark.parametrize(
    ("plan", "after"),
    [
        (InProgress(), PlannedTask(Fetch(NOW), NOW + 4)),
        pytest.param(OnPoll(), PlannedTask(Fetch(NOW), NOW + 4), id="crash while the status was written"),
        (PlannedTask(REPORT_UNREACHABLE, NOW), PlannedTask(Fetch(NOW), NOW + 4)),
        (Edited(Fetch(1.0, USER)), Edited(Fetch(NOW))),
        (Undecided(), Undecided(None, NOW + 4)),
    ],
)
def test_unexpected_error_backs_off(plan: Plan, after: Plan) -> None:
    state = WorkState(plan, failures=1)
    state.settle_crash(LONGEST, NOW)
    assert (state.failures, state.plan) == (2, after)


@pytest.mark.parametrize(
    ("plan", "drift_check", "seconds"),
    [
        (PlannedTask(Fetch(NOW), NOW + 3), NOW + 1, 3),
        (PlannedTask(Fetch(NOW), NOW - 3), NOW + 1, 0),
        (InProgress(), NOW + 1, math.inf),
        (OnPoll(), NOW + 1, 1),
        (OnPoll(), NOW - 1, 0),
        (OnPoll(), None, math.inf),
    ],
)
def test_delay(plan: Plan, drift_check: float | None, seconds: float) -> None:
    assert WorkState(plan, drift_check).seconds_until_due(NOW) == seconds


@pytest.mark.parametrize(
    ("outcome", "failures", "ready", "generation", "unreported"),
    [
        (UNREACHABLE, 1, True, 0, True),
        (UNREACHABLE, 1, True, 2, True),
        (UNREACHABLE, 1, True, 1, False),  # edited since
        (UNREACHABLE, 2, True, 2, False),
        (UNREACHABLE, 1, False, 2, False),
        (UNREACHABLE, 1, None, 2, False),
        (make_failed(), 1, True, 2, False),
        (make_partial(DISABLED), 1, True, 2, False),
        (READY, 1, True, 2, False),
    ],
)
def test_first_failure_of_the_vault_is_unreported(
    outcome: Reportable, failures: int, ready: bool | None, generation: int, unreported: bool
) -> None:
    before = None if ready is None else make_condition(ready, generation)
    assert is_unreported(before, 2, outcome, failures) is unreported


POLLS = ["change", "equal", "unreachable", "record"]
EVENTS = [*POLLS, "edit", "key", "drift", "begin", "end", "requeue", "crash", "unreported", "time"]
DRIFT = "the Secret differs"  # any fetch repairs it


class _Life:
    """The state of one SecretSync under any order of events. `owed` is what no attempt fetches yet.

    Polls serve it only if the last attempt for an edit of all keys succeeded.
    """

    def __init__(self, result: Reportable) -> None:
        self.state = WorkState(OnPoll(), drift_check=math.inf)
        self.now = NOW
        self.result = result
        self.is_polled = True
        self.task: Task | None = None
        self.owed: set[str] = set()
        self.begun: set[str] = set()

    def handle(self, event: str) -> None:
        self.now += 1
        state, now = self.state, self.now
        match event:
            case "edit":
                state.on_edit(now)
                self.owed |= BOTH
            case "key":
                state.on_edit(now, USER)
                self.owed |= USER
            case "drift" if self.task is None:
                state.on_drift(now)
                self.owed.add(DRIFT)
            case "time":
                self.now += INTERVAL
            case "begin" if self.task is None:
                self.begin()
            case _ if event in POLLS and self.is_polled:
                self.poll(event)
            case _ if self.task:
                self.end(event, self.task)

    def poll(self, event: str) -> None:
        match event:
            case "change":
                self.state.on_poll(WANTED, make_snapshot("pass"), make_status(), self.now, DATE)
                self.owed |= PASS
            case "equal":
                self.state.on_poll(WANTED, make_snapshot(), make_status(), self.now, DATE)
            case "unreachable":
                self.state.on_poll(WANTED, REPORT_UNREACHABLE.error, make_status(), self.now, DATE)
            case "record":
                self.state.confirm(GroupPoll(group="x", time="2030-01-01T00:00:00Z"), self.now)

    def begin(self) -> None:
        """Take the next action as the reconciler does."""
        if (edit := self.state.take_edit(self.now)) and edit.keys is None:
            self.is_polled = False
        if isinstance(self.state.plan, Undecided):
            self.state.plan = PlannedTask(self.state.plan.edit or Fetch(self.now), self.now)
        action = self.state.next_action(self.now)
        if isinstance(action, MakeAttempt):
            self.task, self.begun = action.task, set(self.owed)
            self.state.start_attempt(action.task)
            if isinstance(action.task, Fetch):
                fetched = BOTH if action.task.keys is None else action.task.keys
                assert fetched | {DRIFT} >= self.owed, "a changed key is not fetched"
                self.owed = set()

    def end(self, event: str, task: Task) -> None:
        """End the attempt. Without a result, what it was to fetch is still to be fetched."""
        match event:
            case "end":
                self.settle(task)
            case "requeue":
                self.state.leave_task(task, self.now)
                self.state.settle_requeue(1.0, self.now)
            case "crash":
                self.is_polled = False
                self.state.settle_crash(SHORTEST, self.now)
            case "unreported":
                self.state.settle_attempt(READY, False, INTERVAL, SHORTEST, self.now)
                self.state.was_not_reported(task, 1.0, self.now)
            case _:
                return
        if event != "end" or self.result is not READY:
            self.owed |= self.begun
        self.task = None

    def settle(self, task: Task) -> None:
        if isinstance(self.result, PartiallySynced | Failed):
            self.state.leave_keys(task.keys if isinstance(task, Fetch) else None, self.now)
        else:
            self.is_polled = True
        self.state.settle_attempt(self.result, False, INTERVAL, SHORTEST, self.now)
        self.state.was_reported(self.result.message)


@settings(max_examples=1_000)
@given(
    st.lists(st.sampled_from(EVENTS), max_size=12),
    st.sampled_from(
        [
            READY,
            make_failed(),
            UNREACHABLE,
            make_partial(DISABLED),
            make_partial(THROTTLED),
            make_failed(retry=Retry.ON_EDIT),
        ]
    ),
)
def test_no_order_of_events_loses_a_change_or_waits_forever(events: list[str], result: Reportable) -> None:
    """Every changed key is fetched by an attempt that begins after the change, without another event."""
    life = _Life(result)
    for event in events:
        life.handle(event)
    life.result = READY
    if life.task:
        life.end("end", life.task)
    while life.owed:
        life.now += INTERVAL
        life.begin()
        assert isinstance(life.task, Fetch), "nothing is planned for a changed key"
        life.end("end", life.task)
