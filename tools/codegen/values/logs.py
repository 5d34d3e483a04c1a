"""Values for sending log lines to a collector."""

from typing import Annotated

import msgspec
from msgspec import Meta

from controller.config.settings import HTTPS_URL
from tools.codegen.values import kubernetes
from tools.codegen.values.base import ValuesGroup
from tools.codegen.values.observing import RenderMode, describe_render_mode

# Go's syntax of durations, which has no unit for a day.
GO_DURATION = r"^([0-9]+(ms|[smh]))+$"


class IssuerRef(ValuesGroup):
    """The cert-manager issuer of the controller's certificate; the collector has to trust its CA."""

    name: Annotated[
        str,
        Meta(
            description="Name of the certificate's issuer; needed if logs.otlp.certificate.secretName is empty.",
            extra_json_schema=kubernetes.NAME,
        ),
    ] = ""
    kind: Annotated[
        str,
        Meta(
            min_length=1,
            description="Kind of the certificate's issuer: Issuer (in the release's namespace) or ClusterIssuer.",
            extra_json_schema=kubernetes.KIND,
        ),
    ] = "Issuer"
    group: Annotated[
        str,
        Meta(min_length=1, description="API group of the certificate's issuer.", extra_json_schema=kubernetes.GROUP),
    ] = "cert-manager.io"


class CollectorCertificate(ValuesGroup):
    """The client certificate of the controller for the collector."""

    secret_name: Annotated[
        str,
        Meta(
            description="Existing Secret with tls.crt and tls.key for the controller; empty: the chart creates a"
            " Certificate for cert-manager.",
            extra_json_schema=kubernetes.NAME,
        ),
    ] = ""
    issuer_ref: IssuerRef = msgspec.field(default_factory=IssuerRef)
    duration: Annotated[str, Meta(pattern=GO_DURATION, description="Lifetime of the controller's certificate.")] = (
        "2160h"
    )
    renew_before: Annotated[
        str,
        Meta(
            pattern=GO_DURATION,
            description="Time before its end at which the certificate is renewed, without a restart.",
        ),
    ] = "720h"
    render_mode: Annotated[RenderMode, describe_render_mode("Certificate")] = "failIfMissing"


class CollectorAuthority(ValuesGroup):
    """The CA that signed the collector's certificate. No other CA is trusted, not even those of the system."""

    config_map_name: Annotated[
        str,
        Meta(
            description="Existing ConfigMap with the collector's CA; empty: the chart creates a Bundle for"
            " trust-manager.",
            extra_json_schema=kubernetes.NAME,
        ),
    ] = ""
    key: Annotated[
        str,
        Meta(
            min_length=1,
            description="Key of the collector's CA in the ConfigMap.",
            extra_json_schema=kubernetes.DATA_KEY,
        ),
    ] = "ca.crt"
    secret_name: Annotated[
        str,
        Meta(
            description="Secret in trust-manager's namespace from which the Bundle takes the collector's CA; needed if"
            " logs.otlp.ca.configMapName is empty.",
            extra_json_schema=kubernetes.NAME,
        ),
    ] = ""
    secret_key: Annotated[
        str,
        Meta(
            min_length=1,
            description="Key of the collector's CA in logs.otlp.ca.secretName.",
            extra_json_schema=kubernetes.DATA_KEY,
        ),
    ] = "tls.crt"  # noqa: S105
    render_mode: Annotated[RenderMode, describe_render_mode("Bundle")] = "failIfMissing"


class OtlpExport(ValuesGroup):
    """Log lines to an OpenTelemetry Collector, over mutual TLS."""

    enabled: Annotated[bool, Meta(description="Ship log lines to a collector, besides standard output.")] = False
    endpoint: Annotated[
        str,
        Meta(
            pattern=f"^$|{HTTPS_URL}",
            description="OTLP receiver of the collector for HTTP, as https://collector.observability.svc:4318.",
        ),
    ] = ""
    certificate: CollectorCertificate = msgspec.field(default_factory=CollectorCertificate)
    ca: CollectorAuthority = msgspec.field(default_factory=CollectorAuthority)


class LogDestinations(ValuesGroup):
    """Destinations of the controller's log besides standard output."""

    otlp: OtlpExport = msgspec.field(default_factory=OtlpExport)
