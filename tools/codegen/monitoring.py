"""Define alerting rules and panels: the source of the PrometheusRule, the README's table and the Grafana dashboard."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from tools.cli.common import templating


@dataclass(frozen=True)
class ValueDependent:
    """A part of a rule that depends on the chart's values: as Helm template, and its text with the default values."""

    template: str
    default: str


# A restart or a short outage of a vault raises no alert: these are two more hours than a poll needs.
MAX_AGE = ValueDependent(
    "{{ add (int64 .Values.rotationPollIntervalInSeconds) (int64 .Values.jitterSeconds) 7200 }}", "10800"
)
# With a ServiceMonitor: the namespaces of watchNamespaces, because another release has other intervals.
SERVED = ValueDependent("{{ $served }}", "")
# With a ServiceMonitor: the pods of this release, because those of another one can be there while these are missing.
OWN_PODS = ValueDependent("{{ $ownPods }}", "")


@dataclass(frozen=True)
class AlertingRule:
    """An alerting rule of Prometheus.

    `parts` are the parts of its expression. `next_step` is for the person on call, and can contain `$labels`.
    `lasting` is the rule's `for`.
    """

    name: str
    what: str
    parts: tuple[str | ValueDependent, ...]
    lasting: str
    severity: str
    next_step: str

    @property
    def template(self) -> str:
        """Return the expression as Helm template."""
        return "".join(part if isinstance(part, str) else part.template for part in self.parts)

    @property
    def expression(self) -> str:
        """Return the expression in a release with the default values."""
        return "".join(part if isinstance(part, str) else part.default for part in self.parts)


ALERTING_RULES = (
    AlertingRule(
        "AkvSecretNotKept",
        "a Secret is not up to date with the vault",
        (
            "time() - max by (namespace, name) (akv_secret_store_last_successful_sync_timestamp_seconds",
            SERVED,
            ") > ",
            MAX_AGE,
        ),
        "15m",
        "warning",
        "kubectl describe secretsync {{ $labels.name }} --namespace {{ $labels.namespace }} shows the cause and the"
        " next step.",
    ),
    AlertingRule(
        "AkvSecretExpires",
        "a synced object expires within two weeks",
        (
            "max by (namespace, name, key) (akv_secret_store_expiry_timestamp_seconds",
            SERVED,
            ") - time() < 14 * 86400",
        ),
        "1h",
        "warning",
        "Renew the object of key {{ $labels.key }} of Secret {{ $labels.name }} in namespace {{ $labels.namespace }} in"
        " the vault.",
    ),
    AlertingRule(
        "AkvVaultRefuses",
        "a vault refuses or throttles calls",
        ('sum by (vault, outcome) (increase(akv_secret_store_vault_calls_total{outcome!="ok"}[1h])) > 10',),
        "15m",
        "warning",
        "Key Vault {{ $labels.vault }} answers {{ $labels.outcome }}: kubectl get secretsync -A shows the causes.",
    ),
    AlertingRule(
        "AkvSecretStoreNoLeader",
        "no replica of the controller leads",
        ("max by (namespace, job) (akv_secret_store_leader) < 1 or absent(akv_secret_store_leader", OWN_PODS, ")"),
        "5m",
        "critical",
        "No pod of the controller syncs Secrets: check the controller's Deployment and log.",
    ),
)


class DashboardPanel(NamedTuple):
    """A graph. Each query has an expression and a legend."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


PANELS = (
    DashboardPanel("SecretSyncs that are not ready", "short", (("max(akv_secret_store_not_ready)", "not ready"),)),
    DashboardPanel(
        "Time since the last successful sync, ten highest",
        "s",
        (
            (
                "topk(10, time() - max by (namespace, name)"
                " (akv_secret_store_last_successful_sync_timestamp_seconds > 0))",
                "{{namespace}}/{{name}}",
            ),
        ),
    ),
    DashboardPanel(
        "Time until an object expires, ten lowest",
        "s",
        (
            (
                "bottomk(10, max by (namespace, name, key) (akv_secret_store_expiry_timestamp_seconds) - time())",
                "{{namespace}}/{{name}} {{key}}",
            ),
        ),
    ),
    DashboardPanel(
        "Calls to vaults",
        "reqps",
        (
            (
                "sum by (vault, outcome) (rate(akv_secret_store_vault_calls_total[$__rate_interval]))",
                "{{vault}} {{outcome}}",
            ),
        ),
    ),
    DashboardPanel(
        "Reconciles by reason",
        "ops",
        (("sum by (reason) (rate(akv_secret_store_reconciles_total[$__rate_interval]))", "{{reason}}"),),
    ),
    DashboardPanel(
        "Duration of reconciles",
        "s",
        tuple(
            (
                f"histogram_quantile({share}, sum by (le)"
                " (rate(akv_secret_store_reconcile_seconds_bucket[$__rate_interval])))",
                f"{share}",
            )
            for share in (0.5, 0.99)
        ),
    ),
    DashboardPanel(
        "Secrets written",
        "ops",
        (("sum by (verb) (rate(akv_secret_store_secret_writes_total[$__rate_interval]))", "{{verb}}"),),
    ),
    DashboardPanel(
        "Log lines to the collector",
        "ops",
        (
            ("sum(rate(akv_secret_store_log_lines_shipped_total[$__rate_interval]))", "shipped"),
            ("sum by (cause) (rate(akv_secret_store_log_lines_lost_total[$__rate_interval]))", "lost: {{cause}}"),
        ),
    ),
    DashboardPanel(
        "Leaders, and due keys in the queue",
        "short",
        (
            ("sum(akv_secret_store_leader)", "leaders"),
            ("max(akv_secret_store_queue_due)", "due and waiting"),
        ),
    ),
    DashboardPanel(
        "Failed token requests, and series that were left out",
        "short",
        (
            (
                "sum by (authority) (rate(akv_secret_store_token_failures_total[$__rate_interval]))",
                "no token of {{authority}}",
            ),
            ("max by (namespace) (akv_secret_store_series_dropped)", "without series: {{namespace}}"),
        ),
    ),
)
_COLUMNS, _WIDTH, _HEIGHT = 2, 12, 8


def dashboard() -> str:
    """Return the dashboard in Grafana's JSON. The user selects the Prometheus data source in the dashboard."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    model = {
        "$comment": templating.generated_by("tools/codegen/monitoring.py"),
        "uid": "akv-secret-store",
        "title": "Azure Key Vault Secret Store",
        "tags": ["secrets"],
        "schemaVersion": 39,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": [_build_panel(number, panel, source) for number, panel in enumerate(PANELS)],
    }
    return json.dumps(model, indent=2) + "\n"


def _build_panel(number: int, panel: DashboardPanel, source: dict[str, str]) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.queries)
        ],
    }
