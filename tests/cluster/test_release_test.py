"""Test `helm test` on a real API server: its hooks, and its result without a running controller.

tests/node tests it with a running controller, because only a kubelet mounts the test's cloud.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.cluster.harness import (
    HELMS,
    KIND_PATHS,
    InstalledRelease,
    InstallRelease,
    StartController,
    eventually,
)
from tests.support.cluster.namespace import Namespace
from tools.cli.common import helm

ROOT = Path(__file__).resolve().parents[2]
KINDS = "pods,serviceaccounts,roles,rolebindings,configmaps,jobs"
SAMPLE_KINDS = ("secretsync", "secretproviderclass")
TEST_OBJECTS = "app.kubernetes.io/component=test,app.kubernetes.io/instance={}"
_numbers = itertools.count(1)
UNINSTALL_SECONDS = 20
# The test's vault always uses the same port, so each run needs its own address.
_addresses = (f"127.8.{os.getpid() % 255}.{number}" for number in itertools.count(1))


# Run the program, but wait five seconds for a sync, not half a minute.
IMPATIENT = ("-c", "import sys; from tools.helm_test import __main__, sample; sample.SYNC_SECONDS = 5.0; "
             "sys.exit(__main__.main())")  # fmt: skip


@contextmanager
def program(
    installed: InstalledRelease, start: Sequence[str] = ("-m", "tools.helm_test"), **settings: str
) -> Iterator["subprocess.Popen[str]"]:
    """Run the program of `helm test` as the chart's Pod runs it."""
    environment = {
        "KUBECONFIG": str(installed.plane.kubeconfig),
        "PYTHONPATH": str(ROOT),
        "NAMESPACE": installed.release,
        "DEPLOYMENT": installed.deployment,
        "NAME": f"{installed.deployment}-test",
        "POD_IP": next(_addresses),
        "SAMPLE_NAMESPACE": installed.release,
        "SERVICE_ACCOUNT": "shop",
    }
    with subprocess.Popen(
        [sys.executable, "-P", *start],
        env=os.environ | environment | settings,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def list_leftovers(installed: InstalledRelease) -> list[str]:
    lists = (installed.plane.read_object(KIND_PATHS[kind].format(installed.release)) for kind in SAMPLE_KINDS)
    return [item["metadata"]["name"] for found in lists for item in found["items"]]


def clouds(installed: InstalledRelease) -> dict[str, str]:
    at = ("--namespace", installed.release)
    found = installed.plane.kubectl("get", "configmap", f"{installed.deployment}-test", *at, "--output", "json")
    data: dict[str, str] = json.loads(found).get("data") or {}
    return data


@pytest.fixture(autouse=True)
def removed_hooks(installed: InstalledRelease) -> Iterator[None]:
    """Remove the objects that `helm test` leaves on purpose."""
    yield
    at = ("--namespace", installed.release, "--selector", TEST_OBJECTS.format(installed.release))
    installed.plane.kubectl("delete", KINDS, *at, "--grace-period=0", "--force")


@pytest.fixture
def config(installed: InstalledRelease) -> Iterator[None]:
    """Create the ConfigMap and the sample's Role, which are hooks of `helm test`."""
    where = (f"{installed.deployment}-test", "--namespace", installed.release)
    installed.plane.kubectl("create", "configmap", *where)
    create_role(installed, installed.release)
    yield
    installed.plane.kubectl("delete", "configmap,role", *where)


def create_role(installed: InstalledRelease, namespace: str) -> None:
    where = (f"{installed.deployment}-test", "--namespace", namespace)
    installed.plane.kubectl("create", "role", *where, "--verb=get", "--resource=secretsyncs")


@contextmanager
def helm_test(installed: InstalledRelease, program: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run `helm test` up to the point where it waits for its Pod."""
    before = pod(installed).get("uid")
    command = [str(program), "test", installed.release, *installed.helm_flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            eventually(lambda: pod(installed), lambda found: found.get("uid") not in (None, before), 60)
            yield running
        finally:
            running.kill()


def pod(installed: InstalledRelease) -> dict[str, str]:
    """Return the metadata of the test's Pod, or {} if there is none."""
    path = f"/api/v1/namespaces/{installed.release}/pods/{installed.deployment}-test"
    status, text = installed.plane.request("GET", path)
    found: dict[str, str] = json.loads(text)["metadata"] if status == 200 else {}
    return found


def end_pod(installed: InstalledRelease, phase: str) -> None:
    """Set the phase of the Pod, as the kubelet does when the Pod ends."""
    at = ("--namespace", installed.release, "--subresource=status", "--type=merge")
    body = json.dumps({"status": {"phase": phase}})
    installed.plane.kubectl("patch", "pod", f"{installed.deployment}-test", *at, "--patch", body)


def of_test(installed: InstalledRelease) -> set[str]:
    """Return the kinds of the test's objects in the cluster."""
    at = ("--namespace", installed.release, "--selector", TEST_OBJECTS.format(installed.release))
    found = installed.plane.kubectl("get", KINDS, *at, "--output", "name")
    return {name.partition("/")[0].partition(".")[0] for name in found.split()}


EVERYTHING = {"pod", "serviceaccount", "role", "rolebinding", "configmap", "job"}


@pytest.mark.parametrize("version", HELMS)
def test_only_the_pod_remains_after_helm_test(installed: InstalledRelease, version: str) -> None:
    with helm_test(installed, HELMS[version]()) as running:
        assert of_test(installed) == EVERYTHING
        end_pod(installed, "Succeeded")
        output, _ = running.communicate(timeout=60)
    assert (running.returncode, of_test(installed)) == (0, {"pod"}), output


@pytest.mark.parametrize("version", HELMS)
def test_helm_names_the_failed_pod(installed: InstalledRelease, version: str) -> None:
    """Report the Pod as failed. helm 4 then removes the other objects of the test. helm 3.17 keeps them."""
    with helm_test(installed, HELMS[version]()) as running:
        end_pod(installed, "Failed")
        output, _ = running.communicate(timeout=60)
    left = {"3": EVERYTHING, "4": {"pod"}}[version]
    assert (running.returncode, of_test(installed)) == (1, left), output
    assert f"pod {installed.deployment}-test failed" in output


@pytest.mark.parametrize("version", HELMS)
def test_next_helm_test_replaces_the_objects_of_a_killed_one(installed: InstalledRelease, version: str) -> None:
    with helm_test(installed, HELMS[version]()) as running:
        running.kill()
        running.communicate()
    assert of_test(installed) == EVERYTHING
    with helm_test(installed, HELMS[version]()) as running:
        end_pod(installed, "Succeeded")
        assert running.wait(60) == 0
    assert of_test(installed) == {"pod"}


def kill_test(own: InstalledRelease, version: str, phase: str) -> None:
    """Kill helm and the program in the middle of a test whose Pod is in that phase."""
    with helm_test(own, HELMS[version]()) as running:
        running.kill()
        running.communicate()
    with program(own):
        eventually(lambda: list_leftovers(own), lambda found: len(found) == 2, 60)
    end_pod(own, phase)
    assert of_test(own) == EVERYTHING


@pytest.mark.parametrize("phase", ["Pending", "Running", "Failed", "Succeeded"])
@pytest.mark.parametrize("version", HELMS)
def test_uninstall_removes_what_a_killed_helm_test_left(
    own_release: InstalledRelease, version: str, phase: str
) -> None:
    kill_test(own_release, version, phase)
    output = uninstall(own_release, version)
    eventually(lambda: (of_test(own_release), list_leftovers(own_release)), lambda found: found == (set(), []))
    assert "error" not in output.lower()


@pytest.mark.parametrize("changes", [(), ("--set", "test.enabled=false")])
@pytest.mark.parametrize("version", HELMS)
def test_uninstall_without_a_helm_test_takes_moments(
    own_release: InstalledRelease, version: str, changes: tuple[str, ...]
) -> None:
    flags = [*own_release.helm_flags, "--no-hooks", "--reuse-values", *changes]
    helm.run(["upgrade", own_release.release, str(helm.CHART), *flags])
    began = time.monotonic()
    uninstall(own_release, version)
    assert time.monotonic() - began < UNINSTALL_SECONDS
    assert of_test(own_release) == set()


@pytest.mark.parametrize("is_gone", [False, True])
@pytest.mark.parametrize("version", HELMS)
def test_uninstall_removes_the_sample_of_another_namespace(
    install_own: InstallRelease, installed: InstalledRelease, version: str, is_gone: bool
) -> None:
    """Uninstall a release whose sample is in another namespace, which can already be deleted.

    The objects in that namespace are not hooks, because the uninstallation would fail if the namespace did not exist.
    """
    plane, elsewhere = installed.plane, f"sample-{next(_numbers)}"
    plane.kubectl("create", "namespace", elsewhere)
    own = install_own(watchNamespaces=[elsewhere])
    with helm_test(own, HELMS[version]()) as running:
        running.kill()
        running.communicate()
    here = ("get", f"{','.join(SAMPLE_KINDS)},{KINDS}", "--namespace", elsewhere, "--output", "name")
    with program(own, SAMPLE_NAMESPACE=elsewhere):
        eventually(lambda: plane.kubectl(*here), lambda found: "secretsync" in found, 60)
    if is_gone:
        plane.kubectl("delete", "namespace", elsewhere)
    assert "error" not in uninstall(own, version).lower()
    eventually(lambda: of_test(own), lambda found: not found)
    others = ("serviceaccount/default", "configmap/kube-root-ca.crt")
    eventually(lambda: [each for each in plane.kubectl(*here).split() if each not in others], lambda found: not found)
    plane.kubectl("delete", "namespace", elsewhere, "--wait=false", "--ignore-not-found")


def test_next_helm_test_removes_the_sample_of_a_killed_one(own_release: InstalledRelease) -> None:
    kill_test(own_release, "3", "Running")
    with helm_test(own_release, HELMS["3"]()):
        eventually(lambda: list_leftovers(own_release), lambda found: not found)


def uninstall(own: InstalledRelease, version: str) -> str:
    return helm.run(["uninstall", own.release, *own.helm_flags], executable=HELMS[version]())


@pytest.mark.usefixtures("config")
@pytest.mark.parametrize(("address", "url"), [("127.8.0.1", "https://127.8.0.1:"), ("::1", "https://[::1]:")])
def test_sigterm_ends_the_test_without_leftovers(address: str, url: str, installed: InstalledRelease) -> None:
    with program(installed, POD_IP=address) as running:
        eventually(lambda: list_leftovers(installed), lambda found: len(found) == 2)
        [cloud] = json.loads(clouds(installed)["clouds.json"]).values()
        assert cloud["vaultUrl"].startswith(url)
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=60)
    assert (running.returncode, output.splitlines()[-1]) == (1, "ERROR failed: it was stopped")
    assert (list_leftovers(installed), clouds(installed)) == ([], {})


@pytest.mark.usefixtures("config")
def test_missing_controller_is_reported_with_the_next_step(installed: InstalledRelease) -> None:
    with program(installed, IMPATIENT) as running:
        output, _ = running.communicate(timeout=120)
    assert running.returncode == 1
    last = output.splitlines()[-1]
    assert "the controller has written no status of the SecretSync" in last
    assert f"kubectl --namespace {installed.release} logs deployment/{installed.deployment}" in last
    assert (list_leftovers(installed), clouds(installed)) == ([], {})


def test_leftovers_of_an_earlier_run_are_replaced(installed: InstalledRelease, start: StartController) -> None:
    """Run the test in a user's namespace in which a killed test left its sample with another source."""
    start()  # only for this test, because no controller may run in the others
    space = Namespace(installed)
    name = f"{installed.deployment}-test"
    space.set_secret("old", "1")
    space.apply(space.provider_class("old", name=name), space.sync(name, {"k": "old"}, secretProviderClassName=name))
    space.wait_secret(name, {"k": "1"})
    space.set_secret("new", "2")
    users = {"KEYVAULT_NAME": space.vault, "CLIENT_ID": space.client, "SECRET_NAME": "new"}
    create_role(installed, space.name)
    tenant = space.provider_class("new")["spec"]["parameters"]["tenantID"]
    with program(installed, SAMPLE_NAMESPACE=space.name, TENANT_ID=tenant, **users) as running:
        output, _ = running.communicate(timeout=120)
    [*before, last] = output.splitlines()
    assert last == f"INFO passed: secret new of Key Vault {space.vault} was synced"
    for kind in ("SecretSync", "SecretProviderClass"):
        assert f"INFO removed {kind} {space.name}/{name}, which an earlier test left" in before
    assert running.returncode == 0
    assert (space.list_names("secretsync"), space.list_names("secretproviderclass"), space.list_names("secret")) == (
        [],
        [],
        [],
    )
    space.remove()
