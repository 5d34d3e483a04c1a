"""Test the rights of the controller in the cluster or in watched namespaces, and those of users."""

import pytest

from controller.kube import permissions
from tests.chart.rendering import FULL_NAME, OLDEST, Manifest, build_environment, get_object, list_kinds, render
from tools.cli.common import helm

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


@pytest.mark.parametrize("enabled", ["true", "True", "TRUE", "false"])
def test_role_grants_exactly_the_table_of_permissions(enabled: str) -> None:
    manifests = render("--set-string", f"akvSync.enabled={enabled}")
    role = get_object(manifests, "ClusterRole", f"{FULL_NAME}.{helm.RELEASE}")
    granted = [
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    used = {
        (handle.resource.group, "/".join(filter(None, [handle.resource.plural, handle.subresource])), verb)
        for handle in (*permissions.CONTROLLER, *(permissions.AKV_SYNC if enabled != "false" else ()))
        for verb in handle.verbs
    }
    assert sorted(granted) == sorted(used)


@pytest.mark.parametrize(
    "flags", [["--set", "watchNamespaces={shop,web}"], ["--set-string", r"watchNamespaces=shop\, web"]]
)
def test_watched_namespaces_get_roles_and_the_cluster_gets_none(flags: list[str]) -> None:
    manifests = render(*flags, "--no-hooks", *NO_TEST)
    assert not list_kinds(manifests) & {"ClusterRole", "ClusterRoleBinding"}
    roles = {m["metadata"]["namespace"]: m for m in manifests if m["kind"] == "Role"}
    assert roles.keys() == {"shop", "web", helm.RELEASE}
    everywhere = get_object(render(), "ClusterRole", f"{FULL_NAME}.{helm.RELEASE}")
    assert roles["shop"]["rules"] == roles["web"]["rules"] == everywhere["rules"]
    # The readiness probe sends dry-run requests in the namespace of the release. The policies must refuse them.
    assert roles[helm.RELEASE]["rules"] == [
        LEASE_RULE,
        LEASE_CREATION,
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        TOKEN_PROBE,
    ]
    bindings = {m["metadata"]["namespace"]: m for m in manifests if m["kind"] == "RoleBinding"}
    for namespace, role in roles.items():
        assert bindings[namespace]["roleRef"]["name"] == role["metadata"]["name"]
    assert build_environment(manifests)["WATCH_NAMESPACES"] == "shop,web"


def test_without_the_probe_its_right_is_not_granted() -> None:
    manifests = render("--set", "watchNamespaces={shop}", version=OLDEST)
    assert get_object(manifests, "Role", FULL_NAME)["rules"] == [LEASE_RULE, LEASE_CREATION]
    manifests = render("--set", f"watchNamespaces={{shop,{helm.RELEASE}}}")
    assert get_object(manifests, "Role", FULL_NAME)["rules"] == [LEASE_RULE, LEASE_CREATION, TOKEN_PROBE]


@pytest.mark.parametrize("where", [[], ["--set", "watchNamespaces={shop}"]])
def test_right_to_get_service_accounts_needs_its_value(where: list[str]) -> None:
    def list_rules(*args: str) -> list[Manifest]:
        rules = [rule for m in render("--no-hooks", *where, *args) for rule in m.get("rules", [])]
        return [rule for rule in rules if "serviceaccounts" in rule["resources"]]

    assert list_rules() == []
    [rule] = list_rules("--set-string", "identityFromServiceAccount=true")
    assert rule == {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"]}


def list_token_rights(*args: str) -> dict[tuple[str, str], list[str]]:
    """Return the names of the ServiceAccounts whose tokens each role allows, or `*` for a role without names."""
    found = {}
    for role in render(*args, "--no-hooks"):
        for rule in role.get("rules", []) if role["kind"] in ("Role", "ClusterRole") else []:
            if rule["resources"] == ["serviceaccounts/token"] and rule != TOKEN_PROBE:
                assert rule["verbs"] == ["create"]
                namespace = role["metadata"].get("namespace", "")
                found[namespace, role["metadata"]["name"]] = rule.get("resourceNames", ["*"])
    return found


def test_rights_to_review_need_the_authentication_of_metrics() -> None:
    def list_review_objects(*args: str) -> list[Manifest]:
        found = [each for each in render("--no-hooks", *args) if each["metadata"]["name"].startswith("metrics")]
        return sorted(found, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert list_review_objects() == []
    assert list_review_objects("--set", "metrics.tls.secretName=x") == []
    found = list_review_objects(
        "--set", "metrics.tls.secretName=x,metrics.authentication.enabled=true,watchNamespaces={shop}"
    )
    assert [each["kind"] for each in found] == ["ClusterRole", "ClusterRole", "ClusterRoleBinding"]
    rules = [rule for each in found for rule in each.get("rules", [])]
    assert [(rule.get("resources"), rule.get("nonResourceURLs"), rule["verbs"]) for rule in rules] == [
        (None, ["/metrics"], ["get"]),
        (["tokenreviews"], None, ["create"]),
        (["subjectaccessreviews"], None, ["create"]),
    ]
    with pytest.raises(helm.BadValues, match="tokens would pass in plain text"):
        render("--set", "metrics.authentication.enabled=true")


EVERYWHERE = f"{FULL_NAME}.{helm.RELEASE}"
SAMPLE = {(helm.RELEASE, f"{EVERYWHERE}.tokens"): [f"{FULL_NAME}-sample"]}


@pytest.mark.parametrize(
    ("listed", "granted"),
    [
        ("[]", {("", EVERYWHERE): ["*"]}),
        ('""', {("", EVERYWHERE): ["*"]}),
        ('["akv", "b.c"]', {("", EVERYWHERE): ["akv", "b.c"], **SAMPLE}),
        ('["akv", "shop/a", "shop/b", "web/a"]',
         {("", EVERYWHERE): ["akv"], ("shop", f"{EVERYWHERE}.tokens"): ["a", "b"],
          ("web", f"{EVERYWHERE}.tokens"): ["a"], **SAMPLE}),
        ('"shop/a, shop/a"', {("shop", f"{EVERYWHERE}.tokens"): ["a"], **SAMPLE}),
        (f'["{helm.RELEASE}/x"]', {(helm.RELEASE, f"{EVERYWHERE}.tokens"): ["x", f"{FULL_NAME}-sample"]}),
    ],
)  # fmt: skip
def test_only_tokens_of_listed_service_accounts_are_granted(
    listed: str, granted: dict[tuple[str, str], list[str]]
) -> None:
    args = ("--set-json", f"tokenRequest.serviceAccounts={listed}")
    assert list_token_rights(*args) == granted
    assert list_token_rights(*args, *NO_TEST) == {
        role: left for role, names in granted.items() if (left := [name for name in names if "-sample" not in name])
    }


def test_only_tokens_in_watched_namespaces_are_granted() -> None:
    listed = ("--set-json", 'tokenRequest.serviceAccounts=["shop/a", "akv"]', *NO_TEST)
    assert list_token_rights("--set", "watchNamespaces={shop,web}", *listed) == {
        ("shop", EVERYWHERE): ["akv"],
        ("web", EVERYWHERE): ["akv"],
        ("shop", f"{EVERYWHERE}.tokens"): ["a"],
    }
    with pytest.raises(helm.BadValues, match="shop/a is in a namespace that watchNamespaces leaves out"):
        render("--set", "watchNamespaces={web}", *listed)


@pytest.mark.parametrize("entry", ["Shop/a", "a/b/c", "/a", "a/", "system:serviceaccount:a:b", "*", "a b"])
def test_entry_that_is_not_a_service_account_is_refused(entry: str) -> None:
    with pytest.raises(helm.BadValues, match=r"tokenRequest\.serviceAccounts"):
        render("--set-json", f'tokenRequest.serviceAccounts=["{entry}"]')


@pytest.mark.parametrize("args", [[], ["--set", "fullnameOverride=x"], ["--set-string", "nameOverride=1e3"]])
def test_lease_and_its_right_have_the_name_of_the_deployment(args: list[str]) -> None:
    manifests = render(*args, *NO_TEST)
    name = get_object(manifests, "Deployment")["metadata"]["name"]
    assert "Lease" not in list_kinds(manifests)
    assert build_environment(manifests)["LEASE_NAME"] == name
    assert get_object(manifests, "Role")["rules"] == [
        {**LEASE_RULE, "resourceNames": [name]},
        LEASE_CREATION,
        {**TOKEN_PROBE, "resourceNames": [name]},
    ]


def test_existing_service_account_is_used_and_not_created() -> None:
    manifests = render("--set-string", "serviceAccount.create=false,serviceAccount.name=there", "--no-hooks", *NO_TEST)
    assert "ServiceAccount" not in list_kinds(manifests)
    assert get_object(manifests, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "there"


def test_users_get_rights_by_aggregated_roles_unless_disabled() -> None:
    def list_roles(*args: str) -> list[str]:
        label = "rbac.authorization.k8s.io/aggregate-to-admin"
        return [m["metadata"]["name"] for m in render(*args) if label in m["metadata"].get("labels", {})]

    assert list_roles() == [f"{name}.{FULL_NAME}.{helm.RELEASE}" for name in ("view", "edit")]
    assert list_roles("--set-string", "rbac.aggregateToDefaultRoles=False") == []
    assert list_roles("--set", "watchNamespaces={shop}") == []
