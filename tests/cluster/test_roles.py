"""Test the rights of users with Kubernetes' own ClusterRoles in one namespace, by requests to the API server."""

import pytest

from tests.support.cluster.harness import InstalledRelease, eventually
from tests.support.cluster.permissions import Permission, is_allowed
from tools.codegen.rbac import WRITTEN_BY_PEOPLE

HERE, ELSEWHERE = "people-here", "people-elsewhere"
KINDS = [f"{kind.plural}.{kind.group}" for kind in WRITTEN_BY_PEOPLE]
SEE = ["get", "list", "watch"]
WRITE = ["create", "update", "patch", "delete", "deletecollection"]


@pytest.fixture(scope="module")
def bound(installed: InstalledRelease) -> InstalledRelease:
    """Users that are named after their role."""
    plane = installed.plane
    for namespace in (HERE, ELSEWHERE):
        plane.kubectl("create", "namespace", namespace)
    for role in ("view", "edit", "admin"):
        options = [f"--clusterrole={role}", f"--user={role}", "--namespace", HERE]
        plane.kubectl("create", "rolebinding", role, *options)
    # The controller manager adds our roles to Kubernetes' own a moment after the install.
    eventually(lambda: may(installed, "admin", "delete", KINDS[-1]), lambda answer: answer)
    return installed


def may(installed: InstalledRelease, user: str, verb: str, what: str, sub: str = "", namespace: str = HERE) -> bool:
    resource, _, group = what.partition(".")
    return is_allowed(installed.plane, user, Permission(namespace, verb, group, f"{resource}/{sub}".rstrip("/")))


@pytest.mark.parametrize(("user", "writes"), [("view", False), ("edit", True), ("admin", True)])
def test_each_sees_and_only_editors_write(bound: InstalledRelease, user: str, writes: bool) -> None:
    for kind in KINDS:
        assert [may(bound, user, verb, kind) for verb in SEE] == [True] * len(SEE), kind
        assert [may(bound, user, verb, kind) for verb in WRITE] == [writes] * len(WRITE), kind


@pytest.mark.parametrize("user", ["view", "edit", "admin"])
def test_users_can_write_no_status_and_no_other_namespace(bound: InstalledRelease, user: str) -> None:
    for kind in KINDS:
        assert not may(bound, user, "patch", kind, "status")
        assert not may(bound, user, "update", kind, "status")
        assert not may(bound, user, "get", kind, namespace=ELSEWHERE)


def test_users_without_access_to_secrets_get_none_from_the_chart(bound: InstalledRelease) -> None:
    for verb in SEE:
        assert not may(bound, "view", verb, "secrets")
    assert not may(bound, "view", "create", "serviceaccounts", "token")
    # What makes the editors' rights on SecretSyncs no more than they had: see the chart's README.
    assert may(bound, "edit", "get", "secrets")
    assert may(bound, "edit", "create", "serviceaccounts", "token")
    assert may(bound, "edit", "create", "pods")
