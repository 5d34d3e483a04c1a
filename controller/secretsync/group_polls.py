"""Record when all SecretSyncs of a poll group were last equal to the vault, once for the group.

The status of a SecretSync is written when something changed, and once a day. A process that starts also needs the time
of the next poll. Therefore one SecretSync of the group has the time of the last poll in its status. The time survives a
crash, needs no other object, and each namespace has its own times.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

from controller.api.secretsync import GroupPoll, SecretSync, SecretSyncStatus
from controller.keyvault.poll_group import PollGroup
from controller.runtime.backoff import parse_time
from controller.runtime.work_queue import Key

# Seconds. A record of polls that follow each other faster than SHORT_INTERVAL would be older than the interval in most
# cases. The next poll comes soon after a restart in any case, so an hourly record is enough.
SHORT_INTERVAL = 300.0
RECORD_SHORT_EVERY = 3600.0
Records = dict[tuple[str, str], datetime]
"""The newest recorded time by namespace and fingerprint of the group."""


class GroupPolls:
    """The last poll of each group that found differences which are not yet in Secrets and statuses.

    `on_equal(group, moment)` is called once for each poll, when all its differences are in Secrets and statuses.
    """

    def __init__(self, on_equal: Callable[[PollGroup, float], None]) -> None:
        self._on_equal = on_equal
        self._moments: dict[PollGroup, float] = {}
        self._unsettled: dict[PollGroup, set[Key]] = {}
        self._groups: dict[Key, PollGroup] = {}

    def found_unequal(self, group: PollGroup, key: Key) -> None:
        """Note that a poll which still reads its list found a SecretSync unequal."""
        if self._groups.get(key) != group:
            self.settled(key)  # what another group waits for is reported with this
            self._groups[key] = group
            self._unsettled.setdefault(group, set()).add(key)

    def polled(self, group: PollGroup, moment: float, unequal: Iterable[Key], early: Iterable[Key] = ()) -> None:
        """Note a poll that began at `moment`, and the SecretSyncs that it did not find equal.

        `early` are those of `found_unequal`, which may be settled by now.
        """
        unsettled = [key for key in early if self._groups.get(key) == group]
        for key in self._unsettled.pop(group, ()):
            del self._groups[key]
        for key in (*unsettled, *unequal):
            self.found_unequal(group, key)
        self._moments[group] = moment
        self._record_if_equal(group)

    def settled(self, key: Key) -> None:
        """Note that the status of a SecretSync has its result, or that the SecretSync is deleted."""
        if group := self._groups.pop(key, None):
            self._unsettled[group].discard(key)
            self._record_if_equal(group)

    def reset(self) -> None:
        """Forget everything: another process may poll from now on."""
        self._moments.clear()
        self._unsettled.clear()
        self._groups.clear()

    def _record_if_equal(self, group: PollGroup) -> None:
        if not self._unsettled.get(group):
            self._unsettled.pop(group, None)
            if (moment := self._moments.pop(group, None)) is not None:  # None: the group's first poll still runs
                self._on_equal(group, moment)


def is_recorded(status: SecretSyncStatus, poll: GroupPoll, interval: float) -> bool:
    """Return whether a status has this poll, or an earlier one of the group that is recent enough."""
    known, now = status.last_group_poll, parse_time(poll.time)
    if known is None or known.group != poll.group or now is None:
        return False
    moment = parse_time(known.time)
    enough = RECORD_SHORT_EVERY if interval < SHORT_INTERVAL else SHORT_INTERVAL
    return moment is not None and 0 <= (now - moment).total_seconds() < enough


def recorded_polls(syncs: Iterable[SecretSync], now: datetime) -> Records:
    """Return the times in the statuses of each group. A namespace only affects its own groups.

    A time in the future does not count: a clock was set back.
    """
    found: Records = {}
    for sync in syncs:
        record = sync.status.last_group_poll
        if record is None or (moment := parse_time(record.time)) is None or moment > now:
            continue
        key = (sync.metadata.namespace, record.group)
        found[key] = max(moment, found.get(key, moment))
    return found
