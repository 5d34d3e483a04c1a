"""The status of a SecretSync: computed from what came out, written once and only where something changed. Pure."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from controller.api.akvsync import AKVSyncStatus
from controller.api.conditions import Condition, ConditionType, Reason
from controller.api.meta import ObjectMeta
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import ObjectVersion, SecretSyncStatus
from controller.errors import Retry
from controller.fetched import Fetched
from controller.objects import VersionOf
from controller.schedule import format_time

# The CRD's bound on a condition's message.
MOST_MESSAGE = 32_768


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a reconcile came to. `equal` says that the Secret now equals the vault, as far as keys could be fetched.

    `exists` says whether the Secret is there and ours, None where that is not known. `retry_after` (seconds) is what
    the other side asked for. `left` are the only keys to ask for then, where the others are written; None: all. `away`
    says that the vault as a whole could not be read, so that a look at it tells when another try is worth it.
    `warnings` are what a person should look at though it was synced, None where not known.
    """

    reason: Reason
    message: str
    ready: bool
    equal: bool = False
    exists: bool | None = None
    objects: list[ObjectVersion] | None = None
    retry_after: float | None = None
    retry: Retry = Retry.TIME
    left: frozenset[str] | None = None
    away: bool = False
    warnings: tuple[str, ...] | None = None


def versions(
    fetched: Mapping[str, Fetched | Any], wanted: Mapping[str, VersionOf], before: SecretSyncStatus
) -> list[ObjectVersion]:
    """The vault's version behind each key; keys that could not be fetched keep what they had."""
    old = {item.target_key: item for item in before.objects}
    result: list[ObjectVersion] = []
    for key, version in wanted.items():
        item = fetched[key]
        if isinstance(item, Fetched):
            result.append(
                ObjectVersion(
                    target_key=key,
                    object=str(version),
                    version=item.version,
                    updated=format_time(item.updated) if item.updated else "",
                    expires=format_time(item.expires) if item.expires else "",
                )
            )
        elif key in old:
            result.append(old[key])
    return result


def sync_hash(meta: ObjectMeta, source: SecretProviderClass, objects: list[ObjectVersion]) -> str:
    """Over ids, UIDs and generations alone: from values, weak ones could be guessed by whoever may read the status."""
    parts = [meta.uid, meta.generation, source.metadata.uid, source.metadata.generation]
    return hashlib.sha256(msgspec.json.encode([parts, objects])).hexdigest()[:32]


def next_status(
    meta: ObjectMeta, before: SecretSyncStatus, source: SecretProviderClass | None, outcome: Outcome, now: datetime
) -> SecretSyncStatus:
    """The status that tells this outcome of the SecretSync with that metadata."""
    objects = before.objects if outcome.objects is None else outcome.objects
    generation = meta.generation

    def told(kind: ConditionType, holds: bool | None) -> Condition:
        return next_condition(kind, holds, outcome.reason, outcome.message, generation, before, now)

    exists = outcome.exists if outcome.exists is not None else _was(before, ConditionType.SECRET_CREATED)
    never_synced = not (outcome.equal or exists or before.sync_hash)
    if never_synced:
        # As upstream's controller: until the first success, it is the creation that fails, and no update was attempted.
        exists = False
    return SecretSyncStatus(
        conditions=[
            told(ConditionType.READY, outcome.ready),
            told(ConditionType.SECRET_CREATED, exists),
            _not_updated_yet(generation, before, now)
            if never_synced
            else told(ConditionType.SECRET_UPDATED, outcome.equal),
        ],
        last_successful_sync_time=format_time(now) if outcome.equal else before.last_successful_sync_time,
        sync_hash=sync_hash(meta, source, objects) if source and outcome.equal else before.sync_hash,
        observed_generation=generation,
        objects=objects,
    )


def _not_updated_yet(generation: int, before: SecretSyncStatus, now: datetime) -> Condition:
    message = "no update was attempted yet; SecretCreated says why"
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
    """A condition; since when it is so stays where it was so before."""
    was = condition(before, kind)
    status: Literal["True", "False", "Unknown"] = "Unknown" if holds is None else "True" if holds else "False"
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:MOST_MESSAGE],
        last_transition_time=was.last_transition_time if was and was.status == status else format_time(now),
        observed_generation=generation,
    )


def _was(status: SecretSyncStatus, kind: ConditionType) -> bool | None:
    found = condition(status, kind)
    return None if found is None or found.status == "Unknown" else found.holds


def condition(status: SecretSyncStatus | AKVSyncStatus, kind: ConditionType) -> Condition | None:
    """The condition of that type, if there is one."""
    return next((item for item in status.conditions if item.type == kind), None)


def ready_condition(status: SecretSyncStatus | AKVSyncStatus) -> Condition | None:
    """What people and tools wait for."""
    return condition(status, ConditionType.READY)


def same_news(before: SecretSyncStatus | AKVSyncStatus, after: SecretSyncStatus | AKVSyncStatus) -> bool:
    """Whether a person reading `kubectl describe` would see no difference in Ready's status, reason and message."""
    old, new = ready_condition(before), ready_condition(after)
    return (
        old is not None
        and new is not None
        and (old.status, old.reason, old.message) == (new.status, new.reason, new.message)
    )
