"""The CustomResourceDefinitions: the API types' schemas, with what stands around them.

Two kinds are somebody else's first: SecretSync the Secrets Store Sync Controller's, SecretProviderClass the Secrets
Store CSI Driver's. What they accept is accepted here; `WIDENINGS` lists every field that accepts more or says more, and
the two places where a bound of SSE's or of the API server stands that the original lacks.
"""

from dataclasses import dataclass
from typing import Any

from controller.api.akvsync import AKVSync
from controller.api.meta import Resource
from controller.api.secretproviderclass import SecretProviderClass, SecretProviderClassStatus
from controller.api.secretsync import SecretSync
from controller.crds import PART_OF
from tools import schema

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Widening:
    """A field that is new or accepts more than upstream's; `field` is its path, as `spec.secretObject.data[].type`.

    `keywords` are the schema's keywords that differ from upstream's; none where the whole field is ours.
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
    Widening("SecretSync", "status.objects", (), "which version of which object each key of the Secret holds"),
)

_READY = {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'}
_REASON = {"name": "Reason", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].reason'}
_LAST_SYNC = {"name": "Last-Sync", "type": "date", "jsonPath": ".status.lastSuccessfulSyncTime"}
_SUMMARY = {"name": "Status", "type": "string", "jsonPath": ".status.summary"}
_AGE = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}


def every() -> tuple[Manifest, ...]:
    """The CRDs that the chart brings, in the order in which it lists them."""
    return secret_sync(), secret_provider_class(), akv_sync()


def secret_sync() -> Manifest:
    """SecretSync: one version, a status subresource, columns."""
    body = schema.resource(SecretSync)
    # Upstream takes one without a spec; the controller tells in its status what is missing.
    del body["required"]
    # `ss` is taken: by External Secrets' SecretStore.
    return _definition(
        SecretSync, [_version(SecretSync, body, _READY, _REASON, _LAST_SYNC, _AGE)], short_names=["ssync"]
    )


def akv_sync() -> Manifest:
    """AKVSync: one version, a status subresource, columns."""
    return _definition(AKVSync, [_version(AKVSync, schema.resource(AKVSync), _READY, _REASON, _SUMMARY, _AGE)])


def secret_provider_class() -> Manifest:
    """SecretProviderClass: v1, and v1alpha1 for those who still write it. No status subresource: as the driver's."""
    group = SecretProviderClass.group
    body = {"openAPIV3Schema": schema.resource(SecretProviderClass, status=SecretProviderClassStatus)}
    current = {"name": "v1", "served": True, "storage": True, "schema": body}
    old = {
        "name": "v1alpha1",
        "served": True,
        "storage": False,
        "deprecated": True,
        "deprecationWarning": f"{group}/v1alpha1 is deprecated. Use {group}/v1 instead.",
        "schema": body,
    }
    return _definition(SecretProviderClass, [current, old])


def _version(kind: type[Resource], body: Manifest, *columns: Manifest) -> Manifest:
    """The one version of a kind with a status subresource."""
    return {
        "name": kind.version,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [dict(column) for column in columns],
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": body},
    }


def _definition(kind: type[Resource], versions: list[Manifest], short_names: list[str] | None = None) -> Manifest:
    names: Manifest = {
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
        "plural": kind.plural,
        "singular": kind.kind.lower(),
    }
    label, value = PART_OF
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{kind.group}",
            # helm keeps what it made from crds/ anyway; this is for those who apply these files in another way.
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
