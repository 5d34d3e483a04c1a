"""The kind AzureKeyVaultSecret of akv2k8s, in the versions v1alpha1, v1, v2alpha1 and v2beta1.

Source: the CustomResourceDefinition of these versions. In v1alpha1, the field `transform` has the name `transforms`.
"""

import msgspec

GROUP, KIND = "spv.no", "AzureKeyVaultSecret"
VERSIONS = ("v2beta1", "v2alpha1", "v1", "v1alpha1")


class _OptionalFields(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The base class: a missing field has the default of the CustomResourceDefinition."""


class VaultObject(_OptionalFields, frozen=True):
    """The object of the vault to read."""

    name: str = ""
    type: str = "secret"
    version: str = ""
    content_type: str = ""


class NamedIdentity(_OptionalFields, frozen=True):
    """The name of an identity."""

    name: str = ""


class VaultReference(_OptionalFields, frozen=True):
    """The vault, and one of its objects."""

    name: str = ""
    object: VaultObject = VaultObject()
    azure_identity: NamedIdentity = NamedIdentity()


class OutputSecret(_OptionalFields, frozen=True):
    """The Secret and its key."""

    name: str = ""
    type: str = ""
    data_key: str = ""
    chain_order: str = ""


class ConfigMap(_OptionalFields, frozen=True):
    """A ConfigMap and its key."""

    name: str = ""
    data_key: str = ""


class OutputSpec(_OptionalFields, frozen=True):
    """The Secret or ConfigMap that gets the value, and the transformations of the value."""

    secret: OutputSecret = OutputSecret()
    config_map: ConfigMap = ConfigMap()
    transform: list[str] = []
    # The name of `transform` in v1alpha1.
    transforms: list[str] = []


class KeyVaultSecretSpec(_OptionalFields, frozen=True):
    """The specification of an AzureKeyVaultSecret."""

    vault: VaultReference = VaultReference()
    output: OutputSpec = OutputSpec()


class KeyVaultSecretMetadata(_OptionalFields, frozen=True):
    """The labels and annotations, which the Secret also gets."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class AzureKeyVaultSecret(_OptionalFields, frozen=True):
    """An AzureKeyVaultSecret."""

    metadata: KeyVaultSecretMetadata = KeyVaultSecretMetadata()
    spec: KeyVaultSecretSpec = KeyVaultSecretSpec()
