"""Values that the extension manager of Azure Arc sets."""

from typing import Annotated

import msgspec
from msgspec import Meta

from tools.codegen.values.base import OpenValues


class AzureCluster(OpenValues, rename="pascal"):
    """The Arc-enabled cluster."""

    resource_id: Annotated[
        str, Meta(description="Id of the Arc-enabled cluster in Azure; copied into an annotation of the Deployment.")
    ] = ""
    region: Annotated[str, Meta(description="Region of the Arc-enabled cluster; copied into that annotation.")] = ""
    distribution: Annotated[
        str, Meta(description="Kubernetes distribution of the cluster; openshift has the effect of an OpenShift API.")
    ] = ""
    infrastructure: Annotated[str, Meta(description="Infrastructure of the cluster; copied into that annotation.")] = ""
    cloud: Annotated[
        str,
        Meta(description="Cloud of the cluster, such as AZUREPUBLICCLOUD; the default cloud if defaultCloud is empty."),
    ] = ""


class AzureProxy(OpenValues):
    """The proxy of the cluster's connection to Azure Arc. The values proxy and caBundle take precedence over it."""

    is_proxy_enabled: Annotated[bool, Meta(description="Use the proxy of Azure Arc.")] = False
    http_proxy: Annotated[str, Meta(description="Proxy for http addresses; proxy.http replaces it.")] = ""
    https_proxy: Annotated[str, Meta(description="Proxy for https addresses; proxy.https replaces it.")] = ""
    no_proxy: Annotated[
        str, Meta(description="Hosts that are reached without the proxy, comma-separated; proxy.noProxy replaces it.")
    ] = ""
    proxy_cert: Annotated[
        str, Meta(description="Certificates to trust besides caBundle, as PEM or its base64, also without a proxy.")
    ] = ""
    is_custom_cert: Annotated[
        bool, Meta(description="Whether proxyCert came without a proxy; copied into that annotation.")
    ] = False
    autonomous_fqdn: Annotated[
        str, Meta(description="Domain of a private cloud; copied into that annotation. List its vaults in clouds.")
    ] = ""


class AzureIdentity(OpenValues):
    """The extension's own identity.

    The controller never reads a vault as this one, only as those that SecretSyncs name.
    """

    is_enabled: Annotated[
        bool, Meta(description="Whether the extension has an identity; copied into that annotation.")
    ] = msgspec.field(default=False, name="isEnabled")
    type: Annotated[str, Meta(description="Type of the extension's identity; copied into that annotation.")] = (
        msgspec.field(default="", name="Type")
    )


class AzureExtension(OpenValues, rename="pascal"):
    """The extension that this release belongs to."""

    name: Annotated[str, Meta(description="Name of the extension; copied into that annotation.")] = ""
    resource_id: Annotated[str, Meta(description="Id of the extension in Azure; copied into that annotation.")] = ""


class AzureValues(OpenValues):
    """Values that the extension manager of Azure Arc sets. Other installations need not set them."""

    cluster: AzureCluster = msgspec.field(default_factory=AzureCluster, name="Cluster")
    proxy_settings: AzureProxy = msgspec.field(default_factory=AzureProxy)
    identity: AzureIdentity = msgspec.field(default_factory=AzureIdentity, name="Identity")
    extension: AzureExtension = msgspec.field(default_factory=AzureExtension, name="Extension")
