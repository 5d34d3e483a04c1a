"""A poll group keeps its time in one status, also across a restart."""

from datetime import datetime, timedelta

import msgspec
import pytest

from controller.api.conditions import Reason
from controller.api.secretsync import GroupPoll, SecretSync
from controller.domain.status import Reportable
from controller.errors import ProviderError
from controller.keyvault.credentials import Identity
from controller.keyvault.poll_group import PollGroup
from controller.runtime.backoff import format_time, parse_time
from controller.runtime.work_queue import Key
from controller.secretsync.status_reporter import ReportResult
from tests.support.builders import make_sync
from tests.support.outcomes import make_outcome
from tests.unit.secretsync.reconciler.stage import (
    AFTER,
    AWAY,
    BEFORE,
    DAY,
    HOUR,
    NOON,
    SHOP,
    Stage,
    known,
    seen,
    synced_ago,
)

GROUP = PollGroup(Identity("team", "robot", "client", "tenant"), "cloud", "vault", HOUR)
EQUAL = seen(user=BEFORE, **{"pass": BEFORE})
CHANGED = seen(user=BEFORE, **{"pass": AFTER})


def stored(stage: Stage, name: str = "shop") -> SecretSync:
    found = stage.reconciler.syncs.get(Key("team", name))
    assert isinstance(found, SecretSync)
    return found


def records(stage: Stage, *names: str) -> list[str]:
    """Return the times of the polls that these statuses record."""
    found = [stored(stage, name).status.last_group_poll for name in names]
    return [record.time for record in found if record]


def at(seconds: float) -> str:
    return format_time(NOON + timedelta(seconds=seconds))


def polled_ago(seconds: float, item: SecretSync, group: PollGroup = GROUP) -> SecretSync:
    """Return the SecretSync with a record of a poll of its group in its status."""
    poll = GroupPoll(group=group.fingerprint(HOUR), time=at(-seconds))
    return msgspec.structs.replace(item, status=msgspec.structs.replace(item.status, last_group_poll=poll))


def has_synced(stage: Stage, *names: str) -> None:
    stage.answers(EQUAL, known("user", "pass"))
    stage.has_class()
    stage.has(*(make_sync(name=name, uid=f"uid-{name}") for name in names))
    stage.passes(1)


def test_equal_group_costs_one_status_for_each_poll(stage: Stage) -> None:
    names = [f"s{number}" for number in range(10)]
    has_synced(stage, *names)
    stage.forgets()
    stage.passes(5 * HOUR)
    assert [moment for moment, _ in stage.told] == [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR, 5 * HOUR]
    assert records(stage, *names) == [at(5 * HOUR)]


def test_each_status_is_written_once_a_day(stage: Stage) -> None:
    has_synced(stage, "a", "b")
    stage.passes(2 * DAY + HOUR)
    assert parse_time(stored(stage, "b").status.last_successful_sync_time) == NOON + timedelta(seconds=2 * DAY)
    # Two first syncs, a poll an hour, and two daily reads of each.
    assert len(stage.told) <= 2 + 49 + 4


@pytest.mark.parametrize(
    ("recorded", "next_poll"),
    [
        (lambda item: polled_ago(1800, item), 1800),
        (lambda item: polled_ago(HOUR - 1, item), 1),
        # Overdue: the poll comes within one interval, and the random source of the stage returns the most.
        (lambda item: item, HOUR),
        (lambda item: polled_ago(1800, item, msgspec.structs.replace(GROUP, vault="other")), HOUR),
        (lambda item: polled_ago(1800, item, msgspec.structs.replace(GROUP, interval=60.0)), HOUR),
        (lambda item: polled_ago(-60, item), HOUR),
    ],
    ids=["half an hour ago", "nearly an hour ago", "none", "another vault", "another interval", "in the future"],
)
def test_after_a_crash_the_next_poll_is_due_an_interval_after_the_recorded_one(
    stage: Stage, recorded: object, next_poll: float
) -> None:
    assert callable(recorded)
    stage.seen = EQUAL
    stage.has_class()
    outcome = known("user", "pass")
    others = [synced_ago(20 * HOUR, outcome, name=f"s{number}") for number in range(5)]
    stage.has(recorded(synced_ago(20 * HOUR, outcome)), *others)
    stage.passes(next_poll - 0.5)
    assert stage.polls == []
    assert stage.asked == []
    stage.passes(1)
    assert len(stage.polls) == 1


@pytest.mark.parametrize(
    "comes_to",
    [known("user", "pass"), make_outcome(Reason.PARTIAL)],
    ids=["the Secret is written", "the status says that it fails"],
)
def test_poll_that_found_a_change_is_recorded_when_the_status_says_what_came_of_it(
    stage: Stage, comes_to: Reportable
) -> None:
    has_synced(stage, "a", "b", "c")
    for name in "ac":
        found = stored(stage, name)
        stage.has(msgspec.structs.replace(found, status=msgspec.structs.replace(found.status, objects=[])))
    stage.answers(EQUAL, comes_to)
    stage.takes = 10
    stage.passes(HOUR)
    assert records(stage, *"abc") == []
    stage.passes(10)
    assert records(stage, *"abc") == [at(HOUR)]


def test_poll_whose_change_is_not_reported_is_not_recorded(stage: Stage) -> None:
    """The first failure of the vault stays out of the status, which then says nothing about the change."""
    has_synced(stage, "a", "b")
    stage.answers(CHANGED, AWAY)
    stage.passes(HOUR)
    assert records(stage, *"ab") == []


def test_failed_secretsync_says_when_its_secret_was_last_equal(stage: Stage) -> None:
    has_synced(stage, "a", "b")
    stage.passes(3 * HOUR)
    assert stored(stage, "b").status.last_successful_sync_time == at(0)
    stage.answers(CHANGED, ProviderError("gone"))
    stage.passes(2 * HOUR)
    assert stored(stage, "b").status.last_successful_sync_time == at(3 * HOUR)


def test_metric_knows_of_polls_that_the_status_does_not(stage: Stage) -> None:
    def last(name: str) -> datetime | None:
        return stage.reconciler.last_equal(stored(stage, name))

    has_synced(stage, "a", "b")
    assert last("b") == NOON
    stage.passes(2 * HOUR)
    assert last("b") == NOON + timedelta(hours=2)
    stage.answers(AWAY, AWAY)
    stage.passes(3 * HOUR)
    assert last("b") == NOON + timedelta(hours=2)
    # A follower knows what the status says.
    stage.loses_the_lease()
    assert last("b") == parse_time(stored(stage, "b").status.last_successful_sync_time)
    assert stage.reconciler.last_equal(make_sync(name="new")) is None


def test_one_whose_record_was_not_written_is_replaced_by_the_next_poll(stage: Stage) -> None:
    has_synced(stage, "a", "b")
    stage.always_telling = ReportResult.NOT_WRITTEN
    stage.passes(HOUR + 60)
    assert records(stage, *"ab") == []
    stage.always_telling = ReportResult.DONE
    stage.passes(HOUR)
    assert records(stage, *"ab") == [at(2 * HOUR)]


def test_record_moves_to_another_secretsync_when_its_own_is_deleted(stage: Stage) -> None:
    has_synced(stage, "a", "b")
    stage.passes(HOUR)
    assert records(stage, "a") == [at(HOUR)]
    stage.reconciler.syncs.drop(Key("team", "a"))
    stage.passes(HOUR)
    assert records(stage, "b") == [at(2 * HOUR)]


def test_poll_with_an_unequal_secretsync_that_is_deleted_is_recorded(stage: Stage) -> None:
    has_synced(stage, "a", "shop")
    found = stored(stage, "a")
    stage.has(msgspec.structs.replace(found, status=msgspec.structs.replace(found.status, objects=[])))
    stage.answers(seen(user=BEFORE, **{"pass": BEFORE}), known("user", "pass"))
    stage.takes = 10
    stage.passes(HOUR)
    assert records(stage, "shop") == []
    stage.reconciler.syncs.drop(Key("team", "a"))
    stage.passes(20)
    assert records(stage, SHOP.name) == [at(HOUR)]
