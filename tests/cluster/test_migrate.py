"""Test `tools/migrate` on a real API server: from mounts of the CSI driver, from SSE in place, and back to SSE."""

import json
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.api.conditions import Reason
from controller.domain.managed_fields import SSE_MANAGER
from tests.support.cluster.harness import InstalledRelease, canary_value, eventually
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.sse_controller import apply_as_sse
from tools.cli.migrate import migrate
from tools.local_cluster.errors import ClusterError


def run_migrate(space: Namespace, *arguments: str) -> int:
    return migrate.main([*arguments, "--namespace", space.name, "--kubeconfig", str(space.installed.plane.kubeconfig)])


def make_csi_deployment(space: Namespace, class_name: str) -> dict[str, Any]:
    """Return a Deployment that mounts a class through the CSI driver."""
    driver = {"driver": "secrets-store.csi.k8s.io", "volumeAttributes": {"secretProviderClass": class_name}}
    spec = {
        "serviceAccountName": space.account,
        "containers": [{"name": "web", "image": "web", "volumeMounts": [{"name": "secrets", "mountPath": "/secrets"}]}],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "secrets", "csi": {**driver, "readOnly": True}}],
    }
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": spec}
    body = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": body}


def test_migration_from_the_csi_driver_syncs_its_secrets(
    space: Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the commands of the report, which create classes and SecretSyncs and patch the workload."""
    space.set_secret("a", "1")
    space.set_secret("b", "2")
    spc = space.provider_class("a", "b", name="app", clientID="", userAssignedIdentityID=space.client)
    spc["spec"]["parameters"] = {key: text for key, text in spc["spec"]["parameters"].items() if text}
    spc["spec"]["parameters"]["useVMManagedIdentity"] = "true"
    spc["spec"]["secretObjects"] = [
        {"secretName": "db", "type": "Opaque", "data": [{"objectName": "a", "key": "password"}]}
    ]
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": {"password": "theirs"}}
    space.apply(spc, make_csi_deployment(space, "app"), theirs)
    out = tmp_path / "moved"
    assert run_migrate(space, "csi", "--cluster", "--output", str(out)) == 1
    assert "REPORT.md" in capsys.readouterr().out
    report = (out / "REPORT.md").read_text()
    assert f"--issuer {space.installed.plane.issuer} --subject system:serviceaccount:{space.name}:shop" in report
    commands = [line.split() for line in report.splitlines() if line.startswith("kubectl ")]
    for _, *words in (each for each in commands if each[1] in ("apply", "patch", "delete")):
        files = [str(out / word) if word.endswith(".yaml") else word for word in words]
        space.kubectl(*files)
    space.wait_secret("app", {"a": "1", "b": "2"})
    space.wait_secret("db", {"password": "1"}, patience=40)
    volumes = {each["name"]: each for each in space.get("deployment", "web")["spec"]["template"]["spec"]["volumes"]}
    assert volumes["secrets"]["secret"]["secretName"] == "app"
    assert volumes["secrets"]["secret"]["items"] == [{"key": "a", "path": "a"}, {"key": "b", "path": "b"}]
    assert "csi" not in volumes["secrets"]
    assert "emptyDir" in volumes["tmp"]
    for _, *words in (each for each in commands if each[1] == "wait"):
        space.kubectl(*words, "--timeout=20s")


def test_migration_from_the_csi_driver_to_an_akvsync(space: Namespace, tmp_path: Path) -> None:
    space.set_secret("a", "1")
    space.set_secret("a", "2")
    spc = space.provider_class(name="app", objects="array:\n  - |\n    objectName: a\n    objectVersionHistory: 2\n")
    space.apply(spc, make_csi_deployment(space, "app"))
    out = tmp_path / "moved"
    assert run_migrate(space, "csi", "--cluster", "--akvsync", "--output", str(out)) == 1
    assert "kind: AKVSync" in (out / "manifests.yaml").read_text()
    space.kubectl("apply", "--filename", str(out / "manifests.yaml"))
    space.wait_secret("app", {"a-0": "2", "a-1": "1"})


def list_managers(space: Namespace) -> set[tuple[str, str]]:
    return {(each["manager"], each["operation"]) for each in space.get("secret", "s")["metadata"]["managedFields"]}


@pytest.fixture
def no_running_controller(installed: InstalledRelease) -> Iterator[None]:
    """Scale the Deployment to zero. The tests run the controller outside of a pod, so it continues to work."""
    plane, at = installed.plane, ("deployment", installed.deployment, "--namespace", installed.release)
    plane.kubectl("scale", *at, "--replicas=0")
    eventually(installed.count_available_replicas, lambda found: not found)
    yield
    plane.kubectl("scale", *at, "--replicas=1")


def test_secret_is_taken_over_from_sse_and_handed_back(
    space: Namespace, no_running_controller: None, capsys: pytest.CaptureFixture[str]
) -> None:
    # Create the objects of SSE: a SecretSync that names SSE's controller, and the Secret that SSE applied.
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}, secretSyncControllerName="sse"))
    apply_as_sse(space, "s", {"k": "1"})
    assert run_migrate(space, "from-sse") == 1
    assert "it names controller sse" in capsys.readouterr().out
    before = space.get("secret", "s")
    assert list_managers(space) == {(SSE_MANAGER, "Apply")}

    # This controller takes over the Secret. It neither deletes nor rewrites the Secret, because the values are equal.
    space.kubectl("patch", "secretsync", "s", "--type=merge", "--patch", '{"spec":{"secretSyncControllerName":""}}')
    space.wait_reason("s", Reason.UP_TO_DATE)
    assert space.get("secret", "s") == before
    assert run_migrate(space, "from-sse") == 0
    assert "taken over as it is" in capsys.readouterr().out

    # After a rotation this controller manages the value, and an unforced apply of SSE conflicts.
    space.set_secret("a", "2")
    space.force_sync("s")
    space.wait_secret("s", {"k": "2"})
    assert ("akv-secret-store", "Update") in list_managers(space)
    space.kubectl("patch", "secretsync", "s", "--type=merge", "--patch", '{"spec":{"secretSyncControllerName":"sse"}}')
    with pytest.raises(ClusterError, match="conflict"):
        apply_as_sse(space, "s", {"k": "3"})

    # A dry run only reports. With --apply the values stay the same, and SSE continues to write.
    assert run_migrate(space, "to-sse") == 0
    assert "would be handed back" in capsys.readouterr().out
    assert ("akv-secret-store", "Update") in list_managers(space)
    assert run_migrate(space, "to-sse", "--apply") == 0
    assert f"{space.name}/s: handed back" in capsys.readouterr().out
    assert list_managers(space) == {(SSE_MANAGER, "Apply")}
    assert space.secret_values("s") == {"k": canary_value("2")}
    apply_as_sse(space, "s", {"k": "3"})
    assert space.secret_values("s") == {"k": canary_value("3")}
    assert run_migrate(space, "to-sse", "--apply") == 0
    assert "SSE can write it already" in capsys.readouterr().out


def test_secret_that_this_controller_created_is_handed_to_sse(
    space: Namespace, no_running_controller: None, capsys: pytest.CaptureFixture[str]
) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.kubectl("patch", "secretsync", "s", "--type=merge", "--patch", '{"spec":{"secretSyncControllerName":"sse"}}')
    assert run_migrate(space, "to-sse", "--apply") == 0
    apply_as_sse(space, "s", {"k": "2"})
    assert space.secret_values("s") == {"k": canary_value("2")}
    # The report names another manager that set a key, because that manager's field blocks SSE.
    space.kubectl("patch", "secret", "s", "--type=merge", "--patch", '{"data":{"k":"eA=="}}')
    assert run_migrate(space, "to-sse") == 1
    assert "kubectl-patch also set a part of the data" in capsys.readouterr().out


def test_running_controller_prevents_handing_back(
    installed: InstalledRelease, space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    installed.make_available()
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    before = list_managers(space)
    assert run_migrate(space, "to-sse", "--apply") == 2
    assert f"scale deployment {installed.deployment} --replicas=0" in capsys.readouterr().err
    assert list_managers(space) == before


def apply_as_editor(space: Namespace, *objects: dict[str, Any]) -> None:
    """Apply objects with an account that has only the rights of an editor. Create the account if it is missing."""
    name = "the-editor"
    if not space.get("serviceaccount", name):
        space.add_editor(name)
    if not objects:
        return
    plane = space.installed.plane
    kubeconfig = plane.service_account_kubeconfig(space.name, name)
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    plane.kubectl("apply", "--filename", "-", "--namespace", space.name, stdin=body, kubeconfig=kubeconfig)


def test_deployment_of_an_editor_is_neither_this_controller_nor_sse(
    installed: InstalledRelease, space: Namespace, no_running_controller: None, capsys: pytest.CaptureFixture[str]
) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    at = ("--namespace", installed.release, "--output", "json")
    held = json.loads(installed.plane.kubectl("get", "deployment", installed.deployment, *at))
    for name in (installed.deployment, SSE_MANAGER):
        meta = {"name": name, "labels": held["metadata"]["labels"]}
        apply_as_editor(space, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": held["spec"]})
        status = json.dumps({"status": {"replicas": 1, "availableReplicas": 1, "readyReplicas": 1}})
        space.kubectl("patch", "deployment", name, "--subresource=status", "--type=merge", "--patch", status)
    capsys.readouterr()
    assert run_migrate(space, "to-sse", "--apply") == 0
    assert f"{space.name}/s: handed back" in capsys.readouterr().out
    assert run_migrate(space, "from-sse") == 0
    assert "SSE runs as" not in capsys.readouterr().out


def test_secret_of_another_owner_is_not_handed_back(
    space: Namespace, no_running_controller: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Create a Secret that has this controller as a field manager, but that no SecretSync owns."""
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "eA=="}}
    space.kubectl("create", "--field-manager=akv-secret-store", "--filename", "-", stdin=json.dumps(theirs))
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    before = list_managers(space)
    assert run_migrate(space, "to-sse", "--apply") == 1
    assert "does not belong to this SecretSync" in capsys.readouterr().out
    assert list_managers(space) == before


def nest_managed_fields(space: Namespace, path: str, levels: int = 2_000) -> None:
    """Replace the managed fields of an object by deeply nested ones, with the rights of an editor."""
    fields = '{"f:a":' * levels + "{}" + "}" * levels
    entry = (
        '{"manager":"editor","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1",'
        f'"time":"2030-01-01T00:00:00Z","fieldsV1":{fields}}}'
    )
    patch = f'{{"metadata":{{"managedFields":[{entry}]}}}}'
    plane = space.installed.plane
    token = plane.kubectl("create", "token", "the-editor", "--namespace", space.name).strip()
    headers = {"Content-Type": "application/merge-patch+json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(plane.url + path, patch.encode(), headers)  # noqa: S310 -- loopback
    request.method = "PATCH"
    tls = ssl.create_default_context(cafile=plane.ca_file)
    with urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)).open(
        request
    ) as answer:
        assert answer.status == 200


def test_deeply_nested_managed_fields_are_reported_without_a_crash(
    space: Namespace, no_running_controller: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}), make_csi_deployment(space, "shop"))
    space.wait_secret("s", {"k": "1"})
    apply_as_editor(space)
    for path in (
        f"/apis/apps/v1/namespaces/{space.name}/deployments/web",
        f"/api/v1/namespaces/{space.name}/secrets/s",
    ):
        nest_managed_fields(space, path)
    capsys.readouterr()
    assert run_migrate(space, "csi", "--cluster", "--output", str(tmp_path / "out")) in (0, 1)
    assert "Deployment" in (tmp_path / "out" / "REPORT.md").read_text()
    assert run_migrate(space, "from-sse") == 1
    assert "nested more than" in capsys.readouterr().out
    assert run_migrate(space, "to-sse", "--apply") == 1
    output = capsys.readouterr()
    assert f"{space.name}/s: is left as it is: " in output.out
    assert output.err == ""
