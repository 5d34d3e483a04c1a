"""Build the CustomResourceDefinitions from the schemas of the API types.

Two kinds have an upstream project: SecretSync the Secrets Store Sync Controller, and SecretProviderClass the Secrets
Store CSI Driver. Every object that is valid there is valid here. `WIDENINGS` lists every field that accepts or reports
more, and the two fields with a limit of SSE or of the API server that upstream lacks.
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
    """A field that is new or accepts more than upstream's. `field` is its path: `spec.secretObject.data[].type`.

    `keywords` are the schema's keywords that differ from upstream; none if upstream lacks the field.
    """

    kind: str
    field: str
    keywords: tuple[str, ...]
    reason: str


_EXPLAINED = "a text that does not fit the pattern is explained in words, beside the pattern"
_KEYS = "of 317 characters, as in SSE: 253 for the prefix, a slash, 63 for the name"

WIDENINGS: tuple[Widening, ...] = (
    Widening(
        "SecretSync",
        "spec.secretObject.data[].sourcePath",
        ("pattern", "x-kubernetes-validations"),
        "parts of certificates are named as SSE and the CSI provider name them (aCertificate/tls.crt), and an alias may"
        f" hold - . _ side by side; {_EXPLAINED}",
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.data[].targetKey",
        ("pattern", "x-kubernetes-validations"),
        f"every legal key of a Secret, such as _netrc or a--b; {_EXPLAINED}",
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.data",
        ("maxItems",),
        "not wider: upstream has no bound; this one lets the API server estimate what the two rules above cost, and is"
        " beyond what a Secret of 1 MiB is used for",
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.type",
        ("minLength", "pattern", "x-kubernetes-validations"),
        "immutable, as in SSE since 0.10, because a Secret's type cannot change; left out, it is Opaque",
    ),
    Widening(
        "SecretSync", "spec.secretObject.labels", ("x-kubernetes-validations",), f"keys {_KEYS}; upstream stops at 62"
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.labels{}",
        ("maxLength",),
        "values of 63 characters, which Kubernetes allows; upstream stops at 62",
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.annotations",
        ("x-kubernetes-validations",),
        f"keys {_KEYS}; upstream stops at 252",
    ),
    Widening(
        "SecretSync",
        "spec.secretObject.annotations{}",
        ("maxLength",),
        "values of 131,072 characters, half of what Kubernetes takes for all annotations; upstream stops at 252",
    ),
    Widening("SecretSync", "spec.secretProviderClassName", ("x-kubernetes-validations",), _EXPLAINED),
    Widening("SecretSync", "spec.serviceAccountName", ("x-kubernetes-validations",), _EXPLAINED),
    Widening("SecretSync", "spec.forceSynchronization", ("x-kubernetes-validations",), _EXPLAINED),
    Widening(
        "SecretSync",
        "status.observedGeneration",
        (),
        "tells whether the status speaks of the latest edit (Flux, Argo CD)",
    ),
    Widening(
        "SecretSync",
        "status",
        ("default",),
        "says that no status was written yet, so that kstatus (Flux, helm 4) waits for the first one",
    ),
    Widening(
        "SecretSync",
        "status.lastGroupPoll",
        (),
        "when a poll of all SecretSyncs of one class and identity last found nothing new, in one status of them",
    ),
    Widening("SecretSync", "status.objects", (), "which version of which object each key of the Secret holds"),
)

# `kubectl get akv` lists the objects of all kinds that have it.
CATEGORY = "akv"

_READY = {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'}
_REASON = {"name": "Reason", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].reason'}
_LAST_SYNC = {"name": "Last-Sync", "type": "date", "jsonPath": ".status.lastSuccessfulSyncTime"}
_SUMMARY = {"name": "Status", "type": "string", "jsonPath": ".status.summary"}
# With `kubectl get -o wide`.
_CLASS = {"name": "Class", "type": "string", "jsonPath": ".spec.secretProviderClassName", "priority": 1}
_VAULT = {"name": "Vault", "type": "string", "jsonPath": ".spec.keyvaultName", "priority": 1}
_MESSAGE = {
    "name": "Message",
    "type": "string",
    "jsonPath": '.status.conditions[?(@.type=="Ready")].message',
    "priority": 1,
}
_AGE = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def every() -> tuple[Manifest, ...]:
    """Return the chart's CRDs, in the order in which it lists them."""
    return secret_sync(), secret_provider_class(), akv_sync()


def secret_sync() -> Manifest:
    """Return the CRD of SecretSync: one version, with a status subresource and columns."""
    body = openapi.resource(SecretSync)
    # Upstream accepts a SecretSync without a spec. The controller then reports the missing fields in the status.
    del body["required"]
    # `ss` is taken: by External Secrets' SecretStore.
    version = _crd_version(SecretSync, body, _READY, _REASON, _LAST_SYNC, _AGE, _CLASS, _MESSAGE)
    return _crd_manifest(SecretSync, [version], short_names=["ssync"])


def akv_sync() -> Manifest:
    """Return the CRD of AKVSync: one version, with a status subresource and columns."""
    version = _crd_version(AKVSync, openapi.resource(AKVSync), _READY, _REASON, _SUMMARY, _AGE, _VAULT, _MESSAGE)
    return _crd_manifest(AKVSync, [version], short_names=["akvs"])


def secret_provider_class() -> Manifest:
    """Return the CRD of SecretProviderClass: v1 and the older v1alpha1, without status subresource, as upstream."""
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
            # helm never deletes objects of crds/. The annotation has an effect if the files are applied as templates.
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
