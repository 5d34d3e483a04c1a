"""Test mistakes, refusals, slow watches and lost leases: errors are reported, and no write is repeated."""

import itertools
import logging
from typing import Any

import msgspec
import pytest

from controller.akvsync.status import MAX_MESSAGE, MAX_VERSIONS
from controller.api.akvsync import AKVSync
from controller.api.conditions import Reason
from controller.api.meta import ObjectMeta, OwnerReference, Unreadable
from controller.errors import PolicyRefused, Refused, Retry, Unreachable
from controller.runtime.work_queue import Key
from tests.support.builders import make_sync
from tests.unit.akvsync.reconciler.harness import FRESH, A, AKVSyncHarness, B, read_parts

# Mistakes and refusals


def test_mistake_in_the_spec_changes_and_prunes_nothing(settled: AKVSyncHarness) -> None:
    settled.apply([A, A])
    settled.advance(60)
    assert settled.take_writes() == []
    status, reason, message = settled.get_ready()
    assert (status, reason) == ("False", Reason.INPUT_INVALID)
    assert "both make a Secret a" in message
    assert settled.events[-1] == ("shop", "Warning", Reason.INPUT_INVALID)
    assert settled.objects["akvsyncs", "shop"]["status"]["summary"] == "2/2"


def test_unreadable_akvsync_reports_invalid_input(settled: AKVSyncHarness) -> None:
    settled.make_unreadable()
    settled.requests.clear()
    settled.advance(3600)
    assert [request for _, request in settled.requests] == ["PATCH akvsyncs shop/status"]
    assert settled.get_ready()[1:] == (
        Reason.INPUT_INVALID,
        "this AKVSync cannot be read: Expected `array`, got `str` - at `$.spec.objects`",
    )


def test_answer_does_not_replace_an_object_that_is_too_large(settled: AKVSyncHarness) -> None:
    key = Key("team", "shop")
    meta = settled.akv_syncs.store.get(key).metadata  # type: ignore[union-attr]
    settled.lag = 3600
    refused = Unreadable(msgspec.structs.replace(meta, generation=meta.generation + 1), "it is too large")
    settled.akv_syncs.store.set(refused)
    settled.advance(60)
    assert "it is too large" in settled.get_ready()[2]
    assert settled.akv_syncs.store.get(key) == refused


def test_secretsync_that_cannot_be_read_is_reported(settled: AKVSyncHarness) -> None:
    """A patch does not help if the object is too large, or if its namespace has used up its budget."""
    settled.lag = 3600
    edited = settled.put("secretsyncs", "a", {"metadata": {"labels": {"x": "y"}}})
    settled.syncs.set(Unreadable(msgspec.convert(edited["metadata"], ObjectMeta), "it is too large"))
    settled.advance(60)
    assert settled.get_ready() == (
        "False",
        Reason.INPUT_INVALID,
        "1/2 ready; a: the SecretSync a cannot be read: it is too large",
    )


def test_refusal_that_only_an_edit_can_fix_is_retried_after_an_edit(harness: AKVSyncHarness) -> None:
    harness.failures["POST secretsyncs a"] = Refused("spec: Invalid value", status=422, retry=Retry.ON_EDIT)
    harness.apply([A, B])
    harness.advance(3600)
    assert "spec: Invalid value" in harness.get_ready()[2]
    assert [what for _, what in harness.requests].count(
        "POST secretsyncs a"
    ) <= 2  # the SecretSync of B requeues the AKVSync
    harness.failures.clear()
    harness.apply([A])
    harness.advance(60)
    assert harness.list_names() == ["a"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PolicyRefused("ValidatingAdmissionPolicy 'x' denied", status=422), Reason.POLICY_REFUSED),
        (Refused("namespace is being terminated", status=403), Reason.SYNC_FAILED),
        (Unreachable("the Kubernetes API did not answer in time"), Reason.SYNC_FAILED),
    ],
)
def test_refusal_of_the_api_server_is_reported_and_retried_with_backoff(
    error: Any, reason: Reason, harness: AKVSyncHarness
) -> None:
    harness.failures["POST secretsyncs a"] = error
    harness.apply([A, B])
    harness.advance(3600)
    assert harness.get_ready()[1] == reason
    assert error.message in harness.get_ready()[2]
    times = [moment for moment, what in harness.requests if what == "POST secretsyncs a"]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits[-1] > 200
    assert len(times) < 30
    assert "b" in harness.list_names()
    harness.failures.clear()
    harness.advance(300)
    assert harness.list_names() == ["a", "b"]


def test_failed_prune_is_reported_and_retried(settled: AKVSyncHarness) -> None:
    settled.failures["DELETE secretsyncs b"] = Refused("no", status=403)
    settled.apply([A])
    settled.advance(5)
    assert settled.get_ready()[1:] == (Reason.SYNC_FAILED, "1/2 ready; b: no")
    settled.failures.clear()
    settled.advance(60)
    assert settled.list_names() == ["a"]
    assert settled.get_ready()[0] == "True"


def test_failed_prune_is_reported_besides_a_name_conflict(settled: AKVSyncHarness) -> None:
    settled.failures["DELETE secretsyncs b"] = Refused("no", status=403)
    settled.put("secretproviderclasses", "shop", {"metadata": {"ownerReferences": []}})
    settled.apply([A])
    settled.advance(5)
    assert [(name, item["reason"]) for name, item in read_parts(settled).items()] == [
        ("a", Reason.NAME_TAKEN),
        ("b", Reason.SYNC_FAILED),
    ]


# Slow watches and refused status patches


def test_slow_watch_causes_no_duplicate_writes(harness: AKVSyncHarness) -> None:
    harness.lag = 3.0
    harness.apply([A])
    harness.advance(60)
    harness.apply([A | {"labels": {"x": "1"}}])
    harness.advance(60)
    assert harness.take_writes() == ["POST secretproviderclasses shop", "POST secretsyncs a", "PATCH secretsyncs a"]


def test_slow_watch_causes_no_duplicate_status_patches(settled: AKVSyncHarness) -> None:
    settled.lag = 20.0
    settled.requests.clear()
    settled.report_synced("a", reason=Reason.PROVIDER_ERROR, message="the vault is unreachable")
    settled.advance(10)  # the second SecretSync changes before the watch delivers the first status
    settled.report_synced("b", reason=Reason.PROVIDER_ERROR, message="the vault is unreachable")
    settled.advance(60)
    assert settled.get_ready()[2].startswith("0/2 ready")
    assert [what for _, what in settled.requests] == ["PATCH akvsyncs shop/status"] * 2


def test_status_that_could_not_be_written_is_written_later(
    settled: AKVSyncHarness, caplog: pytest.LogCaptureFixture
) -> None:
    settled.failures["PATCH akvsyncs shop/status"] = Unreachable("no answer")
    settled.report_synced("a", reason=Reason.PARTIAL, message="x" * 1000, keys=30)
    settled.advance(5)
    assert settled.get_ready()[0] == "True"
    assert "cannot write a status: no answer" in caplog.text
    settled.failures.clear()
    with caplog.at_level(logging.WARNING):
        settled.advance(60)
    assert settled.get_ready()[:2] == ("False", Reason.PARTIAL)
    assert "team/shop: 1/2 ready; a: xxx" in caplog.text
    part = read_parts(settled)["a"]
    assert len(part["message"]) == MAX_MESSAGE
    assert len(part["versions"]) == MAX_VERSIONS


# Leader terms and deletion


def test_writes_that_a_lost_lease_interrupted_follow_in_the_next_term(harness: AKVSyncHarness) -> None:
    harness.apply([A, B])
    harness.advance(harness.lag + 0.0005)  # the first request is running
    harness.regain_leadership()
    harness.advance(5)
    assert harness.take_writes() == FRESH
    assert harness.list_names() == ["a", "b"]


def test_next_term_requests_nothing_if_all_objects_are_up_to_date(settled: AKVSyncHarness) -> None:
    settled.requests.clear()
    settled.regain_leadership()
    settled.advance(100)
    assert settled.requests == []


def test_objects_of_a_deleted_akvsync_are_left_to_garbage_collection(settled: AKVSyncHarness) -> None:
    settled.remove("akvsyncs", "shop")
    settled.advance(1)
    settled.remove("secretsyncs", "a")
    settled.advance(60)
    settled.remove("secretsyncs", "b")
    settled.advance(60)
    assert settled.requests == []
    assert (settled.akv_syncs.dependents, settled.akv_syncs.owned) == ({}, {})


# Other namespaces


def test_owner_reference_in_another_namespace_adds_no_part(settled: AKVSyncHarness) -> None:
    """An editor of that namespace can write any owner reference. It adds no part, now or after a mistake."""
    meta = settled.objects["akvsyncs", "shop"]["metadata"]
    owner = OwnerReference(api_version=AKVSync.api_version(), kind=AKVSync.kind, name="shop", uid=meta["uid"])
    for number in range(300):
        other_sync = make_sync(name=f"theirs-{number}")
        metadata = ObjectMeta(
            name=f"theirs-{number}", namespace="elsewhere", uid=f"u{number}", owner_references=[owner]
        )
        settled.syncs.set(msgspec.structs.replace(other_sync, metadata=metadata))
    before = settled.objects["akvsyncs", "shop"]["status"]
    settled.advance(60)
    assert settled.objects["akvsyncs", "shop"]["status"] == before
    settled.apply([A, A])
    settled.advance(60)
    assert settled.take_writes() == []
    assert settled.objects["akvsyncs", "shop"]["status"]["summary"] == "2/2"
    assert read_parts(settled).keys() == {item["name"] for item in before["parts"]}
