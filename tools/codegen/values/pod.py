"""Values for the controller's image, ServiceAccount and network."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from controller.config.settings import HOST_AND_PORT
from tools.cli.common import project
from tools.codegen.values import kubernetes
from tools.codegen.values.base import (
    Annotations,
    Free,
    Labels,
    NumberOrShare,
    OpenValues,
    PullSecrets,
    Tolerations,
    ValuesGroup,
)

# The user and group of the image, as in the Containerfile.
IMAGE_USER = 65532
# The scheme of a URL has no case. A JSON Schema has no flag for that.
PROXY_URL = rf"^([Hh][Tt][Tt][Pp][Ss]?://([^\s/?#]*@)?{HOST_AND_PORT}(/[^\s?#]*)?)?$"


class GlobalValues(OpenValues):
    """Values that a parent chart and its dependencies share."""

    registry: Annotated[
        str,
        Meta(description="Registry of all images, instead of image.registry.", extra_json_schema=kubernetes.REGISTRY),
    ] = ""
    image_pull_secrets: Annotated[
        PullSecrets, Meta(description="Secrets for pulling images, besides imagePullSecrets.")
    ] = msgspec.field(default_factory=list)
    labels: Annotated[Labels, Meta(description="Labels of all objects and pods, below commonLabels.")] = msgspec.field(
        default_factory=dict
    )
    node_selector: Annotated[Labels, Meta(description="Labels of nodes for all pods, below nodeSelector.")] = (
        msgspec.field(default_factory=dict)
    )
    tolerations: Annotated[Tolerations, Meta(description="Tolerations of all pods, besides tolerations.")] = (
        msgspec.field(default_factory=list)
    )
    priority_class_name: Annotated[
        str,
        Meta(
            description="PriorityClass of pods, if priorityClassName is empty.",
            extra_json_schema=kubernetes.NAME,
        ),
    ] = ""


class ImageReference(ValuesGroup):
    """The controller's image: registry/repository:tag, or @digest if a digest is given."""

    registry: Annotated[
        str,
        Meta(
            description="Registry and path of the controller's image; empty if image.repository has them.",
            extra_json_schema=kubernetes.REGISTRY,
        ),
    ] = project.read().registry
    repository: Annotated[
        str,
        Meta(min_length=1, description="Name of the controller's image.", extra_json_schema=kubernetes.REPOSITORY),
    ] = "akv-secret-store"
    tag: Annotated[
        str,
        Meta(
            description="Tag of the controller's image; empty: the chart's appVersion.",
            extra_json_schema=kubernetes.TAG,
        ),
    ] = ""
    digest: Annotated[
        str,
        Meta(
            pattern=r"^(sha256:[0-9a-f]{64})?$",
            description="Digest of the controller's image, as sha256:…; it replaces the tag.",
        ),
    ] = ""
    pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"], Meta(description="When the kubelet pulls the controller's image.")
    ] = "IfNotPresent"

    def reference(self, version: str) -> str:
        """Return the image of the chart of that version, as the templates write it."""
        name = "/".join(filter(None, (self.registry.removesuffix("/"), self.repository)))
        return f"{name}@{self.digest}" if self.digest else f"{name}:{self.tag or version}"


class ServiceAccount(ValuesGroup):
    """The controller's own ServiceAccount. SecretSyncs name the ServiceAccounts that read vaults."""

    create: Annotated[bool, Meta(description="Create the controller's ServiceAccount; with false, it must exist.")] = (
        True
    )
    name: Annotated[
        str,
        Meta(
            description="Name of the controller's ServiceAccount; empty: the release's full name, or default if it is"
            " not created.",
            extra_json_schema=kubernetes.NAME,
        ),
    ] = ""
    annotations: Annotated[Annotations, Meta(description="Annotations of the controller's ServiceAccount.")] = (
        msgspec.field(default_factory=dict)
    )


class ProxyValues(ValuesGroup):
    """The proxy between the controller and Entra or the vaults.

    Its address is in a Secret because it can have a password. Requests to the API server never
    use it, independent of noProxy.
    """

    http: Annotated[
        str,
        Meta(
            pattern=PROXY_URL,
            description="Proxy for http addresses, as http://host:port. Azure has only https addresses.",
        ),
    ] = ""
    https: Annotated[
        str,
        Meta(
            pattern=PROXY_URL,
            description="Proxy for https addresses, as http://host:port or http://user:password@host:port.",
        ),
    ] = ""
    no_proxy: Annotated[
        list[str],
        Meta(
            description="Hosts that are reached without the proxy, as a list or comma-separated: names, ends of names"
            " such as .example.com or *.example.com, addresses, and networks such as 10.0.0.0/8. A port may follow.",
            extra_json_schema=kubernetes.HOSTS,
        ),
    ] = msgspec.field(default_factory=list)


class DisruptionBudget(ValuesGroup):
    """A PodDisruptionBudget for the controller's pods. With one replica and minAvailable 1, no node can be drained."""

    enabled: Annotated[bool, Meta(description="Create a PodDisruptionBudget.")] = False
    min_available: Annotated[
        NumberOrShare, Meta(description="Pods that remain when a node is drained, as a number or a percentage.")
    ] = ""
    max_unavailable: Annotated[
        NumberOrShare,
        Meta(
            description="Pods that may be missing when a node is drained, instead of minAvailable; 1 if both are empty."
        ),
    ] = ""
    unhealthy_pod_eviction_policy: Annotated[
        Literal["", "IfHealthyBudget", "AlwaysAllow"],
        Meta(description="Policy for the eviction of pods that are not ready; empty: Kubernetes' default."),
    ] = ""


def _port(port: int | str, protocol: str = "TCP") -> Free:
    return {"port": port, "protocol": protocol}


class NetworkPolicies(ValuesGroup):
    """A NetworkPolicy for the controller's pods."""

    enabled: Annotated[bool, Meta(description="Create NetworkPolicies.")] = False
    ingress: Annotated[
        list[Free],
        Meta(
            description="Connections to the controller that are allowed: all to its metrics. The kubelet's probes are"
            " always allowed.",
            extra_json_schema=kubernetes.INGRESS,
        ),
    ] = msgspec.field(default_factory=lambda: [{"ports": [_port("http")]}])
    egress: Annotated[
        list[Free],
        Meta(
            description="Connections of the controller that are allowed: to DNS (53, and 5353 on OpenShift), the API"
            " server (443 or 6443), Entra and the vaults (443). The ports of the proxy, of clouds and of the logs'"
            " collector are added.",
            extra_json_schema=kubernetes.EGRESS,
        ),
    ] = msgspec.field(
        default_factory=lambda: [
            {"ports": [_port(53, "UDP"), _port(53), _port(5353, "UDP"), _port(5353)]},
            {"ports": [_port(443), _port(6443)]},
        ]
    )
