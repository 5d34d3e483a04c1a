"""tools/migrate csi over hostile names and texts: its commands are the intended ones, and its output is printable."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.test_migration import DATA, moved, source, workload
from tests.unit.test_printable import HOSTILE
from tools import kube_names, migrate, text
from tools.migration import Manifest, Migration
from tools.migration_report import report

# What a reader of the report would run if a name came through as it is.
INJECTIONS = (
    "db; touch pwned", "$(touch pwned)", "`touch pwned`", "db\ntouch pwned", "db | touch pwned", "db && touch pwned",
    "-rf", "--all", "'; touch pwned; '", '"; touch pwned; "', "x\n```\ntouch pwned\n```console", "~/x", "*", "${IFS}",
    "db#", "db\rtouch pwned", "db\x1b[2Jx", "db\u202ex", "db\u2028touch pwned", "../../pwned", "a/b", "<(touch pwned)",
    "db\\", "a=b", "{a,b}", "!!", "\x00", "é", "DB", "d" * 254,
)  # fmt: skip
FOREIGN = st.sampled_from(INJECTIONS) | HOSTILE
COMMAND = re.compile(r"(kubectl|az|helm|tools/doctor) ")
# The commands' words that are names.
RECORDER = (
    '#!/bin/sh\nprintf "%s" "${0##*/}" >> "$RECORD"\nprintf "\\t%s" "$@" >> "$RECORD"\necho >> "$RECORD"\necho x\n'
)


def blocks(page: str) -> list[str]:
    """The console blocks' lines, as a Markdown reader finds them."""
    inside = False
    found = []
    for line in page.splitlines():
        if re.match(r"\s{0,3}```", line):
            assert line in ("```console", "```"), line
            inside = not inside
        elif inside:
            found.append(line)
    assert not inside
    return found


def harmless(found: Migration, issuer: str = "") -> str:
    """The report, checked: printable, well-formed, and each command with its own words only."""
    page = report(found, issuer)
    assert all(each.isprintable() or each == "\n" for each in page), page
    for line in blocks(page):
        if line.startswith("#"):
            continue
        assert COMMAND.match(line), line
        words = shlex.split(line)
        if words[0] == "kubectl":
            assert words[1] in ("apply", "patch", "delete", "wait")
            for word in words[2:]:
                stem = word.removesuffix(".yaml").rpartition("/")[2] if "/" in word or "." in word else word
                option = re.fullmatch(r"--(namespace|filename|patch-file|for=condition=Ready)", word)
                assert option or kube_names.is_name(stem) or kube_names.is_name(word), line
    for yaml_text in map(text.foreign_yaml, [*found.manifests, *found.patches]):
        assert all((each.isprintable() and each.isascii()) or each == "\n" for each in yaml_text)
        assert len(list(yaml.safe_load_all(yaml_text))) == 1
    return page


def spoiled(where: str, value: str) -> list[Manifest]:
    """A class and what mounts it, with that text in one field."""
    secret: Any = {"secretName": "db", "type": "Opaque", "labels": {"a": "b"}, "data": [dict(DATA[0])]}
    alias = yaml.safe_dump(value, width=10**6, allow_unicode=False).removesuffix("...\n").strip()
    second = f"objectName: b; objectAlias: {alias}" if where == "alias" else "objectName: b"
    spc = source("objectName: db-password", second, secret_objects=[secret])
    web = workload()
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
def test_no_field_becomes_a_command(where: str, value: str) -> None:
    found = moved(*spoiled(where, value))
    harmless(found)
    harmless(migrate.as_akvsyncs(found))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FIELDS), FOREIGN)
def test_no_text_becomes_a_command(where: str, value: str) -> None:
    harmless(moved(*spoiled(where, value)))


@pytest.mark.parametrize("value", ["db; touch pwned", "DB", "", "a/b", "d" * 254, "db\n", "-a"])
def test_a_secret_of_an_impossible_name_is_left_out_and_said(value: str) -> None:
    found = moved(*spoiled("secretName", value))
    assert found.replaced == []
    assert any("no Secret can have this name" in note.text for note in found.notes)
    assert value not in {each["metadata"]["name"] for each in found.manifests}


@pytest.mark.parametrize("value", ["a b", "a/b", "", "..", "k\n", "é"])
def test_a_secret_with_an_impossible_key_is_left_out_and_said(value: str) -> None:
    found = moved(*spoiled("key", value))
    assert found.replaced == []
    assert any("no Secret can have the key" in note.text for note in found.notes)


@pytest.mark.parametrize("issuer", ["", "https://issuer.example", *INJECTIONS])
def test_a_real_shell_runs_the_intended_commands_alone(issuer: str, tmp_path: Path) -> None:
    """kubectl, az, helm and tools/doctor are recorders; all blocks run as one script, as a reader would paste them."""
    found = moved(source("objectName: db-password", secret_objects=[{"secretName": "db", "data": DATA}]), workload())
    for name in ("kubectl", "az", "helm", "tools/doctor"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RECORDER)
        path.chmod(0o755)
    (tmp_path / "tools").symlink_to(tmp_path / "bin" / "tools")
    env = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin", "RECORD": str(tmp_path / "record")}
    script = "\n".join(blocks(harmless(found, issuer)))
    subprocess.run(["bash", "-eu", "-c", script], cwd=tmp_path, env=env | {"ISSUER": "given"}, check=True,
                   capture_output=True, timeout=60)  # fmt: skip
    ran = [line.split("\t") for line in (tmp_path / "record").read_text().splitlines()]
    assert [words[0] for words in ran] == [
        "az", "az", "az", "az", "az", "helm", "kubectl", "kubectl", "kubectl", "kubectl", "doctor",
    ]  # fmt: skip
    assert ran[0][1:3] == ["identity", "list"]
    (federated,) = (words for words in ran if words[1:3] == ["identity", "federated-credential"])
    assert len(federated) == 16
    assert ["kubectl", "delete", "secret", "db", "--namespace", "shop"] in ran
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "tools", "record"}


def test_the_file_of_a_patch_has_a_name_that_a_file_system_takes(tmp_path: Path) -> None:
    spc, web = source(), workload(name="w" * 253)
    for each in (spc, web):
        each["metadata"]["namespace"] = "n" * 63
    migrate.write(moved(spc, web), "", tmp_path / "out")
    (patch,) = (tmp_path / "out" / "patches").iterdir()
    assert patch.name in (tmp_path / "out" / "REPORT.md").read_text()


def test_what_is_printed_is_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, where in enumerate(FIELDS):
        path = tmp_path / f"{number}.yaml"
        hostile = "a\x1b]0;x\x07\u202eb\x9b31m\ndb\t|`x`"
        path.write_text(yaml.safe_dump_all(spoiled(where, hostile), allow_unicode=False))
        migrate.main(["csi", str(path)])
        told = capsys.readouterr()
        assert all(each.isprintable() or each == "\n" for each in told.out + told.err), where
