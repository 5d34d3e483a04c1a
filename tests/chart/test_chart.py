"""Test the whole chart, rendered by the pinned helm for a matrix of values and Kubernetes versions."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chart.rendering import (
    FILES,
    NEWEST,
    ROOT,
    get_object,
    list_kinds,
    parse_objects,
    read_kube_version,
    render,
    render_text,
)
from tools.cli.common import helm


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_lint_strict_and_yamllint_over_the_matrix(path: Path) -> None:
    version = read_kube_version(path)
    helm.run(["lint", "--strict", str(helm.CHART), "--kube-version", version, "--values", str(path)])
    rendered = render_text("--values", str(path), version=version)
    command = [sys.executable, "-m", "yamllint", "--strict", "--config-file", str(ROOT / ".yamllint"), "-"]
    linted = subprocess.run(command, input=rendered, capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")
    names = [(m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in parse_objects(rendered)]
    assert len(names) == len(set(names))


def test_chart_renders_without_values() -> None:
    helm.run(["lint", "--strict", str(helm.CHART), "--kube-version", NEWEST])
    assert list_kinds(render()) == {
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "Deployment",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ConfigMap",
        "Job",
    }


def test_chart_refuses_kubernetes_before_1_27() -> None:
    with pytest.raises(helm.HelmError, match=r">=1\.27\.0-0"):
        render(version="1.26.15")


def test_two_releases_of_any_name_in_two_namespaces_share_no_object() -> None:
    def list_names(release: str, namespace: str) -> set[tuple[str, str, str]]:
        return {
            (m["kind"], m["metadata"].get("namespace", ""), m["metadata"]["name"])
            for m in render(release=release, namespace=namespace)
        }

    assert not list_names("one", "a") & list_names("one", "b")
    assert not list_names("one", "a") & list_names("two", "a")


def test_names_like_numbers_are_strings() -> None:
    manifests = render(
        "--set", "watchNamespaces={007}", "--set-string", "fullnameOverride=1e3,nameOverride=12", namespace="0123"
    )
    found = [m for m in manifests if m["metadata"].get("namespace")]
    assert {m["metadata"]["namespace"] for m in found} == {"0123", "007"}
    assert get_object(manifests, "Deployment")["metadata"]["name"] == "1e3"


def test_helm_shows_every_crd_as_a_document() -> None:
    """Messages and documents recommend to pipe them into kubectl."""
    shown = parse_objects(helm.run(["show", "crds", str(helm.CHART)]))
    assert {crd["metadata"]["name"] for crd in shown} == {path.stem for path in (helm.CHART / "crds").iterdir()}
