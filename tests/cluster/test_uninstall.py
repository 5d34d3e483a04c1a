"""Test that `helm uninstall` removes a CRD Job that hangs or failed. test_release_test.py has the same for tests."""

import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster.harness import SINCE_POLICIES, InstalledRelease, eventually, install_release, version_flags
from tools.cli.common import helm
from tools.local_cluster.programs import assets

HELMS: dict[str, Callable[[], Path]] = {"3": helm.find_executable, "4": lambda: assets.tool("helm")}
NAMESPACED = "serviceaccounts,configmaps"
GLOBAL = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
_numbers = itertools.count(1)


@pytest.fixture
def own(installed: InstalledRelease, tmp_path: Path) -> Iterator[InstalledRelease]:
    """Install a release that the test may uninstall."""
    found = install_release(installed.plane, installed.emulator, tmp_path, f"uninstalled-{next(_numbers)}")
    yield found
    helm.run(["uninstall", found.release, *at(found), "--ignore-not-found", "--no-hooks"])
    found.plane.kubectl("delete", "namespace", found.release, "--wait=false", "--ignore-not-found")


def at(own: InstalledRelease) -> list[str]:
    return ["--namespace", own.release, "--kubeconfig", str(own.plane.kubeconfig)]


def list_hook_objects(own: InstalledRelease) -> set[str]:
    """Return the objects that the CRD Job needs."""
    selector = ("--selector", f"app.kubernetes.io/instance={own.release}", "--output", "name")
    local = own.plane.kubectl("get", NAMESPACED, "--namespace", own.release, *selector).split()
    everywhere = own.plane.kubectl("get", GLOBAL, *selector).split()
    return {name for name in local if name.endswith("-crds")} | {name for name in everywhere if "/crds." in name}


@pytest.mark.since(*SINCE_POLICIES)
@pytest.mark.parametrize("version", HELMS)
def test_uninstall_removes_the_rights_of_a_hanging_crd_job(own: InstalledRelease, version: str) -> None:
    executable = HELMS[version]()
    upgrade = [str(executable), "upgrade", own.release, str(helm.CHART), *at(own), *version_flags(own.plane)]
    pods = ("get", "pods", "--namespace", own.release, "--selector", "app.kubernetes.io/component=crds")
    with subprocess.Popen([*upgrade, "--reuse-values"], stdout=subprocess.DEVNULL) as running:
        try:
            eventually(lambda: own.plane.kubectl(*pods, "--output", "name"), bool, 60)
        finally:
            running.kill()
    assert len(list_hook_objects(own)) == 6
    output = helm.run(["uninstall", own.release, *at(own)], executable=executable)
    assert "error" not in output.lower()
    eventually(lambda: list_hook_objects(own), lambda found: not found)
