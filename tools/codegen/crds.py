"""Build the CustomResourceDefinitions from the schemas of the API types.

Two kinds have an upstream project: SecretSync has the Secrets Store Sync Controller, and SecretProviderClass has the
Secrets Store CSI Driver. Every object that is valid upstream is valid here. `WIDENINGS` lists every field that accepts
or reports more than upstream's, and the two fields with a limit of SSE or of the API server that upstream does not
have.
"""

from dataclasses import dataclass
from typing import Any

from controller.api.akvsync import AKVSync
from controller.api.meta import Resource
from controller.api.secretproviderclass import SecretProviderClass, SecretProviderClassStatus
from controller.api.secretsync import SecretSync
from controller.crd_upgrade.job import PART_OF
from tools.codegen import openapi

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Widening:
    """A field that is new or accepts more than upstream's. `field` is its path, such as `spec.secretObject.type`.

    `keywords` are the schema's keywords that differ from upstream. They are empty if upstream does not have the field.
    """

    kind: str
    field: str
    keywords: tuple[str, ...]
    reason: str


_EXPLAINED = "the API server explains in words why a text does not match the pattern, and shows the pattern"
_KEYS = "of up to 317 characters, as in SSE: 253 for the prefix, a slash, 63 for the name"

WIDENINGS: tuple[Widening, ...] = (
    Widening(
        "SecretSync",
        "spec.secretObject.data[].sourcePath",
        ("pattern", "x-kubernetes-validations"),
        "parts of certificates have the names of SSE and the CSI provider (aCertificate/tls.crt), and an alias can have"
        f" several of - . _ in a row; {_EXPLAINED}",
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.data[].targetKey",
        ("pattern", "x-kubernetes-validations"),
        f"every valid key of a Secret, such as _netrc or a--b; {_EXPLAINED}",
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.data",
        ("maxItems",),
        "not wider: upstream has no bound; with this bound, the API server can estimate the cost of the two rules"
        " above, and no practical Secret of 1 MiB reaches it",
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.type",
        ("minLength", "pattern", "x-kubernetes-validations"),
        "immutable, as in SSE since 0.10, because a Secret's type cannot change; the default is Opaque",
    ),
    Widening(
        "SecretSync", "spec.secretObject.labels", ("x-kubernetes-validations",), f"keys {_KEYS}; upstream allows 62"
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.labels{}",
        ("maxLength",),
        "values of 63 characters, as in Kubernetes; upstream allows 62",
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.annotations",
        ("x-kubernetes-validations",),
        f"keys {_KEYS}; upstream allows 252",
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.annotations{}",
        ("maxLength",),
        "values of 131,072 characters, half of the size that Kubernetes allows for all annotations; upstream allows"
        " 252",
    ),
    Widening("SecretSync", "spec.secretProviderClassName", ("x-kubernetes-validations",), _EXPLAINED),
    Widening("SecretSync", "spec.serviceAccountName", ("x-kubernetes-validations",), _EXPLAINED),
    Widening("SecretSync", "spec.forceSynchronization", ("x-kubernetes-validations",), _EXPLAINED),
    Widening(
        "SecretSync",
        "status.observedGeneration",
        (),
        "shows whether the status belongs to the latest edit (Flux, Argo CD)",
    ),
    Widening(
        "SecretSync",
        "status",
        ("default",),
        "shows that the controller has not written a status yet, so that kstatus (Flux, helm 4) waits for it",
    ),
    Widening(
        "SecretSync",
        "status.lastGroupPoll",
        (),
        "the time of the last poll that found nothing new for all SecretSyncs of one class and identity; one of their"
        " statuses has it",
    ),
    Widening("SecretSync", "status.objects", (), "the object and version that each key of the Secret holds"),
)

# `kubectl get akv` lists the objects of all kinds with this category.
CATEGORY = "akv"

_READY = {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'}
_REASON = {"name": "Reason", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].reason'}
_LAST_SYNC = {"name": "Last-Sync", "type": "date", "jsonPath": ".status.lastSuccessfulSyncTime"}
_SUMMARY = {"name": "Status", "type": "string", "jsonPath": ".status.summary"}
# The columns of `kubectl get -o wide`.
_CLASS = {"name": "Class", "type": "string", "jsonPath": ".spec.secretProviderClassName", "priority": 1}
_VAULT = {"name": "Vault", "type": "string", "jsonPath": ".spec.keyvaultName", "priority": 1}
_MESSAGE = {
    "name": "Message",
    "type": "string",
    "jsonPath": '.status.conditions[?(@.type=="Ready")].message',
    "priority": 1,
}
_AGE = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def build_all() -> tuple[Manifest, ...]:
    """Return the chart's CRDs, in the order in which it lists them."""
    return secret_sync(), secret_provider_class(), akv_sync()


def secret_sync() -> Manifest:
    """Return the CRD of SecretSync. It has one version, with a status subresource and columns."""
    body = openapi.resource(SecretSync)
    # Upstream accepts a SecretSync without a spec. The controller then reports the missing fields in the status.
    del body["required"]
    # The short name `ss` belongs to External Secrets' SecretStore.
    version = _crd_version(SecretSync, body, _READY, _REASON, _LAST_SYNC, _AGE, _CLASS, _MESSAGE)
    return _crd_manifest(SecretSync, [version], short_names=["ssync"])


def akv_sync() -> Manifest:
    """Return the CRD of AKVSync. It has one version, with a status subresource and columns."""
    version = _crd_version(AKVSync, openapi.resource(AKVSync), _READY, _REASON, _SUMMARY, _AGE, _VAULT, _MESSAGE)
    return _crd_manifest(AKVSync, [version], short_names=["akvs"])


def secret_provider_class() -> Manifest:
    """Return the CRD of SecretProviderClass. As upstream, it has v1 and v1alpha1, and no status subresource."""
    group = SecretProviderClass.group
    body = {"openAPIV3Schema": openapi.resource(SecretProviderClass, status=SecretProviderClassStatus)}
    current = {"name": "v1", "served": True, "storage": True, "schema": body}
    old = {
        "name": "v1alpha1",
        "served": True,
        "storage": False,
        "deprecated": True,
        "deprecationWarning": f"{group}/v1alpha1 is deprecated. Use {group}/v1 instead.",
        "schema": body,
    }
    return _crd_manifest(SecretProviderClass, [current, old])


def _crd_version(kind: type[Resource], body: Manifest, *columns: Manifest) -> Manifest:
    """Return the only version of a kind with a status subresource."""
    return {
        "name": kind.version,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [dict(column) for column in columns],
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": body},
    }


def _crd_manifest(kind: type[Resource], versions: list[Manifest], short_names: list[str] | None = None) -> Manifest:
    names: Manifest = {
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
        "plural": kind.plural,
        "singular": kind.kind.lower(),
        "categories": [CATEGORY],
    }
    label, value = PART_OF
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{kind.group}",
            # helm never deletes objects of crds/. The annotation is for installations that use the files as templates.
            "annotations": {"helm.sh/resource-policy": "keep"},
            "labels": {label: value},
        },
        "spec": {
            "group": kind.group,
            "names": names | ({"shortNames": short_names} if short_names else {}),
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": versions,
        },
    }
