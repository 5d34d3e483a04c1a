"""Where log lines go besides stdout."""

from typing import Annotated

import msgspec
from msgspec import Meta

from controller.settings import HTTPS_URL
from tools.values.base import Values
from tools.values.observing import RENDER_MODE, RenderMode

# As Go reads them: there is no unit for a day.
GO_DURATION = r"^([0-9]+(ms|[smh]))+$"


class IssuerRef(Values):
    """The cert-manager issuer of the controller's certificate; the collector has to trust its CA."""

    name: Annotated[str, Meta(description="Its name; needed, where secretName names no Secret.")] = ""
    kind: Annotated[str, Meta(min_length=1, description="Issuer (in the release's namespace) or ClusterIssuer.")] = (
        "Issuer"
    )
    group: Annotated[str, Meta(min_length=1, description="The API group of other issuers.")] = "cert-manager.io"


class Certificate(Values):
    """The certificate that the controller shows to the collector."""

    secret_name: Annotated[
        str,
        Meta(
            description="A Secret of yours that has tls.crt and tls.key; empty: the chart has cert-manager make one,"
            " by a Certificate."
        ),
    ] = ""
    issuer_ref: IssuerRef = msgspec.field(default_factory=IssuerRef)
    duration: Annotated[str, Meta(pattern=GO_DURATION, description="How long a certificate is valid.")] = "2160h"
    renew_before: Annotated[
        str, Meta(pattern=GO_DURATION, description="How long before its end it is renewed; the pods go on.")
    ] = "720h"
    render_mode: Annotated[RenderMode, Meta(description=RENDER_MODE)] = "failIfMissing"


class Authority(Values):
    """The CA by which the controller knows the collector; no other is trusted, the system's neither."""

    config_map_name: Annotated[
        str,
        Meta(description="A ConfigMap of yours that has it; empty: the chart has trust-manager make one, by a Bundle."),
    ] = ""
    key: Annotated[str, Meta(min_length=1, description="The key in the ConfigMap.")] = "ca.crt"
    secret_name: Annotated[
        str,
        Meta(
            description="The Secret in trust-manager's own namespace that the Bundle takes the CA from; needed, where"
            " configMapName names no ConfigMap."
        ),
    ] = ""
    secret_key: Annotated[str, Meta(min_length=1, description="… and the key in it.")] = "tls.crt"  # noqa: S105
    render_mode: Annotated[RenderMode, Meta(description=RENDER_MODE)] = "failIfMissing"


class Otlp(Values):
    """Log lines to an OpenTelemetry Collector, over mutual TLS."""

    enabled: Annotated[bool, Meta(description="Whether they are shipped. Standard output has them all the same.")] = (
        False
    )
    endpoint: Annotated[
        str,
        Meta(
            pattern=f"^$|{HTTPS_URL}",
            description="The collector's OTLP receiver for HTTP, as https://collector.observability.svc:4318.",
        ),
    ] = ""
    certificate: Certificate = msgspec.field(default_factory=Certificate)
    ca: Authority = msgspec.field(default_factory=Authority)


class Logs(Values):
    """What becomes of the controller's log besides standard output."""

    otlp: Otlp = msgspec.field(default_factory=Otlp)
