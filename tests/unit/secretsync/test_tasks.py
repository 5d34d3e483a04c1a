"""Test which task follows from a poll, and which keys a failed attempt leaves."""

import msgspec
import pytest

from controller.api.secretsync import SecretSyncStatus
from controller.domain.snapshot import PollResult
from controller.domain.status import Failed, PartiallySynced
from controller.errors import Retry
from controller.secretsync.tasks import (
    Confirm,
    Fetch,
    TargetKeys,
    Task,
    join_dependents,
    keys_left,
    task_after_poll,
)
from tests.unit.secretsync.samples import (
    BOTH,
    DATE,
    DISABLED,
    LACKING,
    NOW,
    PASS,
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


@pytest.mark.parametrize(
    ("result", "before", "left", "task"),
    [
        (REPORT_UNREACHABLE.error, make_status(), None, REPORT_UNREACHABLE),
        (None, make_status(), None, Fetch(NOW, None)),
        (None, make_status(), Fetch(1, PASS), Fetch(NOW, None)),
        (make_snapshot("pass"), make_status(), None, Fetch(NOW, PASS)),
        (make_snapshot("pass"), make_status(), Fetch(1, USER), Fetch(NOW, BOTH)),
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
def test_task_after_poll(result: PollResult, before: SecretSyncStatus, left: Fetch | None, task: Task | None) -> None:
    assert task_after_poll(WANTED, result, before, left, NOW, DATE) == task


@pytest.mark.parametrize(
    ("result", "before", "keys"),
    [
        (make_snapshot("pass"), make_status(), frozenset()),  # the value that is known to be unusable
        (make_snapshot("user", "pass"), make_status(), USER),
        (make_snapshot("pass"), SecretSyncStatus(), USER),
        (make_snapshot(), make_status(), PASS),  # an earlier value was restored
        (None, make_status(), None),
    ],
)
def test_unusable_value_is_fetched_again_only_after_it_changed(
    result: PollResult, before: SecretSyncStatus, keys: frozenset[str] | None
) -> None:
    before = msgspec.structs.replace(before, conditions=[make_condition(ready=False)])
    assert task_after_poll(WANTED, result, before, None, NOW, DATE, {"pass": LACKING}) == Fetch(NOW, keys)


@pytest.mark.parametrize(
    ("outcome", "keys", "is_polled", "stays_polled", "left"),
    [
        (make_failed(), PASS, False, False, None),  # no poll compares the keys, so all are fetched
        (make_failed(), PASS, True, True, PASS),
        (make_failed(), None, True, True, None),
        (make_failed(), frozenset(), True, False, None),
        (make_partial(DISABLED), None, True, True, PASS),
        (make_partial(DISABLED), USER, True, True, PASS),
        (make_partial(DISABLED), USER, False, False, None),
        (make_partial(THROTTLED), USER, False, False, PASS),
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


@pytest.mark.parametrize(
    ("keys", "joined"),
    [
        (None, None),
        (frozenset(), frozenset()),
        (USER, USER),
        (frozenset({"x/*"}), frozenset({"x/*", "y/*"})),
        (frozenset({"y/*"}), frozenset({"y/*"})),
        (frozenset({"user", "x/*"}), frozenset({"user", "x/*", "y/*"})),
        (frozenset({"tls.crt"}), frozenset({"tls.crt", "tls.key"})),
        (frozenset({"tls.key"}), frozenset({"tls.key"})),
    ],
)
def test_keys_that_can_make_others_usable_are_fetched_with_them(keys: TargetKeys, joined: TargetKeys) -> None:
    assert join_dependents(keys, {"y/*", "pass", "tls.key"}) == joined
