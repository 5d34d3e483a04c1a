"""Test tools/migrate csi: the result for classes and mounts of the CSI driver, and the notes for an administrator."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.csi_manifests import (
    CLIENT,
    DATA,
    TENANT,
    format_objects,
    join_notes,
    make_class,
    make_workload,
    migrate_manifests,
    select_kind,
)
from tools.cli.migrate import migrate, workloads
from tools.cli.migrate.akvsyncs import InexpressibleSync, build_akvsync
from tools.cli.migrate.migration import Migration
from tools.cli.migrate.migration_report import format_report
from tools.cli.migrate.objects import Manifest


def map_keys(sync: Manifest) -> dict[str, str]:
    return {pair["targetKey"]: pair["sourcePath"] for pair in sync["spec"]["secretObject"]["data"]}


def test_mounted_class_becomes_a_secretsync_with_its_files() -> None:
    spc = make_class("objectName: a", "objectName: b; objectAlias: b.txt")
    found = migrate_manifests(spc, make_workload())
    (kept,) = select_kind(found, "SecretProviderClass")
    assert kept["metadata"]["name"] == "app"
    assert kept["spec"] == spc["spec"]
    (sync,) = select_kind(found, "SecretSync")
    assert sync["metadata"] == {"name": "app", "namespace": "shop"}
    assert sync["spec"]["secretProviderClassName"] == "app"
    assert sync["spec"]["serviceAccountName"] == "runner"
    assert map_keys(sync) == {"a": "a", "b.txt": "b.txt"}
    assert found.notes == []
    (patch,) = found.patches
    assert patch == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "template": {
                "spec": {
                    "volumes": [
                        {
                            "name": "secrets",
                            "csi": None,
                            "secret": {
                                "secretName": "app",
                                "items": [{"key": "a", "path": "a"}, {"key": "b.txt", "path": "b.txt"}],
                            },
                        }
                    ]
                }
            }
        },
    }


def test_paths_and_modes_of_files_are_kept() -> None:
    found = migrate_manifests(
        make_class("objectName: a; objectVersionHistory: 2", "objectName: a-0; filePermission: 0400"), make_workload()
    )
    (patch,) = found.patches
    (volume,) = patch["spec"]["template"]["spec"]["volumes"]
    assert volume["secret"]["items"] == [
        {"key": "a-0", "path": "a/0"},
        {"key": "a-1", "path": "a/1"},
        {"key": "a-0-", "path": "a-0", "mode": 0o400},
    ]
    assert volume["secret"]["optional"] is True  # because the vault may have fewer versions
    (sync,) = select_kind(found, "SecretSync")
    assert map_keys(sync) == {"a-0": "a/0", "a-1": "a/1", "a-0-": "a-0"}
    assert "one more, which is not kept" in join_notes(found)


@pytest.mark.parametrize("kind", workloads.TEMPLATES)
def test_workload_of_each_kind_is_patched_in_its_pod_template(kind: str) -> None:
    found = migrate_manifests(make_class(), make_workload(kind))
    (patch,) = found.patches
    at: Any = patch
    for step in workloads.TEMPLATES[kind]:
        at = at[step]
    assert at["spec"]["volumes"][0]["secret"]["secretName"] == "app"
    assert ("its pod template cannot change" in join_notes(found)) == (kind in ("Job", "Pod"))


def test_pod_with_an_owner_is_not_patched() -> None:
    pod = make_workload("Pod")
    pod["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "web-1"}]
    assert migrate_manifests(make_class(), pod).patches == []


def test_secret_objects_become_secretsyncs_with_their_names() -> None:
    labels = {"tier": "data", "secrets-store.sync.x-k8s.io/x": "no"}
    tls = {"secretName": "web-tls", "type": "kubernetes.io/tls", "data": [
        {"objectName": "web", "key": "tls.crt"}, {"objectName": "web", "key": "tls.key"}]}  # fmt: skip
    spc = make_class(
        "objectName: db-password",
        "objectName: web",
        secret_objects=[{"secretName": "db", "data": DATA, "labels": labels}, tls],
    )
    found = migrate_manifests(spc, make_workload())
    syncs = {each["metadata"]["name"]: each for each in select_kind(found, "SecretSync")}
    assert set(syncs) == {"db", "web-tls", "app"}
    assert map_keys(syncs["db"]) == {"password": "db-password"}
    assert syncs["db"]["spec"]["secretObject"]["labels"] == {"tier": "data"}
    assert syncs["web-tls"]["spec"]["secretObject"]["type"] == "kubernetes.io/tls"
    assert found.replaced == ["shop/db", "shop/web-tls"]


def test_secret_that_has_every_file_is_mounted_itself() -> None:
    found = migrate_manifests(
        make_class("objectName: db-password", secret_objects=[{"secretName": "db", "data": DATA}]), make_workload()
    )
    assert [each["metadata"]["name"] for each in select_kind(found, "SecretSync")] == ["db"]
    (volume,) = found.patches[0]["spec"]["template"]["spec"]["volumes"]
    assert volume["secret"] == {"secretName": "db", "items": [{"key": "password", "path": "db-password"}]}


def test_classes_of_one_namespace_make_different_secrets() -> None:
    wanted = [{"secretName": name, "type": "Opaque", "data": DATA} for name in ("db", "same")]
    found = migrate_manifests(
        make_class(name="db"),
        make_class(name="db-files"),
        make_class("objectName: db-password", name="web", secret_objects=wanted),
        make_class("objectName: db-password", name="web2", secret_objects=wanted[1:]),
    )
    syncs = select_kind(found, "SecretSync")
    made = {each["metadata"]["name"]: each["spec"]["secretProviderClassName"] for each in syncs}
    assert made == {"db-files-files": "db", "db-files": "db-files", "db": "web", "same": "web", "web2": "web2"}
    assert len(syncs) == len(made)
    assert "web2: secretObject same is left out: SecretProviderClass web makes this Secret" in join_notes(found)


@pytest.mark.parametrize(("vault", "name"), [("other", "db-akv-akv"), ("", "db-akv")])
def test_edited_class_does_not_replace_another_one(vault: str, name: str) -> None:
    old = make_class(name="db", usePodIdentity="true")
    beside = make_class(name="db-akv", **({"keyvaultName": vault} if vault else {}))
    made = select_kind(migrate_manifests(old, beside), "SecretProviderClass")
    assert made[0]["metadata"]["name"] == name


def test_two_edited_classes_have_different_names() -> None:
    objects = [make_class(name=name, keyvaultName=name, usePodIdentity="true") for name in ("web", "web-akv")]
    made = select_kind(migrate_manifests(*objects), "SecretProviderClass")
    assert [(each["metadata"]["name"], each["spec"]["parameters"]["keyvaultName"]) for each in made] == [
        ("web-akv-akv", "web"), ("web-akv-akv-akv", "web-akv"),
    ]  # fmt: skip


def test_secret_object_is_left_out_only_if_another_one_makes_the_secret() -> None:
    wanted = [{"secretName": "s", "type": "Opaque", "data": DATA}]
    invalid = make_class("objectName: db-password", name="a", keyvaultName="", secret_objects=wanted)
    incomplete = make_class("objectName: other", name="b", secret_objects=wanted)
    twice = make_class("objectName: db-password", name="c", secret_objects=wanted * 2)
    found = migrate_manifests(invalid, incomplete, twice)
    made = [(each["metadata"]["name"], each["spec"]["secretProviderClassName"])
            for each in select_kind(found, "SecretSync")]  # fmt: skip
    assert made == [("b", "b"), ("s", "c")]
    assert found.replaced == ["shop/s"]
    assert join_notes(found).count("is left out: SecretProviderClass c makes this Secret") == 1


def test_secret_object_of_a_class_that_has_moved_is_not_made_again() -> None:
    wanted = [{"secretName": "s", "type": "Opaque", "data": DATA}]
    moved, other = (make_class("objectName: db-password", name=name, secret_objects=wanted) for name in ("a", "b"))
    spec = {"secretProviderClassName": "a"}
    sync = {"kind": "SecretSync", "metadata": {"name": "s", "namespace": "shop"}, "spec": spec}
    found = migrate_manifests(moved, sync, other)
    assert [each["metadata"]["name"] for each in select_kind(found, "SecretSync")] == ["b"]
    assert "is left out: SecretProviderClass a makes this Secret" in join_notes(found)


def test_secret_with_the_name_of_its_class_causes_no_collision() -> None:
    data = [{"objectName": "a", "key": key} for key in ("tls.crt", "tls.key")]
    tls = {"secretName": "app", "type": "kubernetes.io/tls", "data": data}
    found = migrate_manifests(make_class(secret_objects=[tls]), make_workload())
    assert [each["metadata"]["name"] for each in select_kind(found, "SecretSync")] == ["app", "app-files"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            {"secretName": "x", "data": [{"objectName": "gone", "key": "k"}]},
            "gone: the SecretProviderClass has no such object",
        ),
        ({"secretName": "x"}, "it has no data"),
    ],
)
def test_secret_object_that_cannot_be_converted_is_reported(wanted: Manifest, words: str) -> None:
    found = migrate_manifests(make_class(secret_objects=[wanted]))
    assert words in join_notes(found)
    assert found.replaced == []


@pytest.mark.parametrize(
    ("parameters", "options", "client", "words"),
    [
        ({"usePodIdentity": "true"}, {}, CLIENT, "pod identity"),
        (
            {"clientID": "", "useVMManagedIdentity": "true", "userAssignedIdentityID": "user-1"},
            {},
            "user-1",
            "managed identity of the nodes",
        ),
        ({"clientID": ""}, {"client_id": "given-1"}, "given-1", "is created beside it"),
        ({"useAzureTokenProxy": "true"}, {}, CLIENT, "no counterpart"),
        ({"cloudEnvFileName": "/etc/x"}, {}, CLIENT, "chart's `clouds`"),
    ],
)
def test_other_authentication_becomes_a_class_beside_the_old_one(
    parameters: dict[str, str], options: dict[str, str], client: str, words: str
) -> None:
    found = migrate_manifests(make_class(**parameters), make_workload(), **options)
    (made,) = select_kind(found, "SecretProviderClass")
    assert made["metadata"]["name"] == "app-akv"
    assert made["spec"]["parameters"] == {
        "keyvaultName": "shop-vault",
        "objects": format_objects("objectName: a"),
        "clientID": client,
        "tenantID": TENANT,
    }
    (sync,) = select_kind(found, "SecretSync")
    assert sync["spec"]["secretProviderClassName"] == "app-akv"
    assert words in join_notes(found)
    assert [(each.identity.client_id, each.vault) for each in found.readers] == [(client, "shop-vault")]


def test_cloud_other_than_the_default_is_kept() -> None:
    (made,) = select_kind(migrate_manifests(make_class(cloudName="AzureChinaCloud")), "SecretProviderClass")
    assert made["spec"]["parameters"]["cloudName"] == "AzureChinaCloud"


def test_class_that_cannot_be_converted_keeps_its_mounts() -> None:
    found = migrate_manifests(make_class(clientID=""), make_workload(nodePublishSecretRef={"name": "principal"}))
    assert found.manifests == found.patches == []
    assert "--client-id" in join_notes(found)
    assert "clientID is missing" in join_notes(found)
    assert "volume secrets stays" in join_notes(found)
    other = make_class()
    other["spec"]["provider"] = "vault"
    assert "provider vault is not azure" in join_notes(migrate_manifests(other))


def test_secret_of_a_service_principal_is_named() -> None:
    found = migrate_manifests(
        make_class(clientID=""), make_workload(nodePublishSecretRef={"name": "principal"}), client_id="c"
    )
    assert "Secret principal (a service principal) is no longer read" in join_notes(found)


def test_account_that_mounts_the_class_becomes_the_reader() -> None:
    other = make_workload(name="batch")
    other["spec"]["template"]["spec"]["serviceAccountName"] = "another"
    found = migrate_manifests(make_class(), make_workload(), other)
    assert found.readers[0].identity.service_account == "another"
    assert "pods of another, runner mount it" in join_notes(found)
    assert "give --service-account" in join_notes(migrate_manifests(make_class()))
    assert (
        migrate_manifests(make_class(), make_workload(), service_account="mine")
        .readers[0]
        .identity.subject.endswith(":shop:mine")
    )


def test_class_that_only_secretsyncs_use_is_not_converted() -> None:
    sync = {
        "kind": "SecretSync",
        "metadata": {"name": "s", "namespace": "shop"},
        "spec": {"secretProviderClassName": "app"},
    }
    assert migrate_manifests(make_class(), sync) == Migration([], [], [], [], [])
    assert len(migrate_manifests(make_class(), sync, make_workload()).patches) == 1


def test_output_is_ordered_by_name_not_by_file() -> None:
    manifests = [make_class(name=name) for name in ("b", "a")] + [
        make_workload(name=name, class_name=name) for name in ("b", "a")
    ]
    assert migrate_manifests(*manifests) == migrate_manifests(*reversed(manifests))
    assert [each["metadata"]["name"] for each in migrate_manifests(*manifests).patches] == ["a", "b"]


def test_class_and_secretsync_are_combined_into_an_akvsync() -> None:
    spc = make_class("objectName: a", "objectName: b; objectVersionHistory: 2", clientID="", userAssignedIdentityID="u")
    found = migrate.combine_into_akvsyncs(migrate_manifests(spc, make_workload()))
    (made,) = found.manifests
    assert made["kind"] == "AKVSync"
    assert made["metadata"] == {"name": "app-akv", "namespace": "shop"}
    assert made["spec"] == {
        "keyvaultName": "shop-vault",
        "clientID": "u",
        "tenantID": TENANT,
        "serviceAccountName": "runner",
        "objects": [
            {
                "kubernetesSecretName": "app",
                "mapping": [
                    {"dataKey": "a", "secretInAKV": "a"},
                    {"dataKey": "b-0", "secretInAKV": "b", "version": 0},
                    {"dataKey": "b-1", "secretInAKV": "b", "version": 1},
                ],
            }
        ],
    }


def test_akvsync_has_the_name_of_no_other_class_or_akvsync() -> None:
    """An AKVSync makes a class of its own name. Of two objects with one name, kubectl would keep the second."""
    classes = [make_class(name=name, keyvaultName=name) for name in ("web", "web-akv")]
    workloads = [make_workload(name=name, class_name=name) for name in ("web", "web-akv")]
    found = migrate.combine_into_akvsyncs(migrate_manifests(*classes, *workloads))
    made = [(each["metadata"]["name"], each["spec"]["keyvaultName"]) for each in found.manifests]
    assert made == [("web-akv-akv", "web"), ("web-akv", "web-akv")]


@pytest.mark.parametrize(
    ("spc", "word"),
    [
        (make_class("objectName: a; objectVersion: " + 8 * "00ff"), "objectVersion of a"),
        (make_class(cloudName="AzureChinaCloud"), "cloudName"),
    ],
)
def test_class_that_an_akvsync_cannot_express_stays_a_secretsync(spc: Manifest, word: str) -> None:
    found = migrate_manifests(spc, make_workload())
    with pytest.raises(InexpressibleSync, match=word):
        build_akvsync(found.manifests[0], found.manifests[1:])
    kept = migrate.combine_into_akvsyncs(found)
    assert kept.manifests == found.manifests
    assert word in join_notes(kept)


def test_report_has_six_stages_with_their_commands() -> None:
    spc = make_class("objectName: db-password", secret_objects=[{"secretName": "db", "data": DATA}])
    text = format_report(
        migrate_manifests(spc, make_workload(nodePublishSecretRef={"name": "principal"})), "https://issuer.example"
    )
    for stage in ("1. Inventory", "2. Identity", "3. Install", "4. Classes", "5. Workloads", "6. Verify"):
        assert f"## {stage}" in text
    assert "--issuer https://issuer.example --subject system:serviceaccount:shop:runner" in text
    assert "az role assignment create" in text
    assert "--name shop-vault --query id" in text
    assert text.index("kubectl patch") < text.index("kubectl delete secret db --namespace shop")
    assert "kubectl patch deployment web --namespace shop --patch-file patches/deployment-shop-web.yaml" in text
    assert "kubectl wait secretsync/db --namespace shop --for=condition=Ready" in text
    assert "- Deployment shop/web: Secret principal" in text


def test_command_reads_a_file_and_writes_the_output_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.yaml").write_text(
        yaml.safe_dump_all(
            [{"kind": "List", "items": [make_class("objectName: a", "objectName: b")]}, make_workload(), None]
        )
    )
    out = tmp_path / "out"
    assert migrate.main(["csi", str(tmp_path / "in.yaml"), "--output", str(out)]) == 0
    made = list(yaml.safe_load_all((out / "manifests.yaml").read_text()))
    assert [each["kind"] for each in made] == ["SecretProviderClass", "SecretSync"]
    patch = yaml.safe_load((out / "patches" / "deployment-shop-web.yaml").read_text())
    assert patch["spec"]["template"]["spec"]["volumes"][0]["csi"] is None
    assert "$ISSUER" in (out / "REPORT.md").read_text()
    capsys.readouterr()
    assert migrate.main(["csi", str(tmp_path / "in.yaml"), "--output", str(out)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert migrate.main(["csi", str(tmp_path / "in.yaml"), "--client-id", "other", "--issuer", "https://i"]) == 1
    printed = capsys.readouterr()
    assert len(list(yaml.safe_load_all(printed.out))) == 3
    assert "https://i" in printed.err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: [",
        "- 1",
        "kind: x",
        "items: 5",
        "{kind: List, items: {a: b}}",
        "{metadata: {name: x}}",
        "{kind: [Pod], metadata: {name: x}}",
        "{kind: {Pod: a}, metadata: {name: x}}",
        "{metadata: {name: ../../x}}",
        "{metadata: {name: x}, spec: 1}",
        "{kind: Deployment, metadata: {name: x}, spec: {template: {spec: {volumes: [5]}}}}",
        "{kind: Deployment, metadata: {name: x}, spec: {template: {spec: {volumes: [{csi: 5}]}}}}",
        "{kind: Deployment, metadata: {name: x}, spec: {template: 5}}",
        "{kind: CronJob, apiVersion: batch/v1, metadata: {name: x}, spec: {jobTemplate: [a]}}",
        "{kind: Pod, apiVersion: v1, metadata: {name: x}, spec: {volumes: [{csi: {driver: a}}]}}",
        "{kind: Pod, apiVersion: v1, metadata: {name: x}, spec: {serviceAccountName: 5}}",
        "{kind: Pod, metadata: {name: x}, spec: {}}",
        "{kind: SecretProviderClass, metadata: {name: x}, spec: {provider: azure, secretObjects: [5]}}",
        "{kind: SecretProviderClass, metadata: {name: x}, spec: {provider: azure, secretObjects: [{data: [5]}]}}",
        "{kind: SecretProviderClass, metadata: {name: x}, spec: {parameters: {objects: 5}}}",
        "{kind: SecretProviderClass, metadata: {name: x}, spec: {secretObjects: 5}}",
    ],
)
def test_invalid_file_ends_with_exit_code_two(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.yaml").write_text(text)
    assert migrate.main(["csi", str(tmp_path / "in.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "in.yaml: " in line
    assert migrate.main(["csi"]) == 2
    assert migrate.main(["csi", str(tmp_path / "none.yaml")]) == 2


def test_role_beside_a_workload_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "shop:reader"},
        "rules": [],
    }
    (tmp_path / "app.yaml").write_text(yaml.safe_dump_all([role, make_class(), make_workload()]))
    assert migrate.main(["csi", str(tmp_path / "app.yaml"), "--output", str(tmp_path / "out")]) == 0
    made = yaml.safe_load_all((tmp_path / "out" / "manifests.yaml").read_text())
    assert [each["kind"] for each in made] == ["SecretProviderClass", "SecretSync"]


# A user at a terminal presses Ctrl-C while the tool waits for standard input.
INTERRUPTED = """
import os, signal, sys, types
def read(size): os.kill(os.getpid(), signal.SIGINT); signal.pause()
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.stdin = types.SimpleNamespace(buffer=types.SimpleNamespace(read=read))
from tools.cli.common.command import run_and_exit
from tools.cli.migrate import migrate
run_and_exit("tools/migrate", migrate.main)
"""


@pytest.mark.parametrize(
    "arguments", [["csi", "-"], ["external-secrets", "-"], ["akv2k8s", "-f", "-"], ["from-sse", "--values", "-"]]
)
def test_ctrl_c_ends_a_read_from_standard_input(arguments: list[str]) -> None:
    command = [sys.executable, "-P", "-c", INTERRUPTED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "\ntools/migrate: stopped\n")


@pytest.mark.parametrize(
    "item",
    ["[" * 5000, "{objectName: [a], filePermission: '0600'}", "x", "a: [", "{objectName: a, filePermission: [1]}"],
)
def test_invalid_item_is_reported_with_its_line(item: str) -> None:
    made = make_class()
    made["spec"]["parameters"]["objects"] = f"array:\n  - 'objectName: good'\n  - {json.dumps(item)}\n"
    assert any("item 1 (line 3)" in note.text for note in migrate_manifests(made, make_workload()).notes)


def test_alias_that_no_source_path_can_name_is_left_out_and_reported() -> None:
    found = migrate_manifests(make_class("objectName: a; objectAlias: _a", "objectName: b"), make_workload())
    assert any("'_a' is left out: a sourcePath cannot name it" in note.text for note in found.notes)
    (sync,) = select_kind(found, "SecretSync")
    assert [pair["sourcePath"] for pair in sync["spec"]["secretObject"]["data"]] == ["b"]
