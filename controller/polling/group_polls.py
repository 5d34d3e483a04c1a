"""Record when all SecretSyncs of a poll group were last equal to the vault, once for the group.

A status is written when something changed, and once a day. A process that starts must know when each group was last
polled, to schedule the next poll. Therefore the status of one SecretSync of the group has the time of the last poll.
This time survives a crash and needs no other object, and an editor can change only the times of their own namespace.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

from controller.api.secretsync import GroupPoll, SecretSync, SecretSyncStatus
from controller.polling.poll_group import PollGroup
from controller.runtime.clock import parse_time
from controller.runtime.work_queue import Key

# Seconds. A group whose interval is below SHORT_INTERVAL is polled soon after a restart in any case, so recording its
# polls once an hour is enough.
SHORT_INTERVAL = 300.0
RECORD_SHORT_EVERY = 3600.0
Records = dict[tuple[str, str], datetime]
"""The newest recorded time, by namespace and by fingerprint of the group."""


class GroupPolls:
    """Track the last poll of each group until its differences are in Secrets and statuses.

    `on_equal(group, moment)` is then called once for the poll, with the time of its start (monotonic clock).
    """

    def __init__(self, on_equal: Callable[[PollGroup, float], None]) -> None:
        self._on_equal = on_equal
        self._moments: dict[PollGroup, float] = {}
        self._unsettled: dict[PollGroup, set[Key]] = {}
        self._groups: dict[Key, PollGroup] = {}

    def mark_unequal(self, group: PollGroup, key: Key) -> None:
        """Record that a poll, which still reads its list, found a SecretSync unequal."""
        if self._groups.get(key) != group:
            self.mark_settled(key)  # what another group waits for is reported with this
            self._groups[key] = group
            self._unsettled.setdefault(group, set()).add(key)

    def mark_polled(self, group: PollGroup, moment: float, unequal: Iterable[Key], early: Iterable[Key] = ()) -> None:
        """Record a poll that began at `moment`, and the SecretSyncs that it found unequal.

        `early` are those of them that `mark_unequal` recorded before. They may be settled by now.
        """
        unsettled = [key for key in early if self._groups.get(key) == group]
        for key in self._unsettled.pop(group, ()):
            del self._groups[key]
        for key in (*unsettled, *unequal):
            self.mark_unequal(group, key)
        self._moments[group] = moment
        self._record_if_equal(group)

    def mark_settled(self, key: Key) -> None:
        """Record that the status of a SecretSync has the result of its attempt, or that the SecretSync is deleted."""
        if group := self._groups.pop(key, None):
            self._unsettled[group].discard(key)
            self._record_if_equal(group)

    def reset(self) -> None:
        """Forget all polls, because another process can become the leader."""
        self._moments.clear()
        self._unsettled.clear()
        self._groups.clear()

    def _record_if_equal(self, group: PollGroup) -> None:
        if not self._unsettled.get(group):
            self._unsettled.pop(group, None)
            if (moment := self._moments.pop(group, None)) is not None:  # None: the group's first poll still runs
                self._on_equal(group, moment)


def is_recorded(status: SecretSyncStatus, poll: GroupPoll, interval: float) -> bool:
    """Return whether a status has this poll, or an earlier poll of the group that is recent enough."""
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
