"""Test that programs can parse the logs and the metrics."""

import json
import logging
import re
from collections.abc import Iterator

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controller.observability.telemetry import (
    LINES_A_MINUTE,
    MAX_LINE,
    OUTCOMES,
    JsonLines,
    Metrics,
    RateLimitedLog,
    start_logging,
)
from controller.runtime import budgets
from controller.secretsync.collector import DESCRIBED, SecretSyncCollector

log = logging.getLogger("test_telemetry")


class RecordingHandler(logging.Handler):
    """A handler that records the lines as the program prints them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.raw: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.raw.append(self.format(record))

    @property
    def parsed(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.raw]


@pytest.fixture
def lines() -> Iterator[RecordingHandler]:
    handler = RecordingHandler()
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield handler
    log.removeHandler(handler)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# Lines


def test_log_line_is_one_json_object_with_its_fields(lines: RecordingHandler) -> None:
    log.warning('two\nlines and "quotes" of %s', "ünïcode", extra={"fields": {"secretsync": "team/shop"}})
    assert "\n" not in lines.raw[0]
    line = lines.parsed[0]
    assert line.pop("time")
    assert line == {
        "level": "warning",
        "logger": "test_telemetry",
        "message": 'two\nlines and "quotes" of ünïcode',
        "secretsync": "team/shop",
    }


def test_time_of_a_log_line_is_utc_in_milliseconds() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "m", None, None)
    record.created = 1893499200.0005
    assert json.loads(JsonLines().format(record))["time"] == "2030-01-01T12:00:00.000Z"


def test_exception_is_a_field_of_the_log_line(lines: RecordingHandler) -> None:
    try:
        raise ValueError("what it says")
    except ValueError:
        log.exception("it failed")
    assert "ValueError: what it says" in str(lines.parsed[0]["exception"])


def test_log_goes_to_stdout_without_lines_of_the_sdks(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    quieted = {name: logging.getLogger(name) for name in ("azure", "msal", "asyncio", "aiohttp")}
    levels = {name: logger.level for name, logger in quieted.items()}
    try:
        start_logging("info")
        log.setLevel(logging.NOTSET)
        log.debug("not this")
        log.info("but this")
        quieted["azure"].error("nor the SDK's")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        for name, logger in quieted.items():
            logger.setLevel(levels[name])
    out, err = capsys.readouterr()
    assert [json.loads(line)["message"] for line in out.splitlines()] == ["but this"]
    assert err == ""


# The rate-limited log


def test_thousand_similar_messages_are_a_few_lines_and_a_count(lines: RecordingHandler) -> None:
    clock = Clock()
    limited_log = RateLimitedLog(log, clock)
    for number in range(1000):
        limited_log.log_message(
            logging.WARNING, "ProviderError", f"team/{number}: secret {number} is gone", secretsync=f"s{number}"
        )
    assert [line["message"] for line in lines.parsed] == [
        f"team/{number}: secret {number} is gone" for number in range(LINES_A_MINUTE)
    ]
    assert lines.parsed[3]["secretsync"] == "s3"
    limited_log.flush_minutes()
    assert len(lines.raw) == LINES_A_MINUTE
    clock.now += 60
    limited_log.flush_minutes()
    (count_line,) = lines.parsed[LINES_A_MINUTE:]
    assert str(1000 - LINES_A_MINUTE) in str(count_line["message"])
    assert "ProviderError" in str(count_line["message"])
    # A lower level would be hidden by LOG_LEVEL=warning.
    assert count_line["level"] == "warning"
    limited_log.flush_minutes()
    assert len(lines.raw) == LINES_A_MINUTE + 1


def test_new_minute_begins_with_the_count_of_the_last(lines: RecordingHandler) -> None:
    clock = Clock()
    limited_log = RateLimitedLog(log, clock)
    for _ in range(LINES_A_MINUTE + 5):
        limited_log.log_message(logging.WARNING, "kind", "before")
    clock.now += 60
    limited_log.log_message(logging.WARNING, "kind", "after")
    messages = [str(line["message"]) for line in lines.parsed[LINES_A_MINUTE:]]
    assert len(messages) == 2
    assert messages[0].startswith("5 more")
    assert messages[1] == "after"


def test_messages_within_the_limit_cause_no_count_line(lines: RecordingHandler) -> None:
    clock = Clock()
    limited_log = RateLimitedLog(log, clock)
    for _ in range(LINES_A_MINUTE):
        limited_log.log_message(logging.INFO, "kind", "written")
    clock.now += 60
    limited_log.flush_minutes()
    assert len(lines.raw) == LINES_A_MINUTE


def test_each_kind_of_message_has_its_own_limit(lines: RecordingHandler) -> None:
    limited_log = RateLimitedLog(log, Clock())
    for _ in range(100):
        limited_log.log_message(logging.WARNING, "one", "first")
    limited_log.log_message(logging.INFO, "two", "second", secretsync="b")
    line = lines.parsed[-1]
    assert (line["level"], line["message"], line["secretsync"]) == ("info", "second", "b")


def test_long_log_message_is_cut(lines: RecordingHandler) -> None:
    # The message of a PartialSync may have 32,000 characters.
    RateLimitedLog(log, Clock()).log_message(logging.WARNING, "PartialSync", "x" * 32_000)
    message = str(lines.parsed[0]["message"])
    assert len(message) == MAX_LINE
    assert message.endswith("...")


def test_kinds_without_new_messages_are_forgotten() -> None:
    clock = Clock()
    limited_log = RateLimitedLog(log, clock)
    for number in range(1000):
        limited_log.log_message(logging.DEBUG, f"kind {number}", "once")
    clock.now += 60
    limited_log.flush_minutes()
    assert not limited_log.minutes


def test_flood_of_one_namespace_hides_no_line_of_another(lines: RecordingHandler) -> None:
    clock = Clock()
    limited_log = RateLimitedLog(log, clock)
    for number in range(10_000):
        limited_log.log_message(logging.WARNING, "ProviderError", f"editor {number}", namespace="editor")
    limited_log.log_message(logging.WARNING, "ProviderError", "the neighbour's", namespace="neighbour")
    assert len(lines.raw) == LINES_A_MINUTE + 1
    assert lines.parsed[-1]["message"] == "the neighbour's"
    clock.now += 60
    limited_log.flush_minutes()
    (count_line,) = lines.parsed[LINES_A_MINUTE + 1 :]
    assert count_line["namespace"] == "editor"
    assert str(count_line["message"]).startswith(str(10_000 - LINES_A_MINUTE))
    assert not limited_log.minutes


# Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def render_metrics(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_metrics_are_readable_by_prometheus(metrics: Metrics) -> None:
    metrics.reconciles.labels("ProviderError").inc(3)
    metrics.count_call("team", "shop", "secrets.get", "ok")
    metrics.secret_writes.labels("create").inc()
    metrics.reconcile_seconds.observe(0.2)
    metrics.not_ready.set(2)
    text = render_metrics(metrics)
    values = {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["akv_secret_store_reconciles_total", "ProviderError"] == 3
    assert values["akv_secret_store_vault_calls_total", "secrets.get", "ok", "shop"] == 1
    assert values["akv_secret_store_secret_writes_total", "create"] == 1
    assert values["akv_secret_store_reconcile_seconds_bucket", "0.5"] == 1
    assert values["akv_secret_store_reconcile_seconds_bucket", "0.1"] == 0
    assert values[("akv_secret_store_not_ready",)] == 2
    assert values[("akv_secret_store_queue_due",)] == 0


def test_series_of_unused_vaults_are_removed(metrics: Metrics) -> None:
    for outcome in ("ok", "403"):
        for vault in ("shop", "old"):
            metrics.count_call("team", vault, "secrets.get", outcome)
    metrics.forget_vaults(["shop", "never-called"])
    text = render_metrics(metrics)
    assert text.count('vault="shop"') == 4  # each series also has its creation time
    assert 'vault="old"' not in text
    metrics.count_call("team", "old", "secrets.get", "ok")
    assert 'vault="old"' in render_metrics(metrics)


def test_vault_series_of_each_namespace_are_bounded(metrics: Metrics) -> None:
    """An editor uses many values of keyvaultName: new names, a neighbour's vault, a host with any status."""
    limit = int(budgets.SERIES.limit)
    metrics.count_call("neighbour", "shop", "secrets.get", "ok")
    for number in range(3000):
        metrics.count_call("editor", f"v{number}", "secrets.get", str(400 + number % 600))
        if number == 1000:
            metrics.count_call("editor", "shop", "secrets.get", "ok")
    text = render_metrics(metrics)
    assert text.count("vault_calls_total{") == limit + 1
    assert 'vault="shop"} 2.0' in text
    assert 'vault="v2999"' in text
    assert len(metrics.call_series) == limit + 1
    assert len(metrics.series_users) == limit + 1
    outcomes = {re.search('outcome="([^"]*)"', line)[1] for line in text.splitlines() if "calls_total{" in line}  # type: ignore[index]
    assert outcomes <= OUTCOMES | {"other"}
    metrics.forget_vaults([])
    assert not metrics.series_users
    assert "vault_calls_total{" not in render_metrics(metrics)


def test_documented_metrics_equal_the_served_ones() -> None:
    metrics = Metrics()
    metrics.registry.register(SecretSyncCollector(list, lambda _: None))
    served = {
        family.name + ("_total" if family.type == "counter" else ""): family.documentation
        for family in metrics.registry.collect()
    }
    assert {item.name: item.meaning for item in (*metrics.described, *DESCRIBED)} == served
