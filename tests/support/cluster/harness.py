"""Helpers of the tests on a real API server: releases, namespaces, objects, and waiting for results."""

import base64
import contextlib
import itertools
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from controller.runtime import bounded_yaml
from tools.cli.common import helm
from tools.codegen import policies
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.errors import ClusterError
from tools.local_cluster.programs import versions
from tools.pods.pod_process import PodProcess

# Each value in the vaults contains this text, and only Secrets may contain it.
CANARY = "canary-4f1d"
TENANT = "00000000-0000-0000-0000-00000000000a"
MANAGED_LABEL = {"secrets-store.sync.x-k8s.io": ""}
"""The label of each Secret that the controller manages."""
TIMEOUT = 20.0
SINCE_POLICIES = (policies.SINCE, "admission policies")
"""The arguments of `pytest.mark.since` for tests of admission policies."""
StartController = Callable[..., PodProcess]
"""The type of the fixture `start`, which starts a controller with these settings."""
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
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Where `kubectl apply` keeps the manifest, to find what the next one no longer has."""
T = TypeVar("T")
_numbers = itertools.count(1)


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
    """Wait until the namespaces of earlier tests are gone: until then they cause calls and failures."""
    ending = ("get", "namespaces", "--field-selector=status.phase=Terminating", "--output=name")
    eventually(lambda: plane.kubectl(*ending), lambda found: not found, patience=120)


class InstalledRelease:
    """The release under test. `user` is the controller's name in the audit log."""

    logs: ClassVar[list[Path]] = []
    """The logs of all controllers of the test module, for `tests.support.cluster.leaks`."""
    exposed: ClassVar[list[tuple[str, str]]] = []
    """Names and contents of objects that the module removes, for `tests.support.cluster.leaks`."""
    audited: ClassVar[dict[Path, int]] = {}
    """Of each audit log, the position where the lines of this test module begin (default: 0)."""

    def __init__(self, plane: ControlPlane, emulator: Emulator, release: str, folder: Path) -> None:
        self.plane = plane
        self.emulator = emulator
        self.release = release
        self.folder = folder
        status, text = plane.request("GET", KIND_PATHS["deployment"].format(release))
        assert status == 200, text
        (deployment,) = json.loads(text)["items"]
        self.deployment = str(deployment["metadata"]["name"])
        account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
        self.user = f"system:serviceaccount:{release}:{account}"

    def workload(self, **settings: str) -> PodProcess:
        """Return the Deployment as a process, not started yet. `settings` override its environment."""
        workload = PodProcess.of_deployment(self.plane, self.release, self.deployment, self.folder)
        workload.env.update(settings)
        self.logs.append(workload.log)
        return workload

    def make_available(self) -> None:
        """Report the Deployment's pods as ready, as a kubelet does, so that the Deployment is available."""
        at = ("--namespace", self.release)
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
        body = json.dumps({"status": {"phase": "Running", "conditions": [ready]}})
        for pod in eventually(lambda: self.plane.kubectl("get", "pods", *at, "--output", "name").split(), bool):
            # During an upgrade, the old pod may be gone by now.
            self.plane.kubectl("patch", pod, *at, "--subresource=status", "--type=merge", "--patch", body, check=False)
        eventually(self.available_replicas, lambda found: found == "1")

    def available_replicas(self) -> str:
        """Return how many of the Deployment's pods are available; an empty text for none."""
        words = ("get", "deployment", self.deployment, "--namespace", self.release)
        return self.plane.kubectl(*words, "--output", "jsonpath={.status.availableReplicas}")


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
    """Return the chart's CRDs, for `ControlPlane(crds=...)`. Then the garbage collector knows their kinds at once."""
    return [crd for path in sorted((helm.CHART / "crds").iterdir()) for crd in bounded_yaml.load_all(path.read_text())]


def install_release(plane: ControlPlane, emulator: Emulator, folder: Path, name: str, **more: Any) -> InstalledRelease:
    """Install the chart as a user does. Its hook Jobs need a node; test_crds.py runs them."""
    cloud = {"authority": emulator.authority, "vaultUrl": emulator.vault_pattern, "ca": emulator.ca_file.read_text()}
    values = folder / "values.json"
    clouds = {"emulator": cloud, "nowhere": {**cloud, "vaultUrl": "https://{vault}.invalid"}}
    # Tests kill leaders; with the default of one pod the next leader would wait for a minute.
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


def is_leader(workload: PodProcess) -> bool:
    """Return whether the controller holds the lease."""
    return "akv_secret_store_leader 1.0" in read_metrics(workload)


def collection_path(manifest: Mapping[str, Any], namespace: str) -> str:
    """Return the path to which an object of a kind of `KIND_PATHS` is sent; empty for other kinds."""
    group = "api" if manifest["apiVersion"] == "v1" else "apis"
    _, _, plural = KIND_PATHS.get(manifest["kind"].lower(), "").rpartition("/")
    return f"/{group}/{manifest['apiVersion']}/namespaces/{namespace}/{plural}" if plural else ""


def _is_created(send: Callable[..., tuple[int, str]], namespace: str, manifest: Mapping[str, Any]) -> bool:
    """Create an object as `kubectl apply` does; return whether that is done. Raise ClusterError if it is refused."""
    metadata = manifest["metadata"]
    path = collection_path(manifest, namespace)
    if not path or metadata.get("namespace", namespace) != namespace:
        return False
    annotations = {**metadata.get("annotations", {}), LAST_APPLIED: json.dumps(manifest)}
    body = {**manifest, "metadata": {**metadata, "namespace": namespace, "annotations": annotations}}
    status, text = send("POST", f"{path}?fieldManager=kubectl-client-side-apply&fieldValidation=Strict", body)
    if status not in (201, 409):
        raise ClusterError(json.loads(text).get("message", text))
    return status == 201


class Environment(Protocol):
    """The cluster and the vaults that a namespace uses."""

    plane: ControlPlane
    emulator: Emulator


class Namespace:
    """A namespace with a ServiceAccount, federated with an identity that may read one vault."""

    def __init__(self, installed: Environment, name: str = "") -> None:
        number = next(_numbers)
        self.installed = installed
        self.name = name or f"shop-{number}"
        self.vault = f"shop-vault-{number}"
        self.client = f"00000000-0000-0000-0000-{number:012}"
        self.account = "shop"
        emulator, plane = installed.emulator, installed.plane
        emulator.add_vault(self.vault, TENANT)
        emulator.add_identity(self.client, TENANT)
        emulator.federate(self.client, plane.issuer, f"system:serviceaccount:{self.name}:{self.account}")
        emulator.assign_role(self.client, self.vault, "Key Vault Secrets User")
        create_object(plane, "namespaces", self.name)
        create_object(plane, f"namespaces/{self.name}/serviceaccounts", self.account)

    def remove(self) -> None:
        """Delete the namespace, without waiting for its end.

        What people could read there is searched for values when the module ends.
        """
        for kind, path in KIND_PATHS.items():
            if kind != "secret":
                status, text = self.installed.plane.request("GET", path.format(self.name))
                assert status in (200, 404), text  # 404: the kind was removed
                InstalledRelease.exposed.append((f"{kind} of {self.name}", text))
        status, text = self.installed.plane.request("DELETE", f"/api/v1/namespaces/{self.name}")
        assert status in (200, 404, 409), text  # 409: it is ending already

    def add_editor(self, name: str) -> None:
        """Create a ServiceAccount that has the ClusterRole `edit` in this namespace and nothing else."""
        self.kubectl("create", "serviceaccount", name)
        self.kubectl("create", "rolebinding", name, "--clusterrole=edit", f"--serviceaccount={self.name}:{name}")

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl as cluster-admin in this namespace."""
        return self.installed.plane.kubectl(*args, "--namespace", self.name, stdin=stdin)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Do what `kubectl apply` does; it runs only for objects that exist, and for kinds not in `KIND_PATHS`."""
        with self.installed.plane.session() as send:
            left = [manifest for manifest in objects if not _is_created(send, self.name, manifest)]
        if left:
            text = json.dumps({"apiVersion": "v1", "kind": "List", "items": left})
            self.kubectl("apply", "--filename", "-", stdin=text)

    def set_secret(self, name: str, text: str, **attributes: Any) -> str:
        """Set a new version of a secret in the vault; return its id."""
        return self.installed.emulator.set_secret(self.vault, name, canary_value(text), **attributes)

    def provider_class(self, *names: str, name: str = "shop", objects: str = "", **parameters: str) -> dict[str, Any]:
        """Return a SecretProviderClass with those secrets. `objects` replaces the text."""
        items = "".join(f"  - |\n    objectName: {secret}\n    objectType: secret\n" for secret in names)
        given = {"clientID": self.client, "tenantID": TENANT, "keyvaultName": self.vault} | parameters
        return {
            "apiVersion": "secrets-store.csi.x-k8s.io/v1",
            "kind": "SecretProviderClass",
            "metadata": {"name": name},
            "spec": {"provider": "azure", "parameters": {**given, "objects": objects or f"array:\n{items}"}},
        }

    def sync(self, name: str, data: Mapping[str, str], **changes: Any) -> dict[str, Any]:
        """Return a SecretSync. `data` maps target key to source path. `changes` go into spec."""
        pairs = [{"targetKey": key, "sourcePath": path} for key, path in data.items()]
        secret_object = {"type": "Opaque", "data": pairs, **changes.pop("secretObject", {})}
        spec = {"secretProviderClassName": "shop", "serviceAccountName": self.account, "secretObject": secret_object}
        return {
            "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
            "kind": "SecretSync",
            "metadata": {"name": name},
            "spec": spec | changes,
        }

    def akv_sync(self, *objects: Mapping[str, Any], name: str = "made") -> dict[str, Any]:
        """Return an AKVSync of the namespace's vault."""
        return {
            "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
            "kind": "AKVSync",
            "metadata": {"name": name},
            "spec": {
                "keyvaultName": self.vault,
                "clientID": self.client,
                "tenantID": TENANT,
                "serviceAccountName": self.account,
                "objects": objects,
            },
        }

    def list_names(self, kind: str) -> list[str]:
        """Return the names of all objects of a kind of `PATHS`, sorted."""
        status, text = self.installed.plane.request("GET", KIND_PATHS[kind].format(self.name))
        assert status == 200, text
        return sorted(item["metadata"]["name"] for item in decode_nested_json(text)["items"])

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return the object of a kind of `PATHS`; empty where there is none. Raise ClusterError on other answers."""
        try:
            status, text = self.installed.plane.request("GET", f"{KIND_PATHS[kind].format(self.name)}/{name}")
        except OSError as error:
            raise ClusterError(str(error)) from error
        if status not in (200, 404):
            raise ClusterError(f"{kind} {name}: {status} {text}")
        found: dict[str, Any] = decode_nested_json(text) if status == 200 else {}
        return found

    def secret_values(self, name: str) -> dict[str, str]:
        """Return the Secret's values; an empty mapping if there is no Secret."""
        data = self.get("secret", name).get("data", {})
        return {key: base64.b64decode(text).decode() for key, text in data.items()}

    def ready_condition(self, name: str) -> tuple[str, str]:
        """Return the SecretSync's reason and message of Ready; empty if it has none of this generation."""
        found = self.get("secretsync", name)
        for item in found.get("status", {}).get("conditions", []):
            if item["type"] == "Ready" and item["observedGeneration"] == found["metadata"]["generation"]:
                return item["reason"], item["message"]
        return "", ""

    def wait_reason(self, name: str, *reasons: str, patience: float = TIMEOUT) -> str:
        """Wait until Ready has one of these reasons; return the message."""
        return eventually(lambda: self.ready_condition(name), lambda found: found[0] in reasons, patience)[1]

    def wait_secret(self, name: str, wanted: Mapping[str, str], patience: float = TIMEOUT) -> None:
        """Wait until the Secret has exactly these values, as `canary_value` returns them."""
        expected = {key: canary_value(text) for key, text in wanted.items()}
        eventually(lambda: self.secret_values(name), lambda found: found == expected, patience)

    def force_sync(self, name: str) -> None:
        """Set forceSynchronization, so that the controller reads the vault now."""
        patch = {"spec": {"forceSynchronization": f"now-{time.monotonic_ns()}"}}
        path = f"{KIND_PATHS['secretsync'].format(self.name)}/{name}"
        status, text = self.installed.plane.request("PATCH", path, patch, "application/merge-patch+json")
        assert status == 200, text

    def count_calls(self, operation: str = "") -> int:
        """Return how many calls this namespace's vault has received."""
        counters = self.installed.emulator.counters()
        return sum(count for what, count in counters.items() if what.startswith(f"{self.vault}/{operation}"))


@contextlib.contextmanager
def admission_policy(space: Namespace, kind: str, policy: Mapping[str, Any], **binding: Any) -> Iterator[None]:
    """Have an admission policy of this kind in force for the Secrets of the namespace, and for nothing else.

    It refuses or labels each Secret that is created without labels: so the API server is known to apply it.
    """
    name = f"{kind.lower()}-{space.name}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["secrets"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": space.name}}
    constraints = {"matchConstraints": {"namespaceSelector": selector, "resourceRules": [rule]}}
    kinds = {kind: {**constraints, **policy}, f"{kind}Binding": {"policyName": name, **binding}}
    admission = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    try:
        space.apply(*({**admission, "kind": each, "spec": spec} for each, spec in kinds.items()))
        eventually(lambda: create_without_labels(space), lambda found: found != (201, {}))
        yield
    finally:
        for each in kinds:
            space.kubectl("delete", each.lower(), name, "--ignore-not-found")


def wait_policies(plane: ControlPlane) -> None:
    """Wait until the API server applies every admission policy that exists now.

    The API server takes over new policies about once a second, and may take over only some of those that helm creates
    in one go. It learns of them in the order of their creation. So this function creates another one, which refuses a
    ConfigMap of one name, and waits for its refusal.
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


def create_without_labels(space: Namespace) -> tuple[int, dict[str, str]]:
    """Create a Secret without labels, as a dry run; return the status of the answer, and the labels in it."""
    path = f"{KIND_PATHS['secret'].format(space.name)}?dryRun=All"
    status, text = space.installed.plane.request("POST", path, {"metadata": {"name": "probe"}})
    return status, json.loads(text)["metadata"].get("labels", {})


def measure_propagation(space: Namespace, text: str) -> float:
    """Return the seconds from a new value in the vault to the Secret."""
    space.set_secret("a", text)
    began = time.monotonic()
    space.wait_secret("s", {"k": text}, patience=60)
    return time.monotonic() - began
