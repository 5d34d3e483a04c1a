"""When what is done, in virtual time: a day takes none."""

import asyncio

import msgspec
import pytest

from controller.api.conditions import Reason
from controller.api.meta import Unreadable
from controller.api.secretsync import REFRESH_INTERVAL, SecretSync
from controller.config.settings import Settings
from controller.domain.status import Failed
from controller.errors import InputError, ObjectError
from controller.secretsync.status_reporter import ReportResult
from controller.secretsync.work_state import CLASS_PATIENCE
from tests.support.builders import make_provider_class, make_sync
from tests.unit.secretsync.reconciler.stage import DAY, HOUR, SHOP, Stage, synced_ago

# The way of things


def test_a_new_one_is_synced_at_once_and_then_every_interval(stage: Stage) -> None:
    stage.has_class()
    stage.has(make_sync())
    stage.passes(3 * HOUR + 1)
    assert stage.times == [0, HOUR, 2 * HOUR, 3 * HOUR]


def test_between_two_syncs_only_drift_is_looked_for(stage: Stage) -> None:
    stage.has_class()
    stage.has(make_sync())
    stage.passes(HOUR - 1)
    assert len(stage.looked) == HOUR // 300 - 1
    assert stage.times == [0]


def test_one_who_leads_again_does_what_is_due_and_no_more(stage: Stage) -> None:
    stage.has_class()
    stage.has(make_sync())
    stage.passes(100)
    stage.loses_the_lease()
    stage.passes(100)
    # Another synced it meanwhile and told so: its time counts.
    stage.has(synced_ago(-200))
    stage.loses_the_lease()
    stage.passes(HOUR - 1)
    assert stage.times == [0]
    stage.passes(2)
    assert stage.times == [0, HOUR + 200]


@pytest.mark.parametrize("settings", [Settings(jitter=60)])
def test_jitter_is_waited_at_the_start_after_each_interval_and_after_each_edit(stage: Stage) -> None:
    stage.has_class()
    stage.has(make_sync(), synced_ago(2 * HOUR, name="overdue"), synced_ago(600, name="due"))
    stage.passes(2 * HOUR)
    # One look for all that read alike, when the first of them is due; and each look draws anew.
    assert stage.polls == [HOUR - 600 + 60, HOUR - 600 + 60 + HOUR + 60]
    assert stage.times == [60, *[stage.polls[0]] * 3, *[stage.polls[1]] * 3]
    stage.has(make_sync(generation=2))
    stage.passes(30)
    stage.has(make_sync(generation=3))
    stage.passes(100)
    assert [one for one in stage.synced if one[1] > 1] == [(2 * HOUR + 90, 3)]


@pytest.mark.parametrize("settings", [Settings(jitter=60)])
def test_a_missing_class_asks_no_vault_so_the_jitter_is_not_waited(stage: Stage) -> None:
    stage.has(make_sync())
    stage.passes(CLASS_PATIENCE + 1)
    assert stage.times == [CLASS_PATIENCE]


@pytest.mark.parametrize("settings", [Settings(shortest_refresh_interval=10)])
def test_an_interval_of_its_own_counts_from_the_last_sync_on(stage: Stage) -> None:
    stage.has_class()
    stage.has(make_sync())
    stage.passes(100)
    found = stage.reconciler.syncs.get(SHOP)
    assert isinstance(found, SecretSync)
    asking = msgspec.structs.replace(found.metadata, annotations={REFRESH_INTERVAL: "120"})
    stage.has(msgspec.structs.replace(found, metadata=asking))
    stage.passes(300)
    assert stage.times == [0, 120, 240, 360]
    stage.misread = InputError("annotation: write a number of seconds")
    unreadable = msgspec.structs.replace(asking, annotations={REFRESH_INTERVAL: "soon"})
    stage.has(msgspec.structs.replace(found, metadata=unreadable))
    stage.passes(1)
    assert stage.told[-1] == (400, Reason.INPUT_INVALID)


def test_what_a_person_edits_is_acted_on_at_once(stage: Stage) -> None:
    stage.has_class()
    stage.has(make_sync())
    stage.passes(100)
    stage.has(make_sync(generation=2))
    stage.passes(100)
    stage.has_class(generation=2)
    stage.passes(100)
    assert stage.synced == [(0, 1), (100, 2), (200, 2)]


def test_edits_of_other_classes_wake_nobody(stage: Stage) -> None:
    stage.has_class()
    stage.has(make_sync())
    stage.passes(100)
    stage.reconciler.classes.put(make_provider_class(name="other"))
    stage.passes(100)
    assert stage.times == [0]


@pytest.mark.parametrize("edited", ["the SecretSync", "the class"])
def test_an_edit_while_it_is_worked_on_is_not_lost(stage: Stage, edited: str) -> None:
    stage.takes = 10
    stage.has_class()
    stage.has(make_sync())
    stage.passes(5)
    if edited == "the class":
        stage.has_class(generation=2)
    else:
        stage.has(make_sync(generation=2))
    stage.passes(20)
    assert stage.times == [0, 10]  # not twice at the same time, and at once afterwards


def test_a_hundred_edits_in_a_row_are_two_syncs(stage: Stage) -> None:
    stage.takes = 10
    stage.has_class()
    for generation in range(1, 101):
        stage.has(make_sync(generation=generation))
        stage.passes(0.01)
    stage.passes(60)
    assert stage.synced == [(0, 1), (10, 100)]


def test_after_it_was_closed_workers_end_with_what_they_have(stage: Stage) -> None:
    stage.takes = 10
    stage.has_class()
    stage.has(make_sync())
    stage.passes(5)
    stage.has(make_sync(name="other"))
    stage.reconciler.close()
    stage.reconciler.poller.close()
    stage.loop.run_until_complete(asyncio.wait_for(asyncio.gather(stage.working, stage.polling), 60))
    assert len(stage.told) >= 1


# After a restart


@pytest.mark.parametrize(
    ("found", "at"),
    [
        pytest.param(synced_ago(600), HOUR - 600, id="not due yet: no vault call"),
        pytest.param(synced_ago(10 * HOUR), HOUR, id="overdue: within an interval"),
        pytest.param(synced_ago(600, generation=2), 0, id="edited meanwhile"),
        pytest.param(synced_ago(600, Failed(ObjectError("m"))), 0, id="it had failed"),
        pytest.param(synced_ago(-5 * HOUR), 0, id="in the future: the clock jumped"),
    ],
)
def test_a_restart(stage: Stage, found: SecretSync, at: float) -> None:
    stage.has_class()
    stage.has(found)
    stage.passes(at + 1)
    assert stage.times == [at]


# Those that are not, or no more, to be synced


def test_a_deleted_one_is_forgotten(stage: Stage) -> None:
    stage.has_class()
    stage.has(make_sync())
    stage.passes(1)
    stage.reconciler.syncs.drop(SHOP)
    assert len(stage.queue) == 0
    assert SHOP in stage.forgotten
    stage.passes(DAY)
    assert stage.times == [0]
    assert not stage.reconciler.entries
    assert not stage.reconciler.users


def test_one_deleted_while_it_is_worked_on_leaves_nothing_behind(stage: Stage) -> None:
    stage.takes = 10
    stage.has_class()
    stage.has(make_sync())
    stage.passes(5)
    stage.reconciler.syncs.drop(SHOP)
    stage.passes(DAY)
    assert stage.times == [0]
    assert len(stage.queue) == 0
    assert not stage.reconciler.entries


def test_one_about_to_be_deleted_is_left_alone(stage: Stage) -> None:
    wanted = make_sync()
    dying = msgspec.structs.replace(wanted.metadata, deletion_timestamp="2030-01-01T00:00:00Z")
    stage.has_class()
    stage.has(msgspec.structs.replace(wanted, metadata=dying))
    stage.passes(DAY)
    assert not stage.synced


@pytest.mark.parametrize("settings", [Settings(controller_name="mine")])
@pytest.mark.parametrize(("name", "ours"), [("", True), ("mine", True), ("another", False)])
def test_another_controllers_is_left_alone(name: str, ours: bool, stage: Stage) -> None:
    wanted = make_sync()
    spec = msgspec.structs.replace(wanted.spec, secret_sync_controller_name=name)
    stage.has_class()
    stage.has(msgspec.structs.replace(wanted, spec=spec))
    stage.passes(1)
    assert bool(stage.synced) is ours
    assert bool(list(stage.reconciler.own_syncs())) is ours


def test_an_unreadable_one_is_told_once_and_synced_when_it_is_mended(stage: Stage) -> None:
    stage.has_class()
    stage.has(Unreadable(metadata=make_sync().metadata, problem="Expected `str` - at `$.spec.serviceAccountName`"))
    stage.passes(DAY)
    assert not stage.synced
    assert stage.told == [(0, Reason.INPUT_INVALID)]
    stage.has(make_sync(generation=2))
    stage.passes(1)
    assert stage.times == [DAY]


@pytest.mark.parametrize("telling", [ReportResult.NOT_WRITTEN, ReportResult.OUTDATED])
def test_an_unreadable_one_is_told_even_if_the_first_attempt_fails(stage: Stage, telling: ReportResult) -> None:
    stage.telling = [telling]
    stage.has(Unreadable(metadata=make_sync().metadata, problem="Expected `str` - at `$.spec.serviceAccountName`"))
    stage.passes(300)
    assert [reason for _, reason in stage.told] == [Reason.INPUT_INVALID]
