"""Test that `helm uninstall` removes the objects of a hanging CRD Job.

test_release_test.py has similar tests for the objects of `helm test`.
"""

import subprocess

import pytest

from tests.support.cluster.harness import HELMS, SINCE_POLICIES, InstalledRelease, eventually, version_flags
from tools.cli.common import helm

NAMESPACED = "serviceaccounts,configmaps"
GLOBAL = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"


def list_hook_objects(own_release: InstalledRelease) -> set[str]:
    """Return the objects that the CRD Job needs."""
    selector = ("--selector", f"app.kubernetes.io/instance={own_release.release}", "--output", "name")
    local = own_release.plane.kubectl("get", NAMESPACED, "--namespace", own_release.release, *selector).split()
    everywhere = own_release.plane.kubectl("get", GLOBAL, *selector).split()
    return {name for name in local if name.endswith("-crds")} | {name for name in everywhere if "/crds." in name}


@pytest.mark.since(*SINCE_POLICIES)
@pytest.mark.parametrize("version", HELMS)
def test_uninstall_removes_the_rights_of_a_hanging_crd_job(own_release: InstalledRelease, version: str) -> None:
    executable = HELMS[version]()
    flags = [*own_release.helm_flags, *version_flags(own_release.plane), "--reuse-values"]
    upgrade = [str(executable), "upgrade", own_release.release, str(helm.CHART), *flags]
    pods = ("get", "pods", "--namespace", own_release.release, "--selector", "app.kubernetes.io/component=crds")
    with subprocess.Popen(upgrade, stdout=subprocess.DEVNULL) as running:
        try:
            eventually(lambda: own_release.plane.kubectl(*pods, "--output", "name"), bool, 60)
        finally:
            running.kill()
    assert len(list_hook_objects(own_release)) == 6
    output = helm.run(["uninstall", own_release.release, *own_release.helm_flags], executable=executable)
    assert "error" not in output.lower()
    eventually(lambda: list_hook_objects(own_release), lambda found: not found)
