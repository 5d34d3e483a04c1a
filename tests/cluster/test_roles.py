"""Test the permissions of users that have Kubernetes' own ClusterRoles in one namespace."""

import pytest

from tests.support.cluster.harness import InstalledRelease, eventually
from tests.support.cluster.permissions import Permission, is_allowed
from tools.codegen.rbac import WRITTEN_BY_PEOPLE

HERE, ELSEWHERE = "people-here", "people-elsewhere"
KINDS = [f"{kind.plural}.{kind.group}" for kind in WRITTEN_BY_PEOPLE]
READ = ["get", "list", "watch"]
WRITE = ["create", "update", "patch", "delete", "deletecollection"]


@pytest.fixture(scope="module")
def bound(installed: InstalledRelease) -> InstalledRelease:
    """Bind each role to a user that has the name of the role."""
    plane = installed.plane
    for namespace in (HERE, ELSEWHERE):
        plane.kubectl("create", "namespace", namespace)
    for role in ("view", "edit", "admin"):
        options = [f"--clusterrole={role}", f"--user={role}", "--namespace", HERE]
        plane.kubectl("create", "rolebinding", role, *options)
    # The controller manager adds the chart's roles to Kubernetes' own shortly after the installation.
    eventually(lambda: has_permission(installed, "admin", "delete", KINDS[-1]), lambda answer: answer)
    return installed


def has_permission(
    installed: InstalledRelease, user: str, verb: str, what: str, sub: str = "", namespace: str = HERE
) -> bool:
    resource, _, group = what.partition(".")
    return is_allowed(installed.plane, user, Permission(namespace, verb, group, f"{resource}/{sub}".rstrip("/")))


@pytest.mark.parametrize(("user", "writes"), [("view", False), ("edit", True), ("admin", True)])
def test_every_role_reads_and_only_editors_write(bound: InstalledRelease, user: str, writes: bool) -> None:
    for kind in KINDS:
        assert [has_permission(bound, user, verb, kind) for verb in READ] == [True] * len(READ), kind
        assert [has_permission(bound, user, verb, kind) for verb in WRITE] == [writes] * len(WRITE), kind


@pytest.mark.parametrize("user", ["view", "edit", "admin"])
def test_users_can_neither_write_a_status_nor_read_another_namespace(bound: InstalledRelease, user: str) -> None:
    for kind in KINDS:
        assert not has_permission(bound, user, "patch", kind, "status")
        assert not has_permission(bound, user, "update", kind, "status")
        assert not has_permission(bound, user, "get", kind, namespace=ELSEWHERE)


def test_viewers_get_no_access_to_secrets_from_the_chart(bound: InstalledRelease) -> None:
    for verb in READ:
        assert not has_permission(bound, "view", verb, "secrets")
    assert not has_permission(bound, "view", "create", "serviceaccounts", "token")
    # Editors can already read Secrets in these ways, so SecretSyncs grant them nothing more: see the chart's README.
    assert has_permission(bound, "edit", "get", "secrets")
    assert has_permission(bound, "edit", "create", "serviceaccounts", "token")
    assert has_permission(bound, "edit", "create", "pods")
