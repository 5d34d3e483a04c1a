"""Test in which namespace tools/migrate puts objects of files. Manifests for helm and Kustomize often name none."""

from pathlib import Path

import pytest
import yaml

from tests.support.csi_manifests import make_class, make_workload
from tools.cli.migrate import migrate
from tools.cli.migrate.objects import Manifest

ESO, AKV2K8S = "external-secrets.io/v1", "spv.no/v2beta1"
AZURE = {"authType": "WorkloadIdentity", "vaultUrl": "https://shop-vault.vault.azure.net", "tenantId": "t"}


def make_object(version: str, kind: str, name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


STORES = [
    make_object(ESO, kind, "vault", {"provider": {"azurekv": AZURE}}) for kind in ("SecretStore", "ClusterSecretStore")
]
EXTERNAL = [
    make_object(
        ESO,
        "ExternalSecret",
        f"db-{kind.lower()}",
        {
            "secretStoreRef": {"name": "vault", "kind": kind},
            "data": [{"secretKey": "user", "remoteRef": {"key": "db-user"}}],
        },
    )
    for kind in ("SecretStore", "ClusterSecretStore")
]
AKVS = make_object(
    AKV2K8S,
    "AzureKeyVaultSecret",
    "db",
    {"vault": {"name": "shop-vault", "object": {"name": "db"}}, "output": {"secret": {"name": "db", "dataKey": "x"}}},
)
CLIENT, TENANT = ("--client-id", "c"), ("--tenant-id", "t")
INPUTS: list[tuple[str, list[Manifest], tuple[str, ...]]] = [
    ("csi", [make_class(), make_workload()], ()),
    ("external-secrets", [*STORES, *EXTERNAL], CLIENT),
    ("akv2k8s", [AKVS], (*CLIENT, *TENANT)),
]


def convert(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, objects: list[Manifest], *options: str
) -> tuple[int, list[str], str]:
    """Return the exit code, the namespaces of what a file becomes, and the report."""
    file = folder / "in.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    code = migrate.main([command, str(file), *options])
    output = capsys.readouterr()
    made = [each["metadata"]["namespace"] for each in yaml.safe_load_all(output.out) if each]
    return code, sorted(set(made)), output.err


def without_namespace(objects: list[Manifest]) -> list[Manifest]:
    return [{**each, "metadata": {"name": each["metadata"]["name"]}} for each in objects]


@pytest.mark.parametrize(("command", "objects", "options"), INPUTS)
def test_object_without_a_namespace_is_in_the_given_one(
    command: str, objects: list[Manifest], options: tuple[str, ...],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = without_namespace(objects)
    _, made, report = convert(tmp_path, capsys, command, given, *options, "--namespace", "web")
    assert made == ["web"]
    assert "default is assumed" not in report
    assert "system:serviceaccount:web:" in report


@pytest.mark.parametrize(("command", "objects", "options"), INPUTS)
def test_object_without_a_namespace_and_no_given_one_gets_a_note(
    command: str, objects: list[Manifest], options: tuple[str, ...],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, made, report = convert(tmp_path, capsys, command, without_namespace(objects), *options)
    assert (code, made) == (1, ["default"])
    assert report.count("give the namespace with --namespace") == 1


@pytest.mark.parametrize(("command", "objects", "options"), INPUTS)
def test_object_of_another_namespace_is_left_out(
    command: str, objects: list[Manifest], options: tuple[str, ...],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    others = [{**each, "metadata": {**each["metadata"], "namespace": "other"}} for each in objects]
    given = [*others, *without_namespace(objects)]
    _, made, _ = convert(tmp_path, capsys, command, given, *options, "--namespace", "web")
    assert made == ["web"]


@pytest.mark.parametrize(
    ("command", "objects"), [("csi", [make_class()]), ("external-secrets", EXTERNAL), ("akv2k8s", [AKVS])]
)
def test_namespace_that_no_object_of_the_files_has_is_reported(
    command: str, objects: list[Manifest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [{**each, "metadata": {"name": "a", "namespace": "other"}} for each in objects]
    file = tmp_path / "in.yaml"
    file.write_text(yaml.safe_dump_all(given))
    assert migrate.main([command, str(file), "--namespace", "web"]) == 2
    assert capsys.readouterr() == ("", "tools/migrate: --namespace web: the files have no object in it\n")
