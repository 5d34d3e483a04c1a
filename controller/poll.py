"""Looking at a vault once for all SecretSyncs that read it as the same identity: a poll costs pages, not gets.

A group is due one interval after the earliest of its members was last equal to the vault, plus one draw of the jitter
for all of them: did each draw alone, the shared lists would fall apart. What a look shows makes some members stale; the
others are confirmed, without a word to the vault or the API server.

While a vault is away, one look after the other tries whether it is back, for all of the group.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping

import msgspec

from controller import errors, schedule
from controller.identity import Identity
from controller.objects import VersionOf
from controller.queue import Key, Queue
from controller.survey import Survey
from controller.telemetry import Chorus
from controller.vaults import Vaults

log = logging.getLogger(__name__)
# As a net under the lists, everything is read in full this often, spread evenly.
FULL_READ = 86_400.0
# A vault that does not answer holds one of these for a minute.
WORKERS = 16
# Looks that fail in a row before it is news.
UNTOLD = 1


class Group(msgspec.Struct, frozen=True):
    """Who reads which vault how often. `interval` is in seconds."""

    identity: Identity
    cloud: str
    vault: str
    interval: float

    @property
    def namespace(self) -> str:
        """Whose it is."""
        return self.identity.namespace


class Member(msgspec.Struct):
    """One SecretSync: its group, what it wants by target key, and when everything is read (monotonic clock)."""

    group: Group
    wanted: Mapping[str, VersionOf]
    full_read: float


class _Cycle(msgspec.Struct):
    """A group between two looks: its members, and where in jitter or interval its next look falls (0 to 1).

    `put_off` is since when (monotonic clock) a busy vault has had the look wait for its turn. `failures` are looks that
    failed in a row; `read` says that members could be read all the same: then only the lists are out of order.
    """

    draw: float
    put_off: float | None = None
    failures: int = 0
    read: bool = False
    members: set[Key] = msgspec.field(default_factory=set)


Seen = Survey | errors.ControllerError | None
"""What a look has shown, or why it could not; None: all of it has to be fetched to know."""

Tell = Callable[[Key, Mapping[str, VersionOf], Seen], None]


class Poller:
    """All groups. `tell` gets each member with what was seen."""

    def __init__(self, jitter: float, vaults: Vaults, tell: Tell) -> None:
        self._jitter = jitter
        self._vaults = vaults
        self._tell = tell
        self._dice = random.Random()  # noqa: S311 -- spreads load, guards nothing
        self._queue: Queue[Group] = Queue(time.monotonic, WORKERS)
        self._members: dict[Key, Member] = {}
        self._cycles: dict[Group, _Cycle] = {}
        self._chorus = Chorus(log)

    def join(self, key: Key, group: Group, wanted: Mapping[str, VersionOf], age: float | None) -> None:
        """Takes in a SecretSync that was equal to the vault `age` seconds ago; None: it is not known to be any more."""
        member = self._members.get(key)
        if member and member.group != group:
            self.leave(key)
            member = None
        now = time.monotonic()
        if member is None:
            member = Member(group, wanted, now + schedule.spread(FULL_READ, self._dice))
            self._members[key] = member
        member.wanted = wanted
        cycle = self._cycles.setdefault(group, _Cycle(self._dice.random()))
        cycle.members.add(key)
        cycle.read = cycle.read or (cycle.failures > 0 and age == 0)
        self._queue.add(group, self._until_due(age, group, cycle))

    def leave(self, key: Key) -> None:
        """Lets go of one that is gone, was edited or has failed."""
        if member := self._members.pop(key, None):
            cycle = self._cycles[member.group]
            cycle.members.discard(key)
            if not cycle.members:
                del self._cycles[member.group]
                self._queue.forget(member.group)

    def reset(self) -> None:
        """Lets go of everybody: another process may poll from now on."""
        for key in tuple(self._members):
            self.leave(key)

    async def work(self) -> None:
        """Takes groups and looks at their vaults until the queue is closed."""
        await self._queue.work(self._turn)

    def flush(self) -> None:
        """Says how many lines of one kind were held back."""
        self._chorus.flush()

    def close(self) -> None:
        """Begins no more looks."""
        self._queue.close()

    def polls(self, key: Key) -> bool:
        """Return whether a look at the vault is for this SecretSync, too."""
        return key in self._members

    def waits(self, key: Key) -> bool:
        """Whether its vault is away, and the look that finds it back is for this SecretSync, too."""
        member = self._members.get(key)
        cycle = self._cycles[member.group] if member else None
        return bool(cycle and cycle.failures and not cycle.read)

    async def _turn(self, group: Group) -> float | None:
        cycle = self._cycles.get(group)
        if cycle is None:
            return None
        began = time.monotonic()
        seen = await self._look(group, cycle)
        if isinstance(seen, Survey):
            cycle.failures, cycle.read, cycle.put_off = 0, False, None
        elif cycle.read:
            seen = None
        elif cycle.members:
            return self._failed(group, cycle, seen, began)
        now = time.monotonic()
        for key in tuple(cycle.members):
            member = self._members[key]
            if member.full_read <= now:
                member.full_read = now + FULL_READ
                self._tell(key, member.wanted, None)
            else:
                self._tell(key, member.wanted, seen)
        if group not in self._cycles:
            return None
        cycle.draw = self._dice.random()
        return self._until_due(now - began, group, cycle)

    def _failed(self, group: Group, cycle: _Cycle, error: errors.ControllerError | None, began: float) -> float:
        """Tells all why they are not looked at, and has one read: perhaps only the lists are out of order.

        Answers with the time until the next look.
        """
        if error and error.retry is errors.Retry.TURN:
            # A busy vault: one look waits for its turn. Did each member ask, the vault would be busier still.
            cycle.put_off = began if cycle.put_off is None else cycle.put_off
            if began - cycle.put_off >= group.interval:  # it is time that somebody is told
                cycle.failures = max(1, cycle.failures)
                self._tell_all(cycle, error)
            return error.retry_after or schedule.FIRST_RETRY
        cycle.failures += 1
        if cycle.failures > UNTOLD:
            self._tell_all(cycle, error, tuple(cycle.members)[cycle.failures % len(cycle.members)])
        return schedule.after_failure(cycle.failures, self._dice, error.retry_after if error else None)

    def _tell_all(self, cycle: _Cycle, seen: Seen, reader: Key | None = None) -> None:
        """Tells all members the same, but for one that is to read."""
        for key in tuple(cycle.members):
            self._tell(key, self._members[key].wanted, None if key == reader else seen)

    def _until_due(self, age: float | None, group: Group, cycle: _Cycle) -> float:
        if age is None:
            return cycle.draw * self._jitter
        return schedule.until_due(age, group.interval, self._jitter, cycle.draw)

    async def _look(self, group: Group, cycle: _Cycle) -> Seen:
        wanted = {version for key in cycle.members for version in self._members[key].wanted.values()}
        try:
            reader = self._vaults.reader(group.identity, group.cloud, group.vault)
            return await reader.survey(wanted, time.monotonic())
        except errors.ControllerError as error:
            log.debug("%s could not be looked at: %s", group.vault, error.message)
            return error.bare()
        except Exception as error:
            self._chorus.unexpected(error)
        return None
