"""Test that the report of tools/migrate csi names the pods that mount a class and cannot be patched."""

from typing import Any

import pytest

from tests.support.csi_manifests import join_notes, make_class, make_workload, migrate_manifests
from tools.cli.migrate.objects import Manifest

BY_HAND = "its pods mount a SecretProviderClass, and this tool does not convert it: mount the Secret there by hand"


def make_owned_workload(kind: str, name: str, owner: tuple[str, str]) -> Manifest:
    """Return a workload with an owner."""
    workload = make_workload(kind, name)
    workload["metadata"]["ownerReferences"] = [{"kind": owner[0], "name": owner[1], "controller": True}]
    return workload


@pytest.mark.parametrize("kind", ["Rollout", "CloneSet", "PodTemplate", "Application"])
def test_kind_that_the_tool_does_not_know_is_reported(kind: str) -> None:
    rollout = make_workload() | {"apiVersion": "example.com/v1", "kind": kind}
    found = migrate_manifests(make_class(), rollout)
    assert found.patches == []
    assert f"{kind} shop/web: {BY_HAND}" in join_notes(found)


@pytest.mark.parametrize("owner", [("Rollout", "web"), ("Node", "worker-1"), ("ReplicaSet", "not-in-the-input")])
def test_owner_that_is_not_converted_is_reported_once(owner: tuple[str, str]) -> None:
    found = migrate_manifests(
        make_class(), make_owned_workload("Pod", "web-1", owner), make_owned_workload("Pod", "web-2", owner)
    )
    assert found.patches == []
    assert join_notes(found).count(BY_HAND) == 1
    assert f"{owner[0]} shop/{owner[1]}: {BY_HAND}" in join_notes(found)


def test_chain_of_owners_is_reported_at_its_end() -> None:
    chain = [
        make_owned_workload("ReplicaSet", "web-1", ("Rollout", "web")),
        make_owned_workload("Pod", "web-1-x", ("ReplicaSet", "web-1")),
    ]
    found = migrate_manifests(make_class(), *chain)
    assert [str(note) for note in found.notes if BY_HAND in note.text] == [f"Rollout shop/web: {BY_HAND}"]


def test_workload_whose_owner_is_patched_is_not_reported() -> None:
    chain = [
        make_workload(),
        make_owned_workload("ReplicaSet", "web-1", ("Deployment", "web")),
        make_owned_workload("Pod", "x", ("ReplicaSet", "web-1")),
    ]
    found = migrate_manifests(make_class(), *chain)
    assert BY_HAND not in join_notes(found)
    assert len(found.patches) == 1


@pytest.mark.parametrize("references", [None, [], {}, "x", [None], [3]])
def test_object_without_the_driver_is_not_reported(references: Any) -> None:
    other = {"kind": "Rollout", "metadata": {"name": "x", "ownerReferences": references}, "spec": {"volumes": [{}]}}
    assert BY_HAND not in join_notes(migrate_manifests(make_class(), make_workload(), other))


@pytest.mark.parametrize(("value", "reported"), [("", False), (" ", False), ("/etc/cloud.json", True)])
def test_cloud_file_is_reported_only_if_it_is_set(value: str, reported: bool) -> None:
    spc = make_class()
    spc["spec"]["parameters"] |= {"cloudEnvFileName": value, "usePodIdentity": "true"}
    assert ("cloudEnvFileName" in join_notes(migrate_manifests(spc, make_workload()))) == reported
