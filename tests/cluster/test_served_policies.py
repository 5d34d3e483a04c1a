"""Test that the chart creates admission policies if the API server serves their kind.

Otherwise the installation needs an explicit value, and NOTES.txt prints a warning.
"""

import pytest

from tests.support.cluster.harness import InstalledRelease, serves_policies
from tools.cli.common import helm

KIND = "kind: ValidatingAdmissionPolicy\n"


def test_they_stand_where_they_are_served(installed: InstalledRelease) -> None:
    plane = installed.plane
    kinds = plane.kubectl("api-resources", "--api-group=admissionregistration.k8s.io", "--output=name").split()
    served = "validatingadmissionpolicies.admissionregistration.k8s.io" in kinds
    assert served is serves_policies(plane.version)
    where = (installed.release, *installed.helm_flags)
    assert (KIND in helm.run(["get", "manifest", *where])) is served
    notes = helm.run(["get", "notes", *where])
    assert ("WARNING: no admission policies restrict the controller" in notes) is not served
    assert ("PROBE_SECRET_TYPE" in installed.workload().env) is served


def test_installation_without_policies_needs_an_explicit_value(installed: InstalledRelease) -> None:
    plane = installed.plane
    served = serves_policies(plane.version)
    at = ["--namespace", "theirs", "--kubeconfig", str(plane.kubeconfig), "--dry-run=server"]
    off = ["--set", "validatingAdmissionPolicies.applyPolicies=false"] if served else []
    why = "applyPolicies is false" if served else "serves no v1 ValidatingAdmissionPolicy"
    with pytest.raises(helm.BadValues, match=rf"{why}.*watchNamespaces.*acceptUnrestrictedTokens=true"):
        helm.run(["install", "mine", str(helm.CHART), *at, *off])
    for said in ("watchNamespaces={shop}", "acceptUnrestrictedTokens=true"):
        assert KIND not in helm.run(["install", "mine", str(helm.CHART), *at, *off, "--set", said])
