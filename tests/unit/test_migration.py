"""tools/migrate csi: what the CSI driver's classes and mounts become, and what a person is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import migrate, migration
from tools.akvsyncs import Inexpressible, akvsync
from tools.migration import Manifest, Migration, Options
from tools.migration_report import report

CLIENT, TENANT = "client-1", "tenant-1"
DATA = [{"objectName": "db-password", "key": "password"}]


def objects(*items: str) -> str:
    return "array:\n" + "".join("  - |\n" + "".join(f"    {line}\n" for line in item.split("; ")) for item in items)


def source(*items: str, name: str = "app", secret_objects: Any = None, **parameters: str) -> Manifest:
    given = {"keyvaultName": "shop-vault", "tenantId": TENANT, "clientID": CLIENT} | parameters
    given = {key: text for key, text in given.items() if text}
    spec: Manifest = {"provider": "azure", "parameters": {**given, "objects": objects(*items or ("objectName: a",))}}
    if secret_objects is not None:
        spec["secretObjects"] = secret_objects
    meta = {"name": name, "namespace": "shop"}
    return {
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": "SecretProviderClass",
        "metadata": meta,
        "spec": spec,
    }


def workload(kind: str = "Deployment", name: str = "web", class_name: str = "app", **csi: Any) -> Manifest:
    volume = {
        "name": "secrets",
        "csi": {
            "driver": "secrets-store.csi.k8s.io",
            "readOnly": True,
            "volumeAttributes": {"secretProviderClass": class_name},
            **csi,
        },
    }
    body: Manifest = {"spec": {"serviceAccountName": "runner", "volumes": [{"name": "tmp", "emptyDir": {}}, volume]}}
    for step in reversed(migration.TEMPLATES[kind]):
        body = {step: body}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"}, **body}


def moved(*manifests: Manifest, **options: str) -> Migration:
    return migration.migrate(manifests, Options(**options))


def of_kind(found: Migration, kind: str) -> list[Manifest]:
    return [each for each in found.manifests if each["kind"] == kind]


def said(found: Migration) -> str:
    return "\n".join(map(str, found.notes))


def data(sync: Manifest) -> dict[str, str]:
    return {pair["targetKey"]: pair["sourcePath"] for pair in sync["spec"]["secretObject"]["data"]}


def test_a_mounted_class_becomes_a_secretsync_with_its_files() -> None:
    spc = source("objectName: a", "objectName: b; objectAlias: b.txt")
    found = moved(spc, workload())
    (kept,) = of_kind(found, "SecretProviderClass")
    assert kept["metadata"]["name"] == "app"
    assert kept["spec"] == spc["spec"]
    (sync,) = of_kind(found, "SecretSync")
    assert sync["metadata"] == {"name": "app", "namespace": "shop"}
    assert sync["spec"]["secretProviderClassName"] == "app"
    assert sync["spec"]["serviceAccountName"] == "runner"
    assert data(sync) == {"a": "a", "b.txt": "b.txt"}
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


def test_paths_and_modes_are_kept() -> None:
    found = moved(source("objectName: a; objectVersionHistory: 2", "objectName: a-0; filePermission: 0400"), workload())
    (patch,) = found.patches
    (volume,) = patch["spec"]["template"]["spec"]["volumes"]
    assert volume["secret"]["items"] == [
        {"key": "a-0", "path": "a/0"},
        {"key": "a-1", "path": "a/1"},
        {"key": "a-0-", "path": "a-0", "mode": 0o400},
    ]
    assert volume["secret"]["optional"] is True  # the vault may have fewer versions
    (sync,) = of_kind(found, "SecretSync")
    assert data(sync) == {"a-0": "a/0", "a-1": "a/1", "a-0-": "a-0"}
    assert "one more, which is not kept" in said(found)


@pytest.mark.parametrize("kind", migration.TEMPLATES)
def test_every_kind_of_workload_is_patched_in_its_place(kind: str) -> None:
    found = moved(source(), workload(kind))
    (patch,) = found.patches
    at: Any = patch
    for step in migration.TEMPLATES[kind]:
        at = at[step]
    assert at["spec"]["volumes"][0]["secret"]["secretName"] == "app"
    assert ("make it anew" in said(found)) == (kind in ("Job", "Pod"))


def test_what_another_object_owns_is_not_patched() -> None:
    pod = workload("Pod")
    pod["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "web-1"}]
    assert moved(source(), pod).patches == []


def test_secret_objects_become_secretsyncs_of_their_names() -> None:
    labels = {"tier": "data", "secrets-store.sync.x-k8s.io/x": "no"}
    tls = {"secretName": "web-tls", "type": "kubernetes.io/tls", "data": [
        {"objectName": "web", "key": "tls.crt"}, {"objectName": "web", "key": "tls.key"}]}  # fmt: skip
    spc = source(
        "objectName: db-password",
        "objectName: web",
        secret_objects=[{"secretName": "db", "data": DATA, "labels": labels}, tls],
    )
    found = moved(spc, workload())
    syncs = {each["metadata"]["name"]: each for each in of_kind(found, "SecretSync")}
    assert set(syncs) == {"db", "web-tls", "app"}
    assert data(syncs["db"]) == {"password": "db-password"}
    assert syncs["db"]["spec"]["secretObject"]["labels"] == {"tier": "data"}
    assert syncs["web-tls"]["spec"]["secretObject"]["type"] == "kubernetes.io/tls"
    assert found.replaced == ["shop/db", "shop/web-tls"]


def test_a_secret_that_has_every_file_is_mounted_itself() -> None:
    found = moved(source("objectName: db-password", secret_objects=[{"secretName": "db", "data": DATA}]), workload())
    assert [each["metadata"]["name"] for each in of_kind(found, "SecretSync")] == ["db"]
    (volume,) = found.patches[0]["spec"]["template"]["spec"]["volumes"]
    assert volume["secret"] == {"secretName": "db", "items": [{"key": "password", "path": "db-password"}]}


def test_a_secret_of_the_classs_own_name_does_not_collide() -> None:
    tls = {"secretName": "app", "type": "kubernetes.io/tls", "data": [{"objectName": "a", "key": "tls.crt"}]}
    found = moved(source(secret_objects=[tls]), workload())
    assert [each["metadata"]["name"] for each in of_kind(found, "SecretSync")] == ["app", "app-files"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"secretName": "x", "data": [{"objectName": "gone", "key": "k"}]}, "no object gone"),
        ({"secretName": "x"}, "it has no data"),
    ],
)
def test_a_secret_object_that_cannot_be_made_is_said(wanted: Manifest, words: str) -> None:
    found = moved(source(secret_objects=[wanted]))
    assert words in said(found)
    assert found.replaced == []


@pytest.mark.parametrize(
    ("parameters", "options", "client", "words"),
    [
        ({"usePodIdentity": "true"}, {}, CLIENT, "pod identity"),
        (
            {"clientID": "", "useVMManagedIdentity": "true", "userAssignedIdentityID": "user-1"},
            {},
            "user-1",
            "nodes' managed identity",
        ),
        ({"clientID": ""}, {"client_id": "given-1"}, "given-1", "stands beside it"),
        ({"useAzureTokenProxy": "true"}, {}, CLIENT, "no counterpart"),
        ({"cloudEnvFileName": "/etc/x"}, {}, CLIENT, "chart's `clouds`"),
    ],
)
def test_other_ways_to_sign_in_become_a_class_beside_the_old_one(
    parameters: dict[str, str], options: dict[str, str], client: str, words: str
) -> None:
    found = moved(source(**parameters), workload(), **options)
    (made,) = of_kind(found, "SecretProviderClass")
    assert made["metadata"]["name"] == "app-akv"
    assert made["spec"]["parameters"] == {
        "keyvaultName": "shop-vault",
        "objects": objects("objectName: a"),
        "clientID": client,
        "tenantID": TENANT,
    }
    (sync,) = of_kind(found, "SecretSync")
    assert sync["spec"]["secretProviderClassName"] == "app-akv"
    assert words in said(found)
    assert [(who.client_id, vault) for who, vault in found.readers] == [(client, "shop-vault")]


def test_a_cloud_that_is_not_the_usual_one_is_kept() -> None:
    (made,) = of_kind(moved(source(cloudName="AzureChinaCloud")), "SecretProviderClass")
    assert made["spec"]["parameters"]["cloudName"] == "AzureChinaCloud"


def test_what_cannot_carry_over_leaves_its_mounts_alone() -> None:
    found = moved(source(clientID=""), workload(nodePublishSecretRef={"name": "principal"}))
    assert found.manifests == found.patches == []
    assert "--client-id" in said(found)
    assert "clientID is missing" in said(found)
    assert "volume secrets stays" in said(found)
    other = source()
    other["spec"]["provider"] = "vault"
    assert "provider vault is not azure" in said(moved(other))


def test_a_service_principals_secret_is_named() -> None:
    found = moved(source(clientID=""), workload(nodePublishSecretRef={"name": "principal"}), client_id="c")
    assert "Secret principal (a service principal) is no longer read" in said(found)


def test_who_reads_the_vault_is_who_mounts_the_class() -> None:
    other = workload(name="batch")
    other["spec"]["template"]["spec"]["serviceAccountName"] = "another"
    found = moved(source(), workload(), other)
    assert found.readers[0][0].service_account == "another"
    assert "pods of another, runner mount it" in said(found)
    assert "give --service-account" in said(moved(source()))
    assert moved(source(), workload(), service_account="mine").readers[0][0].subject.endswith(":shop:mine")


def test_what_secretsyncs_read_already_and_nobody_mounts_is_left_alone() -> None:
    sync = {
        "kind": "SecretSync",
        "metadata": {"name": "s", "namespace": "shop"},
        "spec": {"secretProviderClassName": "app"},
    }
    assert moved(source(), sync) == Migration([], [], [], [], [])
    assert len(moved(source(), sync, workload()).patches) == 1


def test_the_order_is_the_names_not_the_files() -> None:
    manifests = [source(name=name) for name in ("b", "a")] + [
        workload(name=name, class_name=name) for name in ("b", "a")
    ]
    assert moved(*manifests) == moved(*reversed(manifests))
    assert [each["metadata"]["name"] for each in moved(*manifests).patches] == ["a", "b"]


def test_an_akvsync_can_say_most() -> None:
    spc = source("objectName: a", "objectName: b; objectVersionHistory: 2", clientID="", userAssignedIdentityID="u")
    found = migrate.as_akvsyncs(moved(spc, workload()))
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


@pytest.mark.parametrize(
    ("spc", "word"),
    [
        (source("objectName: a; objectVersion: " + 8 * "00ff"), "objectVersion of a"),
        (source(cloudName="AzureChinaCloud"), "cloudName"),
    ],
)
def test_what_an_akvsync_cannot_say_stays_a_secretsync(spc: Manifest, word: str) -> None:
    found = moved(spc, workload())
    with pytest.raises(Inexpressible, match=word):
        akvsync(found.manifests[0], found.manifests[1:])
    kept = migrate.as_akvsyncs(found)
    assert kept.manifests == found.manifests
    assert word in said(kept)


def test_the_report_has_the_six_stages_and_their_commands() -> None:
    spc = source("objectName: db-password", secret_objects=[{"secretName": "db", "data": DATA}])
    text = report(moved(spc, workload(nodePublishSecretRef={"name": "principal"})), "https://issuer.example")
    for stage in ("1. Inventory", "2. Identity", "3. Install", "4. Classes", "5. Workloads", "6. Verify"):
        assert f"## {stage}" in text
    assert "--issuer https://issuer.example --subject system:serviceaccount:shop:runner" in text
    assert "az role assignment create" in text
    assert "--name shop-vault --query id" in text
    assert text.index("kubectl patch") < text.index("kubectl delete secret db --namespace shop")
    assert "kubectl patch deployment web --namespace shop --patch-file patches/deployment-shop-web.yaml" in text
    assert "kubectl wait secretsync/db --namespace shop --for=condition=Ready" in text
    assert "- Deployment shop/web: Secret principal" in text


def test_files_in_and_files_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.yaml").write_text(
        yaml.safe_dump_all([{"kind": "List", "items": [source("objectName: a", "objectName: b")]}, workload(), None])
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
    told = capsys.readouterr()
    assert len(list(yaml.safe_load_all(told.out))) == 3
    assert "https://i" in told.err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: [",
        "- 1",
        "kind: x",
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
def test_bad_files_are_exit_code_two(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.yaml").write_text(text)
    assert migrate.main(["csi", str(tmp_path / "in.yaml")]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "in.yaml: " in told
    assert migrate.main(["csi"]) == 2
    assert migrate.main(["csi", str(tmp_path / "none.yaml")]) == 2


@pytest.mark.parametrize(
    "item",
    ["[" * 5000, "{objectName: [a], filePermission: '0600'}", "x", "a: [", "{objectName: a, filePermission: [1]}"],
)
def test_item_at_fault_ends_no_migration(item: str) -> None:
    made = source()
    made["spec"]["parameters"]["objects"] = f"array:\n  - 'objectName: good'\n  - {json.dumps(item)}\n"
    assert any("item 1 (line 3)" in note.text for note in moved(made, workload()).notes)


def test_alias_that_no_source_path_can_name_is_left_out_and_reported() -> None:
    found = moved(source("objectName: a; objectAlias: _a", "objectName: b"), workload())
    assert any("'_a' is left out: no sourcePath can name it" in note.text for note in found.notes)
    (sync,) = of_kind(found, "SecretSync")
    assert [pair["sourcePath"] for pair in sync["spec"]["secretObject"]["data"]] == ["b"]
