"""Compute the status of a SecretSync from an outcome. Pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from controller.api.akvsync import AKVSyncStatus
from controller.api.conditions import Condition, ConditionType, Reason
from controller.api.meta import ObjectMeta
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import GroupPoll, ObjectVersion, SecretSyncStatus
from controller.domain.decision import seconds_until_served
from controller.domain.generated import akvsync_owner, identify_items
from controller.domain.provider_class import EXPANDED_SUFFIX, ObjectVersionRef
from controller.domain.values import VaultValue, items_with_known_keys
from controller.errors import ControllerError, OwnershipError, Retry, is_vault_failure
from controller.runtime.clock import format_time, parse_time

# The CRD's limit for a condition's message.
MAX_MESSAGE = 32_768


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    """The Secret equals the vault. `changed` is true if this attempt wrote the Secret.

    `objects` are the versions that the keys hold, or None if no value was fetched. `warnings` are for the users of a
    synced Secret, or None if they are not known. `poll` is a poll of the whole group to record in the status.
    """

    message: str
    changed: bool = False
    objects: list[ObjectVersion] | None = None
    warnings: tuple[str, ...] | None = None
    poll: GroupPoll | None = None

    @property
    def reason(self) -> Reason:
        """Return the reason of the conditions."""
        return Reason.WRITTEN if self.changed else Reason.UP_TO_DATE


class PartiallySynced(msgspec.Struct, frozen=True, kw_only=True):
    """Some keys equal the vault. `failed` has the errors of the other keys by target key. It is never empty."""

    message: str
    failed: Mapping[str, ControllerError]
    objects: list[ObjectVersion]
    warnings: tuple[str, ...] = ()

    @property
    def reason(self) -> Reason:
        """Return the reason of the conditions."""
        return Reason.PARTIAL

    @property
    def retry(self) -> Retry:
        """Return what the next attempt depends on."""
        if seconds_until_served(self.failed) is not None:
            return Retry.THROTTLED
        return (
            Retry.ON_NEW_VALUE
            if all(error.retry is Retry.ON_NEW_VALUE for error in self.failed.values())
            else Retry.BACKOFF
        )

    @property
    def retry_after(self) -> float:
        """Return the seconds that the vault asked to wait, or 0 if it did not ask."""
        return seconds_until_served(self.failed) or max(error.retry_after or 0.0 for error in self.failed.values())

    @property
    def is_vault_failure(self) -> bool:
        """Return whether the vault as a whole could not be read."""
        return all(is_vault_failure(error) for error in self.failed.values())


class Failed(msgspec.Struct, frozen=True):
    """The attempt wrote nothing. The error has the cause and says what the next attempt depends on."""

    error: ControllerError

    @property
    def reason(self) -> Reason:
        """Return the reason of the conditions."""
        return self.error.reason

    @property
    def message(self) -> str:
        """Return the message of the conditions."""
        return self.error.message

    @property
    def retry(self) -> Retry:
        """Return what the next attempt depends on."""
        return self.error.retry

    @property
    def retry_after(self) -> float | None:
        """Return the seconds that the server asked to wait, or None if it did not ask."""
        return self.error.retry_after

    @property
    def is_vault_failure(self) -> bool:
        """Return whether the vault as a whole could not be read."""
        return is_vault_failure(self.error)


class Requeue(msgspec.Struct, frozen=True):
    """The attempt has no result yet. Try again after this many seconds.

    Either another client changed the Secret first, or the garbage collector still has to delete an old Secret.
    `obstacle` describes what the attempt waits for. The status reports an obstacle that lasts.
    """

    seconds: float
    obstacle: str = ""


Reportable = Synced | PartiallySynced | Failed
"""An outcome that the status reports."""
Outcome = Reportable | Requeue
"""The result of an attempt."""


def group_properties(objects: Iterable[ObjectVersion]) -> Mapping[str, Sequence[ObjectVersion]]:
    """Return the entries of expanded items, by the key of the item."""
    found: dict[str, list[ObjectVersion]] = {}
    for each in objects:
        if each.expanded_from:
            found.setdefault(each.expanded_from, []).append(each)
    return found


def object_versions(
    fetched: Mapping[str, VaultValue | Any], wanted: Mapping[str, ObjectVersionRef], before: SecretSyncStatus
) -> list[ObjectVersion]:
    """Return the version of the vault's object for each key. Keys that could not be fetched keep their entries."""
    old = {item.target_key: item for item in before.objects}
    properties = group_properties(before.objects)
    read = items_with_known_keys(fetched)
    result: list[ObjectVersion] = []
    for key, item in fetched.items():
        if key.endswith(EXPANDED_SUFFIX):
            # The expanded item failed, in whole or in part. Its earlier entries remain unless its value was read.
            kept = (one for one in properties.get(key, ()) if one.target_key not in fetched)
            result += [] if key in read else kept
        elif isinstance(item, VaultValue):
            result.append(
                ObjectVersion(
                    target_key=key,
                    object=str(wanted[item.expanded_from or key]),
                    version=item.version,
                    updated=format_time(item.updated) if item.updated else "",
                    expires=format_time(item.expires) if item.expires else "",
                    expanded_from=item.expanded_from,
                )
            )
        elif key in old:
            result.append(old[key])
    return result


def sync_hash(meta: ObjectMeta, source: SecretProviderClass, objects: list[ObjectVersion]) -> str:
    """Return a hash over ids, UIDs and generations.

    It covers no values, because a reader of the status could then guess weak values. If an AKVSync generates the class,
    the hash covers only the items of these objects, because other items do not affect the SecretSync.
    """
    if not akvsync_owner(source.metadata):
        return generation_hash(meta, source, objects)
    names = frozenset(item.object.split("/")[1] for item in objects if "/" in item.object)
    return _hash_parts([meta.uid, meta.generation, *identify_items(source, names)], objects)


def generation_hash(meta: ObjectMeta, source: SecretProviderClass, objects: list[ObjectVersion]) -> str:
    """Return the hash that covers the whole class. Earlier versions wrote it for generated classes, too."""
    return _hash_parts([meta.uid, meta.generation, source.metadata.uid, source.metadata.generation], objects)


def _hash_parts(parts: list[Any], objects: list[ObjectVersion]) -> str:
    return hashlib.sha256(msgspec.json.encode([parts, objects])).hexdigest()[:32]


def next_status(
    meta: ObjectMeta,
    before: SecretSyncStatus,
    source: SecretProviderClass | None,
    outcome: Reportable,
    now: datetime,
    *,
    last_equal: datetime | None = None,
    secret_exists: bool | None = None,
) -> SecretSyncStatus:
    """Return the status that reports this outcome.

    `last_equal` is the time at which a poll last found the Secret equal to the vault. `secret_exists` is None if this
    process has not seen yet whether there is a Secret.
    """
    if isinstance(outcome, Synced) and outcome.poll and _reports_since(outcome.poll, before, meta.generation):
        # The conditions already report the change that this poll caused. "Equal" would hide it.
        return msgspec.structs.replace(before, last_group_poll=outcome.poll)
    objects = before.objects if isinstance(outcome, Failed) or outcome.objects is None else outcome.objects
    generation = meta.generation
    is_equal = isinstance(outcome, Synced)

    def build_condition(kind: ConditionType, holds: bool | None) -> Condition:
        return next_condition(kind, holds, outcome.reason, outcome.message, generation, before, now)

    exists = _is_secret_created(outcome, before, secret_exists)
    is_stalled = isinstance(outcome, Failed) and outcome.error.is_stalled
    never_synced = not (exists or before.sync_hash)
    if never_synced:
        # As in upstream's controller: until the first success, SecretCreated is false and SecretUpdated is unknown.
        exists = False
    return SecretSyncStatus(
        conditions=[
            build_condition(ConditionType.READY, is_equal),
            build_condition(ConditionType.SECRET_CREATED, exists),
            _not_updated_yet(generation, before, now)
            if never_synced
            else build_condition(ConditionType.SECRET_UPDATED, is_equal),
            *([build_condition(ConditionType.STALLED, True)] if is_stalled else []),
        ],
        last_successful_sync_time=format_time(now) if is_equal else _last_sync(before, last_equal),
        last_group_poll=outcome.poll if isinstance(outcome, Synced) and outcome.poll else before.last_group_poll,
        sync_hash=sync_hash(meta, source, objects) if source and is_equal else before.sync_hash,
        observed_generation=generation,
        objects=objects,
    )


def _is_secret_created(outcome: Reportable, before: SecretSyncStatus, secret_exists: bool | None) -> bool | None:
    """Return whether the SecretSync has its Secret after this outcome, or None if that is unknown."""
    if not isinstance(outcome, Failed):
        return True
    if isinstance(outcome.error, OwnershipError):
        return False  # the Secret of this name belongs to another owner
    return _previous_value(before, ConditionType.SECRET_CREATED) if secret_exists is None else secret_exists


def _reports_since(poll: GroupPoll, status: SecretSyncStatus, generation: int) -> bool:
    """Return whether the status reports a successful sync of this generation after the poll began."""
    synced, began = parse_time(status.last_successful_sync_time), parse_time(poll.time)
    return bool(synced and began and synced >= began) and status.observed_generation == generation


def _last_sync(before: SecretSyncStatus, equal_at: datetime | None) -> str | None:
    """Return the later time at which the status or a poll found the Secret equal to the vault."""
    known = parse_time(before.last_successful_sync_time)
    return format_time(equal_at) if equal_at and (not known or equal_at > known) else before.last_successful_sync_time


def _not_updated_yet(generation: int, before: SecretSyncStatus, now: datetime) -> Condition:
    message = "no update was attempted yet; the condition SecretCreated has the cause"
    return next_condition(ConditionType.SECRET_UPDATED, None, Reason.NO_UPDATE, message, generation, before, now)


def next_condition(
    kind: ConditionType,
    holds: bool | None,
    reason: str,
    message: str,
    generation: int,
    before: SecretSyncStatus | AKVSyncStatus,
    now: datetime,
) -> Condition:
    """Return a condition. The time of its last transition changes only with its status."""
    was = find_condition(before, kind)
    status: Literal["True", "False", "Unknown"] = "Unknown" if holds is None else "True" if holds else "False"
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:MAX_MESSAGE],
        last_transition_time=was.last_transition_time if was and was.status == status else format_time(now),
        observed_generation=generation,
    )


def _previous_value(status: SecretSyncStatus, kind: ConditionType) -> bool | None:
    found = find_condition(status, kind)
    return None if found is None or found.status == "Unknown" else found.holds


def find_condition(status: SecretSyncStatus | AKVSyncStatus, kind: ConditionType) -> Condition | None:
    """Return the condition of that type, or None."""
    return next((item for item in status.conditions if item.type == kind), None)


def ready_condition(status: SecretSyncStatus | AKVSyncStatus) -> Condition | None:
    """Return the condition Ready, or None if the status has none yet."""
    return find_condition(status, ConditionType.READY)


def has_same_ready_condition(before: SecretSyncStatus | AKVSyncStatus, after: SecretSyncStatus | AKVSyncStatus) -> bool:
    """Return whether both statuses have the same Ready condition: its status, reason and message."""
    old, new = ready_condition(before), ready_condition(after)
    return (
        old is not None
        and new is not None
        and (old.status, old.reason, old.message) == (new.status, new.reason, new.message)
    )
