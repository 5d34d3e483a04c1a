"""Test every transition of the state of one SecretSync, without an event loop."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.akvsync import AKVSync
from controller.api.conditions import Condition, ConditionType, Reason
from controller.api.secretsync import GroupPoll, ObjectVersion, SecretSyncStatus
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.snapshot import ListedObject, PollResult, VaultSnapshot
from controller.domain.status import (
    Failed,
    PartiallySynced,
    Reportable,
    Synced,
    generation_hash,
    next_status,
    sync_hash,
)
from controller.errors import ControllerError, ObjectError, ProviderError, Retry, UnusableValue
from controller.keyvault.errors import throttled_error
from controller.runtime import backoff
from controller.secretsync.class_reader import EDIT_INTERVAL
from controller.secretsync.work_state import (
    CONFIRM_EVERY,
    CheckDrift,
    Confirm,
    Due,
    DueAt,
    Fetch,
    MakeAttempt,
    OnPoll,
    ReportFailure,
    Sleep,
    Task,
    Undecided,
    WorkState,
    can_wait_for_poll,
    delay_after,
    is_unreported,
    keys_left,
    task_after_poll,
    was_unreachable,
)
from tests.support.builders import make_owner, make_provider_class, make_sync
from tests.support.fixed_random import FixedRandom
from tests.support.outcomes import make_failure

NOW = 1000.0
DATE = datetime(2030, 1, 1, tzinfo=UTC)
UPDATED, LATER = DATE - timedelta(days=2), DATE - timedelta(days=1)
INTERVAL = 3600.0
REPORT_UNREACHABLE = ReportFailure(ProviderError("the vault is unreachable"))
PASS = frozenset({"pass"})
WANTED = {key: ObjectVersionRef(VaultObject(name=key)) for key in ("user", "pass")}
LONGEST, SHORTEST = FixedRandom(1.0), FixedRandom(0.0)


def make_failed(**given: Any) -> Failed:
    return make_failure(Reason.PROVIDER_ERROR, "a message", **given)


def make_partial(error: ControllerError, **errors: ControllerError) -> PartiallySynced:
    """Return the outcome where this error prevents the write of `pass`, and other errors prevent other writes."""
    return PartiallySynced(message="a message", failed={"pass": error, **errors}, objects=[])


READY = Synced(message="a message")
UNREACHABLE = Failed(ProviderError("a message"))
DISABLED, THROTTLED = ObjectError("secret pass is disabled"), throttled_error("shop", None)
LACKING = UnusableValue("secret pass has no property", version="2", updated=backoff.format_time(LATER))


def make_condition(ready: bool, generation: int = 0, reason: Reason = Reason.UP_TO_DATE) -> Condition:
    return Condition(
        type=ConditionType.READY,
        status="True" if ready else "False",
        reason=reason,
        message="",
        last_transition_time=backoff.format_time(DATE),
        observed_generation=generation,
    )


def make_status(ready: bool | None = True, age: float | None = 0.0) -> SecretSyncStatus:
    last = None if age is None else backoff.format_time(DATE - timedelta(seconds=age))
    updated = backoff.format_time(UPDATED)
    return SecretSyncStatus(
        conditions=[] if ready is None else [make_condition(ready)],
        objects=[ObjectVersion(target_key=key, object=f"secret/{key}", version="1", updated=updated) for key in WANTED],
        last_successful_sync_time=last,
    )


def make_snapshot(*stale: str) -> VaultSnapshot:
    """Return a snapshot in which these target keys are stale."""
    return VaultSnapshot(
        listed={"secret": {key: ListedObject(LATER if key in stale else UPDATED, True) for key in WANTED}}
    )


def test_initial_state_makes_an_attempt() -> None:
    state = WorkState()
    assert state.next_action(NOW) == MakeAttempt()
    assert msgspec.structs.astuple(state) == (
        Undecided(), None, None, False, -math.inf, 0, 0, "", None, -math.inf, None
    )  # fmt: skip
    assert (Fetch(NOW).keys, Confirm().poll) == (None, None)


@pytest.mark.parametrize(
    ("due", "drift_check", "pending", "action"),
    [
        (Undecided(), NOW + 5, None, MakeAttempt()),
        (DueAt(NOW), NOW + 5, None, MakeAttempt()),
        (DueAt(NOW - 1), NOW - 1, None, MakeAttempt()),
        (DueAt(NOW + 9), NOW + 5, None, Sleep(5)),
        (DueAt(NOW + 4), NOW + 5, None, Sleep(4)),
        (DueAt(NOW + 4), NOW, None, CheckDrift()),
        (DueAt(NOW + 9), None, None, Sleep(9)),
        (OnPoll(), NOW + 5, None, Sleep(5)),
        (OnPoll(), NOW - 5, None, CheckDrift()),
        (OnPoll(), NOW + 5, Confirm(), MakeAttempt()),
        (DueAt(NOW + 9), NOW - 5, REPORT_UNREACHABLE, MakeAttempt()),
        # A fetch that an attempt left waits until it is due.
        (DueAt(NOW + 9), NOW + 5, Fetch(NOW), Sleep(5)),
    ],
)
def test_next_action(due: Due, drift_check: float | None, pending: Task | None, action: object) -> None:
    state = WorkState(due=due, drift_check=drift_check, pending=pending)
    assert state.next_action(NOW) == action


@pytest.mark.parametrize(
    ("due", "drift_check", "seconds"), [(DueAt(NOW + 9), 5, 5), (DueAt(NOW + 4), 5, 4), (OnPoll(), -1, 0)]
)
def test_delay_after_a_drift_check(due: Due, drift_check: float, seconds: float) -> None:
    assert WorkState(due=due, drift_check=NOW + drift_check).delay_after_check(NOW) == seconds


@pytest.mark.parametrize(
    ("last", "generation", "waits"),
    [
        (READY, 1, True),
        (READY, 2, False),  # edited since
        (UNREACHABLE, 1, True),
        (make_failed(retry=Retry.ON_EDIT), 1, True),  # the reason is also that of a vault
        (make_failure(Reason.LABEL_ERROR), 1, False),
        (make_partial(DISABLED), 1, False),
        (None, 1, False),
    ],
)
def test_new_sync_waits_for_the_poll_if_its_status_is_current(
    last: Reportable | None, generation: int, waits: bool
) -> None:
    meta, source = make_sync().metadata, make_provider_class()
    before = next_status(meta, SecretSyncStatus(), source, READY, DATE) if last else SecretSyncStatus()
    after = next_status(meta, before, source, last, DATE) if last else before
    assert can_wait_for_poll(make_sync(status=after, generation=generation), source) is waits


@pytest.mark.parametrize("read_hash", [sync_hash, generation_hash])
def test_new_sync_of_a_generated_class_waits_with_the_hash_of_any_version(read_hash: Any) -> None:
    sync, source = make_sync(status=make_status()), make_provider_class()
    owner = make_owner("uid-of-the-akvsync", "shop", AKVSync.kind, AKVSync.group)
    source = msgspec.structs.replace(
        source, metadata=msgspec.structs.replace(source.metadata, owner_references=[owner])
    )
    known = read_hash(sync.metadata, source, sync.status.objects)
    after = msgspec.structs.replace(sync.status, sync_hash=known)
    assert can_wait_for_poll(msgspec.structs.replace(sync, status=after), source) is True
    assert can_wait_for_poll(sync, source) is False


@pytest.mark.parametrize(
    ("ready", "unreachable"),
    [
        (None, False),
        (make_condition(False, reason=Reason.PROVIDER_ERROR), True),
        (make_condition(False, reason=Reason.LABEL_ERROR), False),
        pytest.param(make_condition(True, reason=Reason.PROVIDER_ERROR), False, id="another controller wrote it"),
    ],
)
def test_status_says_whether_the_vault_was_unreachable(ready: Condition | None, unreachable: bool) -> None:
    assert was_unreachable(SecretSyncStatus(conditions=[ready] if ready else [])) is unreachable


def test_missing_class_is_reported_two_seconds_after_it_was_first_missed() -> None:
    state = WorkState()
    assert [state.seconds_until_class(NOW + later) for later in (0, 0.5, 2, 9)] == [2.0, 1.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("pending", "fetches_all"), [(None, True), (Confirm(), True), (Fetch(NOW), True), (Fetch(NOW, PASS), False)]
)
def test_attempt_fetches_all_keys_unless_its_task_names_some(pending: Task | None, fetches_all: bool) -> None:
    assert WorkState(pending=pending).fetches_all is fetches_all


def test_edit_without_a_task_fetches_all_keys() -> None:
    state = WorkState(edited=True)
    assert state.take_edit(NOW, {"pass"}) is True
    assert state.take_task(NOW) == Fetch(NOW, None)


def test_first_edit_is_handled_at_once_and_the_next_ones_once_a_second() -> None:
    state = WorkState(failures=3, requeues=4, reported="x", due=DueAt(NOW + 99))
    assert state.on_edit(NOW) == 0
    assert (state.failures, state.requeues, state.pending) == (0, 0, Fetch(NOW))
    assert state.take_edit(NOW) is True
    assert (state.due, state.reported) == (Undecided(), "")
    assert state.take_edit(NOW) is False
    assert state.on_edit(NOW + 0.25) == EDIT_INTERVAL - 0.25
    assert state.on_edit(NOW + 5) == 0


@pytest.mark.parametrize(
    ("result", "before", "pending", "task"),
    [
        (REPORT_UNREACHABLE.error, make_status(), None, REPORT_UNREACHABLE),
        (None, make_status(), None, Fetch(NOW, None)),
        (None, make_status(), Fetch(1, PASS), Fetch(NOW, None)),
        (make_snapshot("pass"), make_status(), None, Fetch(NOW, PASS)),
        (make_snapshot("pass"), make_status(), Fetch(1, frozenset({"user"})), Fetch(NOW, frozenset({"user", "pass"}))),
        (make_snapshot("pass"), make_status(), Fetch(1, None), Fetch(NOW, PASS)),
        (make_snapshot(), make_status(), Fetch(1, PASS), Fetch(NOW, PASS)),
        (make_snapshot(), make_status(ready=False), None, Fetch(NOW, frozenset())),
        (make_snapshot(), make_status(ready=None), None, Fetch(NOW, frozenset())),
        (make_snapshot(), make_status(), None, None),
        (make_snapshot(), make_status(age=86_399), None, None),
        (make_snapshot(), make_status(age=86_400), None, Confirm()),
        (make_snapshot(), make_status(age=None), None, Confirm()),
    ],
)
def test_task_after_poll(result: PollResult, before: SecretSyncStatus, pending: Task | None, task: Task | None) -> None:
    assert task_after_poll(WANTED, result, before, pending, NOW, DATE) == task


@pytest.mark.parametrize(
    ("result", "before", "keys"),
    [
        (make_snapshot("pass"), make_status(), frozenset()),  # the value that is known to be unusable
        (make_snapshot("user", "pass"), make_status(), frozenset({"user"})),
        (make_snapshot("pass"), SecretSyncStatus(), frozenset({"user"})),
        (make_snapshot(), make_status(), PASS),  # an earlier value was restored
        (None, make_status(), None),
    ],
)
def test_unusable_value_is_fetched_again_only_after_it_changed(
    result: PollResult, before: SecretSyncStatus, keys: frozenset[str] | None
) -> None:
    before = msgspec.structs.replace(before, conditions=[make_condition(ready=False)])
    assert task_after_poll(WANTED, result, before, None, NOW, DATE, {"pass": LACKING}) == Fetch(NOW, keys)


@pytest.mark.parametrize(("keys", "fetched"), [(frozenset({"user"}), frozenset({"user", "pass"})), (None, None)])
def test_edit_of_another_key_also_fetches_the_unusable_ones(
    keys: frozenset[str] | None, fetched: frozenset[str] | None
) -> None:
    state = WorkState(due=OnPoll())
    state.on_edit(NOW, keys)
    assert state.take_edit(NOW, {"pass": LACKING})
    assert state.take_task(NOW) == Fetch(NOW, fetched)


def handle_poll(state: WorkState, result: PollResult, before: SecretSyncStatus | None = None) -> bool:
    return state.on_poll(WANTED, result, before or make_status(), NOW, DATE)


def test_poll_that_found_a_change_makes_an_attempt_due() -> None:
    state = WorkState(due=OnPoll(), pending=Confirm())
    assert handle_poll(state, make_snapshot("pass")) is True
    assert (state.due, state.pending) == (DueAt(NOW), Fetch(NOW, PASS))


def test_poll_that_found_no_change_leaves_the_state() -> None:
    state = WorkState(due=OnPoll())
    assert handle_poll(state, make_snapshot()) is False
    assert (state.due, state.pending) == (OnPoll(), None)


def test_poll_does_not_change_the_state_of_an_edited_object() -> None:
    state = WorkState(due=OnPoll(), edited=True)
    assert handle_poll(state, make_snapshot("pass")) is False
    assert state.pending is None


def test_failed_poll_is_reported_once() -> None:
    state = WorkState(due=OnPoll())
    assert handle_poll(state, REPORT_UNREACHABLE.error)
    assert (state.due, state.pending) == (OnPoll(), REPORT_UNREACHABLE)
    state.pending, state.reported = None, REPORT_UNREACHABLE.error.message
    assert handle_poll(state, REPORT_UNREACHABLE.error) is False
    assert state.pending is None


@pytest.mark.parametrize("result", [REPORT_UNREACHABLE.error, make_snapshot()])
def test_poll_without_a_change_does_not_replace_a_pending_task(result: PollResult) -> None:
    state = WorkState(due=OnPoll(), pending=Fetch(NOW, PASS), reported="")
    before = make_status(age=CONFIRM_EVERY)
    if isinstance(result, VaultSnapshot):
        state.pending = Confirm()
    kept = state.pending
    assert handle_poll(state, result, before)
    assert state.pending == kept


@pytest.mark.parametrize("age", [0, CONFIRM_EVERY])
def test_fetch_runs_if_the_vault_returns_before_the_failure_is_stored(age: float) -> None:
    state = WorkState()
    state.take_task(NOW)
    state.leave_task(None, NOW)
    state.settle_attempt(UNREACHABLE, True, INTERVAL, SHORTEST, NOW)
    # The vault is back while the failure is being written to the status, which still says that the Secret is equal.
    assert handle_poll(state, make_snapshot(), make_status(age=age)) is True
    state.was_reported(UNREACHABLE.message)
    assert state.next_action(NOW) == MakeAttempt()
    # As after any outage, the poll has shown that no value needs to be fetched.
    assert (state.take_task(NOW), state.equal_at) == (Fetch(NOW, frozenset()), None)


def test_task_is_taken_once_and_an_attempt_without_one_fetches_everything() -> None:
    state = WorkState(pending=Confirm())
    assert state.take_task(NOW) == Confirm()
    assert state.take_task(NOW) == Fetch(NOW)


@pytest.mark.parametrize(
    ("pending", "keys", "task"),
    [
        (None, PASS, Fetch(NOW, PASS)),
        (None, None, Fetch(NOW)),
        (Confirm(), PASS, Fetch(NOW, PASS)),
        (REPORT_UNREACHABLE, PASS, Fetch(NOW, PASS)),
        (Fetch(NOW - 1, frozenset({"user"})), PASS, Fetch(NOW, frozenset({"user", "pass"}))),
        (Fetch(NOW - 1, PASS), None, Fetch(NOW)),
        (Fetch(NOW - 1), PASS, Fetch(NOW)),
    ],
)
def test_left_keys_are_fetched_with_those_of_an_event_meanwhile(
    pending: Task | None, keys: frozenset[str] | None, task: Task
) -> None:
    state = WorkState(pending=pending)
    state.leave_task(keys, NOW)
    assert state.pending == task


@pytest.mark.parametrize("age", [0, CONFIRM_EVERY])
def test_failure_that_passed_before_its_report_is_not_reported(age: float) -> None:
    state = WorkState(due=OnPoll())
    assert handle_poll(state, REPORT_UNREACHABLE.error)
    handle_poll(state, make_snapshot(), make_status(age=age))
    assert state.pending == (Confirm() if age else None)


@pytest.mark.parametrize(
    ("began", "is_fetched"), [(NOW - 1, False), (NOW, False), (NOW + 0.1, True)], ids=["before", "with", "after"]
)
def test_poll_that_began_before_the_fetch_of_all_keys_is_ignored(began: float, is_fetched: bool) -> None:
    state = WorkState()
    state.take_task(NOW)
    # The attempt has not written its status yet, so every key looks stale.
    poll = VaultSnapshot(since=began)
    assert state.on_poll(WANTED, poll, SecretSyncStatus(), NOW + 1, DATE) is is_fetched


@pytest.mark.parametrize(("began", "is_fetched"), [(NOW, False), (NOW + 2, True)])
def test_poll_counts_if_shared_answers_can_be_older(began: float, is_fetched: bool) -> None:
    state = WorkState()
    state.on_edit(NOW)
    state.take_edit(NOW + 5)
    assert state.take_task(NOW + 5) == Fetch(NOW)  # answers of other readers since the edit count
    poll = VaultSnapshot(since=began)
    assert state.on_poll(WANTED, poll, SecretSyncStatus(), NOW + 6, DATE) is is_fetched


@pytest.mark.parametrize("keys", [None, PASS])
def test_poll_counts_for_keys_that_could_not_be_fetched(keys: frozenset[str] | None) -> None:
    state = WorkState()
    state.take_task(NOW)
    state.leave_task(keys, NOW)
    assert state.on_poll(WANTED, VaultSnapshot(since=NOW - 1), SecretSyncStatus(), NOW + 1, DATE)


def test_poll_counts_while_only_some_keys_are_fetched() -> None:
    state = WorkState(pending=Fetch(NOW, PASS))
    state.take_task(NOW)
    assert state.on_poll(WANTED, VaultSnapshot(since=NOW - 1), SecretSyncStatus(), NOW + 1, DATE)


@pytest.mark.parametrize(
    ("result", "waits_for_poll", "pending", "due", "failures"),
    [
        (READY, False, None, OnPoll(), 0),
        (READY, False, Confirm(), DueAt(NOW), 0),
        (make_failed(), True, Fetch(NOW), OnPoll(), 0),
        (make_failed(), False, None, DueAt(NOW + 8), 3),
        (make_partial(DISABLED), False, None, DueAt(NOW + 8), 3),
        (make_failed(retry=Retry.THROTTLED, retry_after=7.0), False, None, DueAt(NOW + 7), 2),
        (make_failed(retry=Retry.ON_EDIT), False, None, DueAt(NOW + INTERVAL), 3),
        (Failed(LACKING), False, None, OnPoll(), 0),
        (make_partial(LACKING), False, None, OnPoll(), 0),
        (make_partial(LACKING), False, Fetch(NOW), DueAt(NOW), 0),
    ],
)
def test_due_after_an_attempt(
    result: Reportable, waits_for_poll: bool, pending: Task | None, due: Due, failures: int
) -> None:
    state = WorkState(failures=2, pending=pending)
    state.settle_attempt(result, waits_for_poll, INTERVAL, LONGEST, NOW)
    assert (state.due, state.failures) == (due, failures)


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


@pytest.mark.parametrize(
    ("outcome", "keys", "is_polled", "stays_polled", "left"),
    [
        (make_failed(), PASS, False, False, None),  # no poll compares the keys, so all are fetched
        (make_failed(), PASS, True, True, PASS),
        (make_failed(), None, True, True, None),
        (make_failed(), frozenset(), True, False, None),
        (make_partial(DISABLED), None, True, True, PASS),
        (make_partial(DISABLED), frozenset({"user"}), True, True, PASS),
        (make_partial(DISABLED), frozenset({"user"}), False, False, None),
        (make_partial(THROTTLED), frozenset({"user"}), False, False, PASS),
        (make_partial(DISABLED, user=LACKING), None, True, True, PASS),
        (make_failed(retry=Retry.THROTTLED), PASS, False, False, PASS),
        (UNREACHABLE, PASS, False, True, PASS),
    ],
)
def test_keys_left(
    outcome: PartiallySynced | Failed,
    keys: frozenset[str] | None,
    is_polled: bool,
    stays_polled: bool,
    left: frozenset[str] | None,
) -> None:
    assert keys_left(outcome, keys, is_polled, stays_polled) == left


def test_report_that_failed_is_tried_soon() -> None:
    state = WorkState(due=OnPoll())
    state.was_not_reported(LONGEST, NOW)
    assert (state.due, state.requeues) == (DueAt(NOW + 2), 1)
    state.due = DueAt(NOW + 1)
    state.was_not_reported(LONGEST, NOW)
    assert (state.due, state.requeues) == (DueAt(NOW + 1), 2)
    state.was_reported("done")
    assert (state.requeues, state.reported) == (0, "done")


def test_requeues_are_reported_after_half_a_minute() -> None:
    state, moment, waits = WorkState(), NOW, []
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


def test_unexpected_error_backs_off() -> None:
    state = WorkState(failures=1)
    state.settle_crash(LONGEST, NOW)
    assert (state.failures, state.due) == (2, DueAt(NOW + 4))


@pytest.mark.parametrize(
    ("due", "drift_check", "seconds"),
    [
        (DueAt(NOW + 3), NOW + 1, 3),
        (DueAt(NOW - 3), NOW + 1, 0),
        (OnPoll(), NOW + 1, 1),
        (OnPoll(), NOW - 1, 0),
        (OnPoll(), None, math.inf),
    ],
)
def test_delay(due: Due, drift_check: float | None, seconds: float) -> None:
    assert WorkState(due=due, drift_check=drift_check).seconds_until_due(NOW) == seconds


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


EVENTS = st.lists(
    st.sampled_from(["edit", "change", "equal", "unreachable", "attempt", "requeue", "crash", "unreported"])
)


@given(
    EVENTS,
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
    """After an edit or a change, an attempt that fetches follows without another event, in every earlier state."""
    state, now = WorkState(drift_check=math.inf), NOW
    for event in [*events, "edit" if len(events) % 2 else "change"]:
        now += 1
        match event:
            case "edit":
                state.on_edit(now)
            case "change":
                state.on_poll(WANTED, make_snapshot("pass"), make_status(), now, DATE)
            case "equal":
                state.on_poll(WANTED, make_snapshot(), make_status(), now, DATE)
            case "unreachable":
                state.on_poll(WANTED, REPORT_UNREACHABLE.error, make_status(), now, DATE)
            case "attempt":
                state.take_edit(now)
                state.take_task(now)
                state.settle_attempt(result, False, INTERVAL, SHORTEST, now)
                state.was_reported(result.message)
            case "requeue":
                state.settle_requeue(1.0, now)
            case "crash":
                state.settle_crash(SHORTEST, now)
            case "unreported":
                state.was_not_reported(SHORTEST, now)
    state.take_edit(now)
    assert state.next_action(now) == MakeAttempt()
    task = state.take_task(now)
    assert isinstance(task, Fetch)
    assert task.keys is None or "pass" in task.keys


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
    state = WorkState(due=OnPoll())
    handle_poll(state, result, before)
    assert state.equal_at == (DATE if is_equal else None)


@pytest.mark.parametrize(
    ("state", "is_taken"),
    [
        (WorkState(), True),
        (WorkState(pending=Confirm()), True),
        (WorkState(pending=Fetch(NOW)), False),
        (WorkState(pending=REPORT_UNREACHABLE), False),
        (WorkState(edited=True), False),
    ],
)
def test_record_of_a_poll_does_not_replace_another_task(state: WorkState, is_taken: bool) -> None:
    poll, before = GroupPoll(group="x", time="2030-01-01T00:00:00Z"), state.pending
    assert state.confirm(poll) is is_taken
    assert state.pending == (Confirm(poll) if is_taken else before)
