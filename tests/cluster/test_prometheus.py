"""Test the alerting rules and the dashboard's queries in a real Prometheus that scrapes a running controller."""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import FULL_NAME, get_object
from tests.chart.rendering import render as render_chart
from tests.support.cluster.harness import eventually, read_metrics
from tests.support.cluster.namespace import Namespace
from tools.cli.common import helm
from tools.cli.render import render
from tools.codegen import monitoring
from tools.local_cluster.ports import PortClaim
from tools.local_cluster.processes import ServerProcesses
from tools.local_cluster.programs import assets
from tools.pods.pod_process import PodProcess

# These panels have no data: their feature is off by default, or the controller exports the metric after a first event.
FAILURES = "Failed token requests, and series that were left out"
PANELS_WITHOUT_DATA = ["Log lines to the collector", FAILURES, FAILURES]
# Grafana replaces `$__rate_interval` by this value if the scrape interval is that of this module.
RATE_INTERVAL = "10s"


@pytest.fixture(scope="module")
def programs() -> Path:
    return assets.tool("prometheus").parent


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the rule file that the Prometheus Operator generates from the PrometheusRule."""
    values = ("--set", "prometheusRule.enabled=true,prometheusRule.renderMode=alwaysRender")
    (rule,) = [each for each in render.render(render.RenderOptions(values=(values,))) if each.kind == "PrometheusRule"]
    file = tmp_path_factory.mktemp("rules") / "rules.yaml"
    file.write_text(yaml.safe_dump(rule.object["spec"]))
    return file


def run_promtool(programs: Path, *words: str, stdin: str = "") -> str:
    done = subprocess.run(
        [programs / "promtool", *words], input=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_accepts_every_rule(programs: Path, rules: Path, tmp_path: Path) -> None:
    assert f"{len(monitoring.ALERTING_RULES)} rules found" in run_promtool(
        programs, "check", "rules", "--lint=all", str(rules)
    )
    broken = tmp_path / "broken.yaml"
    broken.write_text(rules.read_text().replace("max by (namespace, name)", "max by namespace, name"))
    with pytest.raises(AssertionError, match="parse error"):
        run_promtool(programs, "check", "rules", str(broken))


ABOUT = '{namespace="team", name="shop"}'
# Each case has series in promtool's notation, the time of the evaluation, and the alert that fires with its labels.
ALERT_CASES = {
    "the last successful sync is older than 195 minutes": (
        {f"akv_secret_store_last_successful_sync_timestamp_seconds{ABOUT}": "0x300"},
        "3h16m",
        ("AkvSecretNotKept", {"namespace": "team", "name": "shop"}),
    ),
    "the last successful sync is younger than 195 minutes": (
        {f"akv_secret_store_last_successful_sync_timestamp_seconds{ABOUT}": "0x300"},
        "3h14m",
        None,
    ),
    "a certificate expires in ten days": (
        {'akv_secret_store_expiry_timestamp_seconds{namespace="team", name="shop", key="tls.crt"}': "864000x300"},
        "1h1m",
        ("AkvSecretExpires", {"namespace": "team", "name": "shop", "key": "tls.crt"}),
    ),
    "a certificate expires in twenty days": (
        {'akv_secret_store_expiry_timestamp_seconds{namespace="team", name="shop", key="tls.crt"}': "1728000x300"},
        "1h1m",
        None,
    ),
    "a vault refuses all calls": (
        {'akv_secret_store_vault_calls_total{vault="v", operation="secrets.get", outcome="403"}': "0+1x300"},
        "31m",
        ("AkvVaultRefuses", {"vault": "v", "outcome": "403"}),
    ),
    "a vault answers all calls": (
        {'akv_secret_store_vault_calls_total{vault="v", operation="secrets.get", outcome="ok"}': "0+100x300"},
        "31m",
        None,
    ),
    "two replicas without a leader": (
        {'akv_secret_store_leader{pod="a"}': "0x300", 'akv_secret_store_leader{pod="b"}': "0x300"},
        "6m",
        ("AkvSecretStoreNoLeader", {}),
    ),
    "no replica": ({}, "6m", ("AkvSecretStoreNoLeader", {})),
}


def expand_labels(text: str, labels: dict[str, str]) -> str:
    """Return an alert's annotation with the labels' values in place of the template variables."""
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)


@pytest.mark.parametrize("case", ALERT_CASES.values(), ids=ALERT_CASES)
def test_alert_fires_under_its_condition(
    programs: Path, rules: Path, tmp_path: Path, case: tuple[dict[str, str], str, tuple[str, dict[str, str]] | None]
) -> None:
    series, moment, alert = case
    # No other alert may fire, so each case that is not about leader election has a leader.
    leader = {} if alert and alert[0] == "AkvSecretStoreNoLeader" else {"akv_secret_store_leader": "1x300"}
    (group,) = yaml.safe_load(rules.read_text())["groups"]
    expected = []
    for rule in group["rules"]:
        alerts = []
        if alert and alert[0] == rule["alert"]:
            labels = alert[1]
            annotations = {name: expand_labels(text, labels) for name, text in rule["annotations"].items()}
            alerts = [{"exp_labels": rule["labels"] | labels, "exp_annotations": annotations}]
        expected.append({"eval_time": moment, "alertname": rule["alert"], "exp_alerts": alerts})
    tests = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "fuzzy_compare": True,
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": text} for name, text in (leader | series).items()],
                "alert_rule_test": expected,
            }
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    run_promtool(programs, "test", "rules", str(file))


LAST_SYNC = "akv_secret_store_last_successful_sync_timestamp_seconds"
LEADER_HERE = f'akv_secret_store_leader{{namespace="{helm.RELEASE}", job="{FULL_NAME}-metrics"}}'
LEADER_BESIDE = f'akv_secret_store_leader{{namespace="{helm.RELEASE}", job="other-metrics"}}'
LEADER_ELSEWHERE = 'akv_secret_store_leader{namespace="other-release"}'


@pytest.mark.parametrize(
    ("series", "alert"),
    [
        # The other release polls once a day.
        ({f'{LAST_SYNC}{{namespace="web", name="s"}}': "0x300", LEADER_HERE: "1x300"}, None),
        (
            {f'{LAST_SYNC}{{namespace="shop", name="s"}}': "0x300", LEADER_HERE: "1x300"},
            "AkvSecretNotKept",
        ),
        (
            {LEADER_ELSEWHERE: "1x300", LEADER_HERE: "0x300"},
            "AkvSecretStoreNoLeader",
        ),
        ({LEADER_ELSEWHERE: "1x300"}, "AkvSecretStoreNoLeader"),
        ({LEADER_BESIDE: "1x300"}, "AkvSecretStoreNoLeader"),
    ],
    ids=[
        "old sync of another release",
        "old sync",
        "no leader of this release",
        "no replica of this release",
        "no replica of this release, and another release in its namespace",
    ],
)
def test_alerts_of_a_release_are_about_its_own_series(
    programs: Path, tmp_path: Path, series: dict[str, str], alert: str | None
) -> None:
    on = {"enabled": True, "renderMode": "alwaysRender"}
    check_firing_alert(programs, tmp_path, series, alert, {"serviceMonitor": on})


def test_alert_of_a_scrape_with_the_namespace_of_the_pod_fires(programs: Path, tmp_path: Path) -> None:
    """Without the ServiceMonitor's honorLabels, Prometheus renames the namespace of the SecretSync."""
    labels = '{namespace="azure-secret-store", exported_namespace="shop", name="s"}'
    series = {f"{LAST_SYNC}{labels}": "0x300", LEADER_HERE: "1x300"}
    check_firing_alert(programs, tmp_path, series, "AkvSecretNotKept", {})


def check_firing_alert(
    programs: Path, folder: Path, series: dict[str, str], alert: str | None, values: dict[str, Any]
) -> None:
    """Check the alert that fires after four hours in a release that serves two namespaces."""
    on = {"enabled": True, "renderMode": "alwaysRender"}
    given = {"prometheusRule": on, "watchNamespaces": ["shop", "shop-2"], **values}
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump(get_object(render_chart(given=given), "PrometheusRule")["spec"]))
    firing = "count by (alertname) (ALERTS{alertstate='firing'})"
    found = [{"labels": f'{{alertname="{alert}"}}', "value": 1}] if alert else []
    tests = {
        "rule_files": [str(file)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": text} for name, text in series.items()],
                "promql_expr_test": [{"expr": firing, "eval_time": "4h", "exp_samples": found}],
            }
        ],
    }
    (folder / "tests.yaml").write_text(yaml.safe_dump(tests))
    run_promtool(programs, "test", "rules", str(folder / "tests.yaml"))


def test_promtool_accepts_the_names_of_all_metrics(programs: Path, controller: PodProcess) -> None:
    run_promtool(programs, "check", "metrics", stdin=read_metrics(controller))


class Prometheus:
    """A Prometheus on loopback that scrapes one controller."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Do not use a proxy for requests to loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of a response of Prometheus's HTTP API."""
        query = urllib.parse.urlencode(parameters)
        with self._opener.open(f"{self._url}/api/v1/{path}?{query}", timeout=10) as answer:
            document = json.loads(answer.read())
        assert document["status"] == "success", document
        return document["data"]

    def query(self, expression: str) -> list[Any]:
        """Evaluate an expression now. Return the resulting series."""
        found: list[Any] = self.get("query", query=expression)["result"]
        return found


@pytest.fixture
def prometheus(programs: Path, rules: Path, controller: PodProcess, tmp_path: Path) -> Iterator[Prometheus]:
    claim = PortClaim()
    port = claim.port
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {
                "job_name": "akv-secret-store",
                "static_configs": [{"targets": [urllib.parse.urlsplit(controller.url).netloc]}],
            }
        ],
    }
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    processes = ServerProcesses()
    try:
        command = [
            str(programs / "prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        processes.start("prometheus", command, tmp_path / "prometheus.log")
        found = Prometheus(f"http://127.0.0.1:{port}")

        def query_up() -> list[Any]:
            processes.require("prometheus")
            try:
                return found.query("up == 1")
            except OSError:
                return []

        eventually(query_up, bool)
        yield found
    finally:
        processes.close()


def list_panels_without_data(prometheus: Prometheus) -> list[str]:
    """Return the titles of the panels that have a query without a result."""
    return [
        panel.title
        for panel in monitoring.PANELS
        for query, _ in panel.queries
        if not prometheus.query(query.replace("$__rate_interval", RATE_INTERVAL))
    ]


def test_dashboard_queries_return_data_and_alerting_rules_are_healthy(space: Namespace, prometheus: Prometheus) -> None:
    space.set_secret("a", "1", expires=int((datetime.now(UTC) + timedelta(days=10)).timestamp()))
    space.apply(
        space.provider_class("a", "missing"), space.sync("s", {"k": "a"}), space.sync("broken", {"k": "missing"})
    )
    space.wait_secret("s", {"k": "1"})
    space.wait_reason("broken", "ProviderError")
    eventually(lambda: list_panels_without_data(prometheus), lambda found: found == PANELS_WITHOUT_DATA)
    (group,) = prometheus.get("rules")["groups"]
    health = {rule["name"]: (rule["health"], rule.get("lastError", "")) for rule in group["rules"]}
    assert health == {rule.name: ("ok", "") for rule in monitoring.ALERTING_RULES}
    # The alert is pending, because its condition must hold for an hour before the alert fires.
    (expiring,) = eventually(
        lambda: [each for each in prometheus.get("alerts")["alerts"] if each["labels"].get("name") == "s"], bool
    )
    assert (
        expiring["labels"] | {"alertname": "AkvSecretExpires", "namespace": space.name, "key": "k"}
        == expiring["labels"]
    )
    assert expiring["state"] == "pending"
