"""The rules and the dashboard's queries in the real Prometheus, on the metrics of a controller at work."""

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

from tests.support.cluster.harness import eventually, read_metrics
from tests.support.cluster.namespace import Namespace
from tools.cli.render import render
from tools.codegen import monitoring
from tools.local_cluster.ports import PortClaim
from tools.local_cluster.processes import ServerProcesses
from tools.local_cluster.programs import assets
from tools.pods.pod_process import PodProcess

# Of what is off by default, and of what is counted only once it happens.
FAILURES = "Failed token requests, and series that were left out"
SILENT = ["Log lines to the collector", FAILURES, FAILURES]
# What Grafana puts in its place, at the interval of scrapes here.
RATE_INTERVAL = "10s"


@pytest.fixture(scope="module")
def programs() -> Path:
    return assets.tool("prometheus").parent


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that the Prometheus Operator makes of the PrometheusRule."""
    values = ("--set", "prometheusRule.enabled=true,prometheusRule.renderMode=alwaysRender")
    (rule,) = [each for each in render.render(render.RenderOptions(values=(values,))) if each.kind == "PrometheusRule"]
    file = tmp_path_factory.mktemp("rules") / "rules.yaml"
    file.write_text(yaml.safe_dump(rule.object["spec"]))
    return file


def promtool(programs: Path, *words: str, stdin: str = "") -> str:
    done = subprocess.run(
        [programs / "promtool", *words], input=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_accepts_every_rule(programs: Path, rules: Path, tmp_path: Path) -> None:
    assert f"{len(monitoring.ALERTING_RULES)} rules found" in promtool(
        programs, "check", "rules", "--lint=all", str(rules)
    )
    broken = tmp_path / "broken.yaml"
    broken.write_text(rules.read_text().replace("max by (namespace, name)", "max by namespace, name"))
    with pytest.raises(AssertionError, match="parse error"):
        promtool(programs, "check", "rules", str(broken))


ABOUT = '{namespace="team", name="shop"}'
# Series in the form of promtool, the minute of the evaluation, and the one alert that fires then, with its labels.
RINGING = {
    "a Secret that has not been equal for longer than the status takes to tell": (
        {f"akv_secret_store_last_successful_sync_timestamp_seconds{ABOUT}": "0x300"},
        "3h16m",
        ("AkvSecretNotKept", {"namespace": "team", "name": "shop"}),
    ),
    "not yet": ({f"akv_secret_store_last_successful_sync_timestamp_seconds{ABOUT}": "0x300"}, "3h14m", None),
    "a certificate that expires in ten days": (
        {'akv_secret_store_expiry_timestamp_seconds{namespace="team", name="shop", key="tls.crt"}': "864000x300"},
        "1h1m",
        ("AkvSecretExpires", {"namespace": "team", "name": "shop", "key": "tls.crt"}),
    ),
    "in twenty": (
        {'akv_secret_store_expiry_timestamp_seconds{namespace="team", name="shop", key="tls.crt"}': "1728000x300"},
        "1h1m",
        None,
    ),
    "a vault that refuses again and again": (
        {'akv_secret_store_vault_calls_total{vault="v", operation="secrets.get", outcome="403"}': "0+1x300"},
        "31m",
        ("AkvVaultRefuses", {"vault": "v", "outcome": "403"}),
    ),
    "a vault that answers": (
        {'akv_secret_store_vault_calls_total{vault="v", operation="secrets.get", outcome="ok"}': "0+100x300"},
        "31m",
        None,
    ),
    "two replicas, and neither leads": (
        {'akv_secret_store_leader{pod="a"}': "0x300", 'akv_secret_store_leader{pod="b"}': "0x300"},
        "6m",
        ("AkvSecretStoreNoLeader", {}),
    ),
    "no replica at all": ({}, "6m", ("AkvSecretStoreNoLeader", {})),
}


def filled(text: str, labels: dict[str, str]) -> str:
    """Return an annotation as the person on call reads it."""
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)


@pytest.mark.parametrize("case", RINGING.values(), ids=RINGING)
def test_alert_fires_under_its_condition(
    programs: Path, rules: Path, tmp_path: Path, case: tuple[dict[str, str], str, tuple[str, dict[str, str]] | None]
) -> None:
    series, moment, ringing = case
    # No other alert may fire, so each case that is not about leader election has a leader.
    led = {} if ringing and ringing[0] == "AkvSecretStoreNoLeader" else {"akv_secret_store_leader": "1x300"}
    (group,) = yaml.safe_load(rules.read_text())["groups"]
    expected = []
    for rule in group["rules"]:
        alerts = []
        if ringing and ringing[0] == rule["alert"]:
            labels = ringing[1]
            said = {name: filled(text, labels) for name, text in rule["annotations"].items()}
            alerts = [{"exp_labels": rule["labels"] | labels, "exp_annotations": said}]
        expected.append({"eval_time": moment, "alertname": rule["alert"], "exp_alerts": alerts})
    tests = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "fuzzy_compare": True,
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": text} for name, text in (led | series).items()],
                "alert_rule_test": expected,
            }
        ],
    }
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    promtool(programs, "test", "rules", str(file))


def test_metrics_are_named_as_prometheus_wants_them(programs: Path, controller: PodProcess) -> None:
    promtool(programs, "check", "metrics", stdin=read_metrics(controller))


class Prometheus:
    """A Prometheus on loopback that scrapes one controller."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Loopback is never asked through a proxy.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its HTTP API."""
        query = urllib.parse.urlencode(parameters)
        with self._opener.open(f"{self._url}/api/v1/{path}?{query}", timeout=10) as answer:
            said = json.loads(answer.read())
        assert said["status"] == "success", said
        return said["data"]

    def query(self, expression: str) -> list[Any]:
        """Return the series that it results in now."""
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

        def up() -> list[Any]:
            processes.require("prometheus")
            try:
                return found.query("up == 1")
            except OSError:
                return []

        eventually(up, bool)
        yield found
    finally:
        processes.close()


def unanswered(prometheus: Prometheus) -> list[str]:
    """Panels of which a query results in nothing."""
    return [
        panel.title
        for panel in monitoring.PANELS
        for query, _ in panel.queries
        if not prometheus.query(query.replace("$__rate_interval", RATE_INTERVAL))
    ]


def test_every_query_of_the_dashboard_and_every_rule_has_an_answer(space: Namespace, prometheus: Prometheus) -> None:
    space.set_secret("a", "1", expires=int((datetime.now(UTC) + timedelta(days=10)).timestamp()))
    space.apply(
        space.provider_class("a", "missing"), space.sync("s", {"k": "a"}), space.sync("broken", {"k": "missing"})
    )
    space.wait_secret("s", {"k": "1"})
    space.wait_reason("broken", "ProviderError")
    eventually(lambda: unanswered(prometheus), lambda found: found == SILENT)
    (group,) = prometheus.get("rules")["groups"]
    health = {rule["name"]: (rule["health"], rule.get("lastError", "")) for rule in group["rules"]}
    assert health == {rule.name: ("ok", "") for rule in monitoring.ALERTING_RULES}
    # What expires within two weeks waits for its hour.
    (expiring,) = eventually(
        lambda: [each for each in prometheus.get("alerts")["alerts"] if each["labels"].get("name") == "s"], bool
    )
    assert (
        expiring["labels"] | {"alertname": "AkvSecretExpires", "namespace": space.name, "key": "k"}
        == expiring["labels"]
    )
    assert expiring["state"] == "pending"
