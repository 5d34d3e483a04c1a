"""Rights: the controller's, everywhere or in watched namespaces, its lease's, and people's."""

import pytest

from controller import permissions
from tests.chart.rendering import FULL_NAME, OLDEST, Manifest, environment, kinds, one, render
from tools import helm

TOKEN_PROBE = {
    "apiGroups": [""],
    "resources": ["serviceaccounts/token"],
    "resourceNames": [FULL_NAME],
    "verbs": ["create"],
}
NO_TEST = ("--set-string", "test.enabled=false")
LEASE_RULE = {
    "apiGroups": ["coordination.k8s.io"],
    "resources": ["leases"],
    "resourceNames": [FULL_NAME],
    "verbs": ["get", "patch"],
}
LEASE_CREATION = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]}


@pytest.mark.parametrize("enabled", ["true", "True", "false"])
def test_the_role_grants_the_table_of_permissions_and_nothing_else(enabled: str) -> None:
    manifests = render("--set-string", f"akvSync.enabled={enabled}")
    role = one(manifests, "ClusterRole", f"{FULL_NAME}.{helm.RELEASE}")
    granted = [
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    asked = {
        (handle.resource.group, "/".join(filter(None, [handle.resource.plural, handle.subresource])), verb)
        for handle in (*permissions.CONTROLLER, *(permissions.AKV_SYNC if enabled != "false" else ()))
        for verb in handle.verbs
    }
    assert sorted(granted) == sorted(asked)


@pytest.mark.parametrize(
    "way", [["--set", "watchNamespaces={shop,web}"], ["--set-string", r"watchNamespaces=shop\, web"]]
)
def test_watched_namespaces_get_roles_and_nothing_is_granted_in_the_cluster(way: list[str]) -> None:
    manifests = render(*way, "--no-hooks", *NO_TEST)
    assert not kinds(manifests) & {"ClusterRole", "ClusterRoleBinding"}
    roles = {m["metadata"]["namespace"]: m for m in manifests if m["kind"] == "Role"}
    assert roles.keys() == {"shop", "web", helm.RELEASE}
    everywhere = one(render(), "ClusterRole", f"{FULL_NAME}.{helm.RELEASE}")
    assert roles["shop"]["rules"] == roles["web"]["rules"] == everywhere["rules"]
    # Readiness tries, dry, whether a Secret is refused in the release's own namespace.
    assert roles[helm.RELEASE]["rules"] == [
        LEASE_RULE,
        LEASE_CREATION,
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        TOKEN_PROBE,
    ]
    bindings = {m["metadata"]["namespace"]: m for m in manifests if m["kind"] == "RoleBinding"}
    for namespace, role in roles.items():
        assert bindings[namespace]["roleRef"]["name"] == role["metadata"]["name"]
    assert environment(manifests)["WATCH_NAMESPACES"] == "shop,web"


def test_no_probe_no_right_for_it() -> None:
    manifests = render("--set", "watchNamespaces={shop}", version=OLDEST)
    assert one(manifests, "Role", FULL_NAME)["rules"] == [LEASE_RULE, LEASE_CREATION]
    manifests = render("--set", f"watchNamespaces={{shop,{helm.RELEASE}}}")
    assert one(manifests, "Role", FULL_NAME)["rules"] == [LEASE_RULE, LEASE_CREATION, TOKEN_PROBE]


@pytest.mark.parametrize("where", [[], ["--set", "watchNamespaces={shop}"]])
def test_the_right_to_get_service_accounts_comes_with_the_value_alone(where: list[str]) -> None:
    def grants(*args: str) -> list[Manifest]:
        rules = [rule for m in render("--no-hooks", *where, *args) for rule in m.get("rules", [])]
        return [rule for rule in rules if "serviceaccounts" in rule["resources"]]

    assert grants() == []
    [rule] = grants("--set-string", "identityFromServiceAccount=true")
    assert rule == {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"]}


@pytest.mark.parametrize("args", [[], ["--set", "fullnameOverride=x"], ["--set-string", "nameOverride=1e3"]])
def test_the_lease_and_the_right_to_it_follow_the_names(args: list[str]) -> None:
    manifests = render(*args, *NO_TEST)
    name = one(manifests, "Deployment")["metadata"]["name"]
    assert "Lease" not in kinds(manifests)
    assert environment(manifests)["LEASE_NAME"] == name
    assert one(manifests, "Role")["rules"] == [
        {**LEASE_RULE, "resourceNames": [name]},
        LEASE_CREATION,
        {**TOKEN_PROBE, "resourceNames": [name]},
    ]


def test_a_service_account_that_exists_is_used_and_not_made() -> None:
    manifests = render("--set-string", "serviceAccount.create=false,serviceAccount.name=there", "--no-hooks", *NO_TEST)
    assert "ServiceAccount" not in kinds(manifests)
    assert one(manifests, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "there"


def test_people_get_rights_by_kubernetes_own_roles_unless_switched_off() -> None:
    def found(*args: str) -> list[str]:
        label = "rbac.authorization.k8s.io/aggregate-to-admin"
        return [m["metadata"]["name"] for m in render(*args) if label in m["metadata"].get("labels", {})]

    assert found() == [f"{name}.{FULL_NAME}.{helm.RELEASE}" for name in ("view", "edit")]
    assert found("--set-string", "rbac.aggregateToDefaultRoles=False") == []
    assert found("--set", "watchNamespaces={shop}") == []
