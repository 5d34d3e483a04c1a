"""Test that reports of external-secrets and akv2k8s with hostile texts have only the intended commands."""

import functools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import akv2k8s_manifests, external_secrets_manifests
from tests.support.hostile_texts import FOREIGN, INJECTIONS
from tests.support.shell_recorder import list_commands, run_recorded
from tests.unit.cli.migrate.operators.mutations import list_places, mutate_documents
from tools.cli.common import kube_names, templating
from tools.cli.migrate.objects import Manifest
from tools.cli.migrate.operators.akv2k8s import conversion as akv2k8s
from tools.cli.migrate.operators.external_secrets import conversion as external_secrets
from tools.cli.migrate.operators.report import AKV2K8S, EXTERNAL_SECRETS, OperatorTexts, build_report
from tools.cli.migrate.operators.result import ConversionOptions, ConversionResult

OPTIONS = ConversionOptions(client_id="client-1", tenant_id="tenant-1", service_account="reader")
OPERATORS = (
    (EXTERNAL_SECRETS, external_secrets.convert_objects, external_secrets_manifests.ALL_MANIFESTS),
    (AKV2K8S, akv2k8s.convert_objects, akv2k8s_manifests.ALL_MANIFESTS),
)
# The commands of a report. NAME is any name of a Kubernetes object.
COMMANDS = [
    re.compile(pattern.replace("NAME", r"[a-z0-9][-a-z0-9.]*"))
    for pattern in (
        r"az (identity federated-credential create|role assignment create) .*",
        r"helm install NAME \./chart --namespace NAME --create-namespace",
        r"kubectl apply --filename manifests\.yaml",
        r"kubectl (patch|delete) (externalsecret|azurekeyvaultsecret|clusterexternalsecret) NAME( --namespace NAME)?"
        r"( --type=merge --patch \{\"spec\":\{(\"externalSecretSpec\":\{)?\"target\":\{\"deletionPolicy\":\"Retain\"\}+"
        r"| --cascade=orphan)?( --ignore-not-found)?",
        r"kubectl wait externalsecret/NAME --namespace NAME --for=jsonpath=\{\.spec\.target\.deletionPolicy\}=Retain"
        r" --timeout=60s",
        r"kubectl patch secret NAME --namespace NAME --type=merge --patch \{\"metadata\":\{.*"
        r"\"ownerReferences\":\[\{\"apiVersion\":\"secret-sync\.x-k8s\.io/v1alpha1\",\"kind\":\"SecretSync\","
        r"\"name\":\"NAME\",\"uid\":\"\$\(kubectl get secretsync NAME --namespace NAME --output"
        r" 'jsonpath=\{\.metadata\.uid\}'\)\"\}\]\}\}",
        r"kubectl scale deployment akv2k8s-controller --namespace akv2k8s --replicas=[01]",
        r"kubectl patch NAME NAME --namespace NAME --patch-file patches/[-a-z0-9.]+\.yaml",
        r"kubectl wait (akvsync|secretsync)/NAME --namespace NAME --for=condition=Ready --timeout=60s",
        r"tools/doctor --quiet",
    )
]


def check_report(found: ConversionResult, operator: OperatorTexts) -> None:
    """Check that the report is printable and well formed, and that it has only known commands."""
    page = build_report(found, operator, "")
    assert all(each.isprintable() or each == "\n" for each in page), page
    for line in list_commands(page):
        assert is_known_line(line), line
    for manifest in [*found.manifests, *found.patches]:
        assert is_well_formed(json.dumps(manifest)), manifest


# The result is cached, because one text changes few lines and manifests of a report.
@functools.cache
def is_known_line(line: str) -> bool:
    words = " ".join(shlex.split(line))
    return line.startswith("#") or any(pattern.fullmatch(words) for pattern in COMMANDS)


@functools.cache
def is_well_formed(encoded: str) -> bool:
    """Return whether a manifest has a valid name, and whether its YAML is one document of printable ASCII."""
    manifest = json.loads(encoded)
    written = templating.to_ascii_yaml(manifest)
    return (
        kube_names.is_name(manifest["metadata"]["name"])
        and all((each.isprintable() and each.isascii()) or each == "\n" for each in written)
        and len(list(yaml.safe_load_all(written))) == 1
    )


def are_valid(documents: list[Manifest]) -> bool:
    """Return whether a file or a cluster can contain these documents, because their kinds and names are valid."""
    return all(
        isinstance(each, dict)
        and isinstance(each.get("kind"), str)
        and isinstance(each.get("metadata"), dict)
        and kube_names.is_name(each["metadata"].get("name"))
        and kube_names.is_namespace(each["metadata"].get("namespace") or "default")
        for each in documents
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([(number, at) for number in (0, 1) for at in list_places(OPERATORS[number][2])]), FOREIGN)
def test_foreign_text_becomes_no_command(where: tuple[int, tuple[Any, ...]], value: str) -> None:
    operator, convert, whole = OPERATORS[where[0]]
    documents = mutate_documents(whole, where[1], value)
    if are_valid(documents):
        check_report(convert(documents, OPTIONS), operator)


@pytest.mark.parametrize("number", [0, 1])
def test_injection_becomes_no_command(number: int) -> None:
    operator, convert, whole = OPERATORS[number]
    for count, where in enumerate(list_places(whole)):
        if are_valid(documents := mutate_documents(whole, where, INJECTIONS[count % len(INJECTIONS)])):
            check_report(convert(documents, OPTIONS), operator)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("issuer", ["", "https://issuer.example", "x; touch pwned", "$(touch pwned)", "'`touch pwned`"])
def test_shell_runs_only_the_intended_commands(number: int, issuer: str, tmp_path: Path) -> None:
    """Run all blocks as one script. Recorders replace kubectl, az, helm and tools/doctor."""
    operator, convert, whole = OPERATORS[number]
    found = convert(whole, OPTIONS)
    assert found.takeovers
    ran = run_recorded("\n".join(list_commands(build_report(found, operator, issuer))), tmp_path)
    assert {words[0] for words in ran} == {"az", "helm", "kubectl", "doctor"}
    adopted = [words for words in ran if words[1:3] == ["patch", "secret"]]
    assert len(adopted) == len(found.takeovers)
    # The recorder prints x for the uid.
    assert all('"uid":"x"' in words[-1] for words in adopted)
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "tools", "record"}


def test_report_without_work_is_complete() -> None:
    page = build_report(ConversionResult(), EXTERNAL_SECRETS, "")
    assert "None." in page
    assert page.count("# nothing to do") == 4
