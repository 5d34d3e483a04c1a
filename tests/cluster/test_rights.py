"""The granted rights equal the used ones with every feature on and with each switched off, each as its own release.

With the chart's defaults: test_defaults.py. With everything on, in one namespace: test_namespaces.py.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from controller.config.settings import Settings
from tests.support.cluster.harness import InstalledRelease, install_release
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.permissions import EVERYWHERE, assert_all_granted_used, list_granted, use_all_permissions
from tools.cli.common import helm

NO_AKV_SYNC = {"akvSync": {"enabled": False}}
NO_POLICIES = {"validatingAdmissionPolicies": {"applyPolicies": False}, "acceptUnrestrictedTokens": True}
NOT_FROM_ACCOUNTS = {"identityFromServiceAccount": False}
_numbers = itertools.count(1)


class Switched(NamedTuple):
    """Values of a release beside identityFromServiceAccount. `serves`: everywhere, another namespace or its own."""

    name: str
    serves: str
    values: Mapping[str, Any] = {}


CASES = [
    Switched("everything", "all", {"replicaCount": 2}),
    Switched("no AKVSyncs", "all", NO_AKV_SYNC),
    Switched("no policies", "all", NO_POLICIES),
    Switched("one namespace, no AKVSyncs", "another", NO_AKV_SYNC),
    Switched("one namespace, no policies", "another", NO_POLICIES),
    Switched("one namespace, nothing from ServiceAccounts", "another", NOT_FROM_ACCOUNTS),
    Switched("its own namespace", "its own"),
    Switched("its own namespace, and nothing else", "its own", {**NO_AKV_SYNC, **NO_POLICIES, **NOT_FROM_ACCOUNTS}),
]


@pytest.fixture(scope="module")
def controller() -> None:
    """Do not run the controller of the first release: here each release has its own."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_granted_equals_used(case: Switched, installed: InstalledRelease, space: Namespace, tmp_path: Path) -> None:
    plane, home = installed.plane, space.name if case.serves == "its own" else f"rights-{next(_numbers)}"
    watched = [] if case.serves == "all" else [space.name]
    values = {"watchNamespaces": watched, "identityFromServiceAccount": True, **case.values}
    switched = install_release(plane, installed.emulator, tmp_path, home, **values)
    try:
        with switched.workload() as workload:
            workload.wait_ready()
            settings = Settings.from_environment(workload.env)
            use_all_permissions(space, akv_sync=settings.akv_sync, identity=settings.identity_from_service_account)
            assert_all_granted_used(switched)
            assert workload.stop() == 0
        scopes = {right.scope for right in list_granted(switched)}
        assert scopes == {EVERYWHERE if case.serves == "all" else space.name, home}
    finally:
        helm.run(["uninstall", home, "--namespace", home, "--kubeconfig", str(plane.kubeconfig)])
        plane.kubectl("delete", "namespace", home, "--wait=false", "--ignore-not-found")


def test_no_switch_is_left_out() -> None:
    """What the Roles' template asks is what is switched above; or it is for people, or takes all of it away."""
    asked = (helm.CHART / "templates/rbac.yaml").read_text()
    conditions = [line for line in asked.splitlines() if re.match(r"\{\{-? (if|range|with|\$namespaces)", line)]
    named = set(re.findall(r"\.Values\.([\w.]+)|akv-secret-store\.(namespaces|policies)\"", "\n".join(conditions)))
    assert {value or helper for value, helper in named} == {
        "akvSync.enabled",
        "identityFromServiceAccount",
        "metrics.authentication.enabled",  # tests/cluster/test_metrics_access.py
        "namespaces",
        "policies",
        "rbac.create",
        "rbac.aggregateToDefaultRoles",
    }
