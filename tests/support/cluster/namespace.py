"""A namespace of a test with its own vault and identity, and the objects in it."""

import base64
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from controller.kube.resources import MERGE_PATCH
from tests.support.cluster.harness import (
    KIND_PATHS,
    TENANT,
    TIMEOUT,
    InstalledRelease,
    canary_value,
    create_object,
    decode_nested_json,
    eventually,
)
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.errors import ClusterError

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""The annotation in which `kubectl apply` stores the manifest, so that the next apply can remove former fields."""
_numbers = itertools.count(1)


def collection_path(manifest: Mapping[str, Any], namespace: str) -> str:
    """Return the path for creating an object of a kind of `KIND_PATHS`, or an empty text for other kinds."""
    group = "api" if manifest["apiVersion"] == "v1" else "apis"
    _, _, plural = KIND_PATHS.get(manifest["kind"].lower(), "").rpartition("/")
    return f"/{group}/{manifest['apiVersion']}/namespaces/{namespace}/{plural}" if plural else ""


def _is_created(send: Callable[..., tuple[int, str]], namespace: str, manifest: Mapping[str, Any]) -> bool:
    """Create an object as `kubectl apply` does. Return whether it was created, or raise `ClusterError`."""
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
        """Delete the namespace. Do not wait until the deletion is complete.

        The namespace controller deletes the objects in it seconds later. Until then, the controller would retry a
        failing SecretSync during the next tests, so this method deletes the SecretSyncs itself. It also stores all
        objects that users could read there. A check at the end of the module searches them for values.
        """
        for kind, path in KIND_PATHS.items():
            if kind != "secret":
                status, text = self.installed.plane.request("GET", path.format(self.name))
                assert status in (200, 404), text  # 404: the kind was removed
                InstalledRelease.exposed.append((f"{kind} of {self.name}", text))
        for kind in ("akvsync", "secretsync"):
            status, text = self.installed.plane.request("DELETE", KIND_PATHS[kind].format(self.name))
            assert status in (200, 404), text
        status, text = self.installed.plane.request("DELETE", f"/api/v1/namespaces/{self.name}")
        assert status in (200, 404, 409), text  # 409: its deletion has begun already

    def add_editor(self, name: str) -> None:
        """Create a ServiceAccount that has the ClusterRole `edit` in this namespace and nothing else."""
        self.kubectl("create", "serviceaccount", name)
        self.kubectl("create", "rolebinding", name, "--clusterrole=edit", f"--serviceaccount={self.name}:{name}")

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl as cluster-admin in this namespace."""
        return self.installed.plane.kubectl(*args, "--namespace", self.name, stdin=stdin)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects as `kubectl apply` does. Use kubectl only for existing objects and for other kinds."""
        with self.installed.plane.session() as send:
            left = [manifest for manifest in objects if not _is_created(send, self.name, manifest)]
        if left:
            text = json.dumps({"apiVersion": "v1", "kind": "List", "items": left})
            self.kubectl("apply", "--filename", "-", stdin=text)

    def set_secret(self, name: str, text: str, **attributes: Any) -> str:
        """Set a new version of a secret in the vault. Return its id."""
        return self.installed.emulator.set_secret(self.vault, name, canary_value(text), **attributes)

    def provider_class(self, *names: str, name: str = "shop", objects: str = "", **parameters: str) -> dict[str, Any]:
        """Return a SecretProviderClass with those secrets. `objects` replaces the parameter of that name."""
        items = "".join(f"  - |\n    objectName: {secret}\n    objectType: secret\n" for secret in names)
        given = {"clientID": self.client, "tenantID": TENANT, "keyvaultName": self.vault} | parameters
        return {
            "apiVersion": "secrets-store.csi.x-k8s.io/v1",
            "kind": "SecretProviderClass",
            "metadata": {"name": name},
            "spec": {"provider": "azure", "parameters": {**given, "objects": objects or f"array:\n{items}"}},
        }

    def sync(self, name: str, data: Mapping[str, str], **changes: Any) -> dict[str, Any]:
        """Return a SecretSync. `data` maps targetKey to sourcePath. `changes` replace fields of spec."""
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

    def list_objects(self, kind: str) -> list[dict[str, Any]]:
        """Return all objects of a kind of `KIND_PATHS`."""
        status, text = self.installed.plane.request("GET", KIND_PATHS[kind].format(self.name))
        assert status == 200, text
        items: list[dict[str, Any]] = decode_nested_json(text)["items"]
        return items

    def list_names(self, kind: str) -> list[str]:
        """Return the names of all objects of a kind of `KIND_PATHS`, sorted."""
        return sorted(item["metadata"]["name"] for item in self.list_objects(kind))

    def list_events(self, name: str) -> list[dict[str, Any]]:
        """Return the events about the objects of this name."""
        return [item for item in self.list_objects("events") if item["involvedObject"]["name"] == name]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Return the object of a kind of `KIND_PATHS`, or {} if there is none. Raise `ClusterError` otherwise."""
        try:
            status, text = self.installed.plane.request("GET", f"{KIND_PATHS[kind].format(self.name)}/{name}")
        except OSError as error:
            raise ClusterError(str(error)) from error
        if status not in (200, 404):
            raise ClusterError(f"{kind} {name}: {status} {text}")
        found: dict[str, Any] = decode_nested_json(text) if status == 200 else {}
        return found

    def secret_values(self, name: str) -> dict[str, str]:
        """Return the Secret's values, or an empty mapping if there is no Secret."""
        data = self.get("secret", name).get("data", {})
        return {key: base64.b64decode(text).decode() for key, text in data.items()}

    def ready_condition(self, name: str) -> tuple[str, str]:
        """Return the SecretSync's reason and message of Ready. They are empty without one of this generation."""
        found = self.get("secretsync", name)
        for item in found.get("status", {}).get("conditions", []):
            if item["type"] == "Ready" and item["observedGeneration"] == found["metadata"]["generation"]:
                return item["reason"], item["message"]
        return "", ""

    def wait_reason(self, name: str, *reasons: str, patience: float = TIMEOUT) -> str:
        """Wait until Ready has one of these reasons. Return the message."""
        return eventually(lambda: self.ready_condition(name), lambda found: found[0] in reasons, patience)[1]

    def wait_secret(self, name: str, wanted: Mapping[str, str], patience: float = TIMEOUT) -> None:
        """Wait until the Secret has exactly these values, as `canary_value` returns them."""
        expected = {key: canary_value(text) for key, text in wanted.items()}
        eventually(lambda: self.secret_values(name), lambda found: found == expected, patience)

    def force_sync(self, name: str) -> None:
        """Set forceSynchronization, so that the controller reads the vault now."""
        patch = {"spec": {"forceSynchronization": f"now-{time.monotonic_ns()}"}}
        path = f"{KIND_PATHS['secretsync'].format(self.name)}/{name}"
        status, text = self.installed.plane.request("PATCH", path, patch, MERGE_PATCH)
        assert status == 200, text

    def count_calls(self, operation: str = "") -> int:
        """Return how many calls this namespace's vault has received."""
        counters = self.installed.emulator.counters()
        return sum(count for what, count in counters.items() if what.startswith(f"{self.vault}/{operation}"))


@contextlib.contextmanager
def past_time(emulator: Emulator) -> Iterator[None]:
    """Set values in the vault as they were set ten seconds ago.

    The controller fetches a value again if it changed in the second of the fetch.
    """
    emulator.set_clock(-10)
    try:
        yield
    finally:
        emulator.set_clock(0)


@contextlib.contextmanager
def admission_policy(space: Namespace, kind: str, policy: Mapping[str, Any], **binding: Any) -> Iterator[None]:
    """Keep an admission policy of this kind in force, only for the Secrets of the namespace.

    The policy must refuse or label a new Secret without labels. This shows when the API server applies the policy.
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


def create_without_labels(space: Namespace) -> tuple[int, dict[str, str]]:
    """Create a Secret without labels as a dry run. Return the status and the labels of the answer."""
    path = f"{KIND_PATHS['secret'].format(space.name)}?dryRun=All"
    status, text = space.installed.plane.request("POST", path, {"metadata": {"name": "probe"}})
    return status, json.loads(text)["metadata"].get("labels", {})


def measure_propagation(space: Namespace, text: str) -> float:
    """Return the seconds from a new value in the vault to the Secret."""
    space.set_secret("a", text)
    began = time.monotonic()
    space.wait_secret("s", {"k": text}, patience=60)
    return time.monotonic() - began
