"""Test when the objects of AKVSyncs are created, patched, pruned and reported, in virtual time."""

from typing import Any

import pytest

from controller.api.conditions import Reason
from tests.unit.akvsync.reconciler.harness import FRESH, A, AKVSyncHarness, B, put_foreign_object, read_parts

SSH = {"kubernetesSecretType": "kubernetes.io/ssh-auth"}

# Usual changes


def test_objects_are_created_at_once_and_reported_as_they_are_synced(harness: AKVSyncHarness) -> None:
    harness.apply([A, B])
    harness.advance(0.1)
    assert harness.take_writes() == FRESH
    assert harness.get_ready()[:2] == ("False", Reason.IN_PROGRESS)
    harness.advance(5)
    harness.report_synced("a", keys=2)
    harness.advance(1)
    assert harness.objects["akvsyncs", "shop"]["status"]["summary"] == "1/2"
    assert [item["targetKey"] for item in read_parts(harness)["a"]["versions"]] == ["v0", "v1"]
    harness.report_synced("b", reason=Reason.PROVIDER_ERROR, message="the vault is unreachable")
    harness.advance(1)
    assert harness.get_ready() == ("False", Reason.PROVIDER_ERROR, "1/2 ready; b: the vault is unreachable")
    harness.report_synced("b")
    harness.advance(1)
    assert harness.get_ready()[0] == "True"


def test_unchanged_akvsync_causes_no_request(settled: AKVSyncHarness) -> None:
    settled.requests.clear()
    settled.advance(100_000)
    assert settled.requests == []
    # A change that has no effect on the status causes no request.
    settled.put("secretsyncs", "a", {"metadata": {"labels": {"x": "y"}}})
    settled.advance(60)
    assert settled.requests == []


def test_edit_creates_patches_and_deletes_objects(settled: AKVSyncHarness) -> None:
    settled.apply([A | {"labels": {"x": "1"}}, {"secretInAKV": "c"}])
    settled.advance(1)
    assert settled.take_writes() == [
        "DELETE secretsyncs b",
        "PATCH secretproviderclasses shop",
        "PATCH secretsyncs a",
        "POST secretsyncs c",
    ]
    assert settled.list_names() == ["a", "c"]


def test_ready_condition_describes_the_latest_edit(settled: AKVSyncHarness) -> None:
    settled.lag = 2.0
    settled.apply([A | {"labels": {"x": "1"}}, B])
    settled.advance(3)
    # The SecretSync was patched. Neither the watch nor its reconciler has reported that yet.
    assert settled.get_ready()[2].startswith("1/2 ready; a: the SecretSync a was just written")
    settled.advance(60)
    assert settled.get_ready()[2].startswith("1/2 ready; a: the SecretSync a was just written")
    settled.report_synced("a")
    settled.advance(5)
    assert settled.get_ready()[0] == "True"


def test_failed_part_is_reported_before_a_part_in_progress(harness: AKVSyncHarness) -> None:
    harness.apply([A, B])
    harness.advance(5)
    harness.report_synced("b", reason=Reason.SPC_ERROR, message="no")
    harness.advance(5)
    assert harness.get_ready()[2] == "0/2 ready; b: no (and 1 more: see status.parts)"


def test_many_synced_parts_are_reported_in_one_status_patch(harness: AKVSyncHarness) -> None:
    harness.apply([{"secretInAKV": f"s{number}"} for number in range(100)])
    harness.advance(5)
    harness.requests.clear()
    for number in range(100):
        harness.report_synced(f"s{number}")
        harness.advance(0.001)
    harness.advance(5)
    assert harness.get_ready()[2].startswith("100/100")
    assert len(harness.requests) == 1


# Manual edits


@pytest.mark.parametrize(
    ("plural", "name", "spec"),
    [
        ("secretsyncs", "a", {"serviceAccountName": "other"}),
        ("secretsyncs", "a", {"secretSyncControllerName": "other"}),
        ("secretsyncs", "a", {"secretObject": {"labels": {"by": "hand"}}}),
        ("secretsyncs", "a", {"secretObject": {"data": [{"sourcePath": "b", "targetKey": "mine"}]}}),
        ("secretproviderclasses", "shop", {"parameters": {"cloudName": "other"}}),
        ("secretproviderclasses", "shop", {"provider": "aws", "parameters": {"objects": ""}}),
    ],
)
def test_manual_edit_of_an_object_is_reverted(
    plural: str, name: str, spec: dict[str, Any], settled: AKVSyncHarness
) -> None:
    before = settled.objects[plural, name]["spec"]
    settled.put(plural, name, {"spec": spec})
    settled.advance(1)
    assert settled.take_writes() == [f"PATCH {plural} {name}"]
    after = settled.objects[plural, name]["spec"]
    assert {key: value for key, value in after.items() if value} == before


@pytest.mark.parametrize(("plural", "name"), [("secretsyncs", "a"), ("secretproviderclasses", "shop")])
def test_manually_deleted_object_is_recreated(plural: str, name: str, settled: AKVSyncHarness) -> None:
    settled.remove(plural, name)
    settled.advance(1)
    assert settled.take_writes() == [f"POST {plural} {name}"]


def test_force_synchronization_field_is_not_reverted(settled: AKVSyncHarness) -> None:
    settled.put("secretsyncs", "a", {"spec": {"forceSynchronization": "now"}})
    settled.advance(1)
    assert settled.take_writes() == []
    settled.apply([A | {"labels": {"x": "1"}}, B])
    settled.advance(1)
    assert settled.objects["secretsyncs", "a"]["spec"]["forceSynchronization"] == "now"


def test_repeated_manual_edits_are_reverted_with_backoff(settled: AKVSyncHarness) -> None:
    for _ in range(600):
        if settled.objects["secretsyncs", "a"]["spec"]["serviceAccountName"] == "robot":
            settled.put("secretsyncs", "a", {"spec": {"serviceAccountName": "other"}})
        settled.advance(0.1)
    assert 3 < len(settled.take_writes()) < 10


def test_secretsync_with_a_finalizer_is_recreated_after_its_deletion(settled: AKVSyncHarness) -> None:
    settled.put("secretsyncs", "a", {"metadata": {"deletionTimestamp": "2030-01-01T12:00:00Z"}})
    settled.advance(60)
    assert settled.take_writes() == []
    assert settled.get_ready()[1:] == (
        Reason.IN_PROGRESS,
        "1/2 ready; a: the SecretSync a is being deleted; the controller recreates it when it is gone; if it"
        " remains, check its finalizers",
    )
    settled.remove("secretsyncs", "a")
    settled.advance(1)
    assert settled.take_writes() == ["POST secretsyncs a"]


# Objects of other owners


def test_secretsync_of_another_owner_is_reported_and_others_are_created(harness: AKVSyncHarness) -> None:
    put_foreign_object(harness, "secretsyncs", "a")
    harness.report_synced("a")
    harness.advance(1)
    harness.apply([A, B])
    harness.advance(60)
    assert read_parts(harness)["a"]["versions"] == []
    assert harness.take_writes() == ["POST secretproviderclasses shop", "POST secretsyncs b"]
    harness.report_synced("b")
    harness.advance(1)
    status, reason, message = harness.get_ready()
    assert (status, reason) == ("False", Reason.NAME_TAKEN)
    assert message.startswith("1/2 ready; a: a SecretSync a exists that does not belong to this AKVSync")
    # The watch shows that the name is free again. No poll is needed.
    harness.remove("secretsyncs", "a")
    harness.advance(1)
    assert harness.take_writes() == ["POST secretsyncs a"]


def test_class_of_another_owner_prevents_all_writes(harness: AKVSyncHarness) -> None:
    put_foreign_object(harness, "secretproviderclasses", "shop")
    harness.advance(1)
    harness.apply([A, B])
    harness.advance(60)
    assert harness.take_writes() == []
    assert "a SecretProviderClass shop exists that does not belong to this AKVSync" in harness.get_ready()[2]
    harness.remove("secretproviderclasses", "shop")
    harness.advance(1)
    assert harness.take_writes() == FRESH


@pytest.mark.parametrize(
    ("owner", "reason"),
    [
        ({"name": "shop", "uid": "an-earlier-one"}, Reason.IN_PROGRESS),
        ({"name": "other", "uid": "of-another"}, Reason.NAME_TAKEN),
        ({"name": "shop", "uid": "an-earlier-one", "owners": 2}, Reason.NAME_TAKEN),
        ({"name": "shop", "uid": "x", "kind": "ConfigMap"}, Reason.NAME_TAKEN),
        ({"name": "shop", "uid": "x", "apiVersion": "example.com/v1"}, Reason.NAME_TAKEN),
    ],
)
def test_object_of_another_or_earlier_owner_is_not_changed(
    owner: dict[str, Any], reason: Reason, harness: AKVSyncHarness
) -> None:
    put_foreign_object(harness, "secretsyncs", "a", **owner)
    harness.advance(1)
    harness.apply([A])
    harness.advance(60)
    assert harness.take_writes() == ["POST secretproviderclasses shop"]
    assert harness.get_ready()[1] == reason


def test_objects_of_other_owners_are_not_pruned(settled: AKVSyncHarness) -> None:
    put_foreign_object(settled, "secretsyncs", "mine")
    put_foreign_object(settled, "secretsyncs", "theirs", name="other", uid="of-another")
    settled.apply([A])
    settled.advance(5)
    assert settled.take_writes() == ["DELETE secretsyncs b", "PATCH secretproviderclasses shop"]


def test_name_that_another_akvsync_uses_is_taken_until_it_is_free(settled: AKVSyncHarness) -> None:
    settled.apply([A], name="other")
    settled.advance(5)
    assert settled.get_ready("other")[1] == Reason.NAME_TAKEN
    settled.apply([B])
    settled.advance(5)
    settled.take_writes()
    assert settled.objects["secretsyncs", "a"]["metadata"]["ownerReferences"][0]["name"] == "other"
    assert settled.get_ready("other")[1] == Reason.IN_PROGRESS


# Types


def test_type_change_waits_until_the_secretsync_is_deleted(settled: AKVSyncHarness) -> None:
    settled.apply([A | SSH, B])
    settled.advance(60)
    assert settled.take_writes() == []
    assert settled.get_ready()[1:] == (
        Reason.TYPE_CHANGE_WAITS,
        "1/2 ready; a: the SecretSync a has type Opaque, which cannot change: delete it, and with it its Secret; the"
        " controller recreates both with type kubernetes.io/ssh-auth",
    )
    settled.remove("secretsyncs", "a")
    settled.advance(1)
    assert settled.take_writes() == ["POST secretsyncs a"]
    assert settled.objects["secretsyncs", "a"]["spec"]["secretObject"]["type"] == "kubernetes.io/ssh-auth"
