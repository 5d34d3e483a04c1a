"""Test the objects that `helm test` applies, and those that remain in the cluster."""

from typing import Any

import pytest

from controller.runtime import bounded_yaml
from tests.chart.rendering import FULL_NAME, Manifest, build_environment, get_container, get_object, render, render_text
from tools.cli.common import helm
from tools.helm_test.sample import CLOUD_SECONDS, SYNC_SECONDS
from tools.helm_test.settings import CLOUDS_FILE, ReleaseTestSettings

NAME = f"{FULL_NAME}-test"
HELM_TIMEOUT = 300
"""Seconds that helm waits for a hook by default."""
SAMPLE = {"keyvaultName": "kv", "clientID": "c", "tenantID": "t", "secretName": "s"}


def list_test_objects(manifests: list[Manifest]) -> list[tuple[str, str, str]]:
    return [
        (m["kind"], m["metadata"]["namespace"], m["metadata"]["name"])
        for m in manifests
        if m["metadata"]["labels"].get("app.kubernetes.io/component") == "test"
    ]


def read_settings(manifests: list[Manifest]) -> ReleaseTestSettings:
    """Return the settings that the test's program reads from its environment."""
    [main] = get_object(manifests, "Pod")["spec"]["containers"]
    given = {each["name"]: each.get("value", "10.0.0.1") for each in main["env"]}
    assert {name.lower() for name in given} == set(ReleaseTestSettings.__struct_fields__)
    return ReleaseTestSettings.from_environment(given)


def list_hooks(documents: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Return the annotations of each hook of `helm test`, by its kind and name."""
    return {
        (m["kind"], m["metadata"]["name"]): m["metadata"]["annotations"]
        for m in documents
        if "test" in m["metadata"].get("annotations", {}).get("helm.sh/hook", "").split(",")
    }


def test_objects_of_helm_test_are_hooks_and_not_in_the_release() -> None:
    everything = render(tests=True)
    assert {name for _, _, name in list_test_objects(everything)} == {NAME, f"{NAME}-vault", f"{FULL_NAME}-sample"}
    assert set(list_hooks(everything)) == {(kind, name) for kind, _, name in list_test_objects(everything)}
    assert not list_test_objects(render())


def test_each_hook_has_a_pod_of_its_name() -> None:
    """`helm test --logs` asks for the log of a Pod with the name of each hook, of any kind."""
    documents = list(bounded_yaml.load_all(render_text(tests=True)))
    found = list_hooks([each for each in documents if each])
    assert set(found) == {("List", NAME), ("Pod", NAME)}
    policies = {kind: annotations["helm.sh/hook-delete-policy"] for (kind, _), annotations in found.items()}
    # The Pod remains because of its log, until the next test or the uninstall. The others are removed at once.
    assert policies == {"List": "before-hook-creation,hook-succeeded", "Pod": "before-hook-creation"}
    weights = {kind: int(annotations.get("helm.sh/hook-weight", 0)) for (kind, _), annotations in found.items()}
    assert weights["List"] < weights["Pod"]


def test_uninstall_runs_the_list_without_the_pod() -> None:
    found = list_hooks([each for each in bounded_yaml.load_all(render_text(tests=True)) if each])
    events = {kind: annotations["helm.sh/hook"] for (kind, _), annotations in found.items()}
    assert events == {"List": "test,post-delete", "Pod": "test"}


def test_uninstall_job_adopts_the_test_pod_and_runs_nothing() -> None:
    manifests = render(tests=True)
    pod, job = get_object(manifests, "Pod"), get_object(manifests, "Job", NAME)
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["manualSelector"]) == (0, 0, True)
    selector = spec["selector"]["matchLabels"]
    assert selector.items() <= pod["metadata"]["labels"].items()
    assert selector.items() <= spec["template"]["metadata"]["labels"].items()
    for others in (render(tests=True, release="other"), render(given={"nameOverride": "other"}, tests=True)):
        assert not selector.items() <= get_object(others, "Pod")["metadata"]["labels"].items()
    for kind, name in (("Deployment", ""), ("Job", f"{FULL_NAME}-crds")):
        assert (
            not selector.items() <= get_object(manifests, kind, name)["spec"]["template"]["metadata"]["labels"].items()
        )


def test_namespace_that_may_be_gone_is_in_no_hook_of_the_uninstall() -> None:
    """Otherwise `helm uninstall` would fail, because it could not create the hook in that namespace."""
    elsewhere = render(given={"watchNamespaces": ["shop"]}, tests=True)
    hooked = {(kind, name) for kind, name in list_hooks(elsewhere)}
    ordinary = [each for each in elsewhere if (each["kind"], each["metadata"]["name"]) not in hooked]
    assert {(kind, name) for kind, namespace, name in list_test_objects(ordinary) if namespace == "shop"} == {
        ("ServiceAccount", f"{FULL_NAME}-sample"),
        ("Role", NAME),
        ("RoleBinding", NAME),
    }
    assert not [each for each in elsewhere if each not in ordinary and each["metadata"]["namespace"] == "shop"]
    overridden = list_hooks(render(given={"namespaceOverride": "other"}, tests=True))
    assert {annotations["helm.sh/hook"] for annotations in overridden.values()} == {"test"}


def test_hanging_pod_fails_before_the_timeout_of_helm() -> None:
    """Then helm reports the failed Pod and not its own timeout."""
    spec = get_object(render(tests=True), "Pod")["spec"]
    longest = CLOUD_SECONDS + 3 * SYNC_SECONDS  # two removals and two waits, of which only the first waits for a cloud
    assert longest < spec["activeDeadlineSeconds"] < HELM_TIMEOUT


def test_pod_of_helm_test_fits_the_restricted_level() -> None:
    manifests = render(tests=True)
    pod = get_object(manifests, "Pod")
    for name in (f"{FULL_NAME}-crds", NAME):
        job = get_object(manifests, "Job", name)["spec"]["template"]["spec"]
        assert pod["spec"]["securityContext"] == job["securityContext"]
        assert pod["spec"]["containers"][0]["securityContext"] == job["containers"][0]["securityContext"]
    assert pod["spec"]["containers"][0]["image"] == "ghcr.io/akv-secret-store/akv-secret-store-test:0.1.0"
    # The selectors of the controller do not match the Pod.
    selector = get_object(manifests, "Deployment")["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= pod["metadata"]["labels"].items()


def test_controller_mounts_the_configmap_that_helm_test_writes() -> None:
    manifests = render(tests=True)
    config = get_object(manifests, "ConfigMap", read_settings(manifests).name)
    assert "data" not in config
    [mount] = get_container(manifests)["volumeMounts"]
    [volume] = get_object(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert volume["configMap"] == {"name": config["metadata"]["name"], "optional": True}
    assert build_environment(manifests)["TEST_CLOUDS_FILE"] == f"{mount['mountPath']}/{CLOUDS_FILE}"


@pytest.mark.parametrize("given", [{"enabled": False}, {"enabled": "false"}, {"sample": SAMPLE}])
def test_without_a_test_vault_the_controller_mounts_no_configmap(given: dict[str, Any]) -> None:
    manifests = render(given={"test": given}, tests=True)
    assert "volumes" not in get_object(manifests, "Deployment")["spec"]["template"]["spec"]
    assert "TEST_CLOUDS_FILE" not in build_environment(manifests)
    found = list_test_objects(manifests)
    assert not [kind for kind, *_ in found if kind == "ConfigMap"]
    assert bool(found) is ("sample" in given)


def test_vault_of_the_user_reaches_the_helm_test() -> None:
    seen = read_settings(render(given={"test": {"sample": SAMPLE | {"serviceAccount": "theirs"}}}, tests=True))
    assert (seen.keyvault_name, seen.client_id, seen.tenant_id, seen.secret_name) == ("kv", "c", "t", "s")
    assert seen.service_account == "theirs"


def test_vault_without_a_secret_name_is_refused() -> None:
    with pytest.raises(helm.BadValues, match=r"^test\.sample\.secretName: is empty"):
        render("--set", "test.sample.keyvaultName=kv")


@pytest.mark.parametrize(
    ("namespaces", "where"),
    [([], helm.RELEASE), (["shop", helm.RELEASE], helm.RELEASE), (["shop", "web"], "shop"), ("shop, web", "shop")],
)
def test_sample_is_in_a_watched_namespace(namespaces: object, where: str) -> None:
    manifests = render(given={"watchNamespaces": namespaces}, tests=True)
    seen = read_settings(manifests)
    assert (seen.sample_namespace, seen.namespace) == (where, helm.RELEASE)
    found = list_test_objects(manifests)
    assert {("Role", where, NAME), ("RoleBinding", where, NAME)} <= set(found)
    assert ("ServiceAccount", where, seen.service_account) in found
    assert ("Pod", helm.RELEASE, NAME) in found
    assert {namespace for _, namespace, _ in found} <= {where, helm.RELEASE}
