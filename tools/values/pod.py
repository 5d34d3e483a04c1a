"""The controller's image, ServiceAccount and network: what its pod is given."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tools.values.base import Free, NumberOrShare, Open, Values

# The image's own user and group, as its Containerfile has them.
IMAGE_USER = 65532
PROXY_URL = r"^(https?://\S+)?$"


class Global(Open):
    """What a chart shares with those that it is installed with."""

    image_pull_secrets: Annotated[
        list[Free], Meta(description="Secrets for pulling images, besides imagePullSecrets.")
    ] = msgspec.field(default_factory=list)


class Image(Values):
    """The controller's image: registry/repository:tag, or @digest where one is given."""

    registry: Annotated[str, Meta(description="The registry's host, if it does not stand in repository.")] = ""
    repository: Annotated[str, Meta(min_length=1, description="The image's name.")] = "akv-secret-store"
    tag: Annotated[str, Meta(description="The tag; empty: the chart's appVersion.")] = ""
    digest: Annotated[
        str, Meta(pattern=r"^(sha256:[0-9a-f]{64})?$", description="The digest, as sha256:…; it goes before the tag.")
    ] = ""
    pull_policy: Annotated[
        Literal["Always", "IfNotPresent", "Never"], Meta(description="When the kubelet pulls the image.")
    ] = "IfNotPresent"

    def reference(self, version: str) -> str:
        """The image that the chart of that version asks for, as its templates write it."""
        name = "/".join(filter(None, (self.registry.removesuffix("/"), self.repository)))
        return f"{name}@{self.digest}" if self.digest else f"{name}:{self.tag or version}"


class ServiceAccount(Values):
    """The controller's own ServiceAccount. What reads a vault are the ServiceAccounts that SecretSyncs name."""

    create: Annotated[bool, Meta(description="Whether the chart makes it; if not, it must exist.")] = True
    name: Annotated[
        str, Meta(description="Its name; empty: the release's full name, or default if it is not made.")
    ] = ""
    annotations: Annotated[dict[str, str], Meta(description="Annotations of the ServiceAccount.")] = msgspec.field(
        default_factory=dict
    )


class Proxy(Values):
    """The proxy on the way to Entra and the vaults. It is kept in a Secret, for it may have a password.

    The API server is never asked through it, whatever noProxy says.
    """

    http: Annotated[
        str,
        Meta(
            pattern=PROXY_URL, description="As http://host:port; for http addresses, of which there are none in Azure."
        ),
    ] = ""
    https: Annotated[
        str,
        Meta(
            pattern=PROXY_URL,
            description="As http://host:port or http://user:password@host:port; for https addresses.",
        ),
    ] = ""
    no_proxy: Annotated[
        list[str],
        Meta(
            description="Hosts that are reached without it, as a list or comma-separated: names, or ends of names such"
            " as .example.com. Networks such as 10.0.0.0/8 are not understood."
        ),
    ] = msgspec.field(default_factory=list)


class Disruption(Values):
    """A PodDisruptionBudget. With one replica and minAvailable 1, no node can be drained."""

    enabled: Annotated[bool, Meta(description="Whether there is one.")] = False
    min_available: Annotated[NumberOrShare, Meta(description="How many pods stay, as a number or a percentage.")] = ""
    max_unavailable: Annotated[
        NumberOrShare, Meta(description="Or how many may be missing; where neither is given: 1.")
    ] = ""


def _port(port: int | str, protocol: str = "TCP") -> Free:
    return {"port": port, "protocol": protocol}


class Network(Values):
    """A NetworkPolicy for the controller's pods."""

    enabled: Annotated[bool, Meta(description="Whether there is one.")] = False
    ingress: Annotated[list[Free], Meta(description="Who may come in: to the probes and metrics, everybody.")] = (
        msgspec.field(default_factory=lambda: [{"ports": [_port("http")]}])
    )
    egress: Annotated[
        list[Free],
        Meta(
            description="Where it may go: DNS, the API server (443 or 6443), Entra and the vaults (443). The ports of"
            " the proxy, of clouds and of the logs' collector are added."
        ),
    ] = msgspec.field(
        default_factory=lambda: [{"ports": [_port(53, "UDP"), _port(53)]}, {"ports": [_port(443), _port(6443)]}]
    )
