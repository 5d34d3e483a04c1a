"""The chart as helm renders it: over a matrix of values and Kubernetes versions, by the pinned helm."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from controller import permissions
from controller.settings import Cloud, Settings
from tests.chart.rendering import (
    FILES,
    NEWEST,
    OLDEST,
    ROOT,
    WITHOUT_POLICIES,
    Manifest,
    container,
    environment,
    kinds,
    one,
    render,
    text,
    version_for,
)
from tools import helm, policies

FULL_NAME = "azure-secret-store-akv-secret-store"
NO_TEST = ("--set-string", "test.enabled=false")
LEASE_RULE = {
    "apiGroups": ["coordination.k8s.io"],
    "resources": ["leases"],
    "resourceNames": [FULL_NAME],
    "verbs": ["get", "patch"],
}
# Policies on what the controller makes for an AKVSync.
MADE = {"secretsyncs", "secretproviderclasses"}


def installed(manifests: list[Manifest]) -> set[str]:
    """The policies, by what their names begin with."""
    return {m["metadata"]["name"].split(".")[0] for m in manifests if m["kind"] == "ValidatingAdmissionPolicy"}


# --- It renders, cleanly -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_lint_strict_and_yamllint_over_the_matrix(path: Path) -> None:
    version = version_for(path)
    helm.run(["lint", "--strict", str(helm.CHART), "--kube-version", version, "--values", str(path)])
    rendered = text("--values", str(path), version=version)
    command = [sys.executable, "-m", "yamllint", "--strict", "--config-file", str(ROOT / ".yamllint"), "-"]
    linted = subprocess.run(command, input=rendered, capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")
    names = [
        (m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"]) for m in yaml.safe_load_all(rendered) if m
    ]
    assert len(names) == len(set(names))


def test_defaults_need_no_values() -> None:
    helm.run(["lint", "--strict", str(helm.CHART), "--kube-version", NEWEST])
    assert kinds(render()) == {
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "Deployment",
        "Lease",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ConfigMap",
        "Job",
    }


def test_the_chart_refuses_kubernetes_before_1_27() -> None:
    with pytest.raises(helm.HelmError, match=r">=1\.27\.0-0"):
        render(version="1.26.15")


@pytest.mark.parametrize("version", ["1.30.0", "1.31.4-gke.1183000", "1.33.5+k3s1", NEWEST])
def test_policies_from_1_30_on(version: str) -> None:
    manifests = render(version=version)
    assert installed(manifests) == {"secrets", "no-delete", "tokens", "lease", "type-stays", *MADE}
    assert environment(manifests)["PROBE_SECRET_TYPE"] in policies.NEVER_ALLOWED


# --- Without policies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "args", "why"),
    [
        (OLDEST, [], "Kubernetes v1.27.16 serves no v1 ValidatingAdmissionPolicy"),
        (WITHOUT_POLICIES, [], "Kubernetes v1.29.15 serves no v1 ValidatingAdmissionPolicy"),
        (
            NEWEST,
            ["--set-string", "validatingAdmissionPolicies.applyPolicies=false"],
            "validatingAdmissionPolicies.applyPolicies is false",
        ),
        # A server that was asked and does not have them.
        (NEWEST, ["--api-versions", "apps/v1/Deployment"], "serves no v1 ValidatingAdmissionPolicy"),
    ],
)
def test_without_policies_the_administrator_chooses(version: str, args: list[str], why: str) -> None:
    with pytest.raises(helm.BadValues) as refused:
        render(*args, version=version)
    for part in (why, "watchNamespaces", "acceptUnrestrictedTokens=true"):
        assert part in str(refused.value)
    for choice in (["--set-string", "acceptUnrestrictedTokens=true"], ["--set", "watchNamespaces={shop}"]):
        manifests = render(*args, *choice, version=version)
        assert "ValidatingAdmissionPolicy" not in kinds(manifests)
        assert "PROBE_SECRET_TYPE" not in environment(manifests)


def test_a_server_that_was_asked_and_has_them() -> None:
    served = ["apps/v1/Deployment", "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy"]
    assert "ValidatingAdmissionPolicy" in kinds(render(*(word for api in served for word in ("--api-versions", api))))


@pytest.mark.parametrize("enabled", ["true", "True", "false"])
def test_the_role_grants_the_table_of_permissions_and_nothing_else(enabled: str) -> None:
    manifests = render("--set-string", f"akvSync.enabled={enabled}")
    role = one(manifests, "ClusterRole", "azure-secret-store-akv-secret-store.azure-secret-store")
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


def test_without_akvsync_its_rights_and_policies_are_gone_and_the_controller_knows() -> None:
    manifests = render("--set-string", "akvSync.enabled=false", "--no-hooks")
    role = one(manifests, "ClusterRole", "azure-secret-store-akv-secret-store.azure-secret-store")
    assert [rule for rule in role["rules"] if set(rule["verbs"]) - {"list", "watch"}] == [
        {"apiGroups": ["secret-sync.x-k8s.io"], "resources": ["secretsyncs/status"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "patch"]},
        {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]
    assert installed(manifests) == installed(render()) - MADE
    assert not Settings.from_environment(environment(manifests)).akv_sync


@pytest.mark.parametrize(
    "args", [[], ["--set-string", "akvSync.enabled=False"], ["--set", "watchNamespaces={shop,web}"]]
)
def test_the_settings_tell_which_policies_there_are(args: list[str]) -> None:
    manifests = render(*args)
    settings = Settings.from_environment(environment(manifests))
    assert installed(manifests) == {policy.name for policy in policies.POLICIES if policy.there(settings)}


# --- watchNamespaces -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", [["--set", "watchNamespaces={shop,web}"], ["--set-string", r"watchNamespaces=shop\, web"]]
)
def test_watched_namespaces_get_roles_and_nothing_is_granted_in_the_cluster(way: list[str]) -> None:
    manifests = render(*way, "--no-hooks", *NO_TEST)
    assert not kinds(manifests) & {"ClusterRole", "ClusterRoleBinding"}
    roles = {m["metadata"]["namespace"]: m for m in manifests if m["kind"] == "Role"}
    assert roles.keys() == {"shop", "web", helm.RELEASE}
    everywhere = one(render(), "ClusterRole", "azure-secret-store-akv-secret-store.azure-secret-store")
    assert roles["shop"]["rules"] == roles["web"]["rules"] == everywhere["rules"]
    # Readiness tries, dry, whether a Secret is refused in the release's own namespace.
    assert roles[helm.RELEASE]["rules"] == [
        LEASE_RULE,
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    ]
    bindings = {m["metadata"]["namespace"]: m for m in manifests if m["kind"] == "RoleBinding"}
    for namespace, role in roles.items():
        assert bindings[namespace]["roleRef"]["name"] == role["metadata"]["name"]
    assert environment(manifests)["WATCH_NAMESPACES"] == "shop,web"


def test_no_probe_no_right_for_it() -> None:
    for manifests in (
        render("--set", "watchNamespaces={shop}", version=OLDEST),
        render("--set", f"watchNamespaces={{shop,{helm.RELEASE}}}"),
    ):
        assert one(manifests, "Role", FULL_NAME)["rules"] == [LEASE_RULE]


@pytest.mark.parametrize("where", [[], ["--set", "watchNamespaces={shop}"]])
def test_the_right_to_get_service_accounts_comes_with_the_value_alone(where: list[str]) -> None:
    def grants(*args: str) -> list[Manifest]:
        rules = [rule for m in render("--no-hooks", *where, *args) for rule in m.get("rules", [])]
        return [rule for rule in rules if "serviceaccounts" in rule["resources"]]

    assert grants() == []
    [rule] = grants("--set-string", "identityFromServiceAccount=true")
    assert rule == {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"]}


# --- Rights of people -----------------------------------------------------------------------------------------------


def test_people_get_rights_by_kubernetes_own_roles_unless_switched_off() -> None:
    def found(*args: str) -> list[str]:
        label = "rbac.authorization.k8s.io/aggregate-to-admin"
        return [m["metadata"]["name"] for m in render(*args) if label in m["metadata"].get("labels", {})]

    assert found() == [f"{name}.{FULL_NAME}.{helm.RELEASE}" for name in ("view", "edit")]
    assert found("--set-string", "rbac.aggregateToDefaultRoles=False") == []
    assert found("--set", "watchNamespaces={shop}") == []


# --- One leads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [[], ["--set", "fullnameOverride=x"], ["--set-string", "nameOverride=1e3"]])
def test_the_lease_and_the_right_to_it_follow_the_names(args: list[str]) -> None:
    manifests = render(*args, *NO_TEST)
    lease = one(manifests, "Lease")
    name = lease["metadata"]["name"]
    assert lease["metadata"]["namespace"] == helm.RELEASE
    assert "spec" not in lease  # an upgrade of the release would take the leader's word away
    assert environment(manifests)["LEASE_NAME"] == name
    assert one(manifests, "Role")["rules"] == [{**LEASE_RULE, "resourceNames": [name]}]


def test_an_update_starts_the_new_pod_before_the_old_one_ends() -> None:
    spec = one(render("--set-string", "replicaCount=2"), "Deployment")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


# --- Settings reach the controller ---------------------------------------------------------------------------------


def test_the_environment_is_what_the_controller_reads() -> None:
    given = {
        "rotationPollIntervalInSeconds": "120",
        "enablePartialSecretSync": "False",
        "jitterSeconds": 86400000,
        "driftIntervalInSeconds": "60",
        "akvSync": {"enabled": "False"},
        "controllerName": "edge",
        "shortestRefreshIntervalInSeconds": "30",
        "identityFromServiceAccount": "True",
        "watchNamespaces": ["shop", "web", "shop"],
        "logLevel": "debug",
    }
    settings = Settings.from_environment(environment(render(given=given)))
    assert settings == Settings(
        rotation_poll_interval=120,
        enable_partial_secret_sync=False,
        jitter=86400000,
        drift_interval=60,
        akv_sync=False,
        controller_name="edge",
        shortest_refresh_interval=30,
        identity_from_service_account=True,
        watch_namespaces=("shop", "web"),
        log_level="debug",
        test_clouds_file="/etc/akv-secret-store-test/clouds.json",
        probe_secret_type="akv-secret-store/probe",
        lease_name=FULL_NAME,
        pod_namespace="the-namespace",
        pod_name="the-pod",
    )


def test_without_values_the_controllers_own_defaults_hold() -> None:
    settings = Settings.from_environment(environment(render()))
    assert settings == Settings(
        test_clouds_file="/etc/akv-secret-store-test/clouds.json",
        probe_secret_type="akv-secret-store/probe",
        lease_name=FULL_NAME,
        pod_namespace="the-namespace",
        pod_name="the-pod",
    )


def test_clouds_reach_the_controller_as_a_file_and_a_change_rolls_the_pod() -> None:
    cloud = {"authority": "https://login.stack", "vaultUrl": "https://{vault}.<stack>", "ca": "-----\nabc\n-----\n"}
    given = {"clouds": {"Stack": cloud}, "defaultCloud": "Stack"}
    manifests = render(given=given)
    [mount, _] = container(manifests)["volumeMounts"]
    [volume, _] = one(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    config = one(manifests, "ConfigMap", volume["configMap"]["name"])
    variables = environment(manifests)
    [(name, content)] = config["data"].items()
    assert variables["CLOUDS_FILE"] == f"{mount['mountPath']}/{name}"
    found = msgspec.json.decode(content, type=dict[str, Cloud])["Stack"]
    assert (found.authority, found.vault_url, found.ca) == (cloud["authority"], cloud["vaultUrl"], cloud["ca"])

    def annotations(rendered: list[Manifest]) -> Any:
        return one(rendered, "Deployment")["spec"]["template"]["metadata"]["annotations"]

    changed = copy.deepcopy(given)
    changed["clouds"]["Stack"]["authority"] = "https://other.stack"  # type: ignore[index]
    assert annotations(render(given=changed)) != annotations(manifests)
    assert annotations(render(given=given)) == annotations(manifests)


def test_an_unknown_default_cloud_is_refused() -> None:
    with pytest.raises(helm.BadValues, match=r"defaultCloud: Stack is not among AzurePublicCloud, .*: name one"):
        render("--set", "defaultCloud=Stack")


# --- Names ---------------------------------------------------------------------------------------------------------


def test_two_releases_of_any_name_in_two_namespaces_share_no_object() -> None:
    def names(release: str, namespace: str) -> set[tuple[str, str, str]]:
        return {
            (m["kind"], m["metadata"].get("namespace", ""), m["metadata"]["name"])
            for m in render(release=release, namespace=namespace)
        }

    assert not names("one", "a") & names("one", "b")
    assert not names("one", "a") & names("two", "a")


def test_names_that_look_like_numbers_stay_names() -> None:
    manifests = render(
        "--set", "watchNamespaces={007}", "--set-string", "fullnameOverride=1e3,nameOverride=12", namespace="0123"
    )
    found = [m for m in manifests if m["metadata"].get("namespace")]
    assert {m["metadata"]["namespace"] for m in found} == {"0123", "007"}
    assert one(manifests, "Deployment")["metadata"]["name"] == "1e3"


@pytest.mark.parametrize("args", [[], ["--set", "serviceAccount.name=writer"], ["--set", "fullnameOverride=x"]])
def test_policies_and_bindings_follow_the_service_account(args: list[str]) -> None:
    manifests = render(*args, release="mine", namespace="theirs")
    account = one(manifests, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"]
    assert one(manifests, "ServiceAccount", account)["metadata"]["namespace"] == "theirs"
    found = [m for m in manifests if m["kind"] == "ValidatingAdmissionPolicy"]
    assert found
    for policy in found:
        conditions = [item["expression"] for item in policy["spec"].get("matchConditions", [])]
        everybody = policy["metadata"]["name"].startswith("type-stays.")
        assert conditions == (
            [] if everybody else [f"request.userInfo.username == 'system:serviceaccount:theirs:{account}'"]
        )
        binding = one(manifests, "ValidatingAdmissionPolicyBinding", policy["metadata"]["name"])
        assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    subjects = [
        m["subjects"]
        for m in manifests
        if m["kind"] == "ClusterRoleBinding" and not m["metadata"]["name"].startswith("crds.")
    ]
    assert subjects == [[{"kind": "ServiceAccount", "name": account, "namespace": "theirs"}]]


def test_the_policy_for_everybody_stays_in_the_namespaces_that_are_served() -> None:
    manifests = render("--set", "watchNamespaces={shop,web}")
    [binding] = [
        m
        for m in manifests
        if m["kind"] == "ValidatingAdmissionPolicyBinding" and "matchResources" in m["spec"]
    ]
    assert binding["spec"]["policyName"].startswith("type-stays.")
    [expression] = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
    assert expression == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop", "web"]}


def test_a_service_account_that_exists_is_used_and_not_made() -> None:
    manifests = render("--set-string", "serviceAccount.create=false,serviceAccount.name=there", "--no-hooks", *NO_TEST)
    assert "ServiceAccount" not in kinds(manifests)
    assert one(manifests, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "there"


# --- Pods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_pods_fit_the_restricted_level(kind: str) -> None:
    pod = one(render(), kind)["spec"]["template"]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for each in pod["containers"]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_only_the_pods_that_need_a_token_have_one() -> None:
    manifests = render()
    for account in (m for m in manifests if m["kind"] == "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for kind in ("Deployment", "Job"):
        assert one(manifests, kind)["spec"]["template"]["spec"]["automountServiceAccountToken"] is True


def test_probes_ask_the_port_that_is_named_http() -> None:
    main = container(render())
    assert main["ports"] == [{"name": "http", "containerPort": Settings().listen_port}]
    assert main["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert main["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


def test_a_label_of_the_users_cannot_break_the_selector() -> None:
    deployment = one(render("--set", r"podLabels.app\.kubernetes\.io/name=other,podLabels.tier=x"), "Deployment")[
        "spec"
    ]
    labels = deployment["template"]["metadata"]["labels"]
    assert labels["tier"] == "x"
    assert deployment["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(
    ("args", "image"),
    [
        ([], "akv-secret-store:0.1.0"),
        (["--set", "image.tag=2"], None),
        (["--set-string", "image.registry=r.example:5000/,image.repository=a/b,image.tag=2"], "r.example:5000/a/b:2"),
        (["--set", f"image.tag=x,image.digest=sha256:{'a' * 64}"], f"akv-secret-store@sha256:{'a' * 64}"),
    ],
)
def test_the_image(args: list[str], image: str | None) -> None:
    if image is None:
        with pytest.raises(helm.BadValues, match=r"image\.tag: .*string"):
            render(*args)
        return
    manifests = render(*args)
    assert container(manifests)["image"] == image
    assert one(manifests, "Job")["spec"]["template"]["spec"]["containers"][0]["image"] == image


# --- CRDs ----------------------------------------------------------------------------------------------------------


def test_the_upgrade_job_brings_the_very_crds_of_the_chart() -> None:
    manifests = render()
    job = one(manifests, "Job")
    config = one(manifests, "ConfigMap", job["metadata"]["name"])
    files = {path.name: path.read_text() for path in (helm.CHART / "crds").glob("*.yaml")}
    assert {name: yaml.safe_load(data) for name, data in config["data"].items()} == {
        name: yaml.safe_load(data) for name, data in files.items()
    }
    [main] = job["spec"]["template"]["spec"]["containers"]
    assert main["args"] == ["crds", main["volumeMounts"][0]["mountPath"]]
    hooks = [m for m in manifests if "helm.sh/hook" in m["metadata"].get("annotations", {})]
    assert kinds(hooks) == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "Job"}
    weights = {m["kind"]: int(m["metadata"]["annotations"]["helm.sh/hook-weight"]) for m in hooks}
    assert weights["Job"] == max(weights.values()) > weights["ClusterRoleBinding"] > weights["ClusterRole"]
    # CRDs themselves are never hooks nor templates.
    assert "CustomResourceDefinition" not in kinds(manifests)


def test_the_upgrade_job_may_do_what_it_is_for() -> None:
    role = one(render(), "ClusterRole", "crds.azure-secret-store-akv-secret-store.azure-secret-store")
    [rule] = role["rules"]
    assert sorted(rule["resourceNames"]) == [path.stem for path in sorted((helm.CHART / "crds").glob("*.yaml"))]
    assert rule["verbs"] == ["get", "patch"]


@pytest.mark.parametrize("off", ["false", "False"])
def test_the_upgrade_job_can_be_left_out(off: str) -> None:
    manifests = render("--set-string", f"crds.upgrade={off}")
    assert not [m for m in manifests if "helm.sh/hook" in m["metadata"].get("annotations", {})]
