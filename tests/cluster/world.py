"""What the tests on the real API server do again and again: a namespace, objects in it, and waiting for what comes."""

import base64
import contextlib
import itertools
import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from tools import helm, policies
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane, versions
from tools.local_cluster.errors import ClusterError
from tools.workload import Workload

# Every value in the vaults has this in it, and nothing but a Secret may.
CANARY = "canary-4f1d"
TENANT = "00000000-0000-0000-0000-00000000000a"
LABEL = {"secrets-store.sync.x-k8s.io": ""}
"""Of every Secret that is the controller's."""
PATIENCE = 20.0
POLICIES = (policies.SINCE, "admission policies")
"""For `pytest.mark.since`."""
Start = Callable[..., Workload]
"""Of the fixture of that name: starts a controller with these settings."""
PATHS = {
    "secret": "/api/v1/namespaces/{}/secrets",
    "events": "/api/v1/namespaces/{}/events",
    "serviceaccount": "/api/v1/namespaces/{}/serviceaccounts",
    "deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "secretsync": "/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{}/secretsyncs",
    "akvsync": "/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{}/akvsyncs",
    "secretproviderclass": "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{}/secretproviderclasses",
}
"""Of a namespace's objects that tests wait for: a request takes 5 ms, kubectl 100 ms of CPU."""
T = TypeVar("T")
_numbers = itertools.count(1)


def value(text: str) -> str:
    """A secret value that the leak test will recognise."""
    return f"{CANARY}-{text}"


def eventually(look: Callable[[], T], wanted: Callable[[T], object], patience: float = PATIENCE) -> T:
    """Looks until it finds what is wanted; fails with what it found last."""
    deadline = time.monotonic() + patience
    while not wanted(found := look()):
        assert time.monotonic() < deadline, f"after {patience:g} s still {found!r}"
        time.sleep(0.1)
    return found


def create(plane: ControlPlane, where: str, name: str, **fields: Any) -> None:
    """Creates an object of the core group as cluster-admin, sooner than kubectl would."""
    status, answer = plane.request("POST", f"/api/v1/{where}", {"metadata": {"name": name}, **fields})
    assert status == 201, answer


def none_is_ending(plane: ControlPlane) -> None:
    """Waits for the namespaces of earlier tests to be gone: while they end there are calls and failures still."""
    ending = ("get", "namespaces", "--field-selector=status.phase=Terminating", "--output=name")
    eventually(lambda: plane.kubectl(*ending), lambda found: not found, patience=120)


class Installed:
    """The release under test. `user` is the controller's name in the audit log."""

    logs: ClassVar[list[Path]] = []
    """Of every controller of every release of the test module, for `tests.cluster.leaks`."""
    exposed: ClassVar[list[tuple[str, str]]] = []
    """Name and contents of what the module removes before it ends, for `tests.cluster.leaks`."""

    def __init__(self, plane: ControlPlane, emulator: Emulator, release: str, folder: Path) -> None:
        self.plane = plane
        self.emulator = emulator
        self.release = release
        self.folder = folder
        listed = json.loads(plane.kubectl("get", "deployment", "--namespace", release, "--output", "json"))
        (deployment,) = listed["items"]
        self.deployment = str(deployment["metadata"]["name"])
        account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
        self.user = f"system:serviceaccount:{release}:{account}"

    def workload(self, **settings: str) -> Workload:
        """The Deployment as a process, not started yet; `settings` override its environment."""
        workload = Workload.of_deployment(self.plane, self.release, self.deployment, self.folder)
        workload.env.update(settings)
        self.logs.append(workload.log)
        return workload

    def make_available(self) -> None:
        """Plays the kubelet: the Deployment's pod is told to be ready, so that the Deployment is available."""
        at = ("--namespace", self.release)
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
        body = json.dumps({"status": {"phase": "Running", "conditions": [ready]}})
        for pod in eventually(lambda: self.plane.kubectl("get", "pods", *at, "--output", "name").split(), bool):
            # Of an upgrade the old pod may be gone by now.
            self.plane.kubectl("patch", pod, *at, "--subresource=status", "--type=merge", "--patch", body, check=False)
        eventually(self.available, lambda found: found == "1")

    def available(self) -> str:
        """How many of the Deployment's pods are available; empty for none."""
        words = ("get", "deployment", self.deployment, "--namespace", self.release)
        return self.plane.kubectl(*words, "--output", "jsonpath={.status.availableReplicas}")


def serves_policies(version: str) -> bool:
    """Whether that Kubernetes has admission policies."""
    return has(version, policies.SINCE)


def has(version: str, since: str) -> bool:
    """Whether Kubernetes `version` has what came with the release `since`."""
    return versions.minor(version) >= versions.minor(since)


def for_version(plane: ControlPlane) -> list[str]:
    """Flags of helm for that version: where there are no admission policies the chart asks about that."""
    return ["--set", f"acceptUnrestrictedTokens={str(not serves_policies(plane.version)).lower()}"]


def install(plane: ControlPlane, emulator: Emulator, folder: Path) -> Installed:
    """The chart's first release in a new cluster."""
    found = release(plane, emulator, folder, helm.RELEASE)
    plane.restart_controller_manager()  # its garbage collector learns of new kinds only every 30 s
    return found


def release(plane: ControlPlane, emulator: Emulator, folder: Path, name: str, **more: Any) -> Installed:
    """The chart, installed as a user would; its hook Jobs need a node and are run elsewhere (test_crds.py)."""
    cloud = {"authority": emulator.authority, "vaultUrl": emulator.vault_pattern, "ca": emulator.ca_file.read_text()}
    values = folder / "values.json"
    clouds = {"emulator": cloud, "nowhere": {**cloud, "vaultUrl": "https://{vault}.invalid"}}
    values.write_text(json.dumps({"clouds": clouds, "defaultCloud": "emulator", **more}))
    arguments = ["install", name, str(helm.CHART), "--namespace", name, "--create-namespace"]
    arguments += [] if "acceptUnrestrictedTokens" in more else for_version(plane)
    helm.run([*arguments, "--no-hooks", "--values", str(values), "--kubeconfig", str(plane.kubeconfig)])
    return Installed(plane, emulator, name, folder)


@contextlib.contextmanager
def at_work(workload: Workload) -> Iterator[Workload]:
    """It has started and is ready; at the end it stops as it is told."""
    with workload:
        workload.wait_ready()
        yield workload
        assert workload.stop() == 0


def metrics(workload: Workload) -> str:
    """What Prometheus would scrape."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(workload.url + "/metrics", timeout=5) as answer:
        text: bytes = answer.read()
    return text.decode()


def leads(workload: Workload) -> bool:
    """Whether it holds the lease."""
    return "akv_secret_store_leader 1.0" in metrics(workload)


class Scene(Protocol):
    """Where a namespace is: a cluster, and the vaults that it reads."""

    plane: ControlPlane
    emulator: Emulator


class Namespace:
    """A namespace with a ServiceAccount, federated with an identity that may read one vault."""

    def __init__(self, installed: Scene) -> None:
        number = next(_numbers)
        self.installed = installed
        self.name = f"shop-{number}"
        self.vault = f"shop-vault-{number}"
        self.client = f"00000000-0000-0000-0000-{number:012}"
        self.account = "shop"
        emulator, plane = installed.emulator, installed.plane
        emulator.add_vault(self.vault, TENANT)
        emulator.add_identity(self.client, TENANT)
        emulator.federate(self.client, plane.issuer, f"system:serviceaccount:{self.name}:{self.account}")
        emulator.assign_role(self.client, self.vault, "Key Vault Secrets User")
        create(plane, "namespaces", self.name)
        create(plane, f"namespaces/{self.name}/serviceaccounts", self.account)

    def remove(self) -> None:
        """Delete the namespace, without waiting for its end.

        What people could read there is searched for values when the module ends.
        """
        for kind, path in PATHS.items():
            if kind != "secret":
                status, text = self.installed.plane.request("GET", path.format(self.name))
                assert status in (200, 404), text  # 404: the kind was removed
                Installed.exposed.append((f"{kind} of {self.name}", text))
        status, text = self.installed.plane.request("DELETE", f"/api/v1/namespaces/{self.name}")
        assert status in (200, 404, 409), text  # 409: it is ending already

    def add_editor(self, name: str) -> None:
        """Create a ServiceAccount that has the ClusterRole `edit` in this namespace and nothing else."""
        self.kubectl("create", "serviceaccount", name)
        self.kubectl("create", "rolebinding", name, "--clusterrole=edit", f"--serviceaccount={self.name}:{name}")

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """kubectl as cluster-admin, in this namespace."""
        return self.installed.plane.kubectl(*args, "--namespace", self.name, stdin=stdin)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """kubectl apply."""
        self.kubectl(
            "apply", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        )

    def put(self, name: str, text: str, **attributes: Any) -> str:
        """A new version of a secret in the vault; returns its id."""
        return self.installed.emulator.set_secret(self.vault, name, value(text), **attributes)

    def provider_class(self, *names: str, name: str = "shop", objects: str = "", **parameters: str) -> dict[str, Any]:
        """A SecretProviderClass with those secrets; `objects` replaces the text, parameters are added or replaced."""
        items = "".join(f"  - |\n    objectName: {secret}\n    objectType: secret\n" for secret in names)
        given = {"clientID": self.client, "tenantID": TENANT, "keyvaultName": self.vault} | parameters
        return {
            "apiVersion": "secrets-store.csi.x-k8s.io/v1",
            "kind": "SecretProviderClass",
            "metadata": {"name": name},
            "spec": {"provider": "azure", "parameters": {**given, "objects": objects or f"array:\n{items}"}},
        }

    def sync(self, name: str, data: Mapping[str, str], **changes: Any) -> dict[str, Any]:
        """A SecretSync; `data` maps target key to source path, `changes` go into spec (`secretObject` is merged)."""
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
        """An AKVSync of the namespace's vault."""
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

    def names(self, kind: str) -> list[str]:
        """Return the names of all objects of a kind of `PATHS`, sorted."""
        status, text = self.installed.plane.request("GET", PATHS[kind].format(self.name))
        assert status == 200, text
        return sorted(item["metadata"]["name"] for item in json.loads(text)["items"])

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return the object of a kind of `PATHS`; empty where there is none. Raise ClusterError on other answers."""
        try:
            status, text = self.installed.plane.request("GET", f"{PATHS[kind].format(self.name)}/{name}")
        except OSError as error:
            raise ClusterError(str(error)) from error
        if status not in (200, 404):
            raise ClusterError(f"{kind} {name}: {status} {text}")
        found: dict[str, Any] = json.loads(text) if status == 200 else {}
        return found

    def secret(self, name: str) -> dict[str, str]:
        """The Secret's values; empty where there is none."""
        data = self.get("secret", name).get("data", {})
        return {key: base64.b64decode(text).decode() for key, text in data.items()}

    def ready(self, name: str) -> tuple[str, str]:
        """Reason and message of the SecretSync's Ready condition; empty where it has none of this generation."""
        found = self.get("secretsync", name)
        for item in found.get("status", {}).get("conditions", []):
            if item["type"] == "Ready" and item["observedGeneration"] == found["metadata"]["generation"]:
                return item["reason"], item["message"]
        return "", ""

    def wait_reason(self, name: str, *reasons: str, patience: float = PATIENCE) -> str:
        """Waits until Ready has one of these reasons; returns the message."""
        return eventually(lambda: self.ready(name), lambda found: found[0] in reasons, patience)[1]

    def wait_secret(self, name: str, wanted: Mapping[str, str], patience: float = PATIENCE) -> None:
        """Waits until the Secret has exactly these values (canaries are put around them)."""
        expected = {key: value(text) for key, text in wanted.items()}
        eventually(lambda: self.secret(name), lambda found: found == expected, patience)

    def force(self, name: str) -> None:
        """What a person does to have the vault looked at now."""
        patch = json.dumps({"spec": {"forceSynchronization": f"now-{time.monotonic_ns()}"}})
        self.kubectl("patch", "secretsync", name, "--type=merge", "--patch", patch)

    def calls(self, operation: str = "") -> int:
        """How many calls this namespace's vault has had."""
        counters = self.installed.emulator.counters()
        return sum(count for what, count in counters.items() if what.startswith(f"{self.vault}/{operation}"))


@contextlib.contextmanager
def admission_policy(space: Namespace, kind: str, policy: Mapping[str, Any], **binding: Any) -> Iterator[None]:
    """Have an admission policy of this kind in force for the Secrets of the namespace, and for nothing else."""
    name = f"{kind.lower()}-{space.name}"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["secrets"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": space.name}}
    constraints = {"matchConstraints": {"namespaceSelector": selector, "resourceRules": [rule]}}
    kinds = {kind: {**constraints, **policy}, f"{kind}Binding": {"policyName": name, **binding}}
    admission = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    try:
        space.apply(*({**admission, "kind": each, "spec": spec} for each, spec in kinds.items()))
        time.sleep(3)  # until the API server knows the policy
        yield
    finally:
        for each in kinds:
            space.kubectl("delete", each.lower(), name, "--ignore-not-found")


def arrival(space: Namespace, text: str) -> float:
    """Seconds from a new value in the vault to the Secret."""
    space.put("a", text)
    began = time.monotonic()
    space.wait_secret("s", {"k": text}, patience=60)
    return time.monotonic() - began


def resident(controller: Workload) -> float:
    """MiB of the process's memory."""
    (line,) = [line for line in Path(f"/proc/{controller.pid}/status").read_text().splitlines() if "VmRSS" in line]
    return int(line.split()[1]) / 1024
