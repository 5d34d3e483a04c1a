"""The chart through Argo CD's own engine: hooks in their phases, health, and a second sync without a difference."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.api.conditions import Reason
from controller.runtime import bounded_yaml
from tests.support.cluster.harness import InstalledRelease, eventually, version_flags
from tests.support.cluster.namespace import Namespace
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.programs import assets
from tools.pods.pod_process import PodProcess

HEALTH_CHECKS = helm.CHART / "gitops" / "argocd-health-checks.yaml"
JOB = f"{helm.RELEASE}-akv-secret-store-crds"
pytestmark = pytest.mark.own_plane
SECONDS = 240
Manifest = dict[str, Any]


class Application:
    """An Application of Argo CD: its name, where it goes, and the report of its last sync."""

    def __init__(self, plane: ControlPlane, name: str, namespace: str) -> None:
        self._plane = plane
        self._name = name
        self._namespace = namespace
        self.report: dict[str, Any] = {}

    def start(self, manifests: Sequence[Mapping[str, Any]], *flags: str) -> "subprocess.Popen[str]":
        """Start to sync."""
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

    def finish(self, running: "subprocess.Popen[str]") -> None:
        """Wait until the sync ends, and keep its report."""
        said, _ = running.communicate(timeout=2 * SECONDS)
        assert running.returncode == 0
        self.report = json.loads(said)

    def sync(self, manifests: Sequence[Mapping[str, Any]], *flags: str) -> dict[str, Any]:
        """Sync to the end."""
        self.finish(self.start(manifests, *flags))
        return self.report

    def health(self, kind: str, name: str) -> str:
        """Return the health of an object after the sync."""
        [status] = [
            found["status"]
            for key, found in self.report["health"].items()
            if key.split("/")[1] == kind and key.endswith(f"/{name}")
        ]
        return str(status)


def chart(plane: ControlPlane, values: Path, *flags: str) -> list[Manifest]:
    """Render the chart as Argo CD does."""
    at = ["template", helm.RELEASE, str(helm.CHART), "--namespace", helm.RELEASE, "--kube-version", plane.version]
    text = helm.run([*at, "--values", str(values), *version_flags(plane), *flags])
    return [found for found in bounded_yaml.load_all(text) if found]


def run_job(plane: ControlPlane, folder: Path) -> None:
    """Do what a node does for the CRD Job."""
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
    running = found.start(chart(plane, values, "--include-crds"))
    run_job(plane, tmp_path_factory.mktemp("job"))
    found.finish(running)
    return found


@pytest.fixture(scope="module")
def first(application: Application) -> dict[str, Any]:
    """Return the report of the first sync."""
    return dict(application.report)


@pytest.fixture(scope="module")
def installed(
    plane: ControlPlane, emulator: Emulator, first: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> InstalledRelease:
    """Return the release that Argo CD has installed."""
    assert not first["error"]
    plane.restart_controller_manager()  # its garbage collector learns of new kinds only every 30 s
    return InstalledRelease(plane, emulator, helm.RELEASE, tmp_path_factory.mktemp("release"))


def test_first_sync_runs_the_job_first_and_no_test(first: dict[str, Any], plane: ControlPlane) -> None:
    assert first["error"] == ""
    assert {each["status"] for each in first["results"]} == {"Synced"}, first["results"]
    hooks = {each["object"]: (each["hook"], each["phase"]) for each in first["results"] if each["hook"]}
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
    report = application.sync(chart(space.installed.plane, values, "--include-crds"), "--prune")
    assert (report["error"], report["outOfSync"]) == ("", [])
    space.wait_secret("s", {"k": "1"})
    assert space.installed.plane.kubectl(*lease) == held


def test_without_the_crds_the_others_have_no_difference(
    application: Application, values: Path, plane: ControlPlane
) -> None:
    """As with `skipCrds`. Not synced, because with pruning that deletes the CRDs and all objects, as the page warns."""
    report = application.sync(chart(plane, values), "--compare")
    assert {name.split("/")[1] for name in report["outOfSync"]} == {"CustomResourceDefinition"}


def test_users_objects_have_the_health_that_the_lua_checks_say(plane: ControlPlane, space: Namespace) -> None:
    users = Application(plane, "shop", space.name)
    space.set_secret("a", "1")
    good, bad = space.sync("good", {"k": "a"}), space.sync("bad", {"k": "missing"})
    manifests = [space.provider_class("a"), good, bad]
    assert users.sync(manifests)["error"] == ""
    space.wait_secret("good", {"k": "1"})
    space.wait_reason("bad", Reason.INPUT_INVALID)
    report = users.sync(manifests)
    assert (report["error"], report["outOfSync"]) == ("", [])
    assert (users.health("SecretSync", "good"), users.health("SecretSync", "bad")) == ("Healthy", "Degraded")
    # The Secret belongs to its SecretSync, so it is no object of the Application.
    users.sync(manifests[:1] + manifests[2:], "--prune")
    eventually(lambda: space.get("secret", "good"), lambda found: not found)
