"""An attacker with the stolen token of a ServiceAccount, and the namespace that is attacked."""

import base64
import contextlib
import http.client
import itertools
import json
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controller.kube.resources import METADATA_ONLY
from tests.support.cluster.harness import MANAGED_LABEL, eventually
from tests.support.cluster.namespace import collection_path
from tools.local_cluster import ControlPlane

CONTROLLER_NAMESPACE, CONTROLLER_ACCOUNT, TARGET_NAMESPACE = "vault-room", "copyist", "stolen-shop"
ALLOWED_TYPES = ["Opaque", "kubernetes.io/tls"]
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
SECRETS = f"/api/v1/namespaces/{TARGET_NAMESPACE}/secrets"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_numbers = itertools.count(1)
VALUE = base64.b64encode(b"a value that must not leak").decode()


@dataclass(frozen=True)
class ThiefResponse:
    """The API server's answer to the attacker."""

    status: int
    text: str

    @property
    def message(self) -> str:
        return str(json.loads(self.text).get("message", ""))


class TokenThief:
    """A client that sends any request with the token of one ServiceAccount."""

    def __init__(self, plane: ControlPlane, namespace: str, account: str) -> None:
        self._address = urllib.parse.urlsplit(plane.url)
        self._tls = ssl.create_default_context(cafile=str(plane.ca_file))
        self._token = plane.request_token(namespace, account)

    def send(
        self, method: str, path: str, body: Any = None, kind: str = "application/json", accept: str = "application/json"
    ) -> ThiefResponse:
        """Send a request; a body that is neither text nor bytes is sent as JSON."""
        connection = http.client.HTTPSConnection(self._address.netloc, context=self._tls, timeout=30)
        try:
            headers = {
                "Authorization": f"Bearer {self._token}",
                "Content-Type": kind,
                "Accept": accept,
                "User-Agent": "thief",
            }
            text = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
            connection.request(method, path, text, headers)
            response = connection.getresponse()
            return ThiefResponse(response.status, response.read().decode(errors="replace"))
        finally:
            connection.close()

    def create(self, secret: Mapping[str, Any], path: str = SECRETS) -> ThiefResponse:
        return self.send("POST", path, secret)

    def patch(self, name: str, body: Any, kind: str = MERGE, accept: str = METADATA_ONLY) -> ThiefResponse:
        return self.send("PATCH", f"{SECRETS}/{name}", body, kind, accept)


def make_secret(name: str, owners: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": MANAGED_LABEL, "ownerReferences": owners} | changes.pop("metadata", {})
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"key": VALUE}, **changes}


def make_owner(uid: str, name: str, /, **changes: Any) -> dict[str, Any]:
    return {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "SecretSync", "name": name, "uid": uid} | changes


def make_custom_resource(kind: str, name: str, owners: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a SecretSync or SecretProviderClass."""
    spec = {
        "secretProviderClassName": owners[0]["name"] if owners else "none",
        "serviceAccountName": "none",
        "secretSyncControllerName": "none",
        "secretObject": {"data": [{"sourcePath": "a", "targetKey": "key"}]},
    }
    metadata = {"name": name, "namespace": TARGET_NAMESPACE, "ownerReferences": owners}
    if kind == "SecretSync":
        return {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
    return {
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": kind,
        "metadata": metadata,
        "spec": {"provider": "azure"},
    }


def make_event(namespace: str = TARGET_NAMESPACE, **changes: Any) -> dict[str, Any]:
    """Return an event as the controller writes it, with these changes. A change to None removes the field."""
    regarding = {
        "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
        "kind": "SecretSync",
        "namespace": namespace,
        "name": "x",
    }
    body = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"x.{next(_numbers)}", "namespace": namespace, **changes.pop("metadata", {})},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "secret-sync.x-k8s.io/akv-secret-store",
        "reportingInstance": "pod",
        "action": "Sync",
        "reason": "ProviderError",
        "type": "Warning",
        "note": "x" * 1024,
        "regarding": {**regarding, **changes.pop("regarding", {})},
    }
    return {key: value for key, value in (body | changes).items() if value is not None}


class TargetNamespace:
    """A namespace with SecretSyncs that no controller serves."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    def create_sync(self, name: str) -> str:
        """Create a SecretSync. Return its UID."""
        return self.create(make_custom_resource("SecretSync", name, []))

    def create(self, body: Mapping[str, Any]) -> str:
        """Create an object as the cluster's administrator. Return its UID."""
        namespace = body["metadata"].get("namespace", TARGET_NAMESPACE)
        status, text = self.plane.request("POST", collection_path(body, namespace), dict(body))
        assert status == 201, text
        return str(json.loads(text)["metadata"]["uid"])

    def create_akv_sync(self, name: str) -> str:
        """Create an AKVSync. Return its UID."""
        spec = {
            "keyvaultName": "none",
            "clientID": "none",
            "tenantID": "none",
            "serviceAccountName": "none",
            "objects": [{"secretInAKV": "a"}],
        }
        body = {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "AKVSync", "spec": spec}
        return self.create(body | {"metadata": {"name": name, "namespace": TARGET_NAMESPACE}})

    def get_secret(self, name: str) -> dict[str, Any]:
        return self.plane.read_object(f"{SECRETS}/{name}")


@contextlib.contextmanager
def grant_all_verbs(shop: TargetNamespace, *resources: tuple[str, str]) -> Iterator[TokenThief]:
    """Grant the account every verb on these resources (API group, plural) for the duration of the block."""
    rules = [{"apiGroups": [group], "resources": [plural], "verbs": ["*"]} for group, plural in resources]
    name = f"too-much-{next(_numbers)}"
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    account = {"kind": "ServiceAccount", "namespace": CONTROLLER_NAMESPACE, "name": CONTROLLER_ACCOUNT}
    for plural, fields in (
        ("clusterroles", {"rules": rules}),
        ("clusterrolebindings", {"roleRef": role, "subjects": [account]}),
    ):
        status, text = shop.plane.request("POST", f"{_RBAC}/{plural}", {"metadata": {"name": name}, **fields})
        assert status == 201, text
    thief = TokenThief(shop.plane, CONTROLLER_NAMESPACE, CONTROLLER_ACCOUNT)
    [(group, plural), *_] = resources
    path = f"/apis/{group}/v1alpha1" if group else "/api/v1"
    probe = f"{path}/namespaces/{TARGET_NAMESPACE}/{plural}/none"
    eventually(lambda: thief.send("GET", probe).status, lambda status: status == 404)
    try:
        yield thief
    finally:
        shop.plane.request("DELETE", f"{_RBAC}/clusterrolebindings/{name}")
        eventually(lambda: thief.send("GET", probe).status, lambda status: status == 403)


def assert_denied_by_policy(answer: ThiefResponse, why: str) -> None:
    assert answer.status == 422, answer.text
    assert "ValidatingAdmissionPolicy" in answer.message
    assert why in answer.message
    assert VALUE not in answer.text


LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{CONTROLLER_NAMESPACE}/leases"


def request_token(
    thief: TokenThief, account: str = "default", namespace: str = TARGET_NAMESPACE, **spec: Any
) -> ThiefResponse:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return thief.send("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body)
