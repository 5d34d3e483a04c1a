"""Somebody who has stolen a ServiceAccount's token, and a namespace worth stealing from."""

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

from controller.kube import METADATA_ONLY
from tests.cluster.world import LABEL, eventually
from tools.local_cluster import ControlPlane

HOME, ACCOUNT, SHOP = "vault-room", "copyist", "stolen-shop"
LISTED = ["Opaque", "kubernetes.io/tls"]
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
SECRETS = f"/api/v1/namespaces/{SHOP}/secrets"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_numbers = itertools.count(1)
VALUE = base64.b64encode(b"nobody may read this").decode()


@dataclass(frozen=True)
class Answer:
    """What the API server said."""

    status: int
    text: str

    @property
    def message(self) -> str:
        return str(json.loads(self.text).get("message", ""))


class Thief:
    """Sends what it likes with one ServiceAccount's token."""

    def __init__(self, plane: ControlPlane, namespace: str, account: str) -> None:
        self._address = urllib.parse.urlsplit(plane.url)
        self._tls = ssl.create_default_context(cafile=str(plane.ca_file))
        self._token = plane.kubectl("create", "token", account, "--namespace", namespace).strip()

    def send(
        self, method: str, path: str, body: Any = None, kind: str = "application/json", accept: str = "application/json"
    ) -> Answer:
        """Send a request; a body that is no text yet is sent as JSON."""
        connection = http.client.HTTPSConnection(self._address.netloc, context=self._tls, timeout=30)
        try:
            headers = {
                "Authorization": f"Bearer {self._token}",
                "Content-Type": kind,
                "Accept": accept,
                "User-Agent": "thief",
            }
            text = body if body is None or isinstance(body, str) else json.dumps(body)
            connection.request(method, path, text, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())
        finally:
            connection.close()

    def create(self, secret: Mapping[str, Any], path: str = SECRETS) -> Answer:
        return self.send("POST", path, secret)

    def patch(self, name: str, body: Any, kind: str = MERGE, accept: str = METADATA_ONLY) -> Answer:
        return self.send("PATCH", f"{SECRETS}/{name}", body, kind, accept)


def secret(name: str, owners: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": LABEL, "ownerReferences": owners} | changes.pop("metadata", {})
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"key": VALUE}, **changes}


def owner(uid: str, name: str, /, **changes: Any) -> dict[str, Any]:
    return {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "SecretSync", "name": name, "uid": uid} | changes


def made(kind: str, name: str, owners: list[dict[str, Any]]) -> dict[str, Any]:
    """A SecretSync or SecretProviderClass."""
    spec = {
        "secretProviderClassName": owners[0]["name"] if owners else "none",
        "serviceAccountName": "none",
        "secretSyncControllerName": "nobody",
        "secretObject": {"data": [{"sourcePath": "a", "targetKey": "key"}]},
    }
    metadata = {"name": name, "namespace": SHOP, "ownerReferences": owners}
    if kind == "SecretSync":
        return {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
    return {
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": kind,
        "metadata": metadata,
        "spec": {"provider": "azure"},
    }


class Shop:
    """A namespace with SecretSyncs that no controller serves."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane

    def sync(self, name: str) -> str:
        """Makes one; returns its UID."""
        return self.create(made("SecretSync", name, []))

    def create(self, body: Mapping[str, Any]) -> str:
        """Makes an object as the cluster's administrator; returns its UID."""
        answer = self.plane.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(body))
        return str(json.loads(answer)["metadata"]["uid"])

    def akv_sync(self, name: str) -> str:
        """Makes an AKVSync; returns its UID."""
        spec = {
            "keyvaultName": "none",
            "clientID": "none",
            "tenantID": "none",
            "serviceAccountName": "none",
            "objects": [{"secretInAKV": "a"}],
        }
        body = {"apiVersion": "secret-sync.x-k8s.io/v1alpha1", "kind": "AKVSync", "spec": spec}
        return self.create(body | {"metadata": {"name": name, "namespace": SHOP}})

    def put(self, made: Mapping[str, Any]) -> None:
        """Makes an object as the cluster's administrator."""
        self.plane.kubectl("create", "--namespace", SHOP, "-f", "-", stdin=json.dumps(made))

    def secret(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.plane.kubectl("get", "secret", name, "--namespace", SHOP, "-o", "json"))
        return found


@contextlib.contextmanager
def granted_everything(shop: Shop, *resources: tuple[str, str]) -> Iterator[Thief]:
    """A thief whose account has every verb on these resources (API group, plural) meanwhile, and not afterwards."""
    rules = [{"apiGroups": [group], "resources": [plural], "verbs": ["*"]} for group, plural in resources]
    name = f"too-much-{next(_numbers)}"
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    account = {"kind": "ServiceAccount", "namespace": HOME, "name": ACCOUNT}
    for plural, fields in (
        ("clusterroles", {"rules": rules}),
        ("clusterrolebindings", {"roleRef": role, "subjects": [account]}),
    ):
        status, text = shop.plane.request("POST", f"{_RBAC}/{plural}", {"metadata": {"name": name}, **fields})
        assert status == 201, text
    thief = Thief(shop.plane, HOME, ACCOUNT)
    [(group, plural), *_] = resources
    path = f"/apis/{group}/v1alpha1" if group else "/api/v1"
    probe = f"{path}/namespaces/{SHOP}/{plural}/none"
    eventually(lambda: thief.send("GET", probe).status, lambda status: status == 404)
    try:
        yield thief
    finally:
        shop.plane.request("DELETE", f"{_RBAC}/clusterrolebindings/{name}")
        eventually(lambda: thief.send("GET", probe).status, lambda status: status == 403)


def refused(answer: Answer, why: str) -> None:
    assert answer.status == 422, answer.text
    assert "ValidatingAdmissionPolicy" in answer.message
    assert why in answer.message
    assert VALUE not in answer.text
