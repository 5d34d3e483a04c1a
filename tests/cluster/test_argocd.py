"""Test the chart with Argo CD's own sync engine: hook phases, health, and a second sync without a difference."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.api.conditions import Reason
from controller.runtime import bounded_yaml
from tests.support.cluster.harness import InstalledRelease, eventually, version_flags, wait_policies
from tests.support.cluster.namespace import Namespace
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.programs import assets
from tools.pods.pod_process import PodProcess

HEALTH_CHECKS = helm.CHART / "gitops" / "argocd-health-checks.yaml"
JOB = f"{helm.RELEASE}-akv-secret-store-crds"
pytestmark = [pytest.mark.own_plane, pytest.mark.long]
SECONDS = 240
Manifest = dict[str, Any]


class Application:
    """An Application of Argo CD, with the report of its last sync."""

    def __init__(self, plane: ControlPlane, name: str, namespace: str) -> None:
        self._plane = plane
        self._name = name
        self._namespace = namespace
        self.report: dict[str, Any] = {}

    def start_sync(self, manifests: Sequence[Mapping[str, Any]], *flags: str) -> "subprocess.Popen[str]":
        """Start a sync of these manifests."""
        at = ["--kubeconfig", str(self._plane.kubeconfig), "--namespace", self._namespace]
        command = [str(assets.tool("argocd-sync")), *at, "--application", self._name, "--timeout", f"{SECONDS}s"]
        running = subprocess.Popen(
            [*command, "--health-checks", str(HEALTH_CHECKS), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert running.stdin is not None
        running.stdin.write(yaml.safe_dump_all(manifests))
        running.stdin.close()
        running.stdin = None
        return running

    def finish_sync(self, running: "subprocess.Popen[str]") -> None:
        """Wait for the end of the sync, and store its report."""
        output, _ = running.communicate(timeout=2 * SECONDS)
        assert running.returncode == 0
        self.report = json.loads(output)

    def sync(self, manifests: Sequence[Mapping[str, Any]], *flags: str) -> dict[str, Any]:
        """Sync these manifests, and return the report."""
        self.finish_sync(self.start_sync(manifests, *flags))
        return self.report

    def health(self, kind: str, name: str) -> str:
        """Return the health of an object after the sync."""
        [status] = [
            found["status"]
            for key, found in self.report["health"].items()
            if key.split("/")[1] == kind and key.endswith(f"/{name}")
        ]
        return str(status)


def render_chart(plane: ControlPlane, values: Path, *flags: str) -> list[Manifest]:
    """Render the chart as Argo CD does."""
    at = ["template", helm.RELEASE, str(helm.CHART), "--namespace", helm.RELEASE, "--kube-version", plane.version]
    text = helm.run([*at, "--values", str(values), *version_flags(plane), *flags])
    return [found for found in bounded_yaml.load_all(text) if found]


def run_crd_job(plane: ControlPlane, folder: Path) -> None:
    """Run the CRD Job as a node does, and set the status of its pod."""
    at = ("--namespace", helm.RELEASE)
    pods = ("get", "pods", *at, "--selector", f"job-name={JOB}", "--output", "name")
    [pod] = eventually(lambda: plane.kubectl(*pods).split(), bool, patience=SECONDS)
    with PodProcess.of_job(plane, helm.RELEASE, JOB, folder) as job:
        assert job.wait() == 0
    plane.kubectl(
        "patch", pod, *at, "--subresource=status", "--type=merge", "--patch", '{"status":{"phase":"Succeeded"}}'
    )


@pytest.fixture(scope="module")
def values(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("values") / "values.json"
    file.write_text(json.dumps({"clouds": {"emulator": emulator.cloud}, "defaultCloud": "emulator"}))
    return file


@pytest.fixture(scope="module")
def application(plane: ControlPlane, values: Path, tmp_path_factory: pytest.TempPathFactory) -> Application:
    """Return the Application of the chart, synced once."""
    plane.kubectl("create", "namespace", helm.RELEASE)
    found = Application(plane, "akv", helm.RELEASE)
    running = found.start_sync(render_chart(plane, values, "--include-crds"))
    run_crd_job(plane, tmp_path_factory.mktemp("job"))
    found.finish_sync(running)
    return found


@pytest.fixture(scope="module")
def first_report(application: Application) -> dict[str, Any]:
    """Return the report of the first sync."""
    return dict(application.report)


@pytest.fixture(scope="module")
def installed(
    plane: ControlPlane, emulator: Emulator, first_report: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> InstalledRelease:
    """Return the release that Argo CD has installed."""
    assert not first_report["error"]
    wait_policies(plane)
    plane.restart_controller_manager()  # its garbage collector discovers new kinds only every 30 s
    return InstalledRelease(plane, emulator, helm.RELEASE, tmp_path_factory.mktemp("release"))


def test_first_sync_runs_the_job_before_it_and_no_test_pod(first_report: dict[str, Any], plane: ControlPlane) -> None:
    assert first_report["error"] == ""
    assert {each["status"] for each in first_report["results"]} == {"Synced"}, first_report["results"]
    hooks = {each["object"]: (each["hook"], each["phase"]) for each in first_report["results"] if each["hook"]}
    assert {hook for hook, _ in hooks.values()} == {"PreSync"}
    assert hooks[f"batch/Job/{helm.RELEASE}/{JOB}"] == ("PreSync", "Succeeded")
    assert not [name for name in hooks if "-test" in name]
    assert "-test" not in plane.kubectl("get", "pods", "--namespace", helm.RELEASE, "--output", "name")


def test_next_sync_finds_no_difference_and_prunes_nothing(
    application: Application, values: Path, space: Namespace
) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    lease = ("get", "leases", "--namespace", helm.RELEASE, "--output", "name")
    held = space.installed.plane.kubectl(*lease)
    assert held
    report = application.sync(render_chart(space.installed.plane, values, "--include-crds"), "--prune")
    assert (report["error"], report["outOfSync"]) == ("", [])
    space.wait_secret("s", {"k": "1"})
    assert space.installed.plane.kubectl(*lease) == held


def test_chart_without_crds_differs_only_in_the_crds(
    application: Application, values: Path, plane: ControlPlane
) -> None:
    """Compare the chart as `skipCrds` renders it. A sync with pruning would delete the CRDs and all their objects."""
    report = application.sync(render_chart(plane, values), "--compare")
    assert {name.split("/")[1] for name in report["outOfSync"]} == {"CustomResourceDefinition"}


def test_health_of_users_objects_follows_the_lua_checks(plane: ControlPlane, space: Namespace) -> None:
    users = Application(plane, "shop", space.name)
    space.set_secret("a", "1")
    good, bad = space.sync("good", {"k": "a"}), space.sync("bad", {"k": "missing"})
    manifests = [space.provider_class("a"), good, bad]
    # Argo CD repeats a failed sync. On a busy machine, the discovery of the API server can be behind.
    eventually(lambda: users.sync(manifests)["error"], lambda error: not error)
    space.wait_secret("good", {"k": "1"})
    space.wait_reason("bad", Reason.INPUT_INVALID)
    report = users.sync(manifests)
    assert (report["error"], report["outOfSync"]) == ("", [])
    assert (users.health("SecretSync", "good"), users.health("SecretSync", "bad")) == ("Healthy", "Degraded")
    # Argo CD prunes the SecretSync. Its Secret is not an object of the Application: the garbage collector deletes it.
    users.sync(manifests[:1] + manifests[2:], "--prune")
    eventually(lambda: space.get("secret", "good"), lambda found: not found)
