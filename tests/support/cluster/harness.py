"""Helpers of the tests on a real API server: releases, namespaces, objects, and waiting for results."""

import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from controller.kube.resources import MERGE_PATCH
from controller.runtime import bounded_yaml
from tools.cli.common import helm
from tools.codegen import policies
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.programs import assets, versions
from tools.pods.pod_process import PodProcess

# Each value in the vaults contains this text, and only Secrets may contain it.
CANARY = "canary-4f1d"
TENANT = "00000000-0000-0000-0000-00000000000a"
MANAGED_LABEL = {"secrets-store.sync.x-k8s.io": ""}
"""The label of each Secret that the controller manages."""
TIMEOUT = 20.0
SINCE_POLICIES = (policies.SINCE, "admission policies")
"""The arguments of `pytest.mark.since` for tests of admission policies."""
HELMS: dict[str, Callable[[], Path]] = {"3": helm.find_executable, "4": lambda: assets.tool("helm")}
"""The executables of helm by their major version. Some have to be built first."""
StartController = Callable[..., PodProcess]
"""The type of the fixture `start`, which starts a controller with these settings."""
InstallRelease = Callable[..., "InstalledRelease"]
"""The type of the fixture `install_own`, which installs a release with this name prefix and these values."""
KIND_PATHS = {
    "secret": "/api/v1/namespaces/{}/secrets",
    "events": "/api/v1/namespaces/{}/events",
    "serviceaccount": "/api/v1/namespaces/{}/serviceaccounts",
    "deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "secretsync": "/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{}/secretsyncs",
    "akvsync": "/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{}/akvsyncs",
    "secretproviderclass": "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{}/secretproviderclasses",
}
"""The paths of objects that tests wait for. A request takes 5 ms, kubectl 100 ms of CPU."""
T = TypeVar("T")


def canary_value(text: str) -> str:
    """Return a secret value that the leak checks recognise."""
    return f"{CANARY}-{text}"


def decode_nested_json(text: str) -> Any:
    """Decode JSON that is nested up to 10,000 levels, as an editor of a namespace can write it."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    try:
        return json.loads(text)
    finally:
        sys.setrecursionlimit(limit)


def eventually(
    read: Callable[[], T], wanted: Callable[[T], object], patience: float = TIMEOUT, every: float = 0.1
) -> T:
    """Read until `wanted` accepts the result. Fail with the last result after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not wanted(found := read()):
        assert time.monotonic() < deadline, f"after {patience:g} s the result is still {found!r}"
        time.sleep(every)
    return found


def create_object(plane: ControlPlane, where: str, name: str, **fields: Any) -> None:
    """Create an object of the core group as cluster-admin, faster than kubectl."""
    status, answer = plane.request("POST", f"/api/v1/{where}", {"metadata": {"name": name}, **fields})
    assert status == 201, answer


def wait_for_deleted_namespaces(plane: ControlPlane) -> None:
    """Wait until the namespaces of earlier tests are deleted. Before that, they cause calls and failures."""

    def list_terminating() -> list[str]:
        found = plane.read_object("/api/v1/namespaces")["items"]
        return [item["metadata"]["name"] for item in found if item["status"]["phase"] == "Terminating"]

    eventually(list_terminating, lambda found: not found, patience=120)


class InstalledRelease:
    """The release under test. `user` is the controller's name in the audit log."""

    logs: ClassVar[list[Path]] = []
    """The logs of all controllers of the test module, for `tests.support.cluster.leaks`."""
    exposed: ClassVar[list[tuple[str, str]]] = []
    """Names and contents of objects that the module removes, for `tests.support.cluster.leaks`."""
    audited: ClassVar[dict[Path, int]] = {}
    """For each audit log, the position where the lines of this test module begin (default: 0)."""

    def __init__(self, plane: ControlPlane, emulator: Emulator, release: str, folder: Path) -> None:
        self.plane = plane
        self.emulator = emulator
        self.release = release
        self.folder = folder
        (deployment,) = plane.read_object(KIND_PATHS["deployment"].format(release))["items"]
        self.deployment = str(deployment["metadata"]["name"])
        account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
        self.user = f"system:serviceaccount:{release}:{account}"

    @property
    def helm_flags(self) -> list[str]:
        """Return helm's flags for the namespace and the cluster of the release."""
        return ["--namespace", self.release, "--kubeconfig", str(self.plane.kubeconfig)]

    def remove(self) -> None:
        """Uninstall the release without its hooks, and delete its namespace."""
        helm.run(["uninstall", self.release, *self.helm_flags, "--ignore-not-found", "--no-hooks"])
        self.plane.kubectl("delete", "namespace", self.release, "--wait=false", "--ignore-not-found")

    def workload(self, **settings: str) -> PodProcess:
        """Return the Deployment as a process, not started yet. `settings` override its environment."""
        workload = PodProcess.of_deployment(self.plane, self.release, self.deployment, self.folder)
        workload.env.update(settings)
        self.logs.append(workload.log)
        return workload

    def make_available(self) -> None:
        """Report the Deployment's pods as ready, as a kubelet does, so that the Deployment is available."""
        pods = f"/api/v1/namespaces/{self.release}/pods"
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
        body = {"status": {"phase": "Running", "conditions": [ready]}}
        for pod in eventually(lambda: self.plane.read_object(pods)["items"], bool):
            # During an upgrade, the old pod may be gone by now.
            self.plane.request("PATCH", f"{pods}/{pod['metadata']['name']}/status", body, MERGE_PATCH)
        eventually(self.count_available_replicas, lambda found: found == 1)

    def count_available_replicas(self) -> int:
        """Return how many of the Deployment's pods are available."""
        found = self.plane.read_object(f"{KIND_PATHS['deployment'].format(self.release)}/{self.deployment}")
        return int(found["status"].get("availableReplicas", 0))


def audit_lines(plane: ControlPlane) -> Iterator[str]:
    """Yield the complete lines of the audit log that were written since the test module began."""
    with plane.audit_log.open("rb") as log:
        log.seek(InstalledRelease.audited.get(plane.audit_log, 0))
        for line in log:
            if line.endswith(b"\n"):
                yield line.decode()


def serves_policies(version: str) -> bool:
    """Return whether that Kubernetes version has admission policies."""
    return is_at_least(version, policies.SINCE)


def is_at_least(version: str, since: str) -> bool:
    """Return whether the Kubernetes version is `since` or newer."""
    return versions.minor_version(version) >= versions.minor_version(since)


def version_flags(plane: ControlPlane) -> list[str]:
    """Return the helm flags for that version. Without admission policies, the chart needs a confirmation."""
    return ["--set", f"acceptUnrestrictedTokens={str(not serves_policies(plane.version)).lower()}"]


def install_first_release(plane: ControlPlane, emulator: Emulator, folder: Path, **values: Any) -> InstalledRelease:
    """Install the chart's first release in a new cluster, whose control plane was started with `chart_crds`."""
    return install_release(plane, emulator, folder, helm.RELEASE, **values)


def chart_crds() -> list[dict[str, Any]]:
    """Return the chart's CRDs, for `ControlPlane(crds=...)`, so that the garbage collector knows their kinds."""
    return [crd for path in sorted((helm.CHART / "crds").iterdir()) for crd in bounded_yaml.load_all(path.read_text())]


def install_release(plane: ControlPlane, emulator: Emulator, folder: Path, name: str, **more: Any) -> InstalledRelease:
    """Install the chart without its hook Jobs, because they need a node. test_crds.py runs them."""
    values = folder / "values.json"
    clouds = {"emulator": emulator.cloud, "nowhere": {**emulator.cloud, "vaultUrl": "https://{vault}.invalid"}}
    # Tests kill leaders. With the default for one replica, the next leader would wait for a minute.
    quick = {"leaseDurationInSeconds": 15, "renewIntervalInSeconds": 2}
    values.write_text(json.dumps({"clouds": clouds, "defaultCloud": "emulator", "leaderElection": quick, **more}))
    arguments = ["install", name, str(helm.CHART), "--namespace", name, "--create-namespace"]
    arguments += [] if "acceptUnrestrictedTokens" in more else version_flags(plane)
    helm.run([*arguments, "--no-hooks", "--values", str(values), "--kubeconfig", str(plane.kubeconfig)])
    wait_policies(plane)
    return InstalledRelease(plane, emulator, name, folder)


@contextlib.contextmanager
def running_controller(workload: PodProcess) -> Iterator[PodProcess]:
    """Start the controller, and wait until it is ready. Stop it at the end, and check its exit code."""
    with workload:
        workload.wait_ready()
        yield workload
        assert workload.stop() == 0


def read_metrics(workload: PodProcess) -> str:
    """Return the metrics as Prometheus scrapes them."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(workload.url + "/metrics", timeout=5) as answer:
        text: bytes = answer.read()
    return text.decode()


def assert_running(workload: PodProcess, pid: int) -> None:
    """Check that the process with this id still runs. A crash shows at once in a wait that makes this check."""
    assert workload.running, f"the controller has ended:\n{workload.tail()}"
    assert workload.pid == pid, "the controller has been restarted"


def is_leader(workload: PodProcess) -> bool:
    """Return whether the controller holds the lease."""
    return "akv_secret_store_leader 1.0" in read_metrics(workload)


def wait_policies(plane: ControlPlane) -> None:
    """Wait until the API server applies every admission policy that exists now.

    The API server loads new policies about once a second, so it may load only some of the policies that helm creates
    together. It loads them in the order of their creation. Therefore this function creates one more policy, which
    refuses a ConfigMap of one name, and waits for the refusal.
    """
    if not serves_policies(plane.version):
        return
    name = "last-policy"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    refusal = {
        "matchConstraints": {"resourceRules": [{**rule, "resourceNames": [name]}]},
        "validations": [{"expression": "false"}],
    }
    group = "/apis/admissionregistration.k8s.io/v1"
    specs = {
        f"{group}/validatingadmissionpolicies": refusal,
        f"{group}/validatingadmissionpolicybindings": {"policyName": name, "validationActions": ["Deny"]},
    }
    metadata = {"metadata": {"name": name}}
    for path, spec in specs.items():
        status, text = plane.request("POST", path, {**metadata, "spec": spec})
        assert status == 201, text
    try:
        eventually(
            lambda: plane.request("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", metadata)[0],
            lambda status: status == 422,
        )
    finally:
        for path in specs:
            plane.request("DELETE", f"{path}/{name}")
