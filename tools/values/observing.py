"""What Prometheus and Grafana are told."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tools.values.base import Values

RenderMode = Literal["failIfMissing", "skipIfMissing", "alwaysRender"]
RENDER_MODE = (
    "Where the cluster does not serve that kind: failIfMissing says so, skipIfMissing leaves it out, alwaysRender does"
    " not ask."
)
DURATION = r"^([0-9]+(ms|[smhd]))+$"


class Operated(Values):
    """What the Prometheus Operator reads."""

    enabled: Annotated[bool, Meta(description="Whether there is one.")] = False
    render_mode: Annotated[RenderMode, Meta(description=RENDER_MODE)] = "failIfMissing"
    additional_labels: Annotated[
        dict[str, str], Meta(description="More labels, such as those by which your Prometheus finds it.")
    ] = msgspec.field(default_factory=dict)


class Monitor(Operated):
    """A ServiceMonitor of the Prometheus Operator, and the Service that it needs."""

    interval: Annotated[str, Meta(pattern=DURATION, description="How often it is scraped.")] = "30s"
    scrape_timeout: Annotated[str, Meta(pattern=DURATION, description="After how long a scrape is given up.")] = "25s"


class Rules(Operated):
    """A PrometheusRule with the alarms that the chart's README explains."""


class Dashboard(Values):
    """A ConfigMap with a dashboard, as Grafana's sidecar looks for it."""

    enabled: Annotated[bool, Meta(description="Whether there is one.")] = False
    sidecar_label: Annotated[str, Meta(min_length=1, description="The label by which the sidecar finds it.")] = (
        "grafana_dashboard"
    )
    sidecar_label_value: Annotated[str, Meta(description="… and its value.")] = "1"
    annotations: Annotated[dict[str, str], Meta(description="Annotations, such as the folder for the sidecar.")] = (
        msgspec.field(default_factory=dict)
    )
    extra_labels: Annotated[dict[str, str], Meta(description="More labels.")] = msgspec.field(default_factory=dict)
