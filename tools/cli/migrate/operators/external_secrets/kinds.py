"""The kinds of the External Secrets Operator, in the versions v1alpha1, v1beta1 and v1.

Source: the CustomResourceDefinitions of these versions. v1alpha1 has the fields of `extract` in `dataFrom` itself.
A field has the type `Any` if only its presence counts.
"""

from typing import Any

import msgspec

GROUP = "external-secrets.io"
GENERATORS = "generators.external-secrets.io"
VERSIONS = ("v1", "v1beta1", "v1alpha1")
KINDS = ("ExternalSecret", "ClusterExternalSecret", "SecretStore", "ClusterSecretStore")
Anything = dict[str, Any]


class _OptionalFields(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The base class: a missing field has the default of the CustomResourceDefinition."""


class SecretRef(_OptionalFields, frozen=True):
    """A key of a Secret, which this tool never reads."""

    name: str = ""
    namespace: str = ""
    key: str = ""


class ServiceAccountRef(_OptionalFields, frozen=True):
    """The ServiceAccount of a store. `namespace` has an effect only in a ClusterSecretStore."""

    name: str = ""
    namespace: str = ""
    audiences: list[str] = []


class AuthSecretRef(_OptionalFields, frozen=True):
    """The Secrets with the credentials of a store."""

    client_id: SecretRef | None = None
    tenant_id: SecretRef | None = None
    client_secret: SecretRef | None = None
    client_certificate: SecretRef | None = None


class AzureKV(_OptionalFields, frozen=True):
    """The provider azurekv."""

    vault_url: str = ""
    auth_type: str = "ServicePrincipal"
    tenant_id: str = ""
    environment_type: str = "PublicCloud"
    auth_secret_ref: AuthSecretRef | None = None
    service_account_ref: ServiceAccountRef | None = None
    identity_id: str = ""
    use_azure_sdk: bool = msgspec.field(default=False, name="useAzureSDK")
    custom_cloud_config: Anything | None = None


class StoreSpec(_OptionalFields, frozen=True):
    """The specification of a SecretStore or ClusterSecretStore."""

    provider: dict[str, Any] = {}
    controller: str = ""
    conditions: list[Any] = []
    retry_settings: Any = None
    refresh_interval: Any = None


class SecretStore(_OptionalFields, frozen=True):
    """A SecretStore or ClusterSecretStore, of which only the specification is read."""

    spec: StoreSpec = StoreSpec()


class StoreRef(_OptionalFields, frozen=True):
    """A reference to a store."""

    name: str = ""
    kind: str = "SecretStore"


class SourceRef(_OptionalFields, frozen=True):
    """The store or generator of one entry, instead of the common store."""

    store_ref: StoreRef | None = None
    generator_ref: Anything | None = None


class RemoteRef(_OptionalFields, frozen=True):
    """The object of the vault to read. `key` can begin with `secret/`, `cert/` or `key/`."""

    key: str = ""
    property: str = ""
    version: str = ""
    metadata_policy: str = "None"
    conversion_strategy: str = "Default"
    decoding_strategy: str = "None"
    null_byte_policy: str = "Ignore"


class ExternalSecretData(_OptionalFields, frozen=True):
    """One key of the Secret."""

    secret_key: str
    remote_ref: RemoteRef
    source_ref: SourceRef | None = None


class FindName(_OptionalFields, frozen=True):
    """A regular expression for names."""

    regexp: str = ""


class ObjectFinder(_OptionalFields, frozen=True):
    """A selection of objects by name or by tags."""

    path: str = ""
    name: FindName | None = None
    tags: dict[str, str] = {}
    conversion_strategy: str = "Default"
    decoding_strategy: str = "None"
    null_byte_policy: str = "Ignore"


class DataFrom(RemoteRef, frozen=True):
    """The source of several keys. v1alpha1 has the reference here, later versions have it in `extract`."""

    extract: RemoteRef | None = None
    find: ObjectFinder | None = None
    rewrite: list[Anything] = []
    source_ref: SourceRef | None = None


class TemplateMetadata(_OptionalFields, frozen=True):
    """The metadata of the Secret."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []


class SecretTemplate(_OptionalFields, frozen=True):
    """The template that makes the Secret from the values."""

    type: str = ""
    engine_version: str = "v2"
    metadata: TemplateMetadata = TemplateMetadata()
    merge_policy: str = "Replace"
    data: dict[str, str] = {}
    template_from: list[Anything] = []


class SecretTarget(_OptionalFields, frozen=True):
    """The Secret to write."""

    name: str = ""
    creation_policy: str = "Owner"
    deletion_policy: str = "Retain"
    template: SecretTemplate | None = None
    manifest: Anything | None = None
    immutable: bool = False


class ExternalSecretSpec(_OptionalFields, frozen=True):
    """The specification of an ExternalSecret."""

    secret_store_ref: StoreRef | None = None
    target: SecretTarget = SecretTarget()
    refresh_policy: str = ""
    refresh_interval: Any = None
    sync_windows: Anything | None = None
    data: list[ExternalSecretData] = []
    data_from: list[DataFrom] = []


class ExternalSecretMetadata(_OptionalFields, frozen=True):
    """The labels and annotations, which the Secret gets if there is no template."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class ExternalSecret(_OptionalFields, frozen=True):
    """An ExternalSecret."""

    metadata: ExternalSecretMetadata = ExternalSecretMetadata()
    spec: ExternalSecretSpec = ExternalSecretSpec()


class LabelSelector(_OptionalFields, frozen=True):
    """A selector for namespaces."""

    match_labels: dict[str, str] = {}
    match_expressions: list[Anything] = []


class ClusterExternalSecretSpec(_OptionalFields, frozen=True):
    """The specification of a ClusterExternalSecret."""

    external_secret_spec: ExternalSecretSpec = ExternalSecretSpec()
    external_secret_name: str = ""
    external_secret_metadata: ExternalSecretMetadata = ExternalSecretMetadata()
    namespace_selector: LabelSelector | None = None
    namespace_selectors: list[LabelSelector] = []
    namespaces: list[str] = []
    refresh_time: Any = None


class ClusterExternalSecretStatus(_OptionalFields, frozen=True):
    """The namespaces in which it has created ExternalSecrets."""

    provisioned_namespaces: list[str] = []


class ClusterExternalSecret(_OptionalFields, frozen=True):
    """A ClusterExternalSecret."""

    spec: ClusterExternalSecretSpec = ClusterExternalSecretSpec()
    status: ClusterExternalSecretStatus = ClusterExternalSecretStatus()
