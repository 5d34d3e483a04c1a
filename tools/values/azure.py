"""What the extension manager of Azure Arc sets."""

from typing import Annotated

import msgspec
from msgspec import Meta

from tools.values.base import Open


class AzureCluster(Open, rename="pascal"):
    """The Arc-enabled cluster."""

    resource_id: Annotated[str, Meta(description="Its id in Azure; told in an annotation of the Deployment.")] = ""
    region: Annotated[str, Meta(description="Its region; told there, too.")] = ""
    distribution: Annotated[
        str, Meta(description="Its distribution; told there, and openshift counts as OpenShift (podSecurityContext).")
    ] = ""
    infrastructure: Annotated[str, Meta(description="What it runs on; told there, too.")] = ""
    cloud: Annotated[
        str, Meta(description="Its cloud, such as AZUREPUBLICCLOUD; the default cloud, where defaultCloud names none.")
    ] = ""


class AzureProxy(Open):
    """The proxy that the cluster was connected with. What proxy and caBundle say goes before it."""

    is_proxy_enabled: Annotated[bool, Meta(description="Whether there is one.")] = False
    http_proxy: Annotated[str, Meta(description="As proxy.http.")] = ""
    https_proxy: Annotated[str, Meta(description="As proxy.https.")] = ""
    no_proxy: Annotated[str, Meta(description="As proxy.noProxy, comma-separated.")] = ""
    proxy_cert: Annotated[
        str, Meta(description="Certificates to trust, as PEM or its base64; they count without a proxy, too.")
    ] = ""
    is_custom_cert: Annotated[
        bool, Meta(description="Whether they came without a proxy; told in an annotation of the Deployment.")
    ] = False
    autonomous_fqdn: Annotated[
        str, Meta(description="The domain of a cloud of one's own; told there, too. Its vaults must stand in clouds.")
    ] = ""


class AzureIdentity(Open):
    """The extension's own identity. The controller reads vaults as those that SecretSyncs name, never as this one."""

    is_enabled: Annotated[bool, Meta(description="Whether it has one; told in an annotation of the Deployment.")] = (
        msgspec.field(default=False, name="isEnabled")
    )
    type: Annotated[str, Meta(description="Its type; told there, too.")] = msgspec.field(default="", name="Type")


class AzureExtension(Open, rename="pascal"):
    """The extension of which this is the release."""

    name: Annotated[str, Meta(description="Its name; told in an annotation of the Deployment.")] = ""
    resource_id: Annotated[str, Meta(description="Its id in Azure; told there, too.")] = ""


class Azure(Open):
    """What the extension manager of Azure Arc says. Nobody else need set any of it."""

    cluster: AzureCluster = msgspec.field(default_factory=AzureCluster, name="Cluster")
    proxy_settings: AzureProxy = msgspec.field(default_factory=AzureProxy)
    identity: AzureIdentity = msgspec.field(default_factory=AzureIdentity, name="Identity")
    extension: AzureExtension = msgspec.field(default_factory=AzureExtension, name="Extension")
