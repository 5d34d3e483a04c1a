"""Test AKVSyncs on a real API server: the example of the reference, edits, conflicts and deletion."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat

from controller.akvsync.terms import in_akvsync_terms
from tests.support.akv_syncs import EXAMPLE
from tests.support.certificates import IssuedCertificate, encode_private_key, issue_certificate
from tests.support.cluster.akv_syncs import SYNCED, UP_TO_DATE, list_parts, ready_condition, wait_gone, wait_ready
from tests.support.cluster.harness import InstalledRelease, audit_lines, canary_value, eventually
from tests.support.cluster.namespace import Namespace

WRITTEN = ("UpdateValueChangeOrForceUpdateSucceeded", UP_TO_DATE)


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"DRIFT_INTERVAL": "2"}


def make_akv_sync(space: Namespace, objects: str, name: str = "shop") -> dict[str, Any]:
    """Return an AKVSync with these objects in YAML."""
    return space.akv_sync(*msgspec.yaml.decode(objects), name=name)


def create_versions(space: Namespace, name: str, *texts: str) -> None:
    """Create a version of a secret from each text, newest first. The versions are one second apart."""
    emulator = space.installed.emulator
    for age, text in reversed(list(enumerate(texts))):
        emulator.set_clock(-10 - age)
        space.set_secret(name, text)
    emulator.set_clock(0)


def import_certificates(space: Namespace, name: str, count: int) -> list[IssuedCertificate]:
    """Import versions of a certificate, and return them, newest first."""
    emulator = space.installed.emulator
    issued = [issue_certificate(name, start=datetime.now(UTC)) for _ in range(count)]
    for age, leaf in reversed(list(enumerate(issued))):
        emulator.set_clock(-10 - age)
        emulator.import_certificate(space.vault, name, (leaf.key_pem + leaf.pem).encode())
    emulator.set_clock(0)
    return issued


def pem_blocks(leaf: IssuedCertificate) -> set[str]:
    return {leaf.pem, leaf.key_pem}


def split_pem(text: str) -> set[str]:
    """Return the two blocks of a PEM text."""
    middle = text.index("-----BEGIN", 1)
    return {text[:middle], text[middle:]}


def test_example_of_the_reference_is_synced(space: Namespace) -> None:
    create_versions(space, "api-token", "token")
    create_versions(space, "db-password", "new", "old", "oldest")
    create_versions(space, "deploy-key", "ssh")
    create_versions(space, "db-user", "user")
    [web] = import_certificates(space, "web", 1)
    old = import_certificates(space, "web-old", 2)
    edge = import_certificates(space, "edge", 2)
    space.apply(space.akv_sync(*EXAMPLE, name="shop"))

    message = wait_ready(space, *SYNCED)
    assert message == "8/8 ready: every Secret has the values of the vault"
    assert space.secret_values("api-token") == {"v0": canary_value("token")}
    assert space.secret_values("db") == {
        "v0": canary_value("new"),
        "v1": canary_value("old"),
        "v2": canary_value("oldest"),
    }
    assert space.secret_values("deploy-key") == {"ssh-privatekey": canary_value("ssh")}
    bundle = space.secret_values("bundle")
    assert (bundle["user"], bundle["previous"]) == (canary_value("user"), canary_value("old"))
    assert split_pem(bundle["chain"]) == pem_blocks(web)
    for name, leaf in (("web", web), ("edge-v0", edge[0]), ("edge-v1", edge[1])):
        found = space.secret_values(name)
        assert found.keys() == {"tls.crt", "tls.key"}
        assert found["tls.crt"] == leaf.pem
        assert found["tls.key"] == encode_private_key(leaf.key, PrivateFormat.TraditionalOpenSSL)
    assert {key: split_pem(text) for key, text in space.secret_values("web-old").items()} == {
        f"v{number}": pem_blocks(leaf) for number, leaf in enumerate(old)
    }
    types = {item: space.get("secret", item)["type"] for item in ("api-token", "web", "edge-v1", "deploy-key")}
    assert types == {
        "api-token": "Opaque",
        "web": "kubernetes.io/tls",
        "edge-v1": "kubernetes.io/tls",
        "deploy-key": "kubernetes.io/ssh-auth",
    }
    meta = space.get("secret", "db")["metadata"]
    assert meta["labels"] == {"tier": "data", "secrets-store.sync.x-k8s.io": ""}
    assert meta["annotations"] == {"note": "rotated-weekly"}
    listed = list_parts(space)
    assert all(part["ready"] for part in listed.values())
    assert [item["targetKey"] for item in listed["db"]["versions"]] == ["v0", "v1", "v2"]
    assert len({item["version"] for item in listed["db"]["versions"]}) == 3
    head, row = (line.split() for line in space.kubectl("get", "akvsync", "shop").splitlines())
    assert head == ["NAME", "READY", "REASON", "STATUS", "AGE"]
    assert row[:4] == ["shop", "True", UP_TO_DATE, "8/8"]
    # The AKVSync owns the generated SecretSync and its class.
    uid = space.get("akvsync", "shop")["metadata"]["uid"]
    for kind, name in (("secretproviderclass", "shop"), ("secretsync", "edge-v0")):
        [owner] = space.get(kind, name)["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("AKVSync", uid, True)
        assert "blockOwnerDeletion" not in owner


def test_edit_of_an_akvsync_updates_and_prunes(space: Namespace) -> None:
    create_versions(space, "a", "new", "old")
    create_versions(space, "b", "b")
    space.apply(make_akv_sync(space, "[{secretInAKV: a, labels: {x: '1', y: '1'}}, {secretInAKV: b}]"))
    wait_ready(space, *SYNCED)
    space.apply(
        make_akv_sync(
            space, "[{secretInAKV: a, labels: {x: '2'}, versionHistory: 2}, {secretInAKV: b, kubernetesSecretName: c}]"
        )
    )
    assert wait_ready(space, *SYNCED).startswith("2/2")
    assert space.secret_values("a") == {"v0": canary_value("new"), "v1": canary_value("old")}
    assert space.get("secret", "a")["metadata"]["labels"] == {"x": "2", "secrets-store.sync.x-k8s.io": ""}
    space.wait_secret("c", {"v0": "b"})
    wait_gone(lambda: space.get("secretsync", "b"))
    wait_gone(lambda: space.get("secret", "b"))
    assert space.list_names("secretsync") == ["a", "c"]


def test_manual_edit_or_deletion_of_a_generated_object_is_reverted(space: Namespace) -> None:
    create_versions(space, "a", "1")
    create_versions(space, "b", "2")
    space.apply(make_akv_sync(space, "[{secretInAKV: a}, {secretInAKV: b}]"))
    wait_ready(space, *SYNCED)
    wanted = {
        kind: space.get(kind, name)["spec"] for kind, name in (("secretsync", "a"), ("secretproviderclass", "shop"))
    }
    spec = {
        "serviceAccountName": "other",
        "secretObject": {"labels": {"by": "hand"}, "data": [{"sourcePath": "b", "targetKey": "mine"}]},
    }
    space.kubectl("patch", "secretsync", "a", "--type=merge", "--patch", json.dumps({"spec": spec}))
    eventually(lambda: space.get("secretsync", "a")["spec"], lambda found: found == wanted["secretsync"])
    parameters = {"spec": {"parameters": {"objects": "array: []", "cloudName": "nowhere"}}}
    space.kubectl("patch", "secretproviderclass", "shop", "--type=merge", "--patch", json.dumps(parameters))
    eventually(
        lambda: space.get("secretproviderclass", "shop")["spec"], lambda found: found == wanted["secretproviderclass"]
    )
    for kind, name in (("secretsync", "a"), ("secretproviderclass", "shop")):
        uid = space.get(kind, name)["metadata"]["uid"]
        space.kubectl("delete", kind, name, "--wait=false")
        eventually(
            lambda kind=kind, name=name: space.get(kind, name).get("metadata", {}).get("uid"),  # type: ignore[misc]
            lambda found, uid=uid: found not in (None, uid),  # type: ignore[misc]
        )
        assert space.get(kind, name)["spec"] == wanted[kind]
    wait_ready(space, *SYNCED)
    space.wait_secret("a", {"v0": "1"})


def test_force_synchronization_of_a_generated_secretsync_is_kept(space: Namespace) -> None:
    create_versions(space, "a", "1")
    space.apply(make_akv_sync(space, "[{secretInAKV: a}]"))
    wait_ready(space, *SYNCED)
    space.set_secret("a", "2")
    space.force_sync("a")
    space.wait_secret("a", {"v0": "2"})
    assert space.get("secretsync", "a")["spec"]["forceSynchronization"]
    wait_ready(space, *SYNCED)


def test_failing_part_is_reported_with_its_reason_and_others_sync(space: Namespace) -> None:
    create_versions(space, "a", "1")
    space.apply(make_akv_sync(space, "[{secretInAKV: a}, {secretInAKV: missing}]"))
    message = wait_ready(space, "False", "ProviderError")
    assert message.startswith("1/2 ready; missing: ")
    listed = list_parts(space)
    assert (listed["a"]["ready"], listed["missing"]["ready"]) == (True, False)
    assert listed["missing"]["message"] == in_akvsync_terms(space.ready_condition("missing")[1])
    space.wait_secret("a", {"v0": "1"})
    # The summary changes when the secret exists.
    space.set_secret("missing", "here")
    space.force_sync("missing")
    assert wait_ready(space, *SYNCED).startswith("2/2")


def test_event_about_a_missing_secret_uses_the_terms_of_the_akvsync(space: Namespace) -> None:
    space.apply(make_akv_sync(space, "[{secretInAKV: none}, {secretInAKV: nor}]"))
    message = wait_ready(space, "False", "ProviderError")
    assert "correct secretInAKV or certInAKV" in message
    assert "objectName" not in message

    def list_events() -> list[tuple[str, str, str]]:
        about = [(item["involvedObject"], item) for item in space.list_objects("events")]
        return [(of["name"], item["type"], item["reason"]) for of, item in about if of["kind"] == "AKVSync"]

    eventually(list_events, lambda found: ("shop", "Warning", "ProviderError") in found)


def test_secretsync_of_another_owner_is_reported_and_not_changed(space: Namespace) -> None:
    create_versions(space, "a", "1")
    create_versions(space, "b", "2")
    foreign = space.sync("a", {"k": "b"})
    space.apply(space.provider_class("b"), foreign)
    space.wait_secret("a", {"k": "2"})
    space.apply(make_akv_sync(space, "[{secretInAKV: a}, {secretInAKV: b}]", name="mine"))
    space.wait_reason("b", *WRITTEN)
    message = eventually(lambda: ready_condition(space, "mine"), lambda found: found[2].startswith("1/2 "))[2]
    assert message == (
        "1/2 ready; a: a SecretSync a exists that does not belong to this AKVSync, so it was not touched; set another"
        " kubernetesSecretName, or delete that SecretSync: the controller then creates its own"
    )
    space.wait_secret("b", {"v0": "2"})
    assert space.get("secretsync", "a")["spec"]["secretObject"]["data"] == foreign["spec"]["secretObject"]["data"]
    space.wait_secret("a", {"k": "2"})
    space.kubectl("delete", "secretsync", "a")
    wait_ready(space, *SYNCED, name="mine")
    space.wait_secret("a", {"v0": "1"})


def test_class_of_another_owner_is_reported_and_not_changed(space: Namespace) -> None:
    create_versions(space, "a", "1")
    space.apply(space.provider_class("other"))
    before = space.get("secretproviderclass", "shop")
    space.apply(make_akv_sync(space, "[{secretInAKV: a}]"))
    assert "a SecretProviderClass shop exists" in wait_ready(space, "False", "NameTaken")
    assert space.get("secretproviderclass", "shop") == before
    assert space.list_names("secretsync") == []
    space.kubectl("delete", "secretproviderclass", "shop")
    wait_ready(space, *SYNCED)
    space.wait_secret("a", {"v0": "1"})


def test_new_secret_type_waits_until_the_secretsync_is_deleted(space: Namespace) -> None:
    create_versions(space, "key", "ssh")
    space.apply(make_akv_sync(space, "[{secretInAKV: key}]"))
    wait_ready(space, *SYNCED)
    space.apply(make_akv_sync(space, "[{secretInAKV: key, kubernetesSecretType: kubernetes.io/ssh-auth}]"))
    message = wait_ready(space, "False", "SecretTypeChangeWaits")
    assert "the SecretSync key has type Opaque, which cannot change: delete it" in message
    space.wait_secret("key", {"v0": "ssh"})
    space.kubectl("delete", "secretsync", "key")
    wait_ready(space, *SYNCED)
    space.wait_secret("key", {"ssh-privatekey": "ssh"})
    assert space.get("secret", "key")["type"] == "kubernetes.io/ssh-auth"


def test_mistake_that_the_crd_cannot_detect_changes_no_object(space: Namespace) -> None:
    create_versions(space, "a", "new", "old")
    space.apply(
        make_akv_sync(
            space, "[{secretInAKV: a, kubernetesSecretName: a-v1}, {secretInAKV: a, kubernetesSecretName: b}]"
        )
    )
    wait_ready(space, *SYNCED)
    typed = "kubernetesSecretType: kubernetes.io/ssh-auth"
    space.apply(
        make_akv_sync(
            space, f"[{{secretInAKV: a, kubernetesSecretName: a-v1}}, {{secretInAKV: a, versionHistory: 2, {typed}}}]"
        )
    )
    message = wait_ready(space, "False", "UserInputValidationFailed")
    assert "secretInAKV a and secretInAKV a both make a Secret a-v1" in message
    assert space.list_names("secretsync") == ["a-v1", "b"]
    assert space.get("akvsync", "shop")["status"]["summary"] == "2/2"


def test_deletion_of_an_akvsync_deletes_its_generated_objects(space: Namespace) -> None:
    create_versions(space, "a", "1")
    space.apply(make_akv_sync(space, "[{secretInAKV: a}, {secretInAKV: a, kubernetesSecretName: b}]"))
    wait_ready(space, *SYNCED)
    space.kubectl("delete", "akvsync", "shop")
    for kind in ("secretsync", "secretproviderclass", "secret"):
        wait_gone(lambda kind=kind: space.list_names(kind))  # type: ignore[misc]


def test_akvsync_deleted_and_applied_at_once_is_synced(space: Namespace) -> None:
    create_versions(space, "a", "1")
    made = make_akv_sync(space, "[{secretInAKV: a}]")
    space.apply(made)
    wait_ready(space, *SYNCED)
    old = space.get("secretsync", "a")["metadata"]["uid"]
    space.kubectl("delete", "akvsync", "shop")
    space.apply(made)
    eventually(lambda: space.get("secretsync", "a").get("metadata", {}).get("uid", old), lambda uid: uid != old)
    wait_ready(space, *SYNCED)
    space.wait_secret("a", {"v0": "1"})


def test_unchanged_akvsync_is_not_written_again(space: Namespace, installed: InstalledRelease) -> None:
    create_versions(space, "a", "1")
    space.apply(make_akv_sync(space, "[{secretInAKV: a}]"))
    wait_ready(space, *SYNCED)

    def list_resource_versions() -> list[str]:
        found = [
            space.get(kind, name)
            for kind, name in (("akvsync", "shop"), ("secretsync", "a"), ("secretproviderclass", "shop"))
        ]
        return [item["metadata"]["resourceVersion"] for item in found]

    def list_writes() -> list[str]:
        lines = (json.loads(line) for line in audit_lines(installed.plane))
        return [
            f"{line['verb']} {line['objectRef']['resource']}"
            for line in lines
            if line.get("objectRef", {}).get("namespace") == space.name
            and line["user"]["username"] == installed.user
            and line["objectRef"].get("name") in ("shop", "a")
            and line["objectRef"]["resource"] != "secrets"
        ]

    before = list_resource_versions(), list_writes()
    space.set_secret("b", "2")
    space.apply(make_akv_sync(space, "[{secretInAKV: b}]", name="other"))
    wait_ready(space, *SYNCED, name="other")
    assert (list_resource_versions(), list_writes()) == before
