"""Test that rules and dashboard use only existing metrics and labels, and that the dashboard shows every metric.

Prometheus itself evaluates them in tests/cluster/test_prometheus.py.
"""

import json
import re
from collections.abc import Iterator

import pytest

from controller.observability.telemetry import PREFIX, Metrics
from controller.secretsync import collector
from tools.codegen import monitoring

SERIES = {item.name: set(item.labels) for item in (*Metrics().described, *collector.DESCRIBED)}
# Prometheus sees a histogram as its buckets.
SERIES[f"{PREFIX}reconcile_seconds_bucket"] = {"le"}
# The Prometheus Operator adds the labels of the scraped pod.
SERIES[f"{PREFIX}leader"] |= {"namespace", "job"}
QUERIES = [
    *((rule.expression, rule.next_step) for rule in monitoring.ALERTING_RULES),
    *(query for panel in monitoring.PANELS for query in panel.queries),
]


def list_labels(expression: str) -> Iterator[str]:
    """Yield the labels of `by` clauses and of matchers in braces."""
    for group in re.findall(r"by \(([^)]*)\)", expression):
        yield from (name.strip() for name in group.split(","))
    for matchers in re.findall(r"\{([^}]*)\}", expression):
        yield from re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", matchers)


@pytest.mark.parametrize(("expression", "text"), QUERIES)
def test_query_uses_only_existing_metrics_and_labels(expression: str, text: str) -> None:
    named = re.findall(rf"\b{PREFIX}\w+", expression)
    assert named
    for name in named:
        assert name in SERIES
        assert set(list_labels(expression)) <= SERIES[name]
    grouped = set(list_labels(expression))
    # A legend ({{label}}) or an annotation ({{ $labels.label }}) can use only labels of the result.
    assert set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text)) <= grouped
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


def test_dashboard_shows_every_metric() -> None:
    shown = json.loads(monitoring.dashboard())["panels"]
    text = json.dumps([target["expr"] for panel in shown for target in panel["targets"]])
    hidden = {name for name in SERIES if name not in text} - {f"{PREFIX}reconcile_seconds"}
    assert not hidden


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in json.loads(monitoring.dashboard())["panels"]]
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    assert {place["x"] for place in places} == {0, 12}


def test_only_the_first_alarm_follows_the_values() -> None:
    assert [monitoring.MAX_AGE in rule.parts for rule in monitoring.ALERTING_RULES] == [
        True,
        False,
        False,
        False,
    ]
