"""Test rendered manifests with Flux's source-controller and kustomize-controller: install, drift, health, pruning."""

import base64
import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import registry
from tests.support.cluster.flux_controllers import FluxControllers, Manifest, find_condition, is_ready
from tests.support.cluster.harness import InstalledRelease, eventually, version_flags
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.played_kubelet import PlayedKubelet
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.programs import assets
from tools.release import layout, oci
from tools.release.azure import flux

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
HOME = "flux-system"
SITE, SHOP = "site", "shop"
pytestmark = [pytest.mark.own_plane, pytest.mark.long]
Files = Mapping[str, bytes]


class Kustomizations(FluxControllers):
    """Flux's source-controller and kustomize-controller, and the folders of manifests that they apply."""

    def __init__(self, plane: ControlPlane, store: registry.Registry, folder: Path) -> None:
        programs = (assets.tool("source-controller"), assets.tool("kustomize-controller"))
        super().__init__(plane, store, folder, *programs)
        self._tags = itertools.count(1)
        plane.kubectl("create", "namespace", HOME)

    def publish(self, name: str, files: Files, **more: Any) -> None:
        """Push a folder, and create a Kustomization that applies it, prunes and waits."""
        tag = str(next(self._tags))
        self.store.push(name, oci.build_artifact(oci.FLUX, tag, {}, oci.pack_tgz(files), {}).layout())
        metadata = {"name": name, "namespace": HOME}
        source = {"url": f"oci://{self.store.address}/{name}", "ref": {"tag": tag}, "interval": "10m", "insecure": True}
        spec = {
            "interval": "10m",
            "path": "./",
            "prune": True,
            "wait": True,
            "timeout": "5m",
            "sourceRef": {"kind": "OCIRepository", "name": name},
            **more,
        }
        self.apply_objects(
            {
                "apiVersion": "source.toolkit.fluxcd.io/v1",
                "kind": "OCIRepository",
                "metadata": metadata,
                "spec": source,
            },
            {
                "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
                "kind": "Kustomization",
                "metadata": metadata,
                "spec": spec,
            },
        )
        self._revision = tag

    def wait_ready(self, name: str) -> Manifest:
        """Wait until the pushed folder is applied and healthy. Return the Kustomization."""
        pushed = f"{self._revision}@"
        return eventually(
            functools.partial(self.get_object, "kustomization", name, HOME),
            lambda found: is_ready(found) and found["status"].get("lastAppliedRevision", "").startswith(pushed),
            PATIENCE,
        )

    def reconcile(self, name: str) -> Manifest:
        """Request a reconciliation, and return the Kustomization after it."""
        return self.reconcile_object("kustomization", name, HOME, PATIENCE)


def pack(*objects: Mapping[str, Any]) -> Files:
    return {"objects.yaml": yaml.safe_dump_all(objects).encode()}


@pytest.fixture(scope="module")
def running(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kustomizations]:
    with registry.running() as store:
        found = Kustomizations(plane, store, tmp_path_factory.mktemp("flux"))
        yield found
        found.stop_controllers()


@pytest.fixture(scope="module")
def rendered(plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Render the chart with the flags of docs/air-gapped.md and the values of this cluster."""
    folder = tmp_path_factory.mktemp("rendered")
    values = folder / "values.json"
    values.write_text(json.dumps({"clouds": {"emulator": emulator.cloud}, "defaultCloud": "emulator"}))
    command = [
        sys.executable,
        "-P",
        "-m",
        "tools.cli.render.render",
        "--no-hooks",
        "--create-namespace",
        "--values",
        str(values),
    ]
    target = ["--kube-version", plane.version, "--output", str(folder / "base")]
    subprocess.run([*command, *version_flags(plane), *target], cwd=ROOT, check=True)
    return {path.name: path.read_bytes() for path in (folder / "base").iterdir()}


@pytest.fixture(scope="module")
def site(running: Kustomizations, rendered: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manifest]:
    """Return the Kustomization of the rendered manifests after its first reconciliation."""
    running.publish(SITE, rendered)
    with PlayedKubelet(running.plane, helm.RELEASE, tmp_path_factory.mktemp("kubelet")):
        yield running.wait_ready(SITE)


@pytest.fixture(scope="module")
def installed(
    plane: ControlPlane, emulator: Emulator, site: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> InstalledRelease:
    """Return the release that Flux has applied."""
    plane.restart_controller_manager()  # its garbage collector discovers new kinds only every 30 s
    return InstalledRelease(plane, emulator, helm.RELEASE, tmp_path_factory.mktemp("release"))


def generations(plane: ControlPlane, found: Manifest) -> dict[str, int]:
    """Return the generation of each object of the Kustomization, or 0 for an object without a generation."""
    said = {}
    for entry in found["status"]["inventory"]["entries"]:
        namespace, name, group, kind = entry["id"].split("_")
        at = ("--namespace", namespace) if namespace else ()
        resource = f"{kind}.{entry['v']}.{group}" if group else kind
        text = plane.kubectl("get", resource, name.replace("__", ":"), *at, "--output", "json")
        said[entry["id"]] = json.loads(text)["metadata"].get("generation", 0)
    return said


def sample(space: Namespace, name: str, source: str) -> tuple[Manifest, Manifest]:
    """Return a class and a SecretSync for that namespace."""
    objects = (space.provider_class("a"), space.sync(name, {"k": source}))
    return objects[0], objects[1]


def test_kustomization_of_rendered_manifests_gets_ready(site: Manifest, rendered: Files) -> None:
    applied = {entry["id"].rpartition("_")[2] for entry in site["status"]["inventory"]["entries"]}
    assert {"CustomResourceDefinition", "Namespace", "Deployment", "ClusterRole"} <= applied
    assert "Job" not in applied
    assert len(site["status"]["inventory"]["entries"]) == len(rendered)


def test_reconciliation_changes_nothing_of_a_release_at_work(
    running: Kustomizations, site: Manifest, space: Namespace
) -> None:
    space.set_secret("a", "1")
    space.apply(*sample(space, "s", "a"))
    space.wait_secret("s", {"k": "1"})
    before = generations(space.installed.plane, site)
    assert generations(space.installed.plane, running.reconcile(SITE)) == before


def test_drift_is_corrected(running: Kustomizations, installed: InstalledRelease) -> None:
    where = (f"deployment/{installed.deployment}", "--namespace", helm.RELEASE)
    installed.plane.kubectl("set", "env", *where, "LOG_LEVEL=debug")
    running.reconcile(SITE)
    assert "LOG_LEVEL=debug" not in installed.plane.kubectl("set", "env", *where, "--list")


def test_kustomization_waits_for_the_secret_and_prunes_the_secretsync(
    running: Kustomizations, space: Namespace
) -> None:
    space.set_secret("a", "1")
    provider_class, sync = sample(space, "s", "a")
    running.publish(SHOP, pack(provider_class, sync), targetNamespace=space.name)
    running.wait_ready(SHOP)
    assert space.get("secret", "s")
    running.publish(SHOP, pack(provider_class), targetNamespace=space.name)
    running.wait_ready(SHOP)
    eventually(lambda: (space.get("secretsync", "s"), space.get("secret", "s")), lambda found: not any(found))


def test_stalled_secretsync_fails_the_kustomization_before_its_timeout(
    running: Kustomizations, space: Namespace
) -> None:
    space.set_secret("a", "1")
    provider_class, sync = sample(space, "s", "missing")
    running.publish(SHOP, pack(provider_class, sync), targetNamespace=space.name)
    failed = eventually(
        functools.partial(running.get_object, "kustomization", SHOP, HOME),
        lambda found: find_condition(found, "Ready").get("reason") == "HealthCheckFailed",
        PATIENCE,
    )
    message = find_condition(failed, "Ready")["message"]
    assert f"SecretSync/{space.name}/s" in message
    assert "Failed" in message


def test_settings_of_the_azure_template_arrive_in_the_secret(running: Kustomizations, site: Manifest) -> None:
    """The template of docs/arc.md passes the settings as one base64 text, which the Kustomization substitutes."""
    settings = json.dumps({"logLevel": "debug", "note": "$x ${y} $${z} \"' é {{ a }}: # b"}, ensure_ascii=False)
    manifests = flux.flux_manifests("registry.example", layout.CHART, "0.1.0")
    files = {path: content for path, content in manifests.items() if path.startswith("settings/")}
    substitute = {flux.VARIABLE: base64.b64encode(settings.encode()).decode()}
    running.publish("settings", files, path="./settings", postBuild={"substitute": substitute})
    running.wait_ready("settings")
    found = running.plane.kubectl("get", "secret", flux.SETTINGS, "--namespace", helm.RELEASE, "--output", "json")
    assert base64.b64decode(json.loads(found)["data"]["values.yaml"]).decode() == settings
