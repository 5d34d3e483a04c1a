"""Decide what to do about each object that an AKVSync generates, and compute the AKVSync's status. Pure.

An object belongs to an AKVSync if the AKVSync is its only owner, by UID. The controller never changes other objects; it
reports them in the status.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from controller.akvsync.terms import in_akvsync_terms
from controller.api.akvsync import MAX_PARTS, MAX_SKIPPED, AKVSync, AKVSyncStatus, PartStatus
from controller.api.conditions import Condition, ConditionType, Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.api.select import SkippedObject
from controller.domain.generated import akvsync_owner
from controller.domain.status import find_condition, next_condition, ready_condition
from controller.errors import ControllerError
from controller.runtime.backoff import format_time, parse_time

# Maximum characters of a part's message. Its SecretSync has the full text.
MAX_MESSAGE = 512
# Maximum number of versions in a part's status.
MAX_VERSIONS = 10
# Maximum number of objects in a message.
MAX_NAMED = 5
# Minimum seconds between two writes of the last list's time. A restarted controller needs the time to know when the
# next list is due, and it need not be exact. Fewer writes save load on the API server.
CONFIRM_LIST_EVERY = 3600.0

GeneratedObject = SecretSync | SecretProviderClass


class KeepObject(msgspec.Struct, frozen=True):
    """The object is correct."""


class CreateObject(msgspec.Struct, frozen=True):
    """The object is missing: create it."""

    body: dict[str, Any]


class PatchObject(msgspec.Struct, frozen=True):
    """The object differs: merge the patch into it."""

    meta: ObjectMeta
    body: dict[str, Any]


class BlockedObject(msgspec.Struct, frozen=True):
    """The existing object blocks the step. The watch reports its next change."""

    reason: Reason
    message: str


Step = KeepObject | CreateObject | PatchObject | BlockedObject
StepResult = Step | ControllerError


def decide_step(wanted: GeneratedObject, current: GeneratedObject | Unreadable | None) -> Step:
    """Decide how to bring the object with this name from its current to the wanted state."""
    if current is None:
        return CreateObject(_object_body(wanted))
    if blocked := _owner_blocker(wanted, current.metadata) or _deletion_blocker(wanted, current.metadata):
        return blocked
    spec = _spec_of(wanted)
    if isinstance(current, Unreadable):
        return PatchObject(current.metadata, {"spec": spec})
    if isinstance(wanted, SecretSync) and isinstance(current, SecretSync):
        if blocked := _type_blocker(wanted, current):
            return blocked
        # A user sets this field to request a poll now. An AKVSync has no field for this purpose.
        if current.spec.force_synchronization:
            spec["forceSynchronization"] = current.spec.force_synchronization
    difference = _merge_patch(_spec_of(current), spec)
    return PatchObject(current.metadata, {"spec": difference}) if difference else KeepObject()


def _object_body(wanted: GeneratedObject) -> dict[str, Any]:
    return {
        "apiVersion": wanted.api_version(),
        "kind": wanted.kind,
        "metadata": msgspec.to_builtins(wanted.metadata),
        "spec": _spec_of(wanted),
    }


def _spec_of(generated: GeneratedObject) -> dict[str, Any]:
    spec: dict[str, Any] = msgspec.to_builtins(generated.spec)
    if isinstance(generated, SecretSync):
        # msgspec omits a default only if the value is the same Python object. Equal text that was decoded is another.
        spec["secretObject"]["type"] = generated.spec.secret_object.type
    return spec


def _owner_blocker(wanted: GeneratedObject, current: ObjectMeta) -> BlockedObject | None:
    """Return why the object does not belong to this AKVSync, or None if it does."""
    expected, actual = wanted.metadata.owner_references[0], akvsync_owner(current)
    if actual and actual.uid == expected.uid:
        return None
    name = f"{wanted.kind} {current.name}"
    if actual and actual.name == expected.name:
        return BlockedObject(
            Reason.IN_PROGRESS,
            f"the {name} of an earlier AKVSync of this name still exists; if it remains, check its finalizers and the"
            " cluster's garbage collector (kube-controller-manager), or delete it",
        )
    instead = "set another kubernetesSecretName" if isinstance(wanted, SecretSync) else "rename the AKVSync"
    return BlockedObject(
        Reason.NAME_TAKEN,
        f"a {name} exists that does not belong to this AKVSync, so it was not touched; {instead}, or delete that"
        f" {wanted.kind}: the controller then creates its own",
    )


def _deletion_blocker(wanted: GeneratedObject, current: ObjectMeta) -> BlockedObject | None:
    if not current.deletion_timestamp:
        return None
    text = f"the {wanted.kind} {current.name} is being deleted; the controller recreates it when it is gone"
    return BlockedObject(Reason.IN_PROGRESS, f"{text}; if it remains, check its finalizers")


def _type_blocker(wanted: SecretSync, current: SecretSync) -> BlockedObject | None:
    old, new = current.spec.secret_object.type, wanted.spec.secret_object.type
    if old == new:
        return None
    return BlockedObject(
        Reason.TYPE_CHANGE_WAITS,
        f"the Secret has type {old}, and a Secret's type cannot change: delete the SecretSync {current.metadata.name},"
        f" which deletes its Secret; the controller recreates both with type {new}",
    )


def _merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch from the old to the new state."""
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        was = old.get(key)
        if isinstance(was, dict) and isinstance(value, dict):
            value = _merge_patch(was, value)
            if value:
                patch[key] = value
        elif was != value:
            patch[key] = value
    return patch


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
    """The selected objects without a Secret, the error of the last list, and the seconds since the last success."""

    skipped: Sequence[SkippedObject] = ()
    error: ControllerError | None = None
    listed_ago: float | None = None


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
    unready = [item for item in parts if not item.ready]
    summary = f"{len(parts) - len(unready)}/{len(parts)}"
    # The message quotes the first part. A part that becomes ready without an edit is the least important one.
    unready.sort(key=lambda item: item.reason == Reason.IN_PROGRESS)
    if problem:
        reason, message = str(problem.reason), problem.message
    elif selection and selection.error:
        reason = str(selection.error.reason)
        message = f"{summary} ready; select: {selection.error.message}; until then the selected Secrets do not change"
    elif selection and selection.listed_ago is None:
        reason, message = str(Reason.IN_PROGRESS), f"{summary} ready; select: the controller lists the vault next"
    elif unready:
        others = f" (and {len(unready) - 1} more: see status.parts)" if len(unready) > 1 else ""
        reason, message = unready[0].reason, f"{summary} ready; {unready[0].name}: {unready[0].message}{others}"
    elif selection and selection.skipped:
        first, more = selection.skipped[0], len(selection.skipped) - 1
        others = f" (and {more} more: see status.skipped)" if more else ""
        reason, message = str(Reason.SKIPPED), f"{summary} ready; {first.name} has no Secret: {first.message}{others}"
    else:
        kept = sum(item.reason == Reason.KEPT for item in parts)
        exception = f"{kept} keep values of objects that are no longer selected (see status.parts)" if kept else ""
        message = f"{summary} ready: {exception or 'every Secret has the values of the vault'}"
        reason = str(Reason.UP_TO_DATE)

    def build_condition(kind: ConditionType, holds: bool) -> Condition:
        return next_condition(kind, holds, reason, message, meta.generation, before, now)

    conditions = [build_condition(ConditionType.READY, reason == Reason.UP_TO_DATE)]
    if problem or stalled:
        conditions.append(build_condition(ConditionType.STALLED, True))
    return AKVSyncStatus(
        conditions=conditions,
        observed_generation=meta.generation,
        summary=summary,
        parts=parts[:MAX_PARTS],
        skipped=_shorten_skipped(selection.skipped) if selection else [],
        last_list_time=_last_list_time(before, meta, selection, now) if selection else None,
    )


def _shorten_skipped(skipped: Sequence[SkippedObject]) -> list[SkippedObject]:
    shown = [msgspec.structs.replace(item, message=item.message[:MAX_MESSAGE]) for item in skipped[: MAX_SKIPPED - 1]]
    if len(skipped) > len(shown):
        more = len(skipped) - len(shown)
        shown.append(SkippedObject(name=f"{more} more", message="they have no Secret, for the same or other reasons"))
    return shown


def _last_list_time(before: AKVSyncStatus, meta: ObjectMeta, selection: SelectionResult, now: datetime) -> str | None:
    if selection.listed_ago is None:
        return None
    at = now - timedelta(seconds=selection.listed_ago)
    known = parse_time(before.last_list_time) if before.observed_generation == meta.generation else None
    if known and (at - known).total_seconds() < CONFIRM_LIST_EVERY:
        return before.last_list_time
    return format_time(at)
