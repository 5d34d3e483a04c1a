"""Test that a release has exactly the permissions that its controller uses. Each case installs its own release.

One case enables all features. The other cases disable some of them. test_defaults.py tests the chart's defaults, and
test_namespaces.py tests all features in one namespace.
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


class ReleaseCase(NamedTuple):
    """The values of a release, and the namespaces that it serves: "all", "another" or "its own"."""

    name: str
    serves: str
    values: Mapping[str, Any] = {}


CASES = [
    ReleaseCase("everything", "all", {"replicaCount": 2}),
    ReleaseCase("no AKVSyncs", "all", NO_AKV_SYNC),
    ReleaseCase("no policies", "all", NO_POLICIES),
    ReleaseCase("one namespace, no AKVSyncs", "another", NO_AKV_SYNC),
    ReleaseCase("one namespace, no policies", "another", NO_POLICIES),
    ReleaseCase("one namespace, nothing from ServiceAccounts", "another", NOT_FROM_ACCOUNTS),
    ReleaseCase("its own namespace", "its own"),
    ReleaseCase("its own namespace, and nothing else", "its own", {**NO_AKV_SYNC, **NO_POLICIES, **NOT_FROM_ACCOUNTS}),
]


@pytest.fixture(scope="module")
def controller() -> None:
    """Do not run the controller of the first release: each release of this module runs its own."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_granted_permissions_equal_used_ones(
    case: ReleaseCase, installed: InstalledRelease, space: Namespace, tmp_path: Path
) -> None:
    plane, home = installed.plane, space.name if case.serves == "its own" else f"rights-{next(_numbers)}"
    watched = [] if case.serves == "all" else [space.name]
    values = {"watchNamespaces": watched, "identityFromServiceAccount": True, **case.values}
    release = install_release(plane, installed.emulator, tmp_path, home, **values)
    try:
        with release.workload() as workload:
            workload.wait_ready()
            settings = Settings.from_environment(workload.env)
            use_all_permissions(space, akv_sync=settings.akv_sync, identity=settings.identity_from_service_account)
            assert_all_granted_used(release)
            assert workload.stop() == 0
        scopes = {permission.scope for permission in list_granted(release)}
        assert scopes == {EVERYWHERE if case.serves == "all" else space.name, home}
    finally:
        helm.run(["uninstall", home, "--namespace", home, "--kubeconfig", str(plane.kubeconfig)])
        plane.kubectl("delete", "namespace", home, "--wait=false", "--ignore-not-found")


def test_every_condition_of_the_roles_template_has_a_case() -> None:
    """Compare the values in the conditions of the Roles' template with those that this module's cases set.

    `rbac.create` disables all Roles, and `rbac.aggregateToDefaultRoles` is for users, so no case sets them.
    """
    template = (helm.CHART / "templates/rbac.yaml").read_text()
    conditions = [line for line in template.splitlines() if re.match(r"\{\{-? (if|range|with|\$namespaces)", line)]
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
