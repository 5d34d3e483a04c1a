"""Test syncing, rotation, edits, deletion and restoration of one secret on a real API server."""

import pytest

from tests.support.cluster.audit import count_probes
from tests.support.cluster.harness import canary_value, eventually
from tests.support.cluster.namespace import Namespace

UP_TO_DATE = "UpdateNoValueChangeSucceeded"
WRITTEN = "UpdateValueChangeOrForceUpdateSucceeded"


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"DRIFT_INTERVAL": "2"}


def test_version_history_is_synced_with_the_newest_version_first(space: Namespace) -> None:
    for second, text in enumerate(("oldest", "older", "newest")):
        space.installed.emulator.set_clock(-10 + second)  # Key Vault's times have a resolution of one second
        space.set_secret("db", text)
    space.installed.emulator.set_clock(0)
    objects = "array:\n  - |\n    objectName: db\n    objectVersionHistory: 2\n"
    space.apply(space.provider_class(objects=objects), space.sync("db", {"a": "db/0", "b": "db/1", "c": "db/2"}))
    space.wait_secret("db", {"a": "newest", "b": "older", "c": "oldest"})
    space.wait_reason("db", WRITTEN)
    status = space.get("secretsync", "db")["status"]
    assert [item["object"] for item in status["objects"]] == ["secret/db/0", "secret/db/1", "secret/db/2"]
    assert len({item["version"] for item in status["objects"]}) == 3


def test_pinned_version_remains(space: Namespace) -> None:
    first = space.set_secret("token", "one")
    space.set_secret("token", "two")
    objects = f"array:\n  - |\n    objectName: token\n    objectVersion: {first}\n    objectAlias: pinned\n"
    space.apply(space.provider_class(objects=objects), space.sync("token", {"t": "pinned"}))
    space.wait_secret("token", {"t": "one"})


def test_force_synchronization_writes_a_new_value_and_reports_it(space: Namespace) -> None:
    space.set_secret("token", "one")
    space.apply(space.provider_class("token"), space.sync("token", {"t": "token"}))
    space.wait_secret("token", {"t": "one"})
    assert space.wait_reason("token", WRITTEN) == f"1 key written from Key Vault {space.vault}"
    space.set_secret("token", "two")
    space.force_sync("token")
    space.wait_secret("token", {"t": "two"})
    before = space.get("secret", "token")["metadata"]["resourceVersion"]
    space.force_sync("token")
    assert space.wait_reason("token", UP_TO_DATE) == f"1 key equal to Key Vault {space.vault}"
    assert space.get("secret", "token")["metadata"]["resourceVersion"] == before
    assert {item["reason"] for item in space.list_events("token")} >= {WRITTEN}


def test_edit_of_the_secretsync_is_synced_at_once(space: Namespace) -> None:
    space.set_secret("a", "1")
    space.set_secret("b", "2")
    space.apply(
        space.provider_class("a", "b"),
        space.sync("s", {"a": "a", "b": "b"}, secretObject={"labels": {"x": "1", "y": "1"}, "annotations": {"n": "1"}}),
    )
    space.wait_secret("s", {"a": "1", "b": "2"})
    space.kubectl("label", "secret", "s", "backup=yes")
    space.apply(space.sync("s", {"b": "a"}, secretObject={"labels": {"x": "2"}, "annotations": {"m": "1"}}))
    space.wait_secret("s", {"b": "1"})
    meta = space.get("secret", "s")["metadata"]
    assert meta["labels"] == {"x": "2", "backup": "yes", "secrets-store.sync.x-k8s.io": ""}
    assert meta["annotations"] == {"m": "1"}


def test_edit_of_the_class_is_synced_at_once(space: Namespace) -> None:
    space.set_secret("a", "1")
    space.set_secret("b", "2")
    space.apply(
        space.provider_class(objects="array: ['{objectName: a, objectAlias: it}']"), space.sync("s", {"k": "it"})
    )
    space.wait_secret("s", {"k": "1"})
    space.apply(space.provider_class(objects="array: ['{objectName: b, objectAlias: it}']"))
    space.wait_secret("s", {"k": "2"})


def test_deleted_secretsync_deletes_its_secret_and_can_be_recreated(space: Namespace) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    old = space.get("secret", "s")["metadata"]["uid"]
    space.kubectl("delete", "secretsync", "s")
    space.apply(space.sync("s", {"k": "a"}))
    eventually(lambda: space.get("secret", "s").get("metadata", {}).get("uid", old), lambda uid: uid != old)
    space.wait_secret("s", {"k": "1"})
    space.kubectl("delete", "secretsync", "s")
    eventually(lambda: space.get("secret", "s"), lambda found: not found)


@pytest.mark.parametrize("patch", ['{"data":{"k":"eA=="}}', '{"data":{"k":null}}', '{"data":{"extra":"eA=="}}'])
def test_changed_secret_is_restored_by_the_drift_check(space: Namespace, patch: str) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.kubectl("patch", "secret", "s", "--type=merge", "--patch", patch)
    assert space.secret_values("s") != {"k": canary_value("1")}
    space.wait_secret("s", {"k": "1"})


def test_deleted_secret_is_restored_with_one_get(space: Namespace) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.wait_reason("s", WRITTEN)
    before = space.count_calls()
    space.kubectl("delete", "secret", "s")
    space.wait_secret("s", {"k": "1"})
    assert space.count_calls() - before == 1


def test_unchanged_secret_is_probed_and_not_written(space: Namespace) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.wait_reason("s", WRITTEN)
    before = (space.get("secret", "s"), space.count_calls())
    seen = count_probes(space)
    eventually(lambda: count_probes(space), lambda found: found >= seen + 2)
    assert (space.get("secret", "s"), space.count_calls()) == before


def test_secretsync_of_another_controller_is_ignored(space: Namespace) -> None:
    space.set_secret("a", "1")
    space.apply(
        space.provider_class("a"),
        space.sync("other", {"k": "a"}, secretSyncControllerName="another"),
        space.sync("ours", {"k": "a"}),
    )
    space.wait_secret("ours", {"k": "1"})
    assert space.get("secretsync", "other")["status"] == {"observedGeneration": -1}  # the default of the CRD
    assert space.get("secret", "other") == {}
