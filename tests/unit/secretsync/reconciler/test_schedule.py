"""Test when SecretSyncs are synced, checked and forgotten, in virtual time."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from controller.akvsync.expand import expand_akvsync
from controller.api.conditions import ConditionType, Reason
from controller.api.meta import Unreadable
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import REFRESH_INTERVAL, SecretObjectData, SecretSync
from controller.config.settings import Settings
from controller.domain.status import Failed, Requeue, Synced, find_condition
from controller.errors import ControllerError, InputError, ObjectError
from controller.keyvault.credentials import Identity
from controller.observability.telemetry import Metrics
from controller.polling.poll_group import PollGroup
from controller.runtime.threads.parsing import ParsingPool
from controller.runtime.work_queue import Key
from controller.secretsync.reconciler import Reconciler
from controller.secretsync.refused_write import RefusedWrite
from controller.secretsync.status_reporter import ReportResult
from controller.secretsync.tasks import Fetch
from controller.secretsync.work_state import CLASS_PATIENCE
from tests.support.akv_syncs import akv_sync
from tests.support.builders import make_provider_class, make_sync
from tests.unit.secretsync.reconciler.harness import (
    BEFORE,
    DAY,
    GOOD,
    HOUR,
    SHOP,
    UNREACHABLE,
    ReconcilerHarness,
    make_snapshot,
    make_sync_of_age,
    make_synced,
)

if TYPE_CHECKING:
    from controller.keyvault.pool import VaultPool
    from controller.secretsync.status_reporter import StatusReporter
    from controller.secretsync.sync_resolver import SyncResolver
    from controller.secretsync.syncer import Syncer

# The usual schedule


def test_new_secretsync_is_synced_at_once_and_at_each_interval(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(3 * HOUR + 1)
    assert harness.sync_times == [0, HOUR, 2 * HOUR, 3 * HOUR]


def test_between_two_syncs_only_drift_checks_run(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(HOUR - 1)
    assert len(harness.drift_checks) == HOUR // 300 - 1
    assert harness.sync_times == [0]


def test_leader_that_leads_again_syncs_only_what_is_due(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(100)
    harness.lose_lease()
    harness.advance(100)
    # Meanwhile another leader synced it and wrote the time into its status.
    harness.add(make_sync_of_age(-200))
    harness.lose_lease()
    harness.advance(HOUR - 1)
    assert harness.sync_times == [0]
    harness.advance(2)
    assert harness.sync_times == [0, HOUR + 200]


@pytest.mark.parametrize("settings", [Settings(jitter=60)])
def test_jitter_delays_first_syncs_polls_and_edits(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync(), make_sync_of_age(2 * HOUR, name="overdue"), make_sync_of_age(600, name="due"))
    harness.advance(2 * HOUR)
    # The group is polled when the first member is due. Each poll draws its own jitter.
    assert harness.polls == [HOUR - 600 + 60, HOUR - 600 + 60 + HOUR + 60]
    assert harness.sync_times == [60, *[harness.polls[0]] * 3, *[harness.polls[1]] * 3]
    harness.add(make_sync(generation=2))
    harness.advance(30)
    harness.add(make_sync(generation=3))
    harness.advance(100)
    assert [sync for sync in harness.synced if sync[1] > 1] == [(2 * HOUR + 90, 3)]


@pytest.mark.parametrize("settings", [Settings(jitter=60)])
def test_missing_class_is_reported_without_the_jitter(harness: ReconcilerHarness) -> None:
    harness.add(make_sync())
    harness.advance(CLASS_PATIENCE + 1)
    assert harness.sync_times == [CLASS_PATIENCE]


@pytest.mark.parametrize("settings", [Settings(shortest_refresh_interval=10)])
@pytest.mark.parametrize(("requested", "moments"), [("120", [0, 120, 240]), ("soon", [0])])
def test_value_that_kubernetes_refuses_is_read_again_at_the_interval_of_its_sync(
    harness: ReconcilerHarness, requested: str, moments: list[float]
) -> None:
    found = make_sync()
    annotated = msgspec.structs.replace(found.metadata, annotations={REFRESH_INTERVAL: requested})
    harness.outcome = Failed(InputError("the value for .dockerconfigjson is not a JSON object"))
    harness.add_class()
    harness.add(msgspec.structs.replace(found, metadata=annotated))
    harness.advance(300)
    assert harness.sync_times == moments


@pytest.mark.parametrize("settings", [Settings(shortest_refresh_interval=10)])
def test_refresh_interval_annotation_counts_from_the_last_sync(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(100)
    found = harness.reconciler.syncs.get(SHOP)
    assert isinstance(found, SecretSync)
    annotated = msgspec.structs.replace(found.metadata, annotations={REFRESH_INTERVAL: "120"})
    harness.add(msgspec.structs.replace(found, metadata=annotated))
    harness.advance(300)
    assert harness.sync_times == [0, 120, 240, 360]
    harness.resolve_error = InputError("annotation: write a number of seconds")
    unreadable = msgspec.structs.replace(annotated, annotations={REFRESH_INTERVAL: "soon"})
    harness.add(msgspec.structs.replace(found, metadata=unreadable))
    harness.advance(1)
    assert harness.reports[-1] == (400, Reason.INPUT_INVALID)


def test_edit_of_a_secretsync_or_its_class_is_synced_at_once(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(100)
    harness.add(make_sync(generation=2))
    harness.advance(100)
    harness.add_class(generation=2)
    harness.advance(100)
    assert harness.synced == [(0, 1), (100, 2), (200, 2)]


def test_edit_of_an_unused_class_syncs_nothing(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(100)
    harness.reconciler.classes.set(make_provider_class(name="other"))
    harness.advance(100)
    assert harness.sync_times == [0]


@pytest.mark.parametrize("edited", ["SecretSync", "class"])
def test_edit_during_a_sync_causes_another_sync(harness: ReconcilerHarness, edited: str) -> None:
    harness.sync_seconds = 10
    harness.add_class()
    harness.add(make_sync())
    harness.advance(5)
    if edited == "class":
        harness.add_class(generation=2)
    else:
        harness.add(make_sync(generation=2))
    harness.advance(20)
    assert harness.sync_times == [0, 10]  # never two syncs at the same time; the second follows at once


def test_hundred_edits_during_a_sync_cause_one_more_sync(harness: ReconcilerHarness) -> None:
    harness.sync_seconds = 10
    harness.add_class()
    for generation in range(1, 101):
        harness.add(make_sync(generation=generation))
        harness.advance(0.01)
    harness.advance(60)
    assert harness.synced == [(0, 1), (10, 100)]


def test_closed_reconciler_finishes_the_running_sync(harness: ReconcilerHarness) -> None:
    harness.sync_seconds = 10
    harness.add_class()
    harness.add(make_sync())
    harness.advance(5)
    harness.add(make_sync(name="other"))
    harness.reconciler.close()
    harness.reconciler.poller.close()
    harness.loop.run_until_complete(asyncio.wait_for(asyncio.gather(harness.work_task, harness.poll_task), 60))
    assert len(harness.reports) >= 1


def test_namespace_gets_32_workers_and_the_rest_is_due(harness: ReconcilerHarness) -> None:
    harness.sync_seconds = 10
    harness.add_class()
    harness.add(*(make_sync(name=f"s{number}", uid=f"uid-{number}") for number in range(40)))
    harness.advance(5)
    assert (len(harness.synced), harness.read_metric("queue_due")) == (32, 8)
    harness.advance(10)
    assert (len(harness.synced), harness.read_metric("queue_due")) == (40, 0)


def test_attempts_are_counted_and_timed(harness: ReconcilerHarness) -> None:
    harness.advance(100)
    harness.sync_seconds = 3
    harness.add_class()
    harness.add(make_sync())
    harness.advance(10)
    assert harness.read_metric("reconciles_total", reason=Reason.UP_TO_DATE) == 1
    assert harness.read_metric("reconcile_seconds_sum") == 3


def test_reconciler_without_a_random_source_has_its_own(harness: ReconcilerHarness) -> None:
    reconciler = Reconciler(
        Settings(),
        ParsingPool(),
        cast("SyncResolver", harness),
        cast("Syncer", harness),
        cast("VaultPool", harness),
        cast("StatusReporter", harness),
        Metrics(),
    )
    group = PollGroup(Identity("team", "robot", "client", "tenant"), "cloud", "vault", 3600.0)
    reconciler.poller.join(SHOP, group, {}, 0.0)
    assert 0 <= reconciler.poller.groups[group].position < 1


def test_class_edit_syncs_only_the_remaining_users(harness: ReconcilerHarness) -> None:
    names = ["deleted", "moved", "remains", "other"]
    harness.add_class()
    harness.reconciler.classes.set(make_provider_class(name="second"))
    harness.add(*(make_sync(name=name, uid=name, source="second" if name == "other" else "class") for name in names))
    harness.advance(1)
    harness.reconciler.syncs.delete(Key("team", "deleted"))
    harness.add(make_sync(name="moved", uid="moved", source="second", generation=2))
    harness.advance(10)
    harness.tasks.clear()
    harness.add_class(generation=2)
    assert len(harness.queue) == 3
    harness.advance(1)
    assert len(harness.tasks) == 1


def test_deleted_class_is_forgotten(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add_class(generation=2)
    assert not harness.forgotten_classes
    harness.reconciler.classes.delete(Key("team", "class"))
    assert harness.forgotten_classes == [Key("team", "class")]


def generate_objects(names: str, generation: int = 1) -> tuple[SecretProviderClass, SecretSync]:
    """Return the class and the SecretSync `m` with these keys, as an AKVSync generates them."""
    mapping = ", ".join(f"{{dataKey: {name}, secretInAKV: {name}}}" for name in names)
    made = expand_akvsync(akv_sync(f"[{{kubernetesSecretName: m, mapping: [{mapping}]}}]"))
    source, sync = made.source, made.syncs["m"]
    assert source
    metadata = {"uid": "class", "generation": generation}
    return (
        msgspec.structs.replace(source, metadata=msgspec.structs.replace(source.metadata, **metadata)),
        msgspec.structs.replace(
            sync, metadata=msgspec.structs.replace(sync.metadata, uid="sync", generation=generation)
        ),
    )


def sync_generated_objects(harness: ReconcilerHarness) -> None:
    """Sync the objects that an AKVSync generates for the key `a`."""
    harness.outcome = make_synced("a")
    source, sync = generate_objects("a")
    harness.reconciler.classes.set(source)
    harness.add(sync)
    harness.advance(100)


def test_edit_of_generated_objects_fetches_only_the_new_keys(harness: ReconcilerHarness) -> None:
    sync_generated_objects(harness)
    source, sync = generate_objects("ab", 2)
    harness.reconciler.classes.set(source)
    harness.advance(10)
    assert [task.keys for task in harness.tasks] == [None]  # the new item is not in the SecretSync yet
    found = harness.reconciler.syncs.get(Key("team", "m"))
    assert isinstance(found, SecretSync)
    harness.sync_seconds = 10
    harness.add(msgspec.structs.replace(sync, status=found.status))
    harness.advance(5)
    assert [task.keys for task in harness.tasks] == [None, frozenset({"b", "b/*"})]
    assert harness.reconciler.poller.is_polled(Key("team", "m"))


def test_edit_before_the_report_of_another_edit_fetches_the_keys_of_both(harness: ReconcilerHarness) -> None:
    """The status after the first edit conflicts with the second edit, so it does not have the versions of its keys."""
    sync_generated_objects(harness)
    found = harness.reconciler.syncs.get(Key("team", "m"))
    assert isinstance(found, SecretSync)
    harness.sync_seconds = 10
    harness.report_results = [ReportResult.OUTDATED]
    for generation, names in ((2, "ab"), (3, "abc")):
        source, sync = generate_objects(names, generation)
        harness.reconciler.classes.set(source)
        harness.add(msgspec.structs.replace(sync, status=found.status))
        harness.advance(5)
    harness.advance(10)
    assert [task.keys for task in harness.tasks] == [None, frozenset({"b", "b/*"}), frozenset({"b", "b/*", "c", "c/*"})]


def test_edit_of_an_item_fetches_its_keys(harness: ReconcilerHarness) -> None:
    sync_generated_objects(harness)
    source, _ = generate_objects("a", 2)
    source.spec.parameters["objects"] += "    objectVersion: v1\n"
    harness.reconciler.classes.set(source)
    harness.advance(2)
    assert [task.keys for task in harness.tasks] == [None, frozenset({"a", "a/*"})]


def test_new_generated_secretsync_is_synced_when_its_class_appears(harness: ReconcilerHarness) -> None:
    source, sync = generate_objects("a")
    harness.add(sync)
    harness.advance(1)
    assert not harness.tasks
    harness.reconciler.classes.set(source)
    harness.advance(0.1)
    assert len(harness.tasks) == 1


def test_edit_of_a_generated_class_waits_for_that_of_its_secretsync(harness: ReconcilerHarness) -> None:
    """With `versionHistory`, no sourcePath is valid both before and after the edit of the class."""
    sync_generated_objects(harness)
    before, sync = generate_objects("a", 2)
    item = before.spec.parameters["objects"] + "    objectVersionHistory: 2\n"
    source = msgspec.structs.replace(
        before, spec=msgspec.structs.replace(before.spec, parameters={**before.spec.parameters, "objects": item})
    )
    harness.reconciler.classes.set(source)
    harness.advance(1.5)
    assert len(harness.tasks) == 1
    found = harness.reconciler.syncs.get(Key("team", "m"))
    assert isinstance(found, SecretSync)
    began = harness.loop.time()
    secret = msgspec.structs.replace(
        sync.spec.secret_object, data=[SecretObjectData(source_path="a/0", target_key="a")]
    )
    spec = msgspec.structs.replace(sync.spec, secret_object=secret)
    harness.add(msgspec.structs.replace(sync, spec=spec, status=found.status))
    harness.advance(100)
    assert harness.sync_times[1:] == [began]


def test_edit_of_another_item_does_not_repeat_a_failed_attempt(harness: ReconcilerHarness) -> None:
    harness.outcome = UNREACHABLE
    source, sync = generate_objects("a")
    harness.reconciler.classes.set(source)
    harness.add(sync)
    harness.advance(100)
    harness.reconciler.classes.set(generate_objects("ab", 2)[0])
    harness.advance(10)
    assert harness.sync_times[-1] < 100


def test_secretsync_that_is_deleted_while_its_class_is_compared_stays_forgotten(
    harness: ReconcilerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def compare_later(_pool: ParsingPool, _namespace: str, work: Callable[[object], object]) -> object:
        await asyncio.sleep(5)
        return work(lambda _: None)

    monkeypatch.setattr(ParsingPool, "run", compare_later)
    before, after = make_provider_class(), make_provider_class(generation=2)
    after.spec.parameters["objects"] = " " * 5000
    harness.reconciler.classes.set(before)
    harness.add(make_sync(), make_sync(name="other", uid="other"))
    harness.advance(1)
    harness.loop.call_soon(harness.reconciler.classes.set, after)
    harness.advance(1)
    harness.reconciler.syncs.delete(SHOP)
    harness.advance(10)
    assert list(harness.reconciler.entries) == [Key("team", "other")]
    assert harness.sync_times == [0, 0, 6]


def test_edited_secretsync_is_not_polled_until_it_is_synced(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(10)
    assert harness.reconciler.poller.is_polled(SHOP)
    harness.sync_seconds = 10
    harness.add(make_sync(generation=2))
    harness.advance(5)
    assert not harness.reconciler.poller.is_polled(SHOP)
    harness.advance(10)
    assert harness.reconciler.poller.is_polled(SHOP)


def test_edit_repeats_a_write_that_was_refused(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(10)
    written = harness.reconciler.entries[SHOP].written
    written.refused = cast("RefusedWrite", object())
    harness.add(make_sync(generation=2))
    harness.advance(1)
    assert written.refused is None


def test_key_that_an_edit_adds_is_fetched_although_all_others_fail(harness: ReconcilerHarness) -> None:
    """Otherwise the Secret would be created without any key, and the new key would count as synced."""
    harness.add_class()
    harness.add(make_sync())
    harness.advance(10)
    written = harness.reconciler.entries[SHOP].written
    written.failing = frozenset({"user", "pass"})
    harness.add(make_sync(["user", "pass", "new"], generation=2))
    harness.advance(1)
    assert not written.failing


def test_class_that_cannot_be_parsed_yet_delays_the_attempt(harness: ReconcilerHarness) -> None:
    harness.resolve_requeues = [Requeue(1.5)]
    harness.add_class()
    harness.add(make_sync())
    harness.advance(2)
    assert harness.sync_times == [1.5]
    assert harness.reconciler.poller.is_polled(SHOP)


def add_equal_sync(harness: ReconcilerHarness) -> None:
    """Add a SecretSync that another process synced ten minutes ago. The vault has not changed since."""
    harness.set_results(make_snapshot(user=BEFORE, **{"pass": BEFORE}), GOOD)
    harness.add_class()
    harness.add(make_sync_of_age(600, make_synced("user", "pass")))


def test_class_that_cannot_be_parsed_yet_causes_no_vault_call_after_a_restart(harness: ReconcilerHarness) -> None:
    harness.resolve_requeues = [Requeue(1.5), Requeue(1.5)]
    add_equal_sync(harness)
    harness.advance(HOUR - 601)
    assert (harness.sync_times, harness.polls) == ([], [])
    harness.advance(2)
    assert (harness.sync_times, harness.polls) == ([], [HOUR - 600])


def test_record_of_a_poll_that_could_not_be_written_fetches_no_value(harness: ReconcilerHarness) -> None:
    """Otherwise, an outage of the API server at the end of a poll would read every value of a SecretSync."""
    add_equal_sync(harness)
    harness.report_results = [ReportResult.NOT_WRITTEN, ReportResult.OUTDATED]
    harness.advance(HOUR)
    assert (harness.sync_times, harness.report_results) == ([], [])
    assert [status.last_group_poll is not None for status in harness.statuses] == [True]
    assert [round(moment - (HOUR - 600), 3) for moment, _ in harness.reports] == [2.2]  # 2 s, then twice 0.1 s


@pytest.mark.parametrize("ends", ["deleted", "lease lost"])
def test_checks_of_gone_secretsyncs_delay_no_other(harness: ReconcilerHarness, ends: str) -> None:
    harness.add_class()
    for number in range(1_024):
        harness.add(make_sync(name="other", uid=f"uid-{number}"))
        harness.advance(1 / 32)
        if ends == "deleted":
            harness.reconciler.syncs.delete(Key("team", "other"))
        else:
            harness.lose_lease()
    harness.reconciler.syncs.delete(Key("team", "other"))
    harness.add(make_sync())
    began = harness.loop.time()
    harness.drift_checks.clear()
    harness.advance(301)
    assert [moment - began for moment in harness.drift_checks] == [300]


def test_drift_check_fetches_with_answers_since_its_start(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    harness.unchanged, harness.check_seconds = False, 5.0
    harness.advance(310)
    assert harness.tasks[1] == Fetch(harness.drift_checks[0])


@pytest.mark.parametrize("contested", ["", "another component changes label tier"])
def test_contested_label_is_a_warning(harness: ReconcilerHarness, contested: str) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    harness.reconciler.entries[SHOP].written.contested = contested
    harness.advance(310)
    assert harness.drift_checks
    assert set(harness.warnings) == ({("shop", contested)} if contested else set())


# After a restart


@pytest.mark.parametrize("outcome", [make_synced("user", "pass"), UNREACHABLE])
def test_attempt_that_ends_after_the_lease_was_lost_is_reported(
    harness: ReconcilerHarness, outcome: Synced | ControllerError
) -> None:
    harness.outcome = outcome
    harness.sync_seconds = 10
    harness.add_class()
    harness.add(make_sync())
    harness.advance(5)
    harness.lose_lease()
    assert harness.forgotten == [SHOP]
    harness.advance(6)
    assert [moment for moment, _ in harness.reports] == [10]


@pytest.mark.parametrize(
    ("found", "at"),
    [
        pytest.param(make_sync_of_age(600), HOUR - 600, id="not due"),
        pytest.param(make_sync_of_age(10 * HOUR), HOUR, id="overdue"),
        pytest.param(make_sync_of_age(600, generation=2), 0, id="edited"),
        pytest.param(make_sync_of_age(600, Failed(ObjectError("m"))), 0, id="failed"),
        pytest.param(make_sync_of_age(-5 * HOUR), 0, id="time in the future"),
    ],
)
def test_restart_syncs_when_the_status_says_that_it_is_due(
    harness: ReconcilerHarness, found: SecretSync, at: float
) -> None:
    harness.add_class()
    harness.add(found)
    harness.advance(at + 1)
    assert harness.sync_times == [at]


# SecretSyncs that are not synced


def test_deleted_secretsync_is_forgotten(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    harness.reconciler.syncs.delete(SHOP)
    assert len(harness.queue) == 0
    assert SHOP in harness.forgotten
    assert not harness.reconciler.poller.members
    harness.advance(DAY)
    assert harness.sync_times == [0]
    assert not harness.reconciler.entries
    assert not harness.reconciler.users


def test_secretsync_deleted_during_its_sync_is_forgotten(harness: ReconcilerHarness) -> None:
    harness.sync_seconds = 10
    harness.add_class()
    harness.add(make_sync())
    harness.advance(5)
    harness.reconciler.syncs.delete(SHOP)
    harness.advance(DAY)
    assert harness.sync_times == [0]
    assert len(harness.queue) == 0
    assert not harness.reconciler.entries


def test_secretsync_with_a_deletion_timestamp_is_not_synced(harness: ReconcilerHarness) -> None:
    wanted = make_sync()
    terminating = msgspec.structs.replace(wanted.metadata, deletion_timestamp="2030-01-01T00:00:00Z")
    harness.add_class()
    harness.add(msgspec.structs.replace(wanted, metadata=terminating))
    harness.advance(DAY)
    assert not harness.synced


@pytest.mark.parametrize("settings", [Settings(controller_name="mine")])
@pytest.mark.parametrize(("name", "is_own"), [("", True), ("mine", True), ("another", False)])
def test_secretsync_of_another_controller_is_not_synced(name: str, is_own: bool, harness: ReconcilerHarness) -> None:
    wanted = make_sync()
    spec = msgspec.structs.replace(wanted.spec, secret_sync_controller_name=name)
    harness.add_class()
    harness.add(msgspec.structs.replace(wanted, spec=spec))
    harness.advance(1)
    assert bool(harness.synced) is is_own
    assert bool(list(harness.reconciler.own_syncs())) is is_own
    assert bool(len(harness.queue)) is is_own


@pytest.mark.parametrize("settings", [Settings(controller_name="mine")])
def test_secretsync_that_another_controller_takes_over_is_forgotten(harness: ReconcilerHarness) -> None:
    wanted = make_sync()
    harness.add_class()
    harness.add(wanted)
    harness.advance(1)
    assert not harness.forgotten
    spec = msgspec.structs.replace(wanted.spec, secret_sync_controller_name="another")
    harness.add(msgspec.structs.replace(make_sync(generation=2), spec=spec))
    harness.advance(1)
    assert harness.forgotten == [SHOP]
    assert not harness.reconciler.poller.members


def test_poll_of_a_secretsync_that_is_gone_does_nothing(harness: ReconcilerHarness) -> None:
    assert harness.reconciler.handle_poll(SHOP, {}, make_snapshot()) is True
    harness.add_class()
    harness.add(make_sync())
    harness.advance(1)
    del harness.reconciler.entries[SHOP]
    assert harness.reconciler.handle_poll(SHOP, {}, make_snapshot()) is True
    harness.add(Unreadable(metadata=make_sync().metadata, problem="m"))
    assert harness.reconciler.handle_poll(SHOP, {}, make_snapshot()) is True
    assert list(harness.reconciler.own_syncs()) == []


def test_secretsync_deleted_before_its_first_attempt_is_forgotten(harness: ReconcilerHarness) -> None:
    harness.add(make_sync())
    harness.reconciler.syncs.delete(SHOP)
    assert harness.forgotten == [SHOP]


def test_unreadable_secretsync_is_reported_once_and_synced_when_fixed(harness: ReconcilerHarness) -> None:
    harness.add_class()
    harness.add(Unreadable(metadata=make_sync().metadata, problem="Expected `str` - at `$.spec.serviceAccountName`"))
    harness.advance(DAY)
    assert not harness.synced
    assert harness.reports == [(0, Reason.INPUT_INVALID)]
    created = find_condition(harness.statuses[-1], ConditionType.SECRET_CREATED)
    assert (created.status if created else None) == "Unknown"
    message = "this SecretSync cannot be read: Expected `str` - at `$.spec.serviceAccountName`"
    assert harness.reconciler.entries[SHOP].state.reported == message
    assert len(harness.queue) == 1
    harness.add(make_sync(generation=2))
    harness.advance(1)
    assert harness.sync_times == [DAY]


@pytest.mark.parametrize("report_results", [ReportResult.NOT_WRITTEN, ReportResult.OUTDATED])
def test_unreadable_secretsync_is_reported_after_a_failed_status_write(
    harness: ReconcilerHarness, report_results: ReportResult
) -> None:
    harness.report_results = [report_results]
    harness.add(Unreadable(metadata=make_sync().metadata, problem="Expected `str` - at `$.spec.serviceAccountName`"))
    harness.advance(300)
    assert [reason for _, reason in harness.reports] == [Reason.INPUT_INVALID]
