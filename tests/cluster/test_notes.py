"""Test the output of NOTES.txt for different values. NOTES.txt uses `lookup`, so the test needs an API server."""

import pytest

from tools.cli.common import helm
from tools.local_cluster import ControlPlane

OPEN = "validatingAdmissionPolicies.applyPolicies=false"


@pytest.mark.parametrize(
    ("given", "expected", "unexpected"),
    [
        ("logLevel=info", ["all namespaces", "the namespace of your workload"], "WARNING"),
        ("watchNamespaces={shop,web}", ["the namespaces shop, web", "one of these namespaces"], "WARNING"),
        (
            f"acceptUnrestrictedTokens=true,{OPEN}",
            ["WARNING", "the cluster's administrator"],
            "in the namespaces above",
        ),
        (f"watchNamespaces={{shop}},{OPEN}", ["WARNING", "In the namespaces above"], "administrator"),
        ("Azure.Cluster.Cloud=AZURECHINACLOUD", ["A class that names no cloud uses AzureChinaCloud"], "WARNING"),
        (
            "rbac.create=false,serviceAccount.name=writer",
            ["WARNING: rbac.create is false", "the ServiceAccount writer of namespace"],
            "policies hold",
        ),
    ],
)
def test_notes_describe_the_installed_release(
    given: str, expected: list[str], unexpected: str, plane: ControlPlane
) -> None:
    at = ["--namespace", "theirs", "--kubeconfig", str(plane.kubeconfig)]
    install = ["install", "mine", str(helm.CHART), *at, "--dry-run=server", "--set", given]
    notes = helm.run(install).partition("NOTES:")[2]
    for part in (
        *expected,
        "deployment/mine-akv-secret-store",
        "--namespace theirs",
        "Encrypt them at rest",
    ):
        assert part in notes, notes
    assert unexpected not in notes
    assert ("helm test mine --namespace theirs --logs" in notes) is ("rbac.create=false" not in given)
    renamed = helm.run([*install, "--set", "namespaceOverride=elsewhere,fullnameOverride=scribe"])
    assert "--namespace elsewhere rollout status deployment/scribe" in renamed
    # `helm test --logs` reads the log of a test pod in the release's namespace only.
    assert "--logs" not in renamed
    assert "theirs" not in renamed.partition("NOTES:")[2].replace("helm test mine --namespace theirs", "")
