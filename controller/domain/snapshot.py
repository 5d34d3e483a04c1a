"""Determine from a poll of a vault which keys of a Secret are stale. Pure.

A list has each object's name and the time of its last change, but no value (Azure Key Vault REST API reference, "Get
Secrets"). Equal times mean equal values, with one exception, because times have a resolution of one second: another
change can follow within the second. A value that was fetched so soon after its change is stored without a time, and is
stale at the next poll.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType

import msgspec

from controller.api.secretsync import ObjectVersion
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.selection import SelectionSighting
from controller.errors import ControllerError, UnusableValue
from controller.runtime.clock import format_time

# One second for the resolution, and one for the time between the change and the answer.
UNSETTLED = timedelta(seconds=2)
NONE_UNUSABLE: Mapping[str, UnusableValue] = MappingProxyType({})


class ListedObject(msgspec.Struct, frozen=True):
    """One object of a list: the last change of its newest version (UTC), and whether that version is enabled."""

    updated: datetime | None
    enabled: bool


class VaultSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a poll. `listed` is by type and lower-case name; `versions` has enabled versions, newest first.

    An object in neither was not polled and counts as stale: gets were cheaper than a list, or listing is forbidden.
    `sightings` has the result of each query of an AKVSync with select. `compared` counts the comparisons of objects
    with entries. `since` is the time of the first list request (monotonic clock).
    """

    listed: Mapping[str, Mapping[str, ListedObject]] = {}
    versions: Mapping[VaultObject, tuple[str, ...]] = {}
    sightings: tuple[SelectionSighting | ControllerError, ...] = ()
    compared: int = 0
    since: float = math.inf

    def stale_keys(
        self,
        wanted: Mapping[str, ObjectVersionRef],
        known: Iterable[ObjectVersion],
        unusable: Mapping[str, UnusableValue] = NONE_UNUSABLE,
    ) -> frozenset[str]:
        """Return the target keys whose values must be fetched, according to the SecretSync's status.

        The values of `unusable` keys were read and are not in the Secret.
        """
        before: dict[str, list[ObjectVersion]] = {
            key: [ObjectVersion(target_key=key, object=str(wanted[key]), version=error.version, updated=error.updated)]
            for key, error in unusable.items()
            if key in wanted
        }
        for item in known:
            key = item.expanded_from or item.target_key
            if key not in unusable:
                before.setdefault(key, []).append(item)
        return frozenset(
            key
            for key, version in wanted.items()
            if not version.object.keep
            and (key not in before or not all(self._is_same(version, item) for item in before[key]))
        )

    def _is_same(self, wanted: ObjectVersionRef, known: ObjectVersion) -> bool:
        if known.object != str(wanted):
            return False
        found = wanted.object
        if found.history > 1:
            ids = self.versions.get(found.in_vault, ())
            return wanted.index < len(ids) and ids[wanted.index] == known.version
        listed = self.listed.get(found.type, {}).get(found.name.lower())
        if listed is None:
            return False
        if found.version:
            # The value of a version never changes. The daily full read detects that it was disabled.
            return known.version == found.version
        return listed.enabled and listed.updated is not None and format_time(listed.updated) == known.updated


PollResult = VaultSnapshot | ControllerError | None
"""The state of the vault, or why the poll failed. None means that the values must be read to know."""


def settled_time(updated: datetime | None, now: datetime) -> datetime | None:
    """Return `updated` of a value fetched at `now` (the server's time), or None if it is too recent to rely on."""
    return updated if updated and now - updated >= UNSETTLED else None
