"""Test tools/migrate csi with hostile names and texts: it prints only the intended commands and printable text."""

import functools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.csi_manifests import DATA, make_class, make_workload, migrate_manifests
from tests.support.hostile_texts import FOREIGN, INJECTIONS
from tests.support.shell_recorder import list_commands, run_recorded
from tools.cli.common import kube_names, templating
from tools.cli.migrate import migrate
from tools.cli.migrate.migration import Migration
from tools.cli.migrate.migration_report import format_report
from tools.cli.migrate.objects import Manifest
from tools.cli.migrate.results import write_results

COMMAND = re.compile(r"(kubectl|az|helm|tools/doctor) ")


def check_report(found: Migration, issuer: str = "") -> str:
    """Return the report. Check that it is printable and well-formed, and that each command has only its own words."""
    page = format_report(found, issuer)
    assert all(each.isprintable() or each == "\n" for each in page), page
    for line in list_commands(page):
        assert is_intended(line), line
    for manifest in [*found.manifests, *found.patches]:
        assert is_well_formed(json.dumps(manifest)), manifest
    return page


# The result is cached, because one text changes few lines and manifests of a report.
@functools.cache
def is_intended(line: str) -> bool:
    """Return whether a line of a report is a comment, or a known command with names and known options only."""
    if line.startswith("#"):
        return True
    words = shlex.split(line)
    if not COMMAND.match(line) or words[0] != "kubectl":
        return COMMAND.match(line) is not None
    return words[1] in ("apply", "patch", "delete", "wait") and all(map(is_name_or_option, words[2:]))


def is_name_or_option(word: str) -> bool:
    stem = word.removesuffix(".yaml").rpartition("/")[2] if "/" in word or "." in word else word
    option = re.fullmatch(r"--(namespace|filename|patch-file|for=condition=Ready)", word)
    return option is not None or kube_names.is_name(stem) or kube_names.is_name(word)


@functools.cache
def is_well_formed(encoded: str) -> bool:
    """Return whether a manifest's YAML is one document of printable ASCII."""
    yaml_text = templating.to_ascii_yaml(json.loads(encoded))
    printable = all((each.isprintable() and each.isascii()) or each == "\n" for each in yaml_text)
    return printable and len(list(yaml.safe_load_all(yaml_text))) == 1


def make_hostile_manifests(where: str, value: str) -> list[Manifest]:
    """Return a class and the workload that mounts it, with `value` in the field `where`."""
    secret: Any = {"secretName": "db", "type": "Opaque", "labels": {"a": "b"}, "data": [dict(DATA[0])]}
    alias = yaml.safe_dump(value, width=10**6, allow_unicode=False).removesuffix("...\n").strip()
    second = f"objectName: b; objectAlias: {alias}" if where == "alias" else "objectName: b"
    spc = make_class("objectName: db-password", second, secret_objects=[secret])
    web = make_workload()
    pods = web["spec"]["template"]["spec"]
    match where:
        case "secretName" | "type":
            secret[where] = value
        case "labels" | "annotations":
            secret[where] = {value: value}
        case "key" | "objectName":
            secret["data"][0][where] = value
        case "serviceAccountName":
            pods["serviceAccountName"] = value
        case "volume":
            pods["volumes"][1]["name"] = value
        case "class":
            pods["volumes"][1]["csi"]["volumeAttributes"]["secretProviderClass"] = value
        case "publish":
            pods["volumes"][1]["csi"]["nodePublishSecretRef"] = {"name": value}
        case "provider":
            spc["spec"]["provider"] = value
        case "objects":
            spc["spec"]["parameters"]["objects"] = value
        case "filePermission":
            item = f"array:\n  - |\n    objectName: db-password\n    filePermission: {alias}\n"
            spc["spec"]["parameters"]["objects"] = item
        case parameter:
            spc["spec"]["parameters"][parameter] = value
    return [spc, web]


FIELDS = (
    "secretName", "type", "labels", "annotations", "key", "objectName", "serviceAccountName", "volume", "class",
    "publish", "provider", "objects", "filePermission", "alias", "keyvaultName", "clientID", "tenantId", "cloudName",
    "userAssignedIdentityID", "cloudEnvFileName", "useVMManagedIdentity", "unknown",
)  # fmt: skip


@pytest.mark.parametrize("where", FIELDS)
@pytest.mark.parametrize("value", INJECTIONS, ids=range(len(INJECTIONS)))
def test_injection_in_a_field_becomes_no_command(where: str, value: str) -> None:
    found = migrate_manifests(*make_hostile_manifests(where, value))
    check_report(found)
    check_report(migrate.combine_into_akvsyncs(found))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FIELDS), FOREIGN)
def test_foreign_text_in_a_field_becomes_no_command(where: str, value: str) -> None:
    check_report(migrate_manifests(*make_hostile_manifests(where, value)))


@pytest.mark.parametrize("value", ["db; touch pwned", "DB", "", "a/b", "d" * 254, "-a"])
def test_secret_with_an_invalid_name_is_left_out_and_reported(value: str) -> None:
    found = migrate_manifests(*make_hostile_manifests("secretName", value))
    assert found.replaced == []
    assert any("is not a Secret's name, which has only small letters" in note.text for note in found.notes)
    assert value not in {each["metadata"]["name"] for each in found.manifests}


@pytest.mark.parametrize("value", ["a b", "a/b", "", "..", "é"])
def test_secret_with_an_invalid_key_is_left_out_and_reported(value: str) -> None:
    found = migrate_manifests(*make_hostile_manifests("key", value))
    assert found.replaced == []
    assert any("is left out: targetKey" in note.text for note in found.notes)


@pytest.mark.parametrize("issuer", ["", "https://issuer.example", *INJECTIONS])
def test_shell_runs_only_the_intended_commands(issuer: str, tmp_path: Path) -> None:
    """Run all blocks as one script. Recorders replace kubectl, az, helm and tools/doctor."""
    found = migrate_manifests(
        make_class("objectName: db-password", secret_objects=[{"secretName": "db", "data": DATA}]), make_workload()
    )
    ran = run_recorded("\n".join(list_commands(check_report(found, issuer))), tmp_path)
    assert [words[0] for words in ran] == [
        "az", "az", "az", "az", "az", "helm", "kubectl", "kubectl", "kubectl", "kubectl", "doctor",
    ]  # fmt: skip
    assert ran[0][1:3] == ["identity", "list"]
    (federated,) = (words for words in ran if words[1:3] == ["identity", "federated-credential"])
    assert len(federated) == 16
    assert ["kubectl", "delete", "secret", "db", "--namespace", "shop"] in ran
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "tools", "record"}


def test_patch_file_of_long_names_has_a_valid_file_name(tmp_path: Path) -> None:
    spc, web = make_class(), make_workload(name="w" * 253)
    for each in (spc, web):
        each["metadata"]["namespace"] = "n" * 63
    found = migrate_manifests(spc, web)
    write_results(tmp_path / "out", found.manifests, found.patches, format_report(found, ""))
    (patch,) = (tmp_path / "out" / "patches").iterdir()
    assert patch.name in (tmp_path / "out" / "REPORT.md").read_text()


def test_hostile_texts_are_printed_as_printable_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, where in enumerate(FIELDS):
        path = tmp_path / f"{number}.yaml"
        hostile = "a\x1b]0;x\x07\u202eb\x9b31m\ndb\t|`x`"
        path.write_text(yaml.safe_dump_all(make_hostile_manifests(where, hostile), allow_unicode=False))
        migrate.main(["csi", str(path)])
        printed = capsys.readouterr()
        assert all(each.isprintable() or each == "\n" for each in printed.out + printed.err), where
