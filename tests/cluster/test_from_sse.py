"""Test `tools/migrate from-sse` on a real API server: it reports SSE's settings and checks all SecretSyncs."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.domain.managed_fields import SSE_MANAGER
from tests.support.cluster.harness import InstalledRelease
from tests.support.cluster.namespace import Namespace
from tools.cli.common import helm
from tools.cli.migrate import migrate
from tools.local_cluster import ControlPlane

HOME = "sse-home"
DEPLOYMENT = f"""\
apiVersion: v1
kind: ServiceAccount
metadata: {{name: sse, namespace: {HOME}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: sse-at-work}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}}
subjects: [{{kind: ServiceAccount, name: sse, namespace: {HOME}}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {SSE_MANAGER}-manager, namespace: {HOME}}}
spec:
  replicas: {{{{ .Values.replicas | default 1 }}}}
  selector: {{matchLabels: {{app: sse}}}}
  template:
    metadata: {{labels: {{app: sse}}}}
    spec:
      serviceAccountName: sse
      containers: [{{name: manager, image: example.com/sse}}]
"""
Install = Callable[..., None]


def write_chart(folder: Path, template: str) -> Path:
    """Write a chart that has the name and the version of SSE's. Return its folder."""
    chart = folder / "sse"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: secretsync\nversion: 1.5.1\n")
    (chart / "templates" / "all.yaml").write_text(template)
    return chart


@pytest.fixture
def install_sse(plane: ControlPlane, tmp_path: Path) -> Iterator[Install]:
    """Provide a function that installs a chart with helm and the given flags. The chart has the name of SSE's."""
    chart = write_chart(tmp_path, DEPLOYMENT)
    at = ["--namespace", HOME, "--kubeconfig", str(plane.kubeconfig)]

    def install(*flags: str) -> None:
        helm.run(["upgrade", "--install", "azure-secret-store", str(chart), *at, "--create-namespace", *flags])

    yield install
    helm.run(["uninstall", "azure-secret-store", *at])


def run_from_sse(space: Namespace, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    capsys.readouterr()
    at = ("--namespace", space.name, "--kubeconfig", str(space.installed.plane.kubeconfig))
    code = migrate.main(["from-sse", *arguments, *at])
    return code, capsys.readouterr().out.splitlines()


def test_settings_of_the_release_are_printed_for_this_chart(
    install_sse: Install, space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Azure Arc passes settings by dotted name, as strings. The tool reads the newest deployed revision."""
    install_sse("--set-string", "rotationPollIntervalInSeconds=7")
    install_sse(
        *("--set-string", "rotationPollIntervalInSeconds=120,kubectl.image.tag=1.31,mystery.password=hunter2"),
        *("--set-string", "validatingAdmissionPolicies.allowedSecretTypes={Opaque,kubernetes.io/tls}"),
        *("--set", "replicas=0"),
    )
    code, lines = run_from_sse(space, capsys)
    assert code == 1  # the template's `default` replaces 0 replicas by 1, so SSE runs
    printed = "\n".join(lines)
    assert f"SSE runs as {HOME}/{SSE_MANAGER}-manager" in printed
    assert f"settings of SSE, release {HOME}/azure-secret-store (chart secretsync 1.5.1): 5" in lines
    assert 'setting rotationPollIntervalInSeconds="120": the same here' in lines
    assert "setting kubectl.image.tag: not needed: the CRD Job runs the controller's image" in lines
    assert "setting mystery.password: this chart has no such setting; see the table of values in chart/README.md" in (
        lines
    )
    assert "hunter2" not in printed
    (command,) = (line for line in lines if line.startswith("the same here: "))
    assert "--set-json 'rotationPollIntervalInSeconds=\"120\"'" in command
    assert '--set-json \'validatingAdmissionPolicies.allowedSecretTypes=["Opaque", "kubernetes.io/tls"]\'' in command


def test_setting_that_needs_a_decision_is_explained(
    install_sse: Install, space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """The settings are those of Azure IoT Operations' installation command."""
    install_sse("--set-string", "rotationPollIntervalInSeconds=120,validatingAdmissionPolicies.applyPolicies=false")
    code, lines = run_from_sse(space, capsys)
    assert code == 1
    (line,) = (line for line in lines if line.startswith("this chart refuses them: "))
    assert "watchNamespaces" in line
    assert "acceptUnrestrictedTokens=true" in line


def test_release_that_cannot_be_read_is_reported_in_one_line(
    install_sse: Install, space: Namespace, plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    install_sse()
    patch = json.dumps({"data": {"release": "bm90IGEgcmVsZWFzZQ=="}})
    name = "sh.helm.release.v1.azure-secret-store.v1"
    held = json.loads(plane.kubectl("get", "secret", name, "--namespace", HOME, "--output", "json"))["data"]
    plane.kubectl("patch", "secret", name, "--namespace", HOME, "--type=merge", "--patch", patch)
    try:
        code, lines = run_from_sse(space, capsys)
    finally:
        plane.kubectl(
            "patch", "secret", name, "--namespace", HOME, "--type=merge", "--patch", json.dumps({"data": held})
        )
    assert code == 1
    assert any("could not be read: it is not a release" in line and "--values FILE" in line for line in lines)


def test_release_of_any_name_in_the_extensions_namespace_is_found(
    plane: ControlPlane, space: Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arc gives the release the name of the extension. The release has no Deployment that identifies it as SSE's."""
    chart = write_chart(tmp_path, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: sse-marker}\n")
    at = ["--namespace", helm.RELEASE, "--kubeconfig", str(plane.kubeconfig)]
    helm.run(["install", "ssarcextension", str(chart), *at, "--set-string", "jitterSeconds=5"])
    try:
        code, lines = run_from_sse(space, capsys)
    finally:
        helm.run(["uninstall", "ssarcextension", *at])
    assert code == 0
    assert f"settings of SSE, release {helm.RELEASE}/ssarcextension (chart secretsync 1.5.1): 1" in lines
    assert 'setting jitterSeconds="5": the same here' in lines


@pytest.mark.parametrize(
    "document",
    [
        {"rotationPollIntervalInSeconds": "120", "jitterSeconds": 3},
        {"configurationSettings": {"rotationPollIntervalInSeconds": "120", "jitterSeconds": "3"}, "name": "x"},
        {"properties": {"configurationSettings": {"rotationPollIntervalInSeconds": "120", "jitterSeconds": "3"}}},
    ],
    ids=["helm", "az", "rest"],
)
def test_settings_of_a_file_are_printed_for_this_chart(
    document: dict[str, Any], space: Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sse.yaml"
    path.write_text(yaml.safe_dump(document))
    code, lines = run_from_sse(space, capsys, "--values", str(path))
    assert code == 0
    (command,) = (line for line in lines if line.startswith("the same here: "))
    assert "jitterSeconds=" in command
    assert "rotationPollIntervalInSeconds=" in command


def test_release_of_this_chart_is_not_reported_as_sse(
    installed: InstalledRelease, space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """The release of this chart has the name that a release of SSE would have."""
    code, lines = run_from_sse(space, capsys)
    assert code == 0
    assert any("no helm release of SSE was found" in line for line in lines)


@pytest.mark.parametrize(
    ("parameters", "sync", "name", "text"),
    [
        ({}, {}, "class", "Key Vault"),
        ({"cloudName": "Elsewhere"}, {}, "class", "cloudName 'Elsewhere' is not one of the administrator's"),
        ({"usePodIdentity": "true"}, {}, "class", "only workload identity is supported"),
        ({"keyvaultName": "-"}, {}, "class", "parameter keyvaultName"),
        ({}, {"secretProviderClassName": "none"}, "class", "there is no SecretProviderClass none"),
        ({}, {"secretObject": {"type": "kubernetes.io/tls"}}, "mapping", "needs the key tls.crt"),
        ({}, {"secretObject": {"labels": {"a b": "c"}}}, "mapping", "label"),
    ],
)
def test_class_and_mapping_are_checked_as_by_the_doctor(
    parameters: dict[str, str],
    sync: dict[str, Any],
    name: str,
    text: str,
    space: Namespace,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spc = space.provider_class("a", **parameters)
    # The CRD accepts the label with the key `a b`, so this check must find the mistake.
    space.apply(spc, space.sync("s", {"k": "a"}, secretSyncControllerName="sse", **sync))
    code, lines = run_from_sse(space, capsys)
    assert code == 1  # the SecretSync names SSE's controller
    (line,) = (line for line in lines if f"{space.name}/s  {name}: " in line)
    assert text in line
    assert line.startswith("fail" if text != "Key Vault" else "ok")
    assert any(f"{space.name}/s  secret: it names controller sse" in each for each in lines)


def test_unknown_source_path_and_needed_roles_are_reported(
    space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = "array:\n  - |\n    objectName: a\n  - |\n    objectName: b\n    objectType: key\n"
    space.apply(space.provider_class(objects=objects), space.sync("s", {"k": "a/3"}), space.sync("t", {"k": "b"}))
    code, lines = run_from_sse(space, capsys)
    assert code == 1
    assert any(f"fail  {space.name}/s  mapping: sourcePath a/3: " in line for line in lines)
    (roles,) = (line for line in lines if f"{space.name}/t  roles: " in line)
    assert f"Key Vault {space.vault}: Key Vault Reader, Key Vault Secrets User" in roles
