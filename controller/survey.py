"""What one look at a vault has shown, and which keys of a Secret that makes stale. Pure.

A list names each object with the time of its last change and no value (Azure Key Vault REST API reference, "Get
Secrets"), so equal times mean an equal value, but for one edge: they have a grain of one second. A value that was
fetched so soon after its change that another may have followed within that second is kept without a time, and is stale
at the next look.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import msgspec

from controller.api.secretsync import ObjectVersion
from controller.objects import VaultObject, VersionOf
from controller.schedule import format_time

# One second of grain, and one for a clock's tick between the change and the answer.
UNSETTLED = timedelta(seconds=2)


class Listed(msgspec.Struct, frozen=True):
    """One object of a list: its newest version's last change (UTC) and whether that is enabled."""

    updated: datetime | None
    enabled: bool


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """`listed` goes by type and name in small letters; `versions` has the ids of enabled versions, newest first.

    What is in neither was not looked at, and is stale: getting it was cheaper, or listing is forbidden.
    """

    listed: Mapping[str, Mapping[str, Listed]] = {}
    versions: Mapping[VaultObject, tuple[str, ...]] = {}

    def stale(self, wanted: Mapping[str, VersionOf], known: Iterable[ObjectVersion]) -> frozenset[str]:
        """The target keys whose values have to be fetched, going by what the SecretSync's status tells of them."""
        before = {item.target_key: item for item in known}
        return frozenset(
            key for key, version in wanted.items() if key not in before or not self._same(version, before[key])
        )

    def _same(self, wanted: VersionOf, known: ObjectVersion) -> bool:
        if known.object != str(wanted):
            return False
        found = wanted.object
        if found.history > 1:
            ids = self.versions.get(found, ())
            return wanted.index < len(ids) and ids[wanted.index] == known.version
        listed = self.listed.get(found.type, {}).get(found.name.lower())
        if listed is None:
            return False
        if found.version:
            # A version never changes its value; that it was disabled shows when everything is read, once a day.
            return known.version == found.version
        return listed.enabled and listed.updated is not None and format_time(listed.updated) == known.updated


def settled(updated: datetime | None, now: datetime) -> datetime | None:
    """`updated` of a value fetched at `now` by the server's clock, or None where it tells nothing yet."""
    return updated if updated and now - updated >= UNSETTLED else None
