"""What to do about each object that an AKVSync owns, and how its status sums them up. Pure.

An object is ours where the AKVSync is its one owner, by UID. What is not ours is told and never touched.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from controller.akvsync_terms import in_akvsync_terms
from controller.api.akvsync import AKVSync, AKVSyncStatus, Part
from controller.api.conditions import ConditionType, Reason
from controller.api.meta import ObjectMeta, OwnerReference, Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.errors import ControllerError
from controller.status import next_condition, ready_condition

# What a part's line in the status may hold; its SecretSync has the rest.
MOST_MESSAGE = 512
MOST_SHOWN = 10

Made = SecretSync | SecretProviderClass


class Keep(msgspec.Struct, frozen=True):
    """It is as it should be."""


class Make(msgspec.Struct, frozen=True):
    """There is none: create it."""

    body: dict[str, Any]


class Mend(msgspec.Struct, frozen=True):
    """It differs: merge the patch into it."""

    meta: ObjectMeta
    body: dict[str, Any]


class Hindered(msgspec.Struct, frozen=True):
    """Nothing can be done until something in the cluster changes, and the watch will tell."""

    reason: Reason
    message: str


Step = Keep | Make | Mend | Hindered
Done = Step | ControllerError


def owner(meta: ObjectMeta) -> OwnerReference | None:
    """The AKVSync that is an object's one owner, if it is one."""
    owners = meta.owner_references
    if len(owners) != 1 or owners[0].kind != AKVSync.kind or owners[0].api_version.partition("/")[0] != AKVSync.group:
        return None
    return owners[0]


def step(wanted: Made, found: Made | Unreadable | None) -> Step:
    """What to do about the object that stands where `wanted` is to stand."""
    if found is None:
        return Make(_body(wanted))
    if hindrance := _not_ours(wanted, found.metadata) or _leaving(wanted, found.metadata):
        return hindrance
    spec = _spec(wanted)
    if isinstance(found, Unreadable):
        return Mend(found.metadata, {"spec": spec})
    if isinstance(wanted, SecretSync) and isinstance(found, SecretSync):
        if waits := _type_waits(wanted, found):
            return waits
        # Whoever sets it by hand wants the vault looked at now, and an AKVSync has no other way to say so.
        if found.spec.force_synchronization:
            spec["forceSynchronization"] = found.spec.force_synchronization
    difference = _difference(_spec(found), spec)
    return Mend(found.metadata, {"spec": difference}) if difference else Keep()


def _body(wanted: Made) -> dict[str, Any]:
    return {
        "apiVersion": wanted.api_version(),
        "kind": wanted.kind,
        "metadata": msgspec.to_builtins(wanted.metadata),
        "spec": _spec(wanted),
    }


def _spec(made: Made) -> dict[str, Any]:
    spec: dict[str, Any] = msgspec.to_builtins(made.spec)
    if isinstance(made, SecretSync):
        # msgspec leaves a default out where it is the very object, and not where it is an equal text that was read.
        spec["secretObject"]["type"] = made.spec.secret_object.type
    return spec


def _not_ours(wanted: Made, found: ObjectMeta) -> Hindered | None:
    ours, theirs = wanted.metadata.owner_references[0], owner(found)
    if theirs and theirs.uid == ours.uid:
        return None
    name = f"{wanted.kind} {found.name}"
    if theirs and theirs.name == ours.name:
        return Hindered(
            Reason.IN_PROGRESS,
            f"the {name} of an earlier AKVSync of this name is still there; if it stays, look at its finalizers and at"
            " the cluster's garbage collector (kube-controller-manager), or delete it",
        )
    instead = "set another kubernetesSecretName" if isinstance(wanted, SecretSync) else "rename the AKVSync"
    return Hindered(
        Reason.NAME_TAKEN,
        f"a {name} exists that does not belong to this AKVSync, so it was not touched; {instead}, or delete that"
        f" {wanted.kind} and the AKVSync follows by itself",
    )


def _leaving(wanted: Made, found: ObjectMeta) -> Hindered | None:
    if not found.deletion_timestamp:
        return None
    text = f"the {wanted.kind} {found.name} is being deleted and is made anew when it is gone"
    return Hindered(Reason.IN_PROGRESS, f"{text}; if it stays, look at its finalizers")


def _type_waits(wanted: SecretSync, found: SecretSync) -> Hindered | None:
    old, new = found.spec.secret_object.type, wanted.spec.secret_object.type
    if old == new:
        return None
    return Hindered(
        Reason.TYPE_CHANGE_WAITS,
        f"the Secret is of type {old}, which cannot change: delete the SecretSync {found.metadata.name}, its Secret"
        f" goes with it and both are made anew with type {new}",
    )


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch that makes the one equal to the other."""
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        was = old.get(key)
        if isinstance(was, dict) and isinstance(value, dict):
            value = _difference(was, value)
            if value:
                patch[key] = value
        elif was != value:
            patch[key] = value
    return patch


def part(name: str, done: Done, found: SecretSync | Unreadable | None) -> Part:
    """What the status says of one part: what stood in the way of making it, else what its SecretSync says."""
    sync = found if isinstance(found, SecretSync) else None
    ready = ready_condition(sync.status) if sync else None
    if isinstance(done, Hindered | ControllerError):
        holds, reason, message = False, done.reason, done.message
    elif not sync or not ready or ready.observed_generation != sync.metadata.generation or not isinstance(done, Keep):
        holds, reason = False, Reason.IN_PROGRESS
        message = f"the SecretSync {name} was just written and is about to be synced"
    else:
        return _part(name, ready.holds, ready.reason, in_akvsync_terms(ready.message), sync)
    # Somebody else's has versions of its own.
    foreign = reason is Reason.NAME_TAKEN
    return _part(name, holds, reason, message, None if foreign else sync)


def _part(name: str, ready: bool, reason: str, message: str, sync: SecretSync | None) -> Part:
    short = message if len(message) <= MOST_MESSAGE else message[: MOST_MESSAGE - 3] + "..."
    versions = sync.status.objects[:MOST_SHOWN] if sync else []
    return Part(name=name, ready=ready, reason=str(reason), message=short, versions=versions)


def next_status(
    meta: ObjectMeta, before: AKVSyncStatus, parts: list[Part], problem: ControllerError | None, now: datetime
) -> AKVSyncStatus:
    """The status that sums up these parts; `problem` is what is wrong with the AKVSync itself."""
    unready = [item for item in parts if not item.ready]
    summary = f"{len(parts) - len(unready)}/{len(parts)}"
    # What only time mends is told last.
    unready.sort(key=lambda item: item.reason == Reason.IN_PROGRESS)
    if problem:
        reason, message = str(problem.reason), problem.message
    elif unready:
        others = f" (and {len(unready) - 1} more: see status.parts)" if len(unready) > 1 else ""
        reason, message = unready[0].reason, f"{summary} ready; {unready[0].name}: {unready[0].message}{others}"
    else:
        reason, message = str(Reason.UP_TO_DATE), f"{summary} ready: every Secret holds what the vault holds"
    holds = not problem and not unready
    ready = next_condition(ConditionType.READY, holds, reason, message, meta.generation, before, now)
    return AKVSyncStatus(conditions=[ready], observed_generation=meta.generation, summary=summary, parts=parts)
