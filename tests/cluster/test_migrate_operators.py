"""Test `tools/migrate external-secrets` and `akv2k8s` on a real API server by running the commands of their reports."""

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.api.conditions import Reason
from tests.support import akv2k8s_manifests, external_secrets_manifests
from tests.support.cluster import other_operators
from tests.support.cluster.harness import TENANT, InstalledRelease, canary_value, create_object, eventually
from tests.support.cluster.namespace import Namespace
from tests.support.shell_recorder import list_commands
from tools.cli.common import templating
from tools.cli.migrate import migrate
from tools.cli.migrate.operators.akv2k8s import conversion as akv2k8s
from tools.cli.migrate.operators.external_secrets import conversion as external_secrets
from tools.cli.migrate.operators.result import ConversionOptions


@pytest.fixture(scope="module")
def other_kinds(installed: InstalledRelease) -> Iterator[None]:
    with other_operators.serve_temporarily(installed.plane):
        yield


def run_migrate(space: Namespace, out: Path, *arguments: str) -> str:
    """Run the tool on the objects of the cluster, and return its report."""
    kubeconfig = ("--kubeconfig", str(space.installed.plane.kubeconfig))
    code = migrate.main([*arguments, "--cluster", "-n", space.name, *kubeconfig, "--output", str(out)])
    assert code in (0, 1)
    return (out / "REPORT.md").read_text()


def run_stage(space: Namespace, out: Path, report: str, stage: str) -> None:
    """Run the kubectl commands of one stage of a report in a shell, in the folder of the report."""
    plane = space.installed.plane
    section = report.partition(f"\n## {stage}")[2].partition("\n## ")[0]
    script = "\n".join(line for line in list_commands(section) if line.startswith("kubectl "))
    assert script, stage
    env = {
        "PATH": f"{plane.kubectl_path.parent}{os.pathsep}{os.environ['PATH']}",
        "KUBECONFIG": str(plane.kubeconfig),
        "HOME": str(out),
    }
    done = subprocess.run(["bash", "-euc", script], cwd=out, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def make_store(space: Namespace) -> dict[str, Any]:
    azure = {
        "authType": "WorkloadIdentity",
        "vaultUrl": f"https://{space.vault}.vault.azure.net",
        "serviceAccountRef": {"name": space.account},
    }
    return {
        "apiVersion": "external-secrets.io/v1",
        "kind": "SecretStore",
        "metadata": {"name": "vault"},
        "spec": {"provider": {"azurekv": azure}},
    }


def make_external_secret(name: str, data: dict[str, Any], **spec: Any) -> dict[str, Any]:
    pairs = [{"secretKey": key, "remoteRef": ref} for key, ref in data.items()]
    return {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": name, "labels": {"tier": "data"}},
        "spec": {"secretStoreRef": {"name": "vault"}, "data": pairs, **spec},
    }


def make_secret(space: Namespace, owner: str, name: str, data: dict[str, str]) -> dict[str, Any]:
    values = {key: canary_value(text) for key, text in data.items()}
    return other_operators.make_secret(space.installed.plane, space.name, owner, name, values)


def list_left(space: Namespace, kind: str) -> str:
    return space.kubectl("get", kind, "--output", "jsonpath={.items[*].metadata.name}")


def test_external_secrets_are_migrated_in_place(space: Namespace, other_kinds: None, tmp_path: Path) -> None:
    pinned = space.set_secret("a", "1").rpartition("/")[2]
    space.set_secret("b", "2")
    space.set_secret("many-x", "4")
    space.set_secret("many-y", "5")
    config = {"user": canary_value("8"), "db": canary_value("9")}
    for name, content in (("c", config), ("d", {"db": {"password": canary_value("7")}})):
        space.installed.emulator.set_secret(space.vault, name, json.dumps(content))
    identity = {"client-id": space.client, "tenant-id": TENANT}
    annotations = [f"azure.workload.identity/{key}={text}" for key, text in identity.items()]
    space.kubectl("annotate", "serviceaccount", space.account, *annotations)
    space.apply(
        make_store(space),
        make_external_secret(
            "db", {"user": {"key": "a"}, "password": {"key": "secret/b"}}, target={"deletionPolicy": "Delete"}
        ),
        make_external_secret("part", {"k": {"key": "d", "property": "db.password"}}),
        make_external_secret("config", {}, dataFrom=[{"extract": {"key": "c"}}]),
        make_external_secret(
            "many",
            {},
            dataFrom=[
                {"find": {"name": {"regexp": "^many-"}}, "rewrite": [{"regexp": {"source": "^many-", "target": ""}}]}
            ],
        ),
        make_external_secret("pinned", {"k": {"key": "a", "version": pinned}}, target={"name": "at-launch"}),
        make_external_secret("all", {}, dataFrom=[{"sourceRef": {"generatorRef": {"kind": "Password", "name": "p"}}}]),
        make_external_secret("tagged", {"user": {"key": "a"}, "tags": {"key": "a", "metadataPolicy": "Fetch"}}),
    )
    tagged = make_secret(space, "externalsecret/tagged", "tagged", {"user": "1", "tags": "{}"})
    before = {
        "db": make_secret(space, "externalsecret/db", "db", {"user": "1", "password": "2"}),
        "at-launch": make_secret(space, "externalsecret/pinned", "at-launch", {"k": "1"}),
        "part": make_secret(space, "externalsecret/part", "part", {"k": "7"}),
        "many": make_secret(space, "externalsecret/many", "many", {"x": "4", "y": "5"}),
        "config": make_secret(space, "externalsecret/config", "config", {"user": "8", "db": "9"}),
    }
    report = run_migrate(space, out := tmp_path / "out", "external-secrets")
    assert f"--issuer {space.installed.plane.issuer} --subject system:serviceaccount:{space.name}:shop" in report
    assert "generators have no counterpart" in report

    # The Secrets do not change while the other operator owns them.
    run_stage(space, out, report, "4. Apply")
    for name in before:
        space.wait_reason(name, Reason.LABEL_ERROR)
        assert space.get("secret", name)["metadata"] == before[name]

    run_stage(space, out, report, "6. Take the Secrets over")
    run_stage(space, out, report, "7. Verify")
    for name, meta in before.items():
        held = space.get("secret", name)["metadata"]
        assert held["uid"] == meta["uid"]
        assert [each["kind"] for each in held["ownerReferences"]] == ["SecretSync"]
        assert "reconcile.external-secrets.io/managed" not in held["labels"]
    assert space.get("secret", "db")["metadata"]["labels"]["tier"] == "data"
    assert list_left(space, "externalsecret") == "all tagged"
    # One key of this Secret has no counterpart, so the Secret keeps its keys and its owner.
    assert space.get("secret", "tagged")["metadata"] == tagged
    assert space.secret_values("tagged") == {"user": canary_value("1"), "tags": canary_value("{}")}
    space.wait_secret("tagged-akv", {"user": "1"})
    space.set_secret("b", "3")
    space.force_sync("db")
    space.wait_secret("db", {"user": "1", "password": "3"})
    space.wait_secret("at-launch", {"k": "1"})
    space.wait_secret("part", {"k": "7"})
    space.wait_secret("config", {"user": "8", "db": "9"})
    space.wait_secret("many", {"x": "4", "y": "5"})


def test_external_secrets_are_migrated_beside_the_old_secrets(
    space: Namespace, other_kinds: None, tmp_path: Path
) -> None:
    space.set_secret("a", "1")
    space.apply(make_store(space), make_external_secret("db", {"k": {"key": "a"}}))
    meta = make_secret(space, "externalsecret/db", "db", {"k": "1"})
    report = run_migrate(space, out := tmp_path / "out", *("external-secrets", "--beside"),
                 *("--client-id", space.client, "--tenant-id", TENANT))  # fmt: skip
    run_stage(space, out, report, "4. Apply")
    space.wait_secret("db-akv", {"k": "1"})
    assert space.get("secret", "db")["metadata"] == meta
    run_stage(space, out, report, "6. Take")
    assert list_left(space, "externalsecret") == ""
    eventually(lambda: space.secret_values("db"), lambda found: not found)
    assert space.secret_values("db-akv") == {"k": canary_value("1")}


def delete_sources(space: Namespace, parent: str) -> None:
    """Act as External Secrets from 0.20 on when a ClusterExternalSecret is deleted: delete its ExternalSecrets."""
    deleted_at = ("--output", "jsonpath={.metadata.deletionTimestamp}")
    eventually(lambda: space.kubectl("get", "clusterexternalsecret", parent, *deleted_at), bool)
    space.kubectl("delete", "externalsecret", "db", "--wait=false")
    space.kubectl(
        "patch", "clusterexternalsecret", parent, "--type=merge", "--patch", '{"metadata":{"finalizers":null}}'
    )


def test_secret_of_a_cluster_external_secret_stays(space: Namespace, other_kinds: None, tmp_path: Path) -> None:
    space.set_secret("a", "1")
    parent = make_external_secret(f"of-{space.name}", {})
    child = make_external_secret("db", {"k": {"key": "a"}})
    parent |= {
        "kind": "ClusterExternalSecret",
        "spec": {
            "namespaces": [space.name],
            "externalSecretName": "db",
            "externalSecretSpec": child["spec"],
        },
    }
    parent["metadata"]["finalizers"] = ["externalsecrets.external-secrets.io/clusterexternalsecret-cleanup"]
    space.apply(make_store(space), child, parent)
    before = make_secret(space, "externalsecret/db", "db", {"k": "1"})
    report = run_migrate(space, out := tmp_path / "out",
                         *("external-secrets", "--client-id", space.client, "--tenant-id", TENANT))  # fmt: skip
    run_stage(space, out, report, "4. Apply")
    space.wait_reason("db", Reason.LABEL_ERROR)
    with ThreadPoolExecutor() as threads:
        operator = threads.submit(delete_sources, space, parent["metadata"]["name"])
        run_stage(space, out, report, "6. Take the Secrets over")
        operator.result()
    run_stage(space, out, report, "7. Verify")
    assert space.get("secret", "db")["metadata"]["uid"] == before["uid"]
    assert list_left(space, "externalsecret") == ""
    space.wait_secret("db", {"k": "1"})


def make_vault_secret(space: Namespace, source: str, key: str, **output: Any) -> dict[str, Any]:
    vault = {"name": space.vault, "object": {"name": key, "type": "secret"}}
    return {
        "apiVersion": "spv.no/v2beta1",
        "kind": "AzureKeyVaultSecret",
        "metadata": {"name": source},
        "spec": {"vault": vault, **({"output": {"secret": output}} if output else {})},
    }


def test_akv2k8s_is_migrated_in_place(space: Namespace, other_kinds: None, tmp_path: Path) -> None:
    plane = space.installed.plane
    for name, text in (("a", "1"), ("b", "2"), ("token", "3")):
        space.set_secret(name, text)
    labels = {"app": "web"}
    container = {"name": "web", "image": "web", "env": [
        {"name": "TOKEN", "value": "token@azurekeyvault"}, {"name": "PLAIN", "value": "plain"}]}  # fmt: skip
    pods = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    web = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": labels}, "template": pods},
    }
    space.apply(
        make_vault_secret(space, "user", "a", name="db", dataKey="user"),
        make_vault_secret(space, "password", "b", name="db", dataKey="password"),
        make_vault_secret(space, "token", "token"),
        web,
    )
    create_object(plane, "namespaces", "akv2k8s")
    plane.kubectl("create", "deployment", "akv2k8s-controller", "--image=x", "--namespace", "akv2k8s")
    before = make_secret(space, "azurekeyvaultsecret/user", "db", {"user": "1", "password": "2"})
    report = run_migrate(
        space, out := tmp_path / "out", "akv2k8s", "--client-id", space.client, "--tenant-id", TENANT,
        "--service-account", space.account,
    )  # fmt: skip
    for stage in ("4. Apply", "5. Workloads", "6. Take", "7. Verify"):
        run_stage(space, out, report, stage)
    plane.kubectl("delete", "namespace", "akv2k8s", "--wait=false")
    assert space.get("secret", "db")["metadata"]["uid"] == before["uid"]
    space.wait_secret("db", {"user": "1", "password": "2"})
    space.wait_secret("token", {"value": "3"})
    (found,) = space.get("deployment", "web")["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each for each in found["env"]}
    assert env["TOKEN"] == {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "value"}}}
    assert env["PLAIN"]["value"] == "plain"


KEYS = (
    external_secrets_manifests.make_key("a", "x"),
    external_secrets_manifests.make_key("b.c", "Y-1", version="0" * 32),
)
TLS = {"type": "kubernetes.io/tls", "data": {"tls.crt": "{{ .a }}", "tls.key": "{{ .a }}"}}
CONVERSIONS = [
    external_secrets.convert_objects(
        [
            external_secrets_manifests.make_account(),
            external_secrets_manifests.make_store(),
            external_secrets_manifests.make_external_secret(*KEYS),
            external_secrets_manifests.make_external_secret(*KEYS[:1], name="a.b", target={"template": TLS}),
            external_secrets_manifests.make_external_secret(
                *KEYS[:1],
                name="l",
                target={"template": {"metadata": {"labels": {"x/y": "z"}, "annotations": {"n": "é"}}}},
            ),
            external_secrets_manifests.make_external_secret(
                *(external_secrets_manifests.make_key(f"k{n}", "x") for n in range(120)), name="many"
            ),
        ],
        options,
    )
    for options in (ConversionOptions(), ConversionOptions(classes=True), ConversionOptions(beside=True))
] + [
    akv2k8s.convert_objects(
        [
            *akv2k8s_manifests.ALL_MANIFESTS,
            *(
                akv2k8s_manifests.make_source(name=f"n{n}", secret=akv2k8s_manifests.make_output(f"s{n}", type=kind))
                for n, kind in enumerate(("kubernetes.io/dockerconfigjson", "kubernetes.io/ssh-auth"))
            ),
        ],
        ConversionOptions(client_id="c", tenant_id="t"),
    )
]


@pytest.mark.parametrize("found", CONVERSIONS, ids=range(len(CONVERSIONS)))
def test_api_server_accepts_all_generated_objects(space: Namespace, found: Any) -> None:
    """Create each kind of generated object as a dry run. The CRDs and admission policies of the chart accept it."""
    assert len(found.manifests) > 3
    for each in found.manifests:
        each = {**each, "metadata": {"name": each["metadata"]["name"]}}
        space.kubectl("create", "--dry-run=server", "--filename", "-", stdin=templating.to_ascii_yaml(each))
        assert yaml.safe_load(templating.to_ascii_yaml(each)) == each
