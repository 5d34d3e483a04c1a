"""Test tools/migrate csi: the Azure roles of a class, parameters without a value, and workloads without a patch."""

from pathlib import Path

import msgspec
import pytest
import yaml

from controller.api.secretproviderclass import SecretProviderClass
from controller.domain.provider_class import read_class
from tests.support.csi_manifests import join_notes, make_class, make_workload, migrate_manifests, select_kind
from tools.cli.doctor import class_checks
from tools.cli.migrate import migrate, workloads
from tools.cli.migrate.migration_report import format_report

USER, READER = "Key Vault Secrets User", "Key Vault Reader"
ITEMS = {
    "secret": "objectName: a",
    "explicit secret": "objectName: a; objectType: secret",
    "cert": "objectName: b; objectType: cert",
    "key": "objectName: c; objectType: key",
    "pfx": "objectName: d; objectType: secret; objectFormat: pfx",
}


@pytest.mark.parametrize(
    ("kinds", "roles"),
    [
        (["secret"], [USER]),
        (["explicit secret"], [USER]),
        (["pfx"], [USER]),
        (["cert"], [READER]),
        (["key"], [READER]),
        (["cert", "key"], [READER]),
        (["secret", "cert"], [READER, USER]),
        (["secret", "key"], [READER, USER]),
        (["pfx", "cert", "key"], [READER, USER]),
    ],
)
def test_report_has_the_role_of_every_object_type(kinds: list[str], roles: list[str]) -> None:
    found = migrate_manifests(make_class(*(ITEMS[kind] for kind in kinds)), make_workload())
    (reader,) = found.readers
    assert list(reader.roles) == roles
    commands = [line for line in format_report(found, "").splitlines() if line.startswith("az role assignment create")]
    assert [line.partition('--role "')[2].partition('"')[0] for line in commands] == roles
    (made,) = select_kind(found, "SecretProviderClass")
    understood = read_class(msgspec.convert(made, SecretProviderClass))
    assert list(class_checks.roles_of(understood)) == roles
    assert ", ".join(roles) in class_checks.roles("s", reader.identity, understood).text


@pytest.mark.parametrize("name", ["cloudName", "userAssignedIdentityID", "useVMManagedIdentity", "cloudEnvFileName"])
@pytest.mark.parametrize("text", ["", "~", "null"])
def test_parameter_without_a_value_is_left_out(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check YAML's null. The API server refuses it, so a tool that applies such a file leaves it out first."""
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump_all([make_class(), make_workload()], sort_keys=False))
    odd = tmp_path / "odd.yaml"
    odd.write_text(plain.read_text().replace("keyvaultName:", f"{name}: {text}\n    keyvaultName:"))
    assert yaml.safe_load_all(odd.read_text()).__next__()["spec"]["parameters"][name] is None
    assert migrate.main(["csi", str(plain)]) == 0
    wanted = capsys.readouterr().out
    assert migrate.main(["csi", str(odd)]) == 0
    assert capsys.readouterr().out == wanted


@pytest.mark.parametrize("field", ["secretObjects", "parameters", "labels"])
def test_field_without_a_value_is_left_out(field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_class()
    where = made["metadata"] if field == "labels" else made["spec"]
    where[field] = None
    (tmp_path / "in.yaml").write_text(yaml.safe_dump_all([made, make_workload()]))
    assert migrate.main(["csi", str(tmp_path / "in.yaml")]) == (1 if field == "parameters" else 0)
    assert ("keyvaultName" in capsys.readouterr().out) == (field != "parameters")


@pytest.mark.parametrize("name", ["AzurePublicCloud", "azurepubliccloud", "AzureCloud", "AZURECLOUD"])
def test_every_name_of_the_public_cloud_is_left_out_of_an_edited_class(name: str) -> None:
    (made,) = select_kind(
        migrate_manifests(make_class(cloudName=name, useVMManagedIdentity="true")), "SecretProviderClass"
    )
    assert "cloudName" not in made["spec"]["parameters"]


@pytest.mark.parametrize("kind", workloads.TEMPLATES)
def test_patch_command_is_shown_only_if_a_patch_can_change_the_workload(kind: str) -> None:
    found = migrate_manifests(make_class(), make_workload(kind))
    page = format_report(found, "")
    command = f"kubectl patch {kind.lower()} web --namespace shop"
    assert (command in page) == (kind not in ("Pod", "Job"))
    if kind in ("Pod", "Job"):
        assert "kubectl patch" not in page
        assert "These cannot be patched" in page
        assert f"- {kind} shop/web: patches/{kind.lower()}-shop-web.yaml" in page
    assert ("does not replace its pods" in join_notes(found)) == (kind in ("ReplicaSet", "ReplicationController"))
