"""What every Kubernetes object carries, and the two annotations of a field that go into a CRD.

Source: Kubernetes API reference, ObjectMeta v1; CustomResourceDefinition v1, JSONSchemaProps.
"""

from typing import Any, ClassVar, Self

import msgspec
from msgspec import Meta

DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"


def schema(description: str = "", /, **keywords: Any) -> Meta:
    """What the API server alone checks: keywords of a structural schema, `_` standing for `-` in `x_kubernetes_…`.

    They are kept out of `msgspec`'s own constraints on purpose. Python's `re` backtracks where the API server's RE2
    does not, and an object that slipped in under an older CRD must reach the controller, which explains what is wrong.
    `explanation` is what the API server says, besides the pattern itself, of a text that does not match the pattern.
    """
    extra = {key.replace("_", "-") if key.startswith("x_") else key: value for key, value in keywords.items()}
    return Meta(description=description or None, extra_json_schema=extra or None)


def rule(cel: str, message: str) -> dict[str, str]:
    """One item of `x-kubernetes-validations`."""
    return {"rule": cel, "message": message}


class Wire(msgspec.Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """Base of all structs on the wire: camelCase names, defaults left out, unknown fields ignored."""


class OwnerReference(Wire, frozen=True, kw_only=True):
    """Who an object belongs to; the garbage collector deletes it with its owner."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None


class ManagedFieldsEntry(Wire, frozen=True, kw_only=True):
    """Which manager set which fields. `fields_v1` maps `f:<field>` to nested maps; it holds names, never values."""

    manager: str = ""
    operation: str = ""
    subresource: str = ""
    time: str | None = None
    fields_v1: dict[str, Any] = msgspec.field(name="fieldsV1", default_factory=dict)


class ObjectMeta(Wire, frozen=True, kw_only=True):
    """The part of `metadata` that we look at."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    owner_references: list[OwnerReference] = msgspec.field(default_factory=list)
    managed_fields: list[ManagedFieldsEntry] = msgspec.field(default_factory=list)

    def trimmed(self, *annotations: str) -> Self:
        """Without what would be most of it: who set which field, and all annotations but these."""
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
        """Without what nobody asks for once it was seen: who may write objects must not fill the memory with them."""
        return msgspec.structs.replace(self, metadata=self.metadata.trimmed())

    @classmethod
    def api_version(cls) -> str:
        """`group/version`, or `version` alone for the core group."""
        return f"{cls.group}/{cls.version}" if cls.group else cls.version


class Partial(Resource, frozen=True, kw_only=True):
    """Any object's metadata and nothing else (PartialObjectMetadata, meta.k8s.io/v1)."""


class _Identity(Wire, frozen=True, kw_only=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class Identified(Wire, frozen=True, kw_only=True):
    """What identifies any object, for one whose metadata does not fit `ObjectMeta`."""

    metadata: _Identity

    def meta(self) -> ObjectMeta:
        """Return it as metadata of which nothing else is known."""
        return ObjectMeta(**msgspec.structs.asdict(self.metadata))


class Unreadable(msgspec.Struct, frozen=True):
    """An object that does not fit its type or is too large: it was created under an older or another CRD."""

    metadata: ObjectMeta
    problem: str


class Secret(Resource, frozen=True, kw_only=True):
    """core/v1 Secret. The controller has no right to read one: it is only written, and seen as `Partial`."""

    group = ""
    version = "v1"
    kind = "Secret"
    plural = "secrets"


# What Azure's workload identity webhook reads, too (Azure Workload Identity, "Service account annotations").
CLIENT_ID = "azure.workload.identity/client-id"
TENANT_ID = "azure.workload.identity/tenant-id"


class ServiceAccount(Resource, frozen=True, kw_only=True):
    """core/v1 ServiceAccount: asked for tokens, and for its annotations where the administrator wants that."""

    group = ""
    version = "v1"
    kind = "ServiceAccount"
    plural = "serviceaccounts"


class Event(Resource, frozen=True, kw_only=True):
    """events.k8s.io/v1 Event: created, never read."""

    group = "events.k8s.io"
    version = "v1"
    kind = "Event"
    plural = "events"


class CustomResourceDefinition(Resource, frozen=True, kw_only=True):
    """apiextensions.k8s.io/v1: our own, brought up to date by the chart's Job."""

    group = "apiextensions.k8s.io"
    version = "v1"
    kind = "CustomResourceDefinition"
    plural = "customresourcedefinitions"
    namespaced = False
