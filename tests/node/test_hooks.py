"""Test `helm test` on a node with its own vault and with a user's vault. The tests depend on their order."""

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.rendering import render
from tests.node.conftest import figures
from tests.node.release import Release
from tests.support.cluster.harness import TENANT, eventually, version_flags
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane

CLIENT = "00000000-0000-0000-0000-0000000000cc"
VAULT = "users-vault"
VALUE = "value of the user"


@pytest.fixture(scope="module")
def tested(plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    release = Release(plane, emulator, tmp_path_factory.mktemp("tested"), "tested")
    release.make_namespace()
    release.install("--set", "jitterSeconds=3600")  # a fleet needs it, and a test cannot wait for it
    yield release
    release.uninstall()
    plane.kubectl("delete", "namespace", release.namespace)


@pytest.fixture(scope="module")
def users_vault(tested: Release) -> dict[str, str]:
    """Provide the values of a `helm test` that uses an existing vault."""
    emulator = tested.emulator
    emulator.add_vault(VAULT, TENANT)
    emulator.add_identity(CLIENT, TENANT)
    subject = f"system:serviceaccount:{tested.namespace}:{tested.full_name}-sample"
    emulator.federate(CLIENT, tested.plane.issuer, subject)
    emulator.assign_role(CLIENT, VAULT)
    emulator.set_secret(VAULT, "there", VALUE)
    return {
        "keyvaultName": VAULT,
        "clientID": CLIENT,
        "tenantID": TENANT,
        "secretName": "there",
        "sha256": hashlib.sha256(VALUE.encode()).hexdigest(),
    }


def read_verdict(tested: Release) -> str:
    """Return the termination message of the test's Pod, which is also the last line of its log."""
    pod = json.loads(tested.kubectl("get", "pod", f"{tested.full_name}-test", "--output", "json"))
    [container] = pod["status"]["containerStatuses"]
    message: str = container["state"]["terminated"]["message"]
    [*_, last] = tested.kubectl("logs", f"{tested.full_name}-test").splitlines()
    assert last.partition(" ")[2] == message
    return message


def list_leftovers(tested: Release) -> list[str]:
    """Return the objects that a test created and did not delete, except its Pod."""
    objects = tested.kubectl("get", "secretsyncs,secretproviderclasses", "--output", "name").split()
    secrets = tested.kubectl("get", "secrets", "--output", "name").split()
    clouds = tested.kubectl("get", "configmaps", "--output", "jsonpath={.items[*].data.clouds\\.json}").split("\n")
    return [
        *objects,
        *(name for name in secrets if name.endswith("-test")),
        *(text for text in clouds if "helm-test" in text),
    ]


def list_granted_permissions(manifests: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    """Return the permissions that the Roles of a test grant."""
    roles = [each for each in manifests if each["kind"] == "Role" and "-test" in each["metadata"]["name"]]
    return {
        (verb, resource, name)
        for role in roles
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
    }


def list_used_permissions(tested: Release) -> set[tuple[str, ...]]:
    """Return the permissions that the requests of the test's Pod needed."""
    user = f"system:serviceaccount:{tested.namespace}:{tested.full_name}-test"
    lines = [json.loads(line) for line in tested.plane.audit_log.read_text().splitlines()]
    requests = [line for line in lines if line["user"]["username"] == user and "resource" in line.get("objectRef", {})]
    return {
        # RBAC ignores the name of an object that is created.
        (line["verb"], reference["resource"], "" if line["verb"] == "create" else reference["name"])
        for line in requests
        for reference in [line["objectRef"]]
    }


def test_helm_test_passes_with_its_own_vault(tested: Release) -> None:
    began = time.monotonic()
    output = tested.test()
    figures.append(f"helm test: {time.monotonic() - began:.0f} s")
    message = "passed: a sample and its next version were synced byte for byte"
    assert "Phase:          Succeeded" in output
    # helm prints the log of the Pod once for each hook.
    assert output.count(f"INFO {message}") == 2
    assert read_verdict(tested) == message
    assert list_leftovers(tested) == []
    of_test = ("--selector", "app.kubernetes.io/component=test", "--output", "name")
    assert not tested.kubectl("get", "serviceaccounts,roles,rolebindings,configmaps", *of_test)


def test_permissions_of_helm_test_equal_the_used_ones(tested: Release) -> None:
    granted = list_granted_permissions(
        render(
            *version_flags(tested.plane), version=tested.plane.version, release="tested", namespace="tested", tests=True
        )
    )
    assert len(granted) == 11
    assert eventually(lambda: list_used_permissions(tested), lambda found: len(found) >= len(granted)) == granted


def test_controller_removes_the_cloud_of_a_finished_helm_test(tested: Release) -> None:
    def list_cloud_messages() -> list[str]:
        lines = tested.kubectl("logs", f"deployment/{tested.full_name}").splitlines()
        return [message for line in lines if (message := json.loads(line)["message"]).startswith("clouds of a test")]

    assert eventually(list_cloud_messages, lambda found: len(found) >= 2, 120) == [
        "clouds of a test: helm-test",
        "clouds of a test: none",
    ]


def configure_sample(tested: Release, sample: dict[str, str], **changes: str) -> None:
    flags = [word for key, text in (sample | changes).items() for word in ("--set-string", f"test.sample.{key}={text}")]
    tested.upgrade(*flags)


def test_helm_test_passes_with_a_vault_of_the_user(tested: Release, users_vault: dict[str, str]) -> None:
    configure_sample(tested, users_vault)
    assert "passed: secret there of Key Vault users-vault was synced" in tested.test()
    assert list_leftovers(tested) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"secretName": "missing"}, ["the SecretSync's status is ProviderError", "missing", VAULT]),
        ({"sha256": "0" * 64}, ["does not equal the vault"]),
    ],
)
def test_failed_helm_test_reports_the_cause_and_leaves_no_objects(
    tested: Release, users_vault: dict[str, str], changes: dict[str, str], words: list[str]
) -> None:
    configure_sample(tested, users_vault, **changes)
    with pytest.raises(helm.HelmError, match=r"pod tested-akv-secret-store-test failed"):
        tested.test()
    message = read_verdict(tested)
    assert message.startswith("failed: the Secret tested/tested-akv-secret-store-test ")
    for word in [*words, "kubectl --namespace tested logs deployment/tested-akv-secret-store"]:
        assert word in message
    assert VALUE not in tested.kubectl("logs", "tested-akv-secret-store-test")
    assert list_leftovers(tested) == []


@pytest.mark.parametrize(("flags", "ready"), [((), "True"), (("--set", "test.image.tag=missing"), "False")])
def test_uninstall_removes_the_pod_and_the_sample_of_a_killed_helm_test(
    tested: Release, flags: tuple[str, ...], ready: str
) -> None:
    """Kill helm while the Pod runs or waits for its image. The uninstallation starts no Pod on the node."""
    tested.upgrade(*flags)
    executable = str(tested.executable or helm.find_executable())
    connection = ("--namespace", tested.namespace, "--kubeconfig", str(tested.plane.kubeconfig))
    before = read_test_pod(tested).get("metadata", {}).get("uid", "")
    with subprocess.Popen([executable, "test", tested.name, *connection], stdout=subprocess.DEVNULL) as running:
        try:
            pod = eventually(
                lambda: read_test_pod(tested), lambda found: has_status_of_new_pod(found, ready, before), 60
            )
            if ready == "True":
                eventually(lambda: list_leftovers(tested), lambda found: len(found) > 1, 60)
        finally:
            running.kill()
    assert pod["spec"]["nodeName"]
    began = time.monotonic()
    tested.uninstall()
    figures.append(f"helm uninstall beside a test's Pod: {time.monotonic() - began:.0f} s")
    eventually(lambda: (list_leftovers(tested), read_test_pod(tested)), lambda found: found == ([], {}), 60)
    tested.install()


def read_test_pod(tested: Release) -> dict[str, Any]:
    """Return the test's Pod, or an empty dict if it does not exist."""
    text = tested.kubectl("get", "pod", f"{tested.full_name}-test", "--output", "json", "--ignore-not-found")
    found: dict[str, Any] = json.loads(text or "{}")
    return found


def has_status_of_new_pod(pod: dict[str, Any], ready: str, before: str) -> bool:
    """Return whether the Pod is not the one before and the kubelet has reported this readiness of its container."""
    if not pod or pod["metadata"]["uid"] == before or not pod["status"].get("containerStatuses"):
        return False
    conditions = {each["type"]: each["status"] for each in pod["status"]["conditions"]}
    return conditions.get("Ready") == ready and pod["status"]["phase"] in ("Running", "Pending")
