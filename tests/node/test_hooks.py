"""`helm test` of a release on a node, with its own vault and with a user's. The tests depend on their order."""

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
    release.install()
    yield release
    release.uninstall()
    plane.kubectl("delete", "namespace", release.namespace)


@pytest.fixture(scope="module")
def users_vault(tested: Release) -> dict[str, str]:
    """Return the values of a test that uses an existing vault."""
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


def verdict(tested: Release) -> str:
    """Return the termination message of the test's Pod, which is also the last line of its log."""
    pod = json.loads(tested.kubectl("get", "pod", f"{tested.full_name}-test", "--output", "json"))
    [container] = pod["status"]["containerStatuses"]
    said: str = container["state"]["terminated"]["message"]
    [*_, last] = tested.kubectl("logs", f"{tested.full_name}-test").splitlines()
    assert last.partition(" ")[2] == said
    return said


def list_leftovers(tested: Release) -> list[str]:
    """Return the objects that a test created and did not delete, except its Pod."""
    made = tested.kubectl("get", "secretsyncs,secretproviderclasses", "--output", "name").split()
    secrets = tested.kubectl("get", "secrets", "--output", "name").split()
    clouds = tested.kubectl("get", "configmaps", "--output", "jsonpath={.items[*].data.clouds\\.json}").split("\n")
    return [
        *made,
        *(name for name in secrets if name.endswith("-test")),
        *(text for text in clouds if "helm-test" in text),
    ]


def granted_rights(manifests: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    """Return the rights that the Roles of a test grant."""
    roles = [each for each in manifests if each["kind"] == "Role" and "-test" in each["metadata"]["name"]]
    return {
        (verb, resource, name)
        for role in roles
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
    }


def requested_rights(tested: Release) -> set[tuple[str, ...]]:
    """Return the rights that the requests of the test's Pod needed."""
    user = f"system:serviceaccount:{tested.namespace}:{tested.full_name}-test"
    lines = [json.loads(line) for line in tested.plane.audit_log.read_text().splitlines()]
    mine = [line for line in lines if line["user"]["username"] == user and "resource" in line.get("objectRef", {})]
    return {
        # For the creation of an object, RBAC sees no name.
        (line["verb"], where["resource"], "" if line["verb"] == "create" else where["name"])
        for line in mine
        for where in [line["objectRef"]]
    }


def test_helm_test_passes_with_its_own_vault(tested: Release) -> None:
    began = time.monotonic()
    printed = tested.test()
    figures.append(f"helm test: {time.monotonic() - began:.0f} s")
    said = "passed: a sample and its next version were synced byte for byte"
    assert "Phase:          Succeeded" in printed
    # helm gets the log of the Pod once for each hook.
    assert printed.count(f"INFO {said}") == 2
    assert verdict(tested) == said
    assert list_leftovers(tested) == []
    of_test = ("--selector", "app.kubernetes.io/component=test", "--output", "name")
    assert not tested.kubectl("get", "serviceaccounts,roles,rolebindings,configmaps", *of_test)


def test_granted_rights_equal_those_that_the_test_needed(tested: Release) -> None:
    granted = granted_rights(
        render(
            *version_flags(tested.plane), version=tested.plane.version, release="tested", namespace="tested", tests=True
        )
    )
    assert len(granted) == 11
    assert eventually(lambda: requested_rights(tested), lambda found: len(found) >= len(granted)) == granted


def test_controller_drops_the_cloud_of_the_test_afterwards(tested: Release) -> None:
    def cloud_messages() -> list[str]:
        lines = tested.kubectl("logs", f"deployment/{tested.full_name}").splitlines()
        return [message for line in lines if (message := json.loads(line)["message"]).startswith("clouds of a test")]

    assert eventually(cloud_messages, lambda found: len(found) >= 2, 120) == [
        "clouds of a test: helm-test",
        "clouds of a test: none",
    ]


def configure(tested: Release, sample: dict[str, str], **changes: str) -> None:
    flags = [word for key, text in (sample | changes).items() for word in ("--set-string", f"test.sample.{key}={text}")]
    tested.upgrade(*flags)


def test_helm_test_passes_with_a_vault_of_the_user(tested: Release, users_vault: dict[str, str]) -> None:
    configure(tested, users_vault)
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
    configure(tested, users_vault, **changes)
    with pytest.raises(helm.HelmError, match=r"pod tested-akv-secret-store-test failed"):
        tested.test()
    said = verdict(tested)
    assert said.startswith("failed: the Secret tested/tested-akv-secret-store-test ")
    for word in [*words, "kubectl --namespace tested logs deployment/tested-akv-secret-store"]:
        assert word in said
    assert VALUE not in tested.kubectl("logs", "tested-akv-secret-store-test")
    assert list_leftovers(tested) == []


@pytest.mark.parametrize(("flags", "ready"), [((), "True"), (("--set", "test.image.tag=missing"), "False")])
def test_uninstall_removes_the_pod_and_the_sample_of_a_killed_helm_test(
    tested: Release, flags: tuple[str, ...], ready: str
) -> None:
    """The Pod runs, or the kubelet cannot pull its image. Its node runs nothing for the uninstall."""
    tested.upgrade(*flags)
    executable = str(tested.executable or helm.find_executable())
    at = ("--namespace", tested.namespace, "--kubeconfig", str(tested.plane.kubeconfig))
    before = pod_of_test(tested).get("metadata", {}).get("uid", "")
    with subprocess.Popen([executable, "test", tested.name, *at], stdout=subprocess.DEVNULL) as running:
        try:
            pod = eventually(lambda: pod_of_test(tested), lambda found: has_begun(found, ready, before), 60)
            if ready == "True":
                eventually(lambda: list_leftovers(tested), lambda found: len(found) > 1, 60)
        finally:
            running.kill()
    assert pod["spec"]["nodeName"]
    began = time.monotonic()
    tested.uninstall()
    figures.append(f"helm uninstall beside a test's Pod: {time.monotonic() - began:.0f} s")
    eventually(lambda: (list_leftovers(tested), pod_of_test(tested)), lambda found: found == ([], {}), 60)
    tested.install()


def pod_of_test(tested: Release) -> dict[str, Any]:
    """Return the test's Pod; empty if there is none."""
    text = tested.kubectl("get", "pod", f"{tested.full_name}-test", "--output", "json", "--ignore-not-found")
    found: dict[str, Any] = json.loads(text or "{}")
    return found


def has_begun(pod: dict[str, Any], ready: str, before: str) -> bool:
    """Return whether it is another Pod than before, and the kubelet has reported its container as ready or not."""
    if not pod or pod["metadata"]["uid"] == before or not pod["status"].get("containerStatuses"):
        return False
    conditions = {each["type"]: each["status"] for each in pod["status"]["conditions"]}
    return conditions.get("Ready") == ready and pod["status"]["phase"] in ("Running", "Pending")
