"""Test `tools/migrate adopt` on a real API server: it sets the owner of Secrets that a backup tool restored."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from controller.api.conditions import Reason
from tests.support.cluster.harness import MANAGED_LABEL, InstalledRelease, canary_value, eventually
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.sse_controller import apply_as_sse
from tools.cli.doctor import doctor
from tools.cli.migrate import migrate
from tools.local_cluster import ControlPlane

ONE_KEY = {"k": "a"}
ADOPT_COMMAND = "tools/migrate adopt --namespace {} --apply"


def run_adopt(space: Namespace, *arguments: str) -> int:
    at = ("--namespace", space.name, "--kubeconfig", str(space.installed.plane.kubeconfig))
    return migrate.main(["adopt", *arguments, *at])


def read_backup(space: Namespace, *names: tuple[str, str]) -> list[dict[str, Any]]:
    """Return the objects as a backup tool restores them: without owners and without fields that the API server sets."""
    found = []
    for kind, name in names:
        item = json.loads(space.kubectl("get", kind, name, "--output", "json"))
        for field in ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "ownerReferences"):
            item["metadata"].pop(field, None)
        item.pop("status", None)
        found.append(item)
    return found


def create_synced(space: Namespace, *names: str) -> list[tuple[str, str]]:
    """Create SecretSyncs with these names, wait for their sync, and return the objects that a backup contains."""
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), *(space.sync(name, {"k": "a"}) for name in names))
    for name in names:
        space.wait_secret(name, {"k": "1"})
        space.wait_reason(name, Reason.WRITTEN, Reason.UP_TO_DATE)
    return [(kind, name) for kind in ("secretsync", "secret") for name in names]


def delete_syncs(space: Namespace, *names: str) -> None:
    """Delete the SecretSyncs, and wait until the garbage collector has deleted their Secrets."""
    space.kubectl("delete", "secretsync", *names)
    for name in names:
        wait_gone(space, name)


def wait_gone(space: Namespace, name: str) -> None:
    eventually(lambda: space.get("secret", name), lambda found: not found)


def restore(space: Namespace, objects: list[dict[str, Any]]) -> None:
    space.kubectl("create", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def read_without_owner(space: Namespace, name: str) -> dict[str, Any]:
    """Return the Secret without the fields that a new owner changes: its owners, their managers, resourceVersion."""
    found = space.get("secret", name)
    meta = found["metadata"]
    meta["managedFields"] = [each for each in meta["managedFields"] if "f:data" in each["fieldsV1"]]
    for entry in meta["managedFields"]:
        entry["fieldsV1"]["f:metadata"].pop("f:ownerReferences", None)
    return {**found, "metadata": {k: v for k, v in meta.items() if k not in ("resourceVersion", "ownerReferences")}}


def list_owners(space: Namespace, name: str) -> list[dict[str, Any]]:
    return list(space.get("secret", name)["metadata"].get("ownerReferences", []))


def test_restored_secrets_are_adopted_offline_and_synced_again(
    space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = read_backup(space, *create_synced(space, "s", "t"))
    delete_syncs(space, "s", "t")
    space.installed.emulator.fail(status=503, where=space.vault)
    restore(space, saved)
    assert "tools/migrate adopt" in space.wait_reason("s", Reason.LABEL_ERROR)
    before = read_without_owner(space, "s")
    version = space.get("secret", "s")["metadata"]["resourceVersion"]

    # A dry run changes nothing.
    assert run_adopt(space) == 0
    output = capsys.readouterr().out
    assert f"{space.name}/s: would be adopted (--apply)" in output
    assert space.get("secret", "s")["metadata"]["resourceVersion"] == version

    assert run_adopt(space, "--apply") == 0
    assert f"{space.name}/t: adopted" in capsys.readouterr().out
    uid = space.get("secretsync", "s")["metadata"]["uid"]
    wanted = {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "SecretSync", "name": "s", "uid": uid}
    assert list_owners(space, "s") == [wanted]
    assert read_without_owner(space, "s") == before
    assert run_adopt(space, "--apply") == 0
    assert "belongs to its SecretSync already" in capsys.readouterr().out

    # While the vault fails, the Secret keeps its value. When the vault answers again, the controller syncs.
    space.wait_reason("s", Reason.PROVIDER_ERROR, patience=60)
    assert read_without_owner(space, "s") == before
    space.installed.emulator.clear_faults()
    space.force_sync("s")
    space.wait_reason("s", Reason.UP_TO_DATE, Reason.WRITTEN, patience=60)
    assert space.secret_values("s") == {"k": canary_value("1")}
    space.set_secret("a", "2")
    space.force_sync("s")
    space.wait_secret("s", {"k": "2"})
    # The garbage collector deletes the Secret together with its owner.
    space.kubectl("delete", "secretsync", "t")
    eventually(lambda: space.get("secret", "t"), lambda found: not found)


@pytest.fixture
def no_garbage_collector(plane: ControlPlane) -> Iterator[None]:
    plane.stop_controller_manager()
    yield
    plane.restart_controller_manager()


def make_labelled_secret(name: str, **metadata: Any) -> dict[str, Any]:
    data = {"k": base64.b64encode(canary_value("1").encode()).decode()}
    meta = {"name": name, "labels": MANAGED_LABEL, **metadata}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": meta, "data": data}


def make_owner_reference(
    kind: str = "SecretSync", name: str = "s", uid: str = "00000000-1111-2222-3333-444444444444"
) -> Any:
    groups = {"SecretSync": "secret-sync.x-k8s.io/v1alpha1", "ConfigMap": "v1"}
    return {"apiVersion": groups[kind], "kind": kind, "name": name, "uid": uid}


def test_secret_of_an_earlier_secretsync_is_adopted_before_it_is_collected(
    space: Namespace, no_garbage_collector: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backup tool that keeps owners restores the old UID. The garbage collector would delete that Secret."""
    restore(
        space,
        [
            space.provider_class("a"),
            make_labelled_secret("s", ownerReferences=[make_owner_reference()]),
            space.sync("s", ONE_KEY),
        ],
    )
    before = read_without_owner(space, "s")
    assert run_adopt(space, "--apply") == 0
    assert list_owners(space, "s")[0]["uid"] == space.get("secretsync", "s")["metadata"]["uid"]
    assert len(list_owners(space, "s")) == 1
    assert read_without_owner(space, "s") == before


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        (
            make_labelled_secret("s", ownerReferences=[make_owner_reference("ConfigMap", "x")]),
            "the Secret belongs to ConfigMap x",
        ),
        (
            make_labelled_secret("s", ownerReferences=[make_owner_reference(name="other")]),
            "the Secret belongs to SecretSync other",
        ),
        (
            make_labelled_secret("s", ownerReferences=[make_owner_reference(), make_owner_reference("ConfigMap", "x")]),
            "the Secret belongs to SecretSync",
        ),
        ({**make_labelled_secret("s"), "type": "example.com/other"}, "its type is not Opaque"),
        (make_labelled_secret("s", finalizers=["example.com/hold"]), "the Secret is being deleted"),
    ],
    ids=["another kind", "another SecretSync", "two owners", "another type", "deleted"],
)
def test_secret_of_another_owner_or_type_or_in_deletion_is_not_adopted(
    secret: dict[str, Any],
    text: str,
    space: Namespace,
    no_garbage_collector: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    restore(space, [space.provider_class("a"), secret, space.sync("s", ONE_KEY)])
    if "finalizers" in secret["metadata"]:
        space.kubectl("delete", "secret", "s", "--wait=false")
    before = space.get("secret", "s")
    try:
        assert run_adopt(space, "--apply") == 1
        assert f"{space.name}/s: left as it is: {text}" in capsys.readouterr().out
        assert space.get("secret", "s") == before
    finally:
        space.kubectl("patch", "secret", "s", "--type=merge", "--patch", '{"metadata":{"finalizers":null}}')


def test_secrets_without_label_or_secretsync_are_not_adopted(
    space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_labelled_secret("s")
    del plain["metadata"]["labels"]
    restore(space, [space.provider_class("a"), plain, make_labelled_secret("alone"), space.sync("s", ONE_KEY)])
    before = space.get("secret", "s"), space.get("secret", "alone")
    assert run_adopt(space, "--apply") == 1
    output = capsys.readouterr().out
    assert f"{space.name}/alone: no SecretSync of its name exists" in output
    assert f"{space.name}/s" not in output
    assert (space.get("secret", "s"), space.get("secret", "alone")) == before


def test_secrets_of_an_akvsync_are_adopted_after_its_secretsyncs_exist(space: Namespace) -> None:
    """Follow docs/backup-restore.md: restore the generated objects without an owner, then delete them."""
    space.set_secret("a", "1")
    space.apply(space.akv_sync({"secretInAKV": "a"}))
    space.wait_secret("a", {"v0": "1"})
    saved = read_backup(
        space, ("akvsync", "made"), ("secretproviderclass", "made"), ("secretsync", "a"), ("secret", "a")
    )
    space.kubectl("delete", "akvsync", "made")
    eventually(lambda: space.get("secret", "a"), lambda found: not found)
    space.installed.emulator.fail(status=503, where=space.vault)
    restore(space, saved[1:])
    restore(space, saved[:1])  # an AKVSync that is restored first creates its objects itself
    before = read_without_owner(space, "a")
    space.kubectl("delete", "secretsync/a", "secretproviderclass/made")
    eventually(lambda: space.get("secretsync", "a").get("metadata", {}).get("ownerReferences"), bool)
    assert run_adopt(space, "--apply") == 0
    assert list_owners(space, "a")[0]["uid"] == space.get("secretsync", "a")["metadata"]["uid"]
    assert read_without_owner(space, "a") == before
    space.installed.emulator.clear_faults()
    space.set_secret("a", "2")
    space.force_sync("a")
    space.wait_secret("a", {"v0": "2"}, patience=60)


def test_secret_that_sse_wrote_is_adopted_for_sse(space: Namespace) -> None:
    """SSE sets the same owner on its Secrets, so users of SSE can restore with this tool."""
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}, secretSyncControllerName="sse"))
    apply_as_sse(space, "s", {"k": "1"})
    removal = json.dumps([{"op": "remove", "path": "/metadata/ownerReferences"}])
    space.kubectl("patch", "secret", "s", "--type=json", "--patch", removal)
    assert run_adopt(space, "--apply") == 0
    assert list_owners(space, "s")[0]["uid"] == space.get("secretsync", "s")["metadata"]["uid"]
    apply_as_sse(space, "s", {"k": "2"})
    assert space.secret_values("s") == {"k": canary_value("2")}


def test_caller_without_the_right_to_list_secrets_gets_one_error_line(
    installed: InstalledRelease, space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    space.kubectl("create", "serviceaccount", "viewer")
    space.kubectl("create", "rolebinding", "viewer", "--clusterrole=view", f"--serviceaccount={space.name}:viewer")
    restore(space, [space.provider_class("a"), make_labelled_secret("s"), space.sync("s", ONE_KEY)])
    kubeconfig = installed.plane.service_account_kubeconfig(space.name, "viewer")
    assert migrate.main(["adopt", "--namespace", space.name, "--kubeconfig", str(kubeconfig)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no Role grants the right to list Secrets (HTTP 403, Forbidden)" in line


def test_doctor_prints_the_adopt_command_with_and_without_a_vault(
    installed: InstalledRelease, space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    space.set_secret("a", "1")
    restore(space, [space.provider_class("a"), make_labelled_secret("s"), space.sync("s", ONE_KEY)])
    offline = space.sync("offline", ONE_KEY, secretProviderClassName="away")
    restore(
        space, [space.provider_class("a", name="away", cloudName="nowhere"), make_labelled_secret("offline"), offline]
    )
    known = ["--release-namespace", installed.release, "--kubeconfig", str(installed.plane.kubeconfig), "-o", "json"]
    doctor.main(["--namespace", space.name, *known])
    found = json.loads(capsys.readouterr().out)["checks"]
    for name in ("s", "offline"):
        (check,) = (each for each in found if each["subject"] == f"{space.name}/{name}" and each["name"] == "secret")
        assert check["level"] == "fail"
        assert "no owner, as after a restore" in check["text"]
        assert check["fix"] == ADOPT_COMMAND.format(space.name)
