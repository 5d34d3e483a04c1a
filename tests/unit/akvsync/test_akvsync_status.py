"""Test the status of an AKVSync and of its parts. No event loop is needed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from controller.akvsync.children import BlockedObject, CreateObject, KeepObject, PatchObject, StepResult
from controller.akvsync.status import SelectionResult, is_stalled, listed_ago, next_status, part_status
from controller.api.akvsync import AKVSyncStatus, PartStatus
from controller.api.conditions import Condition, ConditionType, Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretsync import ObjectVersion, SecretSync, SecretSyncStatus
from controller.api.select import SkippedObject
from controller.errors import ClassError, ClassNotFound, ControllerError, InputError, ProviderError
from controller.runtime.clock import format_time
from tests.support.akv_syncs import akv_sync
from tests.support.builders import make_sync

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
META = ObjectMeta(name="shop", namespace="team", generation=3)
WANTED = make_sync(["user"], name="a")


def make_condition(
    kind: ConditionType = ConditionType.READY,
    status: Any = "True",
    reason: str = Reason.UP_TO_DATE,
    message: str = "2 keys",
    generation: int = 1,
    since: datetime = NOON,
) -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=format_time(since),
        observed_generation=generation,
    )


def make_reported_sync(*conditions: Condition, keys: int = 1) -> SecretSync:
    """Return a SecretSync `a` of generation 1 with these conditions, and with the versions of this many keys."""
    return make_sync(name="a", status=SecretSyncStatus(conditions=list(conditions), objects=make_versions(keys)))


def make_versions(count: int) -> list[ObjectVersion]:
    return [ObjectVersion(target_key=f"v{number}", object="secret/a", version="1") for number in range(count)]


READY = make_condition()
STALLED = make_condition(ConditionType.STALLED, "True", Reason.SPC_ERROR, "no class")
BLOCKED = BlockedObject(Reason.IN_PROGRESS, "it is being deleted")
PATCHED = PatchObject(WANTED.metadata, {"spec": {}})

JUST_WRITTEN = (False, Reason.IN_PROGRESS, "the SecretSync a was just written; the controller syncs it next")
UNREADABLE = (False, Reason.INPUT_INVALID, "the SecretSync a cannot be read: odd")


def get_result(part: PartStatus) -> tuple[bool, str, str]:
    return part.ready, part.reason, part.message


@pytest.mark.parametrize(
    ("done", "current", "expected"),
    [
        (KeepObject(), None, JUST_WRITTEN),
        (KeepObject(), Unreadable(WANTED.metadata, "odd"), UNREADABLE),
        (PATCHED, Unreadable(WANTED.metadata, "odd"), UNREADABLE),
        (KeepObject(), make_reported_sync(), JUST_WRITTEN),
        (KeepObject(), make_reported_sync(STALLED), JUST_WRITTEN),
        (KeepObject(), make_reported_sync(make_condition(generation=0)), JUST_WRITTEN),
        (PATCHED, make_reported_sync(READY), JUST_WRITTEN),
        (CreateObject({}), make_reported_sync(READY), JUST_WRITTEN),
        (KeepObject(), make_reported_sync(READY), (True, Reason.UP_TO_DATE, "2 keys")),
        (BLOCKED, make_reported_sync(READY), (False, Reason.IN_PROGRESS, "it is being deleted")),
        (ProviderError("no answer"), make_reported_sync(READY), (False, Reason.PROVIDER_ERROR, "no answer")),
        (ProviderError("no answer"), None, (False, Reason.PROVIDER_ERROR, "no answer")),
        (
            KeepObject(),
            make_reported_sync(
                make_condition(status="False", reason=Reason.INPUT_INVALID, message="secretObject.type is odd")
            ),
            (False, Reason.INPUT_INVALID, "kubernetesSecretType is odd"),
        ),
    ],
)
def test_part_reports_its_step_or_else_its_secretsync(
    done: StepResult, current: SecretSync | Unreadable | None, expected: tuple[bool, str, str]
) -> None:
    part = part_status("a", done, current)
    assert part.name == "a"
    assert get_result(part) == expected
    assert type(part.reason) is str


@pytest.mark.parametrize(
    ("kept", "names", "values"),
    [
        ("a", "a is", "its last value"),
        ("ab", "a, b are", "their last values"),
        ("abcde", "a, b, c, d, e are", "their last values"),
        ("abcdef", "a, b, c, d, e and 1 more are", "their last values"),
        ("abcdefg", "a, b, c, d, e and 2 more are", "their last values"),
    ],
)
def test_part_names_the_objects_whose_values_it_keeps(kept: str, names: str, values: str) -> None:
    part = part_status("a", KeepObject(), make_reported_sync(READY, keys=2), list(kept))
    assert get_result(part) == (
        True,
        Reason.KEPT,
        f"{names} disabled, deleted or no longer selected in the vault; the Secret keeps {values}; to remove it, delete"
        " the SecretSync",
    )
    assert part.versions == make_versions(2)


def test_failed_secretsync_with_kept_values_reports_its_failure() -> None:
    failed = make_condition(status="False", reason=Reason.PROVIDER_ERROR, message="no answer")
    part = part_status("a", KeepObject(), make_reported_sync(failed), ["b"])
    assert get_result(part) == (False, Reason.PROVIDER_ERROR, "no answer")


@pytest.mark.parametrize(
    ("length", "expected"), [(511, "x" * 511), (512, "x" * 512), (513, "x" * 509 + "..."), (900, "x" * 509 + "...")]
)
def test_message_of_a_part_has_at_most_512_characters(length: int, expected: str) -> None:
    assert part_status("a", ProviderError("x" * length), None).message == expected


@pytest.mark.parametrize(("keys", "expected"), [(0, 0), (9, 9), (10, 10), (11, 10), (500, 10)])
def test_part_has_at_most_ten_versions(keys: int, expected: int) -> None:
    assert part_status("a", KeepObject(), make_reported_sync(READY, keys=keys)).versions == make_versions(expected)


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        (BLOCKED, 1),
        (PATCHED, 1),
        (ProviderError("no answer"), 1),
        (BlockedObject(Reason.TYPE_CHANGE_WAITS, "delete it"), 1),
        (BlockedObject(Reason.NAME_TAKEN, "rename it"), 0),
    ],
)
def test_only_a_foreign_secretsync_has_no_versions(done: StepResult, expected: int) -> None:
    assert part_status("a", done, make_reported_sync(READY)).versions == make_versions(expected)


@pytest.mark.parametrize(
    ("done", "current", "expected"),
    [
        (InputError("correct it"), None, True),
        (ClassError("correct it"), make_reported_sync(READY), True),
        (ClassNotFound("create it"), make_reported_sync(STALLED), False),
        (ProviderError("no answer"), make_reported_sync(STALLED), False),
        (KeepObject(), None, False),
        (KeepObject(), Unreadable(WANTED.metadata, "odd"), False),
        (KeepObject(), make_reported_sync(), False),
        (KeepObject(), make_reported_sync(READY), False),
        (KeepObject(), make_reported_sync(READY, STALLED), True),
        (KeepObject(), make_reported_sync(make_condition(ConditionType.STALLED, "False")), False),
        (KeepObject(), make_reported_sync(make_condition(ConditionType.STALLED, generation=0)), False),
        (KeepObject(), make_reported_sync(make_condition(ConditionType.STALLED, generation=2)), False),
        (PATCHED, make_reported_sync(READY, STALLED), False),
        (BLOCKED, make_reported_sync(READY, STALLED), False),
    ],
)
def test_part_is_stalled_while_only_an_edit_can_help(
    done: StepResult, current: SecretSync | Unreadable | None, expected: bool
) -> None:
    assert is_stalled(done, current) is expected


# The status of an AKVSync


def make_status(generation: int = 3, listed: datetime | None = None) -> AKVSyncStatus:
    return AKVSyncStatus(observed_generation=generation, last_list_time=format_time(listed) if listed else None)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (make_status(3, None), None),
        (make_status(2, NOON), None),
        (make_status(4, NOON), None),
        (make_status(3, NOON), 0.0),
        (make_status(3, NOON - timedelta(seconds=1)), 1.0),
        (make_status(3, NOON - timedelta(hours=2)), 7200.0),
        # The clock of the machine that wrote the status may be ahead.
        (make_status(3, NOON + timedelta(hours=1)), 0.0),
        (msgspec.structs.replace(make_status(3), last_list_time="yesterday"), None),
    ],
)
def test_last_list_is_used_only_for_its_generation(status: AKVSyncStatus, expected: float | None) -> None:
    akv = msgspec.structs.replace(akv_sync([{"secretInAKV": "a"}]), metadata=META, status=status)
    found = listed_ago(akv, NOON)
    assert (found, type(found)) == (expected, type(expected))


def make_part(name: str, reason: str = Reason.UP_TO_DATE, message: str = "") -> PartStatus:
    return PartStatus(name=name, ready=reason in (Reason.UP_TO_DATE, Reason.KEPT), reason=str(reason), message=message)


def make_skipped(count: int) -> list[SkippedObject]:
    return [SkippedObject(name=f"s{number}", message=f"no {number}") for number in range(count)]


A = make_part("a")
FAILED = make_part("b", Reason.PROVIDER_ERROR, "no answer")
ALSO_FAILED = make_part("c", Reason.SPC_ERROR, "no class")
WAITING = make_part("d", Reason.IN_PROGRESS, "just written")
KEPT = make_part("e", Reason.KEPT)
MISTAKE = InputError("correct it")
LISTED = SelectionResult(listed_ago=60.0)
FAILED_LIST = SelectionResult(skipped=make_skipped(1), error=ProviderError("no list"), listed_ago=60.0)


@pytest.mark.parametrize(
    ("parts", "problem", "selection", "reason", "message"),
    [
        ([], None, None, Reason.UP_TO_DATE, "0/0 ready: every Secret has the values of the vault"),
        ([A, A], None, None, Reason.UP_TO_DATE, "2/2 ready: every Secret has the values of the vault"),
        ([], None, LISTED, Reason.UP_TO_DATE,
         "0/0 ready: no enabled object of the vault meets the conditions of select, so there is no Secret; if you"
         " expect one, compare the conditions with the vault"),
        ([A], None, LISTED, Reason.UP_TO_DATE, "1/1 ready: every Secret has the values of the vault"),
        ([A, KEPT, KEPT], None, LISTED, Reason.UP_TO_DATE,
         "3/3 ready: 2 keep values of objects that are no longer selected (see status.parts)"),
        ([A, FAILED], None, None, Reason.PROVIDER_ERROR, "1/2 ready; b: no answer"),
        ([A, FAILED, ALSO_FAILED], None, LISTED, Reason.PROVIDER_ERROR,
         "1/3 ready; b: no answer (and 1 more: see status.parts)"),
        ([WAITING, ALSO_FAILED, FAILED], None, None, Reason.SPC_ERROR,
         "0/3 ready; c: no class (and 2 more: see status.parts)"),
        ([WAITING, A], None, None, Reason.IN_PROGRESS, "1/2 ready; d: just written"),
        ([A, FAILED], MISTAKE, FAILED_LIST, Reason.INPUT_INVALID, "correct it"),
        ([A, FAILED], None, FAILED_LIST, Reason.PROVIDER_ERROR,
         "1/2 ready; select: no list; until then the selected Secrets do not change"),
        ([A, FAILED], None, SelectionResult(error=ProviderError("no list")), Reason.PROVIDER_ERROR,
         "1/2 ready; select: no list; until then the selected Secrets do not change"),
        ([A, FAILED], None, SelectionResult(), Reason.IN_PROGRESS,
         "1/2 ready; select: the controller lists the vault next"),
        ([A], None, SelectionResult(skipped=make_skipped(1)), Reason.IN_PROGRESS,
         "1/1 ready; select: the controller lists the vault next"),
        ([A, FAILED], None, SelectionResult(skipped=make_skipped(1), listed_ago=0.0), Reason.PROVIDER_ERROR,
         "1/2 ready; b: no answer"),
        ([A], None, SelectionResult(skipped=make_skipped(1), listed_ago=0.0), Reason.SKIPPED,
         "1/1 ready; s0 has no Secret: no 0"),
        ([A], None, SelectionResult(skipped=make_skipped(2), listed_ago=0.0), Reason.SKIPPED,
         "1/1 ready; s0 has no Secret: no 0 (and 1 more: see status.skipped)"),
        ([A, KEPT], None, SelectionResult(skipped=make_skipped(3), listed_ago=0.0), Reason.SKIPPED,
         "2/2 ready; s0 has no Secret: no 0 (and 2 more: see status.skipped)"),
    ],
)  # fmt: skip
def test_ready_condition_has_the_most_important_cause(
    parts: list[PartStatus],
    problem: ControllerError | None,
    selection: SelectionResult | None,
    reason: Reason,
    message: str,
) -> None:
    status = next_status(META, AKVSyncStatus(), parts, problem, NOON, selection)
    ready = status.conditions[0]
    assert ready == make_condition(
        status="True" if reason is Reason.UP_TO_DATE else "False", reason=reason, message=message, generation=3
    )
    assert type(ready.reason) is str
    assert status.summary == f"{sum(part.ready for part in parts)}/{len(parts)}"
    assert status.observed_generation == 3
    assert status.parts == parts
    assert status.skipped == list(selection.skipped if selection else [])


@pytest.mark.parametrize(
    ("problem", "stalled", "expected"),
    [
        (None, {}, []),
        (None, {"stalled": False}, []),
        (None, {"stalled": True}, ["Stalled"]),
        (MISTAKE, {}, ["Stalled"]),
        (MISTAKE, {"stalled": True}, ["Stalled"]),
    ],
)
def test_mistake_or_stalled_part_adds_the_stalled_condition(
    problem: ControllerError | None, stalled: dict[str, Any], expected: list[str]
) -> None:
    ready, *others = next_status(META, AKVSyncStatus(), [FAILED], problem, NOON, **stalled).conditions
    assert [condition.type for condition in others] == expected
    assert all(
        (condition.status, condition.reason, condition.message) == ("True", ready.reason, ready.message)
        for condition in others
    )


@pytest.mark.parametrize(
    ("part", "expected"), [(A, NOON - timedelta(hours=1)), (FAILED, NOON)], ids=["same", "changed"]
)
def test_transition_time_changes_only_with_the_condition(part: PartStatus, expected: datetime) -> None:
    before = AKVSyncStatus(conditions=[make_condition(since=NOON - timedelta(hours=1))])
    [ready] = next_status(META, before, [part], None, NOON).conditions
    assert ready.last_transition_time == format_time(expected)


def test_status_has_at_most_256_parts() -> None:
    parts = [make_part(f"p{number}") for number in range(257)]
    status = next_status(META, AKVSyncStatus(), parts, None, NOON)
    assert (status.summary, status.parts) == ("257/257", parts[:256])


@pytest.mark.parametrize(
    ("count", "complete", "last"),
    [(0, 0, None), (1, 1, None), (62, 62, None), (63, 63, None), (64, 63, "1 more"), (65, 63, "2 more"),
     (1000, 63, "937 more")],
)  # fmt: skip
def test_status_has_at_most_64_skipped_objects(count: int, complete: int, last: str | None) -> None:
    selection = SelectionResult(skipped=make_skipped(count), listed_ago=0.0)
    found = next_status(META, AKVSyncStatus(), [A], None, NOON, selection).skipped
    rest = [SkippedObject(name=last, message="they have no Secret, for the same or other reasons")] if last else []
    assert found == make_skipped(complete) + rest


@pytest.mark.parametrize(("length", "expected"), [(511, 511), (512, 512), (513, 512), (9000, 512)])
def test_message_of_a_skipped_object_has_at_most_512_characters(length: int, expected: int) -> None:
    selection = SelectionResult(skipped=[SkippedObject(name="s", message="x" * length)], listed_ago=0.0)
    found = next_status(META, AKVSyncStatus(), [A], None, NOON, selection).skipped
    assert found == [SkippedObject(name="s", message="x" * expected)]


@pytest.mark.parametrize(
    ("before", "selection", "expected"),
    [
        (make_status(3, NOON), None, None),
        (make_status(3, NOON), SelectionResult(), None),
        (make_status(3, None), LISTED, NOON - timedelta(seconds=60)),
        (make_status(2, NOON - timedelta(seconds=70)), LISTED, NOON - timedelta(seconds=60)),
        (make_status(4, NOON - timedelta(seconds=70)), LISTED, NOON - timedelta(seconds=60)),
        (make_status(3, NOON - timedelta(seconds=70)), LISTED, NOON - timedelta(seconds=70)),
        (make_status(3, NOON - timedelta(seconds=3659)), LISTED, NOON - timedelta(seconds=3659)),
        (make_status(3, NOON - timedelta(seconds=3660)), LISTED, NOON - timedelta(seconds=60)),
        (make_status(3, NOON - timedelta(days=2)), LISTED, NOON - timedelta(seconds=60)),
        (make_status(3, NOON - timedelta(seconds=3659.5)), SelectionResult(listed_ago=60.0),
         NOON - timedelta(seconds=60)),
    ],
)  # fmt: skip
def test_time_of_the_last_list_is_written_once_an_hour(
    before: AKVSyncStatus, selection: SelectionResult | None, expected: datetime | None
) -> None:
    status = next_status(META, before, [A], None, NOON, selection)
    assert status.last_list_time == (format_time(expected) if expected else None)
