"""Alerting rules and panels: the source of the PrometheusRule, the README's table and the Grafana dashboard."""

import json
from typing import Any, NamedTuple

from tools.cli.common import templating

LONGEST = "10800"
"""Seconds after which a Secret counts as not synced: by default, rotationPollIntervalInSeconds and two hours, so that
a restart or a short outage of a vault raises no alert. The chart computes it from its values."""


class AlertingRule(NamedTuple):
    """An alerting rule of Prometheus. `next_step` is for the person on call, and can contain `$labels`."""

    name: str
    what: str
    expression: str
    lasting: str
    severity: str
    next_step: str


ALARMS = (
    AlertingRule(
        "AkvSecretNotKept",
        "a Secret is no longer kept equal to the vault",
        f"time() - max by (namespace, name) (akv_secret_store_last_successful_sync_timestamp_seconds) > {LONGEST}",
        "15m",
        "warning",
        "kubectl describe secretsync {{ $labels.name }} --namespace {{ $labels.namespace }} says why, and what to do.",
    ),
    AlertingRule(
        "AkvSecretExpires",
        "something that was synced expires within two weeks",
        "max by (namespace, name, key) (akv_secret_store_expiry_timestamp_seconds) - time() < 14 * 86400",
        "1h",
        "warning",
        "Renew in the vault what key {{ $labels.key }} of Secret {{ $labels.name }} in namespace"
        " {{ $labels.namespace }} holds.",
    ),
    AlertingRule(
        "AkvVaultRefuses",
        "a vault refuses or throttles",
        'sum by (vault, outcome) (increase(akv_secret_store_vault_calls_total{outcome!="ok"}[1h])) > 10',
        "15m",
        "warning",
        "Key Vault {{ $labels.vault }} answers {{ $labels.outcome }}: kubectl get secretsync -A says why.",
    ),
    AlertingRule(
        "AkvNobodyLeads",
        "nobody leads",
        "max(akv_secret_store_leader) < 1 or absent(akv_secret_store_leader)",
        "5m",
        "critical",
        "No pod of the controller works: see its Deployment and its log.",
    ),
)


class DashboardPanel(NamedTuple):
    """A graph. Each query has an expression and its legend."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


PANELS = (
    DashboardPanel("SecretSyncs that are not ready", "short", (("max(akv_secret_store_not_ready)", "not ready"),)),
    DashboardPanel(
        "Since the last successful sync, the ten longest",
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
        "Until it expires, the ten nearest",
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
        "Reconciles by what came of them",
        "ops",
        (("sum by (reason) (rate(akv_secret_store_reconciles_total[$__rate_interval]))", "{{reason}}"),),
    ),
    DashboardPanel(
        "Seconds of a reconcile",
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
        "Who leads, and what waits",
        "short",
        (
            ("sum(akv_secret_store_leader)", "leaders"),
            ("max(akv_secret_store_queue_due)", "due and waiting"),
        ),
    ),
    DashboardPanel(
        "Failures to sign in, and series that were left out",
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
    """Return the dashboard in Grafana's JSON. Its user chooses the Prometheus data source."""
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
