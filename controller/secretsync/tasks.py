"""The tasks of attempts: what an attempt does, and which task follows from a poll or from a failed attempt. Pure."""

from collections.abc import Collection, Mapping
from datetime import datetime

import msgspec

from controller import errors
from controller.api.secretsync import GroupPoll, SecretSyncStatus
from controller.domain.decode_values import TLS_HALVES
from controller.domain.provider_class import EXPANDED_SUFFIX, ObjectVersionRef
from controller.domain.snapshot import NONE_UNUSABLE, PollResult
from controller.domain.status import Failed, PartiallySynced, ready_condition
from controller.runtime.clock import parse_time

# Seconds between two writes of a status without news. Polls are recorded more often, once for their group.
CONFIRM_EVERY = 86_400.0
TargetKeys = frozenset[str] | None
"""Some target keys of a SecretSync. None means all of them."""
# Python makes a new empty frozenset each time.
NO_KEYS: frozenset[str] = frozenset()


class Fetch(msgspec.Struct, frozen=True):
    """Fetch the values of these keys, and write the Secret. Shared answers older than `not_before` do not count."""

    not_before: float
    keys: TargetKeys = None


class Confirm(msgspec.Struct, frozen=True):
    """Report that a poll found the Secret equal to the vault, without a fetch.

    `poll` is a poll that found all SecretSyncs of the group equal. The status records it.
    """

    poll: GroupPoll | None = None


class ReportFailure(msgspec.Struct, frozen=True):
    """Report why a poll failed."""

    error: errors.ControllerError


Task = Fetch | Confirm | ReportFailure
"""The purpose of an attempt."""


def join_keys(one: TargetKeys, other: TargetKeys) -> TargetKeys:
    """Return the keys of both."""
    return None if one is None or other is None else one | other


def join_dependents(keys: TargetKeys, unusable: Collection[str]) -> TargetKeys:
    """Return the keys to fetch, with the `unusable` ones that the values of these keys can make usable.

    If two expanded items have a property of the same name, one of them is unusable until the other one loses it. Each
    half of a TLS Secret is unusable until the other one is usable.
    """
    if not keys:
        return keys
    if any(key.endswith(EXPANDED_SUFFIX) for key in keys):
        keys = keys.union(key for key in unusable if key.endswith(EXPANDED_SUFFIX))
    return keys if keys.isdisjoint(TLS_HALVES) else keys.union(key for key in TLS_HALVES if key in unusable)


def task_after_poll(
    wanted: Mapping[str, ObjectVersionRef],
    result: PollResult,
    status: SecretSyncStatus,
    left: Fetch | None,
    now: float,
    utc_now: datetime,
    unusable: Mapping[str, errors.UnusableValue] = NONE_UNUSABLE,
) -> Task | None:
    """Return the task that a poll's result makes necessary, or None.

    The keys that an earlier attempt `left` are fetched together with the stale ones.
    """
    if isinstance(result, errors.ControllerError):
        return ReportFailure(result)
    stale = result.stale_keys(wanted, status.objects, unusable) if result else None
    if stale is not None and left and left.keys:
        stale |= left.keys
    ready = ready_condition(status)
    if stale is None or stale or not ready or not ready.holds:
        # Without stale keys, the attempt updates the Secret's metadata and the status, and fetches no value.
        return Fetch(now, stale)
    last = parse_time(status.last_successful_sync_time)
    return Confirm() if last is None or (utc_now - last).total_seconds() >= CONFIRM_EVERY else None


def keys_left(outcome: PartiallySynced | Failed, keys: TargetKeys, is_polled: bool, stays_polled: bool) -> TargetKeys:
    """Return the keys for the attempt after a failed one, which fetched `keys`.

    If no poll covers the other keys in the meantime, all keys are fetched. `is_polled` means that the SecretSync is in
    a poll group, and `stays_polled` that it remains there.
    """
    is_throttled = outcome.retry is errors.Retry.THROTTLED
    left = _retried_keys(outcome) if isinstance(outcome, PartiallySynced) else keys
    if left and (is_polled or is_throttled):
        return left
    return keys if stays_polled else None


def _retried_keys(outcome: PartiallySynced) -> frozenset[str]:
    return frozenset(key for key, error in outcome.failed.items() if error.retry is not errors.Retry.ON_NEW_VALUE)
