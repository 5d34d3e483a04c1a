"""Values for Prometheus and Grafana."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from controller.config.settings import Settings
from tools.codegen.values import kubernetes
from tools.codegen.values.base import NAMESPACE, Annotations, Free, Labels, Port, ValuesGroup

RenderMode = Literal["failIfMissing", "skipIfMissing", "alwaysRender"]


def describe_render_mode(kind: str) -> Meta:
    """Return the description of a value of that type."""
    return Meta(
        description=f"Action if the cluster does not serve the kind {kind}: failIfMissing refuses the values,"
        " skipIfMissing leaves the object out, alwaysRender renders it without a check."
    )


# The operator's form of durations: each unit once, the largest first. The length excludes the empty text.
DURATION = r"^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"


class MetricsTls(ValuesGroup):
    """TLS for the port of metrics."""

    secret_name: Annotated[
        str,
        Meta(
            description="Existing Secret with tls.crt and tls.key for the port of metrics, such as cert-manager writes."
            " A renewed certificate is served without a restart. Empty: plain HTTP. The ServiceMonitor trusts ca.crt.",
            extra_json_schema=kubernetes.NAME,
        ),
    ] = ""


class MetricsAuthentication(ValuesGroup):
    """Authentication and authorization of clients that read the metrics."""

    enabled: Annotated[
        bool,
        Meta(
            description="Let the API server decide who may read the metrics (TokenReview, SubjectAccessReview); needs"
            " metrics.tls.secretName. The controller then has the rights to ask it, and the chart has the"
            " ClusterRole metrics-reader.<release>.<namespace>: bind the ServiceAccount of your Prometheus to it."
        ),
    ] = False


class MetricsPort(ValuesGroup):
    """The port of metrics."""

    port: Annotated[
        Port, Meta(description="Port of the metrics. With hostNetwork, no other process of the node can have it.")
    ] = Settings().listen_port
    tls: MetricsTls = msgspec.field(default_factory=MetricsTls)
    authentication: MetricsAuthentication = msgspec.field(default_factory=MetricsAuthentication)


class ServiceMonitor(ValuesGroup):
    """A ServiceMonitor of the Prometheus Operator, and the Service that it needs."""

    enabled: Annotated[bool, Meta(description="Create a ServiceMonitor and a Service for it.")] = False
    render_mode: Annotated[RenderMode, describe_render_mode("ServiceMonitor")] = "failIfMissing"
    namespace: Annotated[
        str,
        Meta(
            pattern=NAMESPACE,
            description="Namespace of the ServiceMonitor; empty: the release's. With metrics.tls.secretName it needs a"
            " Secret of that name with ca.crt, because the operator reads it there.",
        ),
    ] = ""
    additional_labels: Annotated[
        Labels, Meta(description="Labels of the ServiceMonitor, such as those that your Prometheus selects.")
    ] = msgspec.field(default_factory=dict)
    interval: Annotated[str, Meta(min_length=1, pattern=DURATION, description="Interval of Prometheus' scrapes.")] = (
        "30s"
    )
    scrape_timeout: Annotated[
        str, Meta(min_length=1, pattern=DURATION, description="Timeout of a scrape, at most the interval.")
    ] = "25s"
    relabelings: Annotated[
        list[Free],
        Meta(description="Relabelings of the scrape's target.", extra_json_schema=kubernetes.RELABELINGS),
    ] = msgspec.field(default_factory=list)
    metric_relabelings: Annotated[
        list[Free],
        Meta(description="Relabelings of the scraped metrics.", extra_json_schema=kubernetes.RELABELINGS),
    ] = msgspec.field(default_factory=list)


class AlertingRules(ValuesGroup):
    """A PrometheusRule with the alerts that the chart's README explains."""

    enabled: Annotated[bool, Meta(description="Create a PrometheusRule.")] = False
    render_mode: Annotated[RenderMode, describe_render_mode("PrometheusRule")] = "failIfMissing"
    additional_labels: Annotated[
        Labels, Meta(description="Labels of the PrometheusRule, such as those that your Prometheus selects.")
    ] = msgspec.field(default_factory=dict)


class DashboardConfigMap(ValuesGroup):
    """A ConfigMap with a dashboard in the form that Grafana's sidecar expects."""

    enabled: Annotated[bool, Meta(description="Create the ConfigMap with the dashboard.")] = False
    sidecar_label: Annotated[
        str,
        Meta(
            min_length=1,
            description="Label by which Grafana's sidecar finds the dashboard.",
            extra_json_schema=kubernetes.LABEL_KEY,
        ),
    ] = "grafana_dashboard"
    sidecar_label_value: Annotated[
        str,
        Meta(description="Value of grafanaDashboard.sidecarLabel.", extra_json_schema=kubernetes.LABEL_VALUE),
    ] = "1"
    annotations: Annotated[
        Annotations, Meta(description="Annotations of the dashboard's ConfigMap, such as its folder in Grafana.")
    ] = msgspec.field(default_factory=dict)
    extra_labels: Annotated[Labels, Meta(description="Labels of the dashboard's ConfigMap.")] = msgspec.field(
        default_factory=dict
    )
