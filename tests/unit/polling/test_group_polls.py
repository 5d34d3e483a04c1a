"""Test when a poll of a group is recorded, and which records a new process uses."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.secretsync import GroupPoll, SecretSync, SecretSyncStatus
from controller.keyvault.credentials import Identity
from controller.polling.group_polls import GroupPolls, is_recorded, recorded_polls
from controller.polling.poll_group import PollGroup
from controller.runtime.work_queue import Key
from tests.support.builders import make_sync

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOURLY = PollGroup(Identity("team", "robot", "client", "tenant"), "cloud", "vault", 3600.0)
OTHER = msgspec.structs.replace(HOURLY, vault="other")
KEYS = [Key("team", name) for name in "abc"]
A, B, C = KEYS


def test_poll_counts_after_all_its_changes_are_reported() -> None:
    equal: list[tuple[PollGroup, float]] = []
    polls = GroupPolls(lambda group, moment: equal.append((group, moment)))
    polls.mark_polled(HOURLY, 1, [])
    polls.mark_polled(HOURLY, 2, [A, B])
    polls.mark_settled(A)
    polls.mark_settled(C)
    assert equal == [(HOURLY, 1)]
    polls.mark_settled(B)
    polls.mark_settled(B)
    assert equal == [(HOURLY, 1), (HOURLY, 2)]


def test_next_poll_replaces_one_that_is_not_settled() -> None:
    equal: list[float] = []
    polls = GroupPolls(lambda _, moment: equal.append(moment))
    polls.mark_polled(HOURLY, 1, [A])
    polls.mark_polled(HOURLY, 2, [A, B])
    polls.mark_settled(A)
    assert equal == []
    polls.mark_polled(HOURLY, 3, [])
    polls.mark_settled(B)
    assert equal == [3]


def test_secretsync_settled_during_its_poll_does_not_delay_the_record() -> None:
    equal: list[float] = []
    polls = GroupPolls(lambda _, moment: equal.append(moment))
    polls.mark_unequal(HOURLY, A)
    polls.mark_unequal(HOURLY, B)
    polls.mark_settled(A)
    polls.mark_polled(HOURLY, 1, [], early=[A, B])
    assert equal == []
    polls.mark_settled(B)
    assert equal == [1]


def test_earlier_poll_is_not_recorded_if_the_next_finds_the_same_unequal() -> None:
    equal: list[float] = []
    polls = GroupPolls(lambda _, moment: equal.append(moment))
    polls.mark_polled(HOURLY, 1, [A])
    polls.mark_unequal(HOURLY, A)
    assert equal == []
    polls.mark_settled(A)
    polls.mark_polled(HOURLY, 2, [], early=[A])
    assert equal == [1, 2]


def test_report_after_a_reset_settles_no_earlier_poll() -> None:
    equal: list[float] = []
    polls = GroupPolls(lambda _, moment: equal.append(moment))
    polls.mark_polled(HOURLY, 1, [A])
    polls.reset()
    polls.mark_settled(A)
    assert equal == []


@given(st.lists(st.tuples(st.sampled_from([HOURLY, OTHER, None]), st.sets(st.sampled_from(KEYS)))))
def test_no_poll_counts_while_a_secretsync_that_it_found_unequal_is_open(
    steps: list[tuple[PollGroup | None, set[Key]]],
) -> None:
    """A step is a poll of a group, or reports if the group is None. The model has a set of open keys for each group."""
    equal: list[tuple[PollGroup, float]] = []
    polls = GroupPolls(lambda group, moment: equal.append((group, moment)))
    last: dict[PollGroup, tuple[float, set[Key]]] = {}
    expected: list[tuple[PollGroup, float]] = []

    def count_settled_polls() -> None:
        for group in [group for group, (_, open_keys) in last.items() if not open_keys]:
            expected.append((group, last.pop(group)[0]))

    for number, (group, keys) in enumerate(steps):
        if group is None:
            for key in sorted(keys):
                polls.mark_settled(key)
                for _, open_keys in last.values():
                    open_keys.discard(key)
                count_settled_polls()
            continue
        last.pop(group, None)
        for key in sorted(keys):
            for _, open_keys in last.values():
                open_keys.discard(key)
        polls.mark_polled(group, number, sorted(keys))
        last[group] = (number, set(keys))
        count_settled_polls()
    assert sorted(equal, key=str) == sorted(expected, key=str)


def make_sync_with_record(name: str, group: str, time: datetime | str) -> SecretSync:
    text = time if isinstance(time, str) else time.isoformat()
    status = SecretSyncStatus(last_group_poll=GroupPoll(group=group, time=text))
    return msgspec.structs.replace(make_sync(name=name), status=status)


def test_newest_record_of_a_group_counts_within_its_namespace() -> None:
    old, new = NOON - timedelta(hours=2), NOON - timedelta(hours=1)
    records = [
        make_sync_with_record("a", "x", old),
        make_sync_with_record("b", "x", new),
        make_sync_with_record("c", "y", old),
        make_sync_with_record("d", "y", "yesterday"),
        make_sync_with_record("e", "y", NOON + timedelta(seconds=1)),
        make_sync(name="f"),
    ]
    other = make_sync_with_record("g", "x", NOON)
    other = msgspec.structs.replace(other, metadata=msgspec.structs.replace(other.metadata, namespace="neighbour"))
    found = recorded_polls([*records, other], NOON)
    assert found == {("team", "x"): new, ("team", "y"): old, ("neighbour", "x"): NOON}


@pytest.mark.parametrize(
    ("known", "interval", "recent"),
    [
        (None, 3600, False),
        (GroupPoll(group="x", time="2030-01-01T12:00:00Z"), 3600, True),
        (GroupPoll(group="x", time=(NOON - timedelta(seconds=299)).isoformat()), 300, True),
        (GroupPoll(group="x", time=(NOON - timedelta(seconds=300)).isoformat()), 300, False),
        (GroupPoll(group="x", time=(NOON - timedelta(seconds=3599)).isoformat()), 299, True),
        (GroupPoll(group="x", time=(NOON - timedelta(seconds=3600)).isoformat()), 299, False),
        (GroupPoll(group="x", time=(NOON + timedelta(seconds=1)).isoformat()), 60, False),
        (GroupPoll(group="x", time="soon"), 60, False),
        (GroupPoll(group="y", time="2030-01-01T12:00:00Z"), 60, False),
    ],
)
def test_recent_record_is_enough_for_the_interval(known: GroupPoll | None, interval: float, recent: bool) -> None:
    status = SecretSyncStatus(last_group_poll=known)
    assert is_recorded(status, GroupPoll(group="x", time="2030-01-01T12:00:00Z"), interval) is recent


def test_groups_differ_in_identity_vault_and_an_interval_of_their_own() -> None:
    def change_group(**fields: object) -> PollGroup:
        return msgspec.structs.replace(HOURLY, **fields)

    identity = msgspec.structs.replace(HOURLY.identity, service_account="other")
    different = [HOURLY, OTHER, change_group(cloud="x"), change_group(interval=60.0), change_group(identity=identity)]
    assert len({group.fingerprint(3600.0) for group in different}) == len(different)
    # A new chart value changes the interval of all groups without an interval of their own.
    assert change_group(interval=7200.0).fingerprint(7200.0) == HOURLY.fingerprint(3600.0)
