"""Test the admission policies: their versions and bindings, and the administrator's choice without policies."""

import pytest

from controller.config.settings import Settings
from tests.chart.rendering import (
    FULL_NAME,
    NEWEST,
    OLDEST,
    WITHOUT_POLICIES,
    Manifest,
    build_environment,
    get_object,
    list_kinds,
    render,
)
from tools.cli.common import helm
from tools.codegen import policies

# Policies for objects that the controller creates for an AKVSync.
AKV_SYNC_POLICIES = {"secretsyncs", "secretproviderclasses"}


def list_policies(manifests: list[Manifest]) -> set[str]:
    """Return the first parts of the names of the policies for the controller."""
    found = {m["metadata"]["name"].split(".")[0] for m in manifests if m["kind"] == "ValidatingAdmissionPolicy"}
    return found - {policies.CRD_JOB.name}


@pytest.mark.parametrize("version", ["1.30.0", "1.31.4-gke.1183000", "1.33.5+k3s1", NEWEST])
def test_policies_are_rendered_from_1_30(version: str) -> None:
    manifests = render(version=version)
    assert list_policies(manifests) == {
        "secrets",
        "no-delete",
        "tokens",
        "events",
        "lease",
        "overlap",
        "type-stays",
        *AKV_SYNC_POLICIES,
    }
    assert build_environment(manifests)["PROBE_SECRET_TYPE"] in policies.NEVER_ALLOWED


def test_policies_are_rendered_if_the_api_versions_include_them() -> None:
    served = ["apps/v1/Deployment", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"]
    assert "ValidatingAdmissionPolicy" in list_kinds(
        render(*(word for api in served for word in ("--api-versions", api)))
    )


@pytest.mark.parametrize(
    ("version", "args", "reason"),
    [
        (OLDEST, [], "Kubernetes v1.27.16 serves no v1 ValidatingAdmissionPolicy"),
        (WITHOUT_POLICIES, [], "Kubernetes v1.29.15 serves no v1 ValidatingAdmissionPolicy"),
        (
            NEWEST,
            ["--set-string", "validatingAdmissionPolicies.applyPolicies=false"],
            "validatingAdmissionPolicies.applyPolicies is false",
        ),
        # The known API versions of this API server do not include policies.
        (NEWEST, ["--api-versions", "apps/v1/Deployment"], "serves no v1 ValidatingAdmissionPolicy"),
    ],
)
def test_without_policies_the_administrator_must_choose(version: str, args: list[str], reason: str) -> None:
    with pytest.raises(helm.BadValues) as refused:
        render(*args, version=version)
    for part in (reason, "watchNamespaces", "acceptUnrestrictedTokens=true"):
        assert part in str(refused.value)
    for choice in (["--set-string", "acceptUnrestrictedTokens=true"], ["--set", "watchNamespaces={shop}"]):
        manifests = render(*args, *choice, version=version)
        assert "ValidatingAdmissionPolicy" not in list_kinds(manifests)
        assert "PROBE_SECRET_TYPE" not in build_environment(manifests)


def test_without_akvsync_its_rights_and_policies_are_not_rendered() -> None:
    manifests = render("--set-string", "akvSync.enabled=false", "--no-hooks")
    role = get_object(manifests, "ClusterRole", f"{FULL_NAME}.{helm.RELEASE}")
    assert [rule for rule in role["rules"] if set(rule["verbs"]) - {"list", "watch"}] == [
        {"apiGroups": ["secret-sync.x-k8s.io"], "resources": ["secretsyncs/status"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "patch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
    ]
    assert list_policies(manifests) == list_policies(render()) - AKV_SYNC_POLICIES
    assert not Settings.from_environment(build_environment(manifests)).akv_sync


@pytest.mark.parametrize(
    "args", [[], ["--set-string", "akvSync.enabled=False"], ["--set", "watchNamespaces={shop,web}"]]
)
def test_settings_match_the_rendered_policies(args: list[str]) -> None:
    manifests = render(*args)
    settings = Settings.from_environment(build_environment(manifests))
    assert list_policies(manifests) == {policy.name for policy in policies.POLICIES if policy.is_installed(settings)}


@pytest.mark.parametrize("args", [[], ["--set", "serviceAccount.name=writer"], ["--set", "fullnameOverride=x"]])
def test_policies_and_bindings_name_the_service_account(args: list[str]) -> None:
    manifests = render(*args, release="mine", namespace="theirs")
    account = get_object(manifests, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    assert get_object(manifests, "ServiceAccount", account)["metadata"]["namespace"] == "theirs"
    found = [m for m in manifests if m["kind"] == "ValidatingAdmissionPolicy"]
    assert found
    crds = get_object(
        manifests, "ServiceAccount", get_object(manifests, "Job")["spec"]["template"]["spec"]["serviceAccountName"]
    )
    for policy in found:
        checked_account = crds["metadata"]["name"] if policy["metadata"]["name"].startswith("crds.") else account
        conditions = [item["expression"] for item in policy["spec"].get("matchConditions", [])]
        applies_to_all_users = policy["metadata"]["name"].startswith("type-stays.")
        binding = get_object(manifests, "ValidatingAdmissionPolicyBinding", policy["metadata"]["name"])
        if policy["metadata"]["name"].startswith("overlap."):
            assert conditions[-1] == f"request.userInfo.username != 'system:serviceaccount:theirs:{checked_account}'"
            deployment = get_object(manifests, "Deployment")
            lease = {"name": deployment["metadata"]["name"], "namespace": "theirs", "parameterNotFoundAction": "Allow"}
            assert binding["spec"]["paramRef"] == lease
            assert policy["spec"]["failurePolicy"] == "Ignore"
            continue
        assert conditions == (
            []
            if applies_to_all_users
            else [f"request.userInfo.username == 'system:serviceaccount:theirs:{checked_account}'"]
        )
        assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny", "Audit"]}
    subjects = [
        m["subjects"]
        for m in manifests
        if m["kind"] == "ClusterRoleBinding" and not m["metadata"]["name"].startswith("crds.")
    ]
    assert subjects == [[{"kind": "ServiceAccount", "name": account, "namespace": "theirs"}]]


def test_policy_for_all_users_applies_only_in_watched_namespaces() -> None:
    manifests = render("--set", "watchNamespaces={shop,web}")
    [binding] = [
        m for m in manifests if m["kind"] == "ValidatingAdmissionPolicyBinding" and "matchResources" in m["spec"]
    ]
    assert binding["spec"]["policyName"].startswith("type-stays.")
    [expression] = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert expression == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop", "web"]}
