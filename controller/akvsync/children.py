"""Decide what to do about each object that an AKVSync generates. Pure.

An object belongs to an AKVSync if the AKVSync is its only owner, by UID. The controller never changes other objects; it
reports them in the status.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.domain.generated import akvsync_owner
from controller.errors import ControllerError

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
        f"the SecretSync {current.metadata.name} has type {old}, which cannot change: delete it, and with it"
        f" its Secret; the controller recreates both with type {new}",
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
