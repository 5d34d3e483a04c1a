"""Test the release's artifacts with Flux's own source-controller and helm-controller.

Each test begins with the version that an earlier test deployed. It fetches the manifests as kustomize-controller would,
and applies the folder `release`. test_kustomize.py runs kustomize-controller itself.
"""

import dataclasses
import functools
import io
import itertools
import json
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart import registry
from tests.support.cluster.flux_controllers import FluxControllers, Manifest, find_condition, is_ready
from tests.support.cluster.harness import InstalledRelease, eventually, running_controller, version_flags
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.played_kubelet import PlayedKubelet
from tools.cli.common import helm
from tools.images import image
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.programs import assets
from tools.pods.pod_process import PodProcess
from tools.release import layout, package
from tools.release.azure import flux

PATIENCE = 180.0
JOB = f"{helm.RELEASE}-akv-secret-store-crds"
DOOMED = "doomed"
pytestmark = [pytest.mark.own_plane, pytest.mark.long]
_versions = (f"0.{minor}.0" for minor in itertools.count(90))
"""Versions that are higher than the chart's current version."""


class Flux(FluxControllers):
    """Flux's source-controller and helm-controller, and a registry with the artifacts of the release."""

    def __init__(self, plane: ControlPlane, store: registry.Registry, folder: Path) -> None:
        programs = assets.tool("source-controller").parent
        super().__init__(plane, store, folder, programs / "source-controller", programs / "helm-controller")
        self._release = package.read_source(f"{store.address}/akv", [], changed=True)
        self.first_jobs: list[str] = []
        self.first_history: list[tuple[int, str, str]] = []

    def publish(self, version: str) -> None:
        """Push the chart and the manifests of a release of this version."""
        about = yaml.safe_load(self._release.chart["Chart.yaml"]) | {"version": version, "appVersion": version}
        chart = {**self._release.chart, "Chart.yaml": yaml.safe_dump(about).encode()}
        files = layout.build_files(dataclasses.replace(self._release, version=version, chart=chart))
        for repository, part in ((layout.CHART, "oci/chart/"), (layout.MANIFESTS, "oci/flux/")):
            own = {path.removeprefix(part): content for path, content in files.items() if path.startswith(part)}
            self.store.push(f"akv/{repository}", own)

    def get_object(self, kind: str, name: str = helm.RELEASE, namespace: str = helm.RELEASE) -> Manifest:
        """Return one of Flux's objects. Raise `ClusterError` if a controller has ended."""
        return super().get_object(kind, name, namespace)

    def manifests(self, version: str) -> list[Manifest]:
        """Return the manifests that the Kustomization `release` of that version applies, from source-controller."""
        url = f"oci://{self.store.address}/akv/{layout.MANIFESTS}"
        spec = {"interval": "10m", "url": url, "ref": {"tag": version}, "serviceAccountName": flux.PULLS}
        metadata = {"name": "manifests", "namespace": helm.RELEASE}
        kind = {"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "OCIRepository"}
        self.apply_objects({**kind, "metadata": metadata, "spec": spec})
        repository = eventually(
            lambda: self.get_object("ocirepository", "manifests"),
            lambda found: found.get("status", {}).get("artifact", {}).get("revision", "").startswith(f"{version}@"),
            PATIENCE,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(repository["status"]["artifact"]["url"], timeout=10) as answer:
            packed = answer.read()
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
            text = {name: file.read() for name, file in files.items() if file}
        listed = yaml.safe_load(text["release/kustomization.yaml"])["resources"]
        return [yaml.safe_load(text[f"release/{name}"]) for name in listed]

    def reconcile(self) -> Manifest:
        """Request a reconciliation, and return the HelmRelease after it."""
        return self.reconcile_object("helmrelease", helm.RELEASE, helm.RELEASE, PATIENCE)

    def wait_version(self, version: str) -> Manifest:
        """Wait until that version is deployed and the HelmRelease is ready. Return the HelmRelease."""
        return eventually(
            functools.partial(self.get_object, "helmrelease"),
            lambda found: is_ready(found) and [each[1:] for each in history(found)[:1]] == [(version, "deployed")],
            PATIENCE,
        )

    def deploy(self, version: str) -> Manifest:
        """Publish that version, and wait until it is deployed. Return the HelmRelease."""
        self.publish(version)
        self.apply_objects(*self.manifests(version))
        return self.wait_version(version)

    def events(self) -> list[str]:
        """Return the reasons of the events about the HelmRelease."""
        at = ("--namespace", helm.RELEASE, "--field-selector=involvedObject.kind=HelmRelease")
        return self.plane.kubectl("get", "events", *at, "--output", "jsonpath={.items[*].reason}").split()


def history(found: Manifest) -> list[tuple[int, str, str]]:
    """Return the revision, chart version and status of each release, newest first."""
    return [
        # Flux adds a part of the artifact's digest to the version.
        (entry["version"], entry["chartVersion"].partition("+")[0], entry["status"])
        for entry in found["status"].get("history", [])
    ]


@pytest.fixture(scope="module")
def running(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flux]:
    with registry.running() as store:
        found = Flux(plane, store, tmp_path_factory.mktemp("flux"))
        yield found
        found.stop_controllers()


@pytest.fixture(scope="module")
def kubelet(
    plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PlayedKubelet]:
    """Act as the kubelet of the release's namespace. Its Secret for the HelmRelease has the values of this cluster."""
    flags = dict([flag.split("=") for flag in version_flags(plane) if "=" in flag])
    values = {"clouds": {"emulator": emulator.cloud}, "defaultCloud": "emulator", **flags}
    plane.kubectl("create", "namespace", helm.RELEASE)
    plane.kubectl(
        "create",
        "secret",
        "generic",
        flux.SETTINGS,
        "--namespace",
        helm.RELEASE,
        f"--from-literal=values.yaml={json.dumps(values)}",
    )
    with PlayedKubelet(plane, helm.RELEASE, tmp_path_factory.mktemp("kubelet")) as serving:
        yield serving


@pytest.fixture(scope="module")
def release(running: Flux, kubelet: PlayedKubelet) -> Flux:
    """Return Flux after it has installed the release."""
    running.first_history = history(running.deploy(image.chart_version()))
    running.first_jobs = list(kubelet.jobs)
    return running


@pytest.fixture(scope="module")
def installed(
    plane: ControlPlane, emulator: Emulator, release: Flux, tmp_path_factory: pytest.TempPathFactory
) -> InstalledRelease:
    """Return the release that Flux has installed."""
    plane.restart_controller_manager()  # its garbage collector discovers new kinds only every 30 s
    return InstalledRelease(plane, emulator, helm.RELEASE, tmp_path_factory.mktemp("release"))


@pytest.fixture
def controller(installed: InstalledRelease) -> Iterator[PodProcess]:
    """Provide a new controller for each test, because one test replaces the ServiceAccount of the release."""
    with running_controller(installed.workload()) as workload:
        yield workload


def controller_image(plane: ControlPlane) -> str:
    at = ("--namespace", helm.RELEASE, "--output", "jsonpath={.items[*].spec.template.spec.containers[*].image}")
    return plane.kubectl("get", "deployments", *at)


def test_flux_installs_the_release_and_runs_its_job(release: Flux) -> None:
    assert release.first_jobs == [JOB]
    assert release.first_history == [(1, image.chart_version(), "deployed")]


def test_working_release_does_not_drift(release: Flux, space: Namespace) -> None:
    before, drifts = history(release.get_object("helmrelease")), release.events().count("DriftDetected")
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    found = release.reconcile()
    assert find_condition(found, "Drifted").get("status") != "True"
    assert history(found) == before
    assert release.events().count("DriftDetected") == drifts


def test_drift_is_corrected_without_another_revision(release: Flux, installed: InstalledRelease) -> None:
    at = ("--namespace", helm.RELEASE)
    before = history(release.get_object("helmrelease"))
    release.plane.kubectl("set", "env", f"deployment/{installed.deployment}", *at, "LOG_LEVEL=debug")
    for_people = (
        "--selector",
        "helm.sh/chart,rbac.authorization.k8s.io/aggregate-to-view",
    )
    release.plane.kubectl("delete", "clusterroles", *for_people)
    found = release.reconcile()
    assert "DriftDetected" in release.events()
    assert history(found) == before
    shown = release.plane.kubectl("set", "env", f"deployment/{installed.deployment}", *at, "--list")
    assert "LOG_LEVEL=debug" not in shown
    assert release.plane.kubectl("get", "clusterroles", *for_people, "--output", "name")


def test_flux_upgrades_to_the_next_version(release: Flux, kubelet: PlayedKubelet, space: Namespace) -> None:
    [(revision, *_), *_] = history(release.get_object("helmrelease"))
    kubelet.jobs.clear()
    version = next(_versions)
    found = release.deploy(version)
    assert kubelet.jobs == [JOB]
    assert history(found)[0] == (revision + 1, version, "deployed")
    assert controller_image(release.plane).endswith(f":{version}")
    space.set_secret("a", "2")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "2"})


def test_failed_upgrade_is_rolled_back_and_the_next_version_succeeds(
    release: Flux, kubelet: PlayedKubelet, space: Namespace
) -> None:
    good, broken, repaired = next(_versions), next(_versions), next(_versions)
    release.deploy(good)
    kubelet.broken.add(broken)
    release.publish(broken)
    repository, own = sorted(release.manifests(broken), key=lambda found: str(found["kind"]), reverse=True)
    # A shorter timeout and fewer retries than the release's end the test sooner. Nothing else differs.
    own["spec"]["timeout"] = "20s"
    own["spec"]["upgrade"]["remediation"]["retries"] = 1
    release.apply_objects(repository, own)
    failed = eventually(
        functools.partial(release.get_object, "helmrelease"),
        # Flux writes the conditions before the history.
        lambda found: (
            find_condition(found, "Stalled").get("status") == "True" and history(found)[0][1:] == (good, "deployed")
        ),
        2 * PATIENCE,
    )
    assert not is_ready(failed)
    assert find_condition(failed, "Remediated")["reason"] == "RollbackSucceeded"
    assert (broken, "failed") in [state[1:] for state in history(failed)]
    assert controller_image(release.plane).endswith(f":{good}")
    space.set_secret("a", "3")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "3"})
    # Apply only the OCIRepository. After an edit of the HelmRelease, Flux would first try the broken version again.
    release.publish(repaired)
    release.apply_objects(*(found for found in release.manifests(repaired) if found["kind"] == "OCIRepository"))
    release.wait_version(repaired)
    assert find_condition(release.reconcile(), "Drifted").get("status") != "True"


def test_helm_repository_finds_the_chart(release: Flux) -> None:
    """Use a HelmRepository of type oci, as clusters with an older Flux do."""
    version = next(_versions)
    release.publish(version)
    url = f"oci://{release.store.address}/akv/{layout.CHART.rpartition('/')[0]}"
    group, metadata = "source.toolkit.fluxcd.io/v1", {"name": "older", "namespace": helm.RELEASE}
    repository = {"type": "oci", "url": url, "insecure": True, "interval": "10m"}
    chart = {"chart": layout.NAME, "version": version, "sourceRef": {"kind": "HelmRepository", "name": "older"}}
    release.apply_objects(
        {"apiVersion": group, "kind": "HelmRepository", "metadata": metadata, "spec": repository},
        {"apiVersion": group, "kind": "HelmChart", "metadata": metadata, "spec": {**chart, "interval": "10m"}},
    )
    found = eventually(
        functools.partial(release.get_object, "helmchart", "older"),
        lambda found: is_ready(found) and "artifact" in found["status"],
        PATIENCE,
    )
    assert found["status"]["artifact"]["revision"] == version


def test_secrets_remain_after_the_release_is_deleted(release: Flux, space: Namespace) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    at = ("--namespace", helm.RELEASE)
    release.plane.kubectl("delete", "helmrelease", helm.RELEASE, *at)
    assert not release.plane.kubectl("get", "deployments", *at, "--output", "name")
    space.wait_secret("s", {"k": "1"})
    assert space.get("secretsync", "s")
    # Install the release again for the next test. Delete its Lease first: without its ServiceAccount, the controller
    # can no longer release it.
    release.plane.kubectl("delete", "leases", "--all", *at)
    release.deploy(image.chart_version())


def test_namespace_with_a_helmrelease_can_be_deleted(release: Flux) -> None:
    """helm-controller cannot create the hooks of the uninstallation in a namespace that is being deleted."""
    repository, own = sorted(
        release.manifests(image.chart_version()), key=lambda found: str(found["kind"]), reverse=True
    )
    for each in (repository, own):
        each["metadata"]["namespace"] = DOOMED
    own["spec"] |= {"releaseName": DOOMED, "install": {"disableHooks": True, "disableWait": True}}
    release.plane.kubectl("create", "namespace", DOOMED)
    release.apply_objects(repository, own)
    eventually(
        functools.partial(release.get_object, "helmrelease", helm.RELEASE, DOOMED),
        lambda found: [each[2] for each in history(found)[:1]] == ["deployed"],
        PATIENCE,
    )
    release.plane.kubectl("delete", "namespace", DOOMED, f"--timeout={PATIENCE:.0f}s")
