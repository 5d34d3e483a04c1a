"""Define the metadata of Kubernetes objects and the annotations of fields that go into a CRD.

Source: Kubernetes API reference, ObjectMeta v1; CustomResourceDefinition v1, JSONSchemaProps.
"""

import re
from typing import Any, ClassVar, Self

import msgspec
from msgspec import Meta

# The CRDs' default of `status.observedGeneration` until the controller has written a status. Without it, kstatus would
# report an object without a status as done.
NO_STATUS = -1
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
# Kubernetes documentation, "Object Names and IDs".
MAX_NAME = 253
# Maximum size of a spec in bytes, as JSON, enough for a thousand objects or keys. etcd accepts ten times as much, and
# the controller can keep several copies of an object (parsed, and expanded from an AKVSync).
MAX_SPEC = 128 * 1024
_NAME = re.compile(DNS_SUBDOMAIN)


def is_object_name(text: str) -> bool:
    """Return whether an object can have this name: a DNS subdomain."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def field_schema(description: str = "", /, **keywords: Any) -> Meta:
    """Return keywords of a structural schema that only the API server checks. `_` in `x_kubernetes_…` becomes `-`.

    They are not constraints of `msgspec`, for two reasons. Python's `re` backtracks and the API server's RE2 does not.
    An object that was created under an older CRD must reach the controller, which explains the mistake. `explanation`
    is the API server's message, besides the pattern, if a text does not match the pattern.
    """
    extra = {key.replace("_", "-") if key.startswith("x_") else key: value for key, value in keywords.items()}
    return Meta(description=description or None, extra_json_schema=extra or None)


def validation_rule(cel: str, message: str) -> dict[str, str]:
    """Return one item of `x-kubernetes-validations`."""
    return {"rule": cel, "message": message}


class Wire(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True, gc=False):
    """A struct on the wire: camelCase names, defaults left out, unknown fields ignored.

    It never contains itself, so the garbage collector does not need to see it.
    """


class OwnerReference(Wire, frozen=True, kw_only=True):
    """The owner of an object. The garbage collector deletes the object with its owner."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None


class ManagedFieldsEntry(Wire, frozen=True, kw_only=True):
    """The fields that one manager set. `fields_v1` maps `f:<field>` to nested maps; it contains names, never values."""

    manager: str = ""
    operation: str = ""
    subresource: str = ""
    time: str | None = None
    fields_v1: dict[str, Any] = msgspec.field(name="fieldsV1", default_factory=dict)


class ObjectMeta(Wire, frozen=True, kw_only=True):
    """The part of `metadata` that the controller uses."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    deletion_timestamp: str | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    owner_references: list[OwnerReference] = msgspec.field(default_factory=list)
    managed_fields: list[ManagedFieldsEntry] = msgspec.field(default_factory=list)

    def trimmed(self, *annotations: str) -> Self:
        """Return the metadata without managed fields, and with only these annotations. They are most of its size."""
        kept = {name: text for name, text in self.annotations.items() if name in annotations}
        return msgspec.structs.replace(self, annotations=kept, managed_fields=[])


class Resource(Wire, frozen=True, kw_only=True):
    """A kind of object with its place in the API. Subclasses set the class variables."""

    group: ClassVar[str]
    version: ClassVar[str]
    kind: ClassVar[str]
    plural: ClassVar[str]
    namespaced: ClassVar[bool] = True

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)

    def trimmed(self) -> Self:
        """Return the object without the fields that the controller does not read again.

        Users who write objects must not be able to fill the controller's memory.
        """
        return msgspec.structs.replace(self, metadata=self.metadata.trimmed())

    @classmethod
    def api_version(cls) -> str:
        """Return `group/version`, or `version` for the core group."""
        return f"{cls.group}/{cls.version}" if cls.group else cls.version


class PartialObject(Resource, frozen=True, kw_only=True):
    """The metadata of any object without its other fields (PartialObjectMetadata, meta.k8s.io/v1)."""


class _IdentityStruct(Wire, frozen=True, kw_only=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class IdentifiedObject(Wire, frozen=True, kw_only=True):
    """The identity of an object whose metadata does not fit `ObjectMeta`."""

    metadata: _IdentityStruct

    def meta(self) -> ObjectMeta:
        """Return the identity as metadata without other fields."""
        return ObjectMeta(**msgspec.structs.asdict(self.metadata))


class Unreadable(msgspec.Struct, frozen=True):
    """An object that does not fit its type or is too large. It was created under another CRD."""

    metadata: ObjectMeta
    problem: str


class Secret(Resource, frozen=True, kw_only=True):
    """core/v1 Secret. The controller has no right to read one: it writes Secrets, and watches `PartialObject`."""

    group = ""
    version = "v1"
    kind = "Secret"
    plural = "secrets"


# Azure's workload identity webhook reads it, too (Azure Workload Identity, "Service account annotations").
CLIENT_ID = "azure.workload.identity/client-id"
TENANT_ID = "azure.workload.identity/tenant-id"


class ServiceAccount(Resource, frozen=True, kw_only=True):
    """core/v1 ServiceAccount: the controller requests tokens, and reads annotations if configured."""

    group = ""
    version = "v1"
    kind = "ServiceAccount"
    plural = "serviceaccounts"


class Event(Resource, frozen=True, kw_only=True):
    """events.k8s.io/v1 Event: the controller creates events and never reads them."""

    group = "events.k8s.io"
    version = "v1"
    kind = "Event"
    plural = "events"


class CustomResourceDefinition(Resource, frozen=True, kw_only=True):
    """apiextensions.k8s.io/v1: the CRDs of this product, which the chart's Job updates."""

    group = "apiextensions.k8s.io"
    version = "v1"
    kind = "CustomResourceDefinition"
    plural = "customresourcedefinitions"
    namespaced = False
