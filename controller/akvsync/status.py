"""Compute the status of an AKVSync from its parts: the steps of its objects and the status of its SecretSyncs. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from controller.akvsync.children import BlockedObject, KeepObject, StepResult
from controller.akvsync.terms import in_akvsync_terms
from controller.api.akvsync import MAX_PARTS, MAX_SKIPPED, AKVSync, AKVSyncStatus, PartStatus
from controller.api.conditions import Condition, ConditionType, Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretsync import SecretSync
from controller.api.select import SkippedObject
from controller.domain.status import find_condition, next_condition, ready_condition
from controller.errors import ControllerError
from controller.runtime.clock import format_time, parse_time

# Maximum characters of a part's message. Its SecretSync has the full text.
MAX_MESSAGE = 512
# Maximum number of versions in a part's status.
MAX_VERSIONS = 10
# Maximum number of objects in a message.
MAX_NAMED = 5
# Minimum seconds between two writes of the last list's time. A restarted controller needs the time to know when the
# next list is due, and it need not be exact. Fewer writes save load on the API server.
CONFIRM_LIST_EVERY = 3600.0
# The AKVSync is ready, because the objects can come later. A mistake in the conditions has the same result.
_NOTHING_SELECTED = (
    "no enabled object of the vault meets the conditions of select, so there is no Secret; if you expect one,"
    " compare the conditions with the vault"
)


def part_status(
    name: str, done: StepResult, current: SecretSync | Unreadable | None, kept: Sequence[str] = ()
) -> PartStatus:
    """Return the status of one part: the error of its step, or else the state of its SecretSync.

    `kept` are the part's vault objects that are no longer selected.
    """
    sync = current if isinstance(current, SecretSync) else None
    ready = ready_condition(sync.status) if sync else None
    if isinstance(done, BlockedObject | ControllerError):
        holds, reason, message = False, done.reason, done.message
    elif isinstance(current, Unreadable):
        holds, reason = False, Reason.INPUT_INVALID
        message = f"the SecretSync {name} cannot be read: {current.problem}"
    elif (
        not sync
        or not ready
        or ready.observed_generation != sync.metadata.generation
        or not isinstance(done, KeepObject)
    ):
        holds, reason = False, Reason.IN_PROGRESS
        message = f"the SecretSync {name} was just written; the controller syncs it next"
    elif kept and ready.holds:
        return _build_part(name, True, Reason.KEPT, _kept_message(kept), sync)
    else:
        return _build_part(name, ready.holds, ready.reason, in_akvsync_terms(ready.message), sync)
    # The versions of a foreign SecretSync say nothing about this AKVSync.
    foreign = reason is Reason.NAME_TAKEN
    return _build_part(name, holds, reason, message, None if foreign else sync)


def is_stalled(done: StepResult, current: SecretSync | Unreadable | None) -> bool:
    """Return whether a part waits for an edit, by the result of its step or by its SecretSync's status."""
    if isinstance(done, ControllerError):
        return done.is_stalled
    if not isinstance(done, KeepObject) or not isinstance(current, SecretSync):
        return False
    stalled = find_condition(current.status, ConditionType.STALLED)
    return stalled is not None and stalled.holds and stalled.observed_generation == current.metadata.generation


def _kept_message(kept: Sequence[str]) -> str:
    several = len(kept) > 1
    more = f" and {len(kept) - MAX_NAMED} more" if len(kept) > MAX_NAMED else ""
    return (
        f"{', '.join(kept[:MAX_NAMED])}{more} {'are' if several else 'is'} disabled, deleted or no longer selected in"
        f" the vault; the Secret keeps {'their last values' if several else 'its last value'}; to remove it, delete the"
        " SecretSync"
    )


def _build_part(name: str, ready: bool, reason: str, message: str, sync: SecretSync | None) -> PartStatus:
    short = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."
    versions = sync.status.objects[:MAX_VERSIONS] if sync else []
    return PartStatus(name=name, ready=ready, reason=str(reason), message=short, versions=versions)


class SelectionResult(msgspec.Struct, frozen=True, kw_only=True):
    """The selected objects without a Secret, the error of the last list, and the seconds since the last success.

    `is_applied` means that every generated object is as the list demands.
    """

    skipped: Sequence[SkippedObject] = ()
    error: ControllerError | None = None
    listed_ago: float | None = None
    is_applied: bool = True


def listed_ago(akv: AKVSync, now: datetime) -> float | None:
    """Return how many seconds ago the vault was listed for this AKVSync, or None if it was not."""
    if akv.status.observed_generation != akv.metadata.generation:
        return None
    at = parse_time(akv.status.last_list_time)
    return None if at is None else max(0.0, (now - at).total_seconds())


def next_status(
    meta: ObjectMeta,
    before: AKVSyncStatus,
    parts: list[PartStatus],
    problem: ControllerError | None,
    now: datetime,
    selection: SelectionResult | None = None,
    *,
    stalled: bool = False,
) -> AKVSyncStatus:
    """Return the AKVSync's status. `problem` is a mistake in the AKVSync itself.

    `stalled` means that a part waits for an edit.
    """
    reason, message = _explain_ready(parts, problem, selection)

    def build_condition(kind: ConditionType, holds: bool) -> Condition:
        return next_condition(kind, holds, reason, message, meta.generation, before, now)

    conditions = [build_condition(ConditionType.READY, reason == Reason.UP_TO_DATE)]
    if problem or stalled:
        conditions.append(build_condition(ConditionType.STALLED, True))
    return AKVSyncStatus(
        conditions=conditions,
        observed_generation=meta.generation,
        summary=_count_ready(parts),
        parts=parts[:MAX_PARTS],
        skipped=_shorten_skipped(selection.skipped) if selection else [],
        last_list_time=_last_list_time(before, meta, selection, now) if selection else None,
    )


def _count_ready(parts: Sequence[PartStatus]) -> str:
    return f"{sum(item.ready for item in parts)}/{len(parts)}"


def _explain_ready(
    parts: Sequence[PartStatus], problem: ControllerError | None, selection: SelectionResult | None
) -> tuple[str, str]:
    """Return reason and message of the condition Ready: of the most important cause, if the AKVSync is not ready."""
    summary = _count_ready(parts)
    if problem:
        return str(problem.reason), problem.message
    if selection and selection.error:
        text = f"{summary} ready; select: {selection.error.message}; until then the selected Secrets do not change"
        return str(selection.error.reason), text
    if selection and selection.listed_ago is None:
        return str(Reason.IN_PROGRESS), f"{summary} ready; select: the controller lists the vault next"
    # The message quotes the first part. A part that becomes ready without an edit is the least important one.
    unready = sorted((item for item in parts if not item.ready), key=lambda item: item.reason == Reason.IN_PROGRESS)
    if unready:
        others = f" (and {len(unready) - 1} more: see status.parts)" if len(unready) > 1 else ""
        return unready[0].reason, f"{summary} ready; {unready[0].name}: {unready[0].message}{others}"
    if selection and selection.skipped:
        first, more = selection.skipped[0], len(selection.skipped) - 1
        others = f" (and {more} more: see status.skipped)" if more else ""
        return str(Reason.SKIPPED), f"{summary} ready; {first.name} has no Secret: {first.message}{others}"
    if selection and not parts:
        return str(Reason.UP_TO_DATE), f"{summary} ready: {_NOTHING_SELECTED}"
    kept = sum(item.reason == Reason.KEPT for item in parts)
    exception = f"{kept} keep values of objects that are no longer selected (see status.parts)" if kept else ""
    return str(Reason.UP_TO_DATE), f"{summary} ready: {exception or 'every Secret has the values of the vault'}"


def _shorten_skipped(skipped: Sequence[SkippedObject]) -> list[SkippedObject]:
    shown = [msgspec.structs.replace(item, message=item.message[:MAX_MESSAGE]) for item in skipped[: MAX_SKIPPED - 1]]
    if len(skipped) > len(shown):
        more = len(skipped) - len(shown)
        shown.append(SkippedObject(name=f"{more} more", message="they have no Secret, for the same or other reasons"))
    return shown


def _last_list_time(before: AKVSyncStatus, meta: ObjectMeta, selection: SelectionResult, now: datetime) -> str | None:
    # Without the time, a restarted controller lists the vault. Only a list shows which objects are missing.
    if selection.listed_ago is None or not selection.is_applied:
        return None
    at = now - timedelta(seconds=selection.listed_ago)
    known = parse_time(before.last_list_time) if before.observed_generation == meta.generation else None
    if known and (at - known).total_seconds() < CONFIRM_LIST_EVERY:
        return before.last_list_time
    return format_time(at)
