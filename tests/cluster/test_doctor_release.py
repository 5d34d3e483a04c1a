"""Test tools/doctor as an administrator runs it while an editor of one namespace has objects that imitate a release."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.cluster.harness import InstalledRelease, chart_crds, install_first_release
from tests.support.cluster.namespace import Namespace
from tools.cli.common import helm
from tools.cli.doctor import doctor
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.errors import ClusterError

# The editor's namespace. Its name sorts before the namespace of the release.
EDITOR_NAMESPACE = "aaa"
Found = list[dict[str, str]]


class Listener:
    """A host of the editor on loopback. It counts connections and answers none."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                connection.close()

    def close(self) -> None:
        # close() alone does not wake the thread that waits in accept().
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(timeout=5)


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()
    yield found
    found.close()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstalledRelease]:
    """Provide a release on a separate cluster, because the tests depend on the number of releases."""
    with (
        ControlPlane(tmp_path_factory.mktemp("plane"), crds=chart_crds()) as plane,
        Emulator(tmp_path_factory.mktemp("az")) as emulator,
    ):
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        found = install_first_release(plane, emulator, tmp_path_factory.mktemp("release"))
        found.make_available()
        plane.kubectl("create", "namespace", EDITOR_NAMESPACE)
        plane.kubectl("create", "serviceaccount", "editor", "--namespace", EDITOR_NAMESPACE)
        edit = ("--clusterrole=edit", f"--serviceaccount={EDITOR_NAMESPACE}:editor", "--namespace", EDITOR_NAMESPACE)
        plane.kubectl("create", "rolebinding", "editor", *edit)
        yield found


@pytest.fixture
def space(release: InstalledRelease) -> Iterator[Namespace]:
    """Provide a namespace with a SecretSync of the release."""
    found = Namespace(release)
    found.set_secret("a", "1")
    found.apply(found.provider_class("a"), found.sync("s", {"k": "a"}))
    yield found
    found.remove()


Examine = Callable[..., tuple[int, Found, str]]


@pytest.fixture
def examine(release: InstalledRelease, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Examine:
    monkeypatch.setenv("SSL_CERT_FILE", str(release.plane.ca_file))

    def run(*arguments: str) -> tuple[int, Found, str]:
        code = doctor.main([*arguments, "--kubeconfig", str(release.plane.kubeconfig), "-o", "json"])
        output = capsys.readouterr()
        return code, json.loads(output.out)["checks"] if output.out else [], output.err

    return run


def make_clouds(address: str) -> dict[str, Any]:
    """Return clouds whose addresses all have this host. One has the name of an Azure cloud."""
    cloud = {"authority": f"https://{address}", "vaultUrl": f"https://{address}/{{vault}}"}
    return {"emulator": cloud, "AzurePublicCloud": cloud}


def make_imitations(installed: InstalledRelease, address: str) -> list[dict[str, Any]]:
    """Return an editor's copies of the release's Deployment and ConfigMap: with the same name and with two others."""
    plane, at = installed.plane, ("--namespace", installed.release, "--output", "json")
    held = json.loads(plane.kubectl("get", "deployment", installed.deployment, *at))
    found: list[dict[str, Any]] = []
    for name in (installed.deployment, "akv-secret-store", "zzz"):
        meta = {"namespace": EDITOR_NAMESPACE, "labels": held["metadata"]["labels"]}
        files = {"clouds.json": json.dumps(make_clouds(address))}
        spec = json.loads(json.dumps(held["spec"]).replace(f"{installed.deployment}-files", f"{name}-files"))
        found += [
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {**meta, "name": name}, "spec": spec},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**meta, "name": f"{name}-files"}, "data": files},
        ]
        spec["template"]["spec"]["containers"][0]["env"] = [
            {"name": "CLOUDS_FILE", "value": "/etc/akv-secret-store/clouds.json"},
            {"name": "DEFAULT_CLOUD", "value": "emulator"},
        ]
        found.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {**meta, "name": name}})
    return found


def apply_as_editor(installed: InstalledRelease, objects: list[dict[str, Any]]) -> None:
    kubeconfig = installed.plane.service_account_kubeconfig(EDITOR_NAMESPACE, "editor")
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    installed.plane.kubectl("apply", "--filename", "-", stdin=body, kubeconfig=kubeconfig)


@pytest.fixture
def attack(release: InstalledRelease, listener: Listener) -> Iterator[Listener]:
    """Create the editor's imitations of the release, and provide the listener that they name."""
    apply_as_editor(release, make_imitations(release, listener.address))
    yield listener
    names = ("deployments", "configmaps")
    release.plane.kubectl(
        "delete", ",".join(names), "--namespace", EDITOR_NAMESPACE, "--selector", "app.kubernetes.io/part-of"
    )


def list_texts(found: Found) -> dict[str, str]:
    # The checks of the cluster come first. If two checks have the same name, the result contains the first.
    return {check["name"]: f"{check['level']} {check['text']}; {check['fix']}" for check in reversed(found)}


def test_imitated_release_is_neither_examined_nor_contacted(
    release: InstalledRelease, space: Namespace, attack: Listener, examine: Examine
) -> None:
    host = urlsplit(release.emulator.authority).netloc
    code, found, _ = examine("--allow-host", host)
    output = list_texts(found)
    assert attack.connections == 0
    assert f"Deployment {release.release}/{release.deployment} is available" in output["controller"]
    assert output["entra"].startswith("ok ")
    assert output["vault"].startswith("ok ")
    assert code in (0, 1)  # no controller runs, so the Secret may be missing
    # The doctor does not contact the editor's host even if the caller allows it, because the release does not use it.
    examine("--allow-host", host, "--allow-host", attack.address)
    assert attack.connections == 0


def test_editor_cannot_create_the_objects_that_identify_a_release(release: InstalledRelease) -> None:
    for kind in ("clusterrolebinding", "validatingadmissionpolicy", "clusterrole"):
        held = json.loads(release.plane.kubectl("get", kind, "--output", "json", "-lapp.kubernetes.io/part-of"))[
            "items"
        ]
        assert held, kind
        meta = {"name": f"fake.{EDITOR_NAMESPACE}", "labels": held[0]["metadata"]["labels"]}
        fake = {key: value for key, value in held[0].items() if key != "status"} | {"metadata": meta}
        with pytest.raises(ClusterError, match="forbidden"):
            apply_as_editor(release, [fake])


def test_host_that_the_caller_did_not_allow_is_not_contacted(
    release: InstalledRelease, space: Namespace, listener: Listener, examine: Examine
) -> None:
    """An editor of the release's namespace changed the release's ConfigMap."""
    plane, at = release.plane, ("configmap", f"{release.deployment}-files", "--namespace", release.release)
    before = json.loads(plane.kubectl("get", *at, "--output", "json"))["data"]
    counters = release.emulator.counters()
    changed = json.dumps({"data": {"clouds.json": json.dumps(make_clouds(listener.address))}})
    plane.kubectl("patch", *at, "--type=merge", "--patch", changed)
    try:
        _, found, _ = examine("--namespace", space.name)
    finally:
        plane.kubectl("patch", *at, "--type=merge", "--patch", json.dumps({"data": before}))
    output = list_texts(found)
    assert listener.connections == 0
    assert release.emulator.counters() == counters
    assert output["hosts"].startswith("warn ")
    assert f"--allow-host {listener.address}" in output["hosts"]
    assert f"emulator ({listener.address})" in output["settings"]
    assert f"AzurePublicCloud ({listener.address})" in output["settings"]
    assert "entra" not in output
    # Checks without a token still run.
    assert output["class"].startswith("ok ")
    assert output["account"].startswith("ok ")
    assert output["token"].startswith("ok ")
    assert "status" in output


@pytest.mark.parametrize("renamed", [{"nameOverride": "other"}, {"fullnameOverride": "scribe"}])
def test_caller_must_choose_one_of_two_releases(
    release: InstalledRelease,
    space: Namespace,
    attack: Listener,
    examine: Examine,
    renamed: dict[str, str],
    tmp_path: Path,
) -> None:
    plane = release.plane
    at = ["--namespace", "second", "--kubeconfig", str(plane.kubeconfig)]
    values = [word for pair in renamed.items() for word in ("--set", "=".join(pair))]
    helm.run(["install", "mine", str(helm.CHART), *at, "--create-namespace", "--no-hooks", *values])
    try:
        code, _, output = examine()
        assert code == 2
        assert "several releases fit: " in output
        assert "--release-namespace" in output
        assert EDITOR_NAMESPACE not in output
        _, found, _ = examine("--release-namespace", "second")
        assert "Deployment second/" in list_texts(found)["controller"]
        # A binding without a Deployment, as after an incomplete uninstallation, is not a release.
        name = plane.kubectl("get", "deployments", "--namespace", "second", "--output", "name").strip()
        plane.kubectl("delete", name, "--namespace", "second")
        _, found, _ = examine()
        assert f"Deployment {release.release}/{release.deployment}" in list_texts(found)["controller"]
    finally:
        helm.run(["uninstall", "mine", *at, "--no-hooks"])
    assert attack.connections == 0


def test_release_in_listed_namespaces_is_found_by_its_policies(
    release: InstalledRelease, examine: Examine, listener: Listener
) -> None:
    plane = release.plane
    at = ["--namespace", "narrow", "--kubeconfig", str(plane.kubeconfig)]
    served = ["--set", "watchNamespaces={default}"]
    helm.run(["install", "mine", str(helm.CHART), *at, "--create-namespace", "--no-hooks", *served])
    try:
        code, _, output = examine()
        assert code == 2
        assert "narrow/mine-akv-secret-store (release mine)" in output
        _, found, _ = examine("--release", "mine")
        assert "Deployment narrow/" in list_texts(found)["controller"]
    finally:
        helm.run(["uninstall", "mine", *at, "--no-hooks"])
