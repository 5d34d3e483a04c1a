"""Serve the kinds of External Secrets and akv2k8s with schemas that accept any field, and create their Secrets."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tools.local_cluster import ControlPlane

# Kind, plural and versions by group; the last version is stored.
KINDS = {
    "external-secrets.io": (
        ("ExternalSecret", "externalsecrets", ("v1beta1", "v1")),
        ("ClusterExternalSecret", "clusterexternalsecrets", ("v1beta1", "v1")),
        ("SecretStore", "secretstores", ("v1beta1", "v1")),
    ),
    "spv.no": (("AzureKeyVaultSecret", "azurekeyvaultsecrets", ("v1", "v2beta1")),),
}


def make_crd(group: str, kind: str, plural: str, versions: tuple[str, ...]) -> dict[str, Any]:
    """Return a CustomResourceDefinition whose objects may have any fields."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "scope": "Cluster" if kind.startswith("Cluster") else "Namespaced",
            "versions": [
                {"name": name, "served": True, "storage": name == versions[-1], "schema": schema} for name in versions
            ],
        },
    }


@contextmanager
def serve_temporarily(plane: ControlPlane) -> Iterator[None]:
    """Serve these kinds until the end of the block."""
    names = serve(plane)
    yield
    plane.kubectl("delete", *names)


def serve(plane: ControlPlane) -> list[str]:
    """Serve these kinds, wait until the garbage collector watches them, and return the created CRDs."""
    items = [make_crd(group, *kind) for group, kinds in KINDS.items() for kind in kinds]
    plane.kubectl("apply", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    names = [f"customresourcedefinition/{each['metadata']['name']}" for each in items]
    plane.kubectl("wait", *names, "--for=condition=Established", "--timeout=20s")
    # The garbage collector discovers new kinds only every 30 s.
    plane.restart_controller_manager()
    return names


def make_secret(plane: ControlPlane, namespace: str, owner: str, name: str, data: Mapping[str, str]) -> dict[str, Any]:
    """Create a Secret as these operators do, with the object `owner` as its only owner. Return its metadata."""
    at = ("--namespace", namespace, "--output", "json")
    held = json.loads(plane.kubectl("get", owner, *at))
    reference = {key: held[key] for key in ("apiVersion", "kind")} | {
        key: held["metadata"][key] for key in ("name", "uid")
    }
    meta = {
        "name": name,
        "ownerReferences": [reference | {"controller": True}],
        "labels": {"reconcile.external-secrets.io/managed": "true"},
    }
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": data}
    # Do not use `kubectl apply`, because its annotation would contain the values.
    made = json.loads(plane.kubectl("create", "--show-managed-fields", "--filename", "-", *at, stdin=json.dumps(body)))
    return dict(made["metadata"])
