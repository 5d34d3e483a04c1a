"""Logs and metrics, as a machine reads them."""

import json
import logging
import re
from collections.abc import Iterator

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controller.observability.telemetry import (
    LINES_A_MINUTE,
    MOST_LINE,
    OUTCOMES,
    JsonLines,
    Metrics,
    RateLimitedLog,
    start_logging,
)
from controller.runtime import budgets
from controller.secretsync.collector import DESCRIBED, SecretSyncCollector

log = logging.getLogger("test_telemetry")


class Lines(logging.Handler):
    """Keeps what was logged, as the program would print it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.raw: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.raw.append(self.format(record))

    @property
    def read(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.raw]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield handler
    log.removeHandler(handler)


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# Lines


def test_a_line_is_one_json_object_with_its_fields(lines: Lines) -> None:
    log.warning('two\nlines and "quotes" of %s', "ünïcode", extra={"fields": {"secretsync": "team/shop"}})
    assert "\n" not in lines.raw[0]
    line = lines.read[0]
    assert line.pop("time")
    assert line == {
        "level": "warning",
        "logger": "test_telemetry",
        "message": 'two\nlines and "quotes" of ünïcode',
        "secretsync": "team/shop",
    }


def test_the_time_is_utc_in_milliseconds() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "m", None, None)
    record.created = 1893499200.0005
    assert json.loads(JsonLines().format(record))["time"] == "2030-01-01T12:00:00.000Z"


def test_an_exception_stays_on_the_line(lines: Lines) -> None:
    try:
        raise ValueError("what it says")
    except ValueError:
        log.exception("it failed")
    assert "ValueError: what it says" in str(lines.read[0]["exception"])


def test_logging_goes_to_stdout_and_the_sdks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
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


# The chorus


def test_a_thousand_alike_are_a_few_lines_and_a_count(lines: Lines) -> None:
    clock = Clock()
    chorus = RateLimitedLog(log, clock)
    for number in range(1000):
        chorus.log_message(
            logging.WARNING, "ProviderError", f"team/{number}: secret {number} is gone", secretsync=f"s{number}"
        )
    assert [line["message"] for line in lines.read] == [
        f"team/{number}: secret {number} is gone" for number in range(LINES_A_MINUTE)
    ]
    assert lines.read[3]["secretsync"] == "s3"
    chorus.flush_minutes()
    assert len(lines.raw) == LINES_A_MINUTE
    clock.now += 60
    chorus.flush_minutes()
    (rest,) = lines.read[LINES_A_MINUTE:]
    assert str(1000 - LINES_A_MINUTE) in str(rest["message"])
    assert "ProviderError" in str(rest["message"])
    # Else LOG_LEVEL=warning would hide that a thousand failed.
    assert rest["level"] == "warning"
    chorus.flush_minutes()
    assert len(lines.raw) == LINES_A_MINUTE + 1


def test_a_new_minute_begins_with_the_count_of_the_last(lines: Lines) -> None:
    clock = Clock()
    chorus = RateLimitedLog(log, clock)
    for _ in range(LINES_A_MINUTE + 5):
        chorus.log_message(logging.WARNING, "kind", "before")
    clock.now += 60
    chorus.log_message(logging.WARNING, "kind", "after")
    told = [str(line["message"]) for line in lines.read[LINES_A_MINUTE:]]
    assert len(told) == 2
    assert told[0].startswith("5 more")
    assert told[1] == "after"


def test_a_few_lines_are_not_counted_afterwards(lines: Lines) -> None:
    clock = Clock()
    chorus = RateLimitedLog(log, clock)
    for _ in range(LINES_A_MINUTE):
        chorus.log_message(logging.INFO, "kind", "written")
    clock.now += 60
    chorus.flush_minutes()
    assert len(lines.raw) == LINES_A_MINUTE


def test_kinds_do_not_drown_each_other(lines: Lines) -> None:
    chorus = RateLimitedLog(log, Clock())
    for _ in range(100):
        chorus.log_message(logging.WARNING, "one", "first")
    chorus.log_message(logging.INFO, "two", "second", secretsync="b")
    line = lines.read[-1]
    assert (line["level"], line["message"], line["secretsync"]) == ("info", "second", "b")


def test_a_line_has_an_end(lines: Lines) -> None:
    # The message of a PartialSync may have 32,000 characters.
    RateLimitedLog(log, Clock()).log_message(logging.WARNING, "PartialSync", "x" * 32_000)
    message = str(lines.read[0]["message"])
    assert len(message) == MOST_LINE
    assert message.endswith("...")


def test_the_chorus_forgets_kinds_that_fell_silent() -> None:
    clock = Clock()
    chorus = RateLimitedLog(log, clock)
    for number in range(1000):
        chorus.log_message(logging.DEBUG, f"kind {number}", "once")
    clock.now += 60
    chorus.flush_minutes()
    assert not chorus.minutes


def test_flood_of_one_namespace_hides_no_line_of_another(lines: Lines) -> None:
    clock = Clock()
    chorus = RateLimitedLog(log, clock)
    for number in range(10_000):
        chorus.log_message(logging.WARNING, "ProviderError", f"editor {number}", namespace="editor")
    chorus.log_message(logging.WARNING, "ProviderError", "the neighbour's", namespace="neighbour")
    assert len(lines.raw) == LINES_A_MINUTE + 1
    assert lines.read[-1]["message"] == "the neighbour's"
    clock.now += 60
    chorus.flush_minutes()
    (rest,) = lines.read[LINES_A_MINUTE + 1 :]
    assert rest["namespace"] == "editor"
    assert str(rest["message"]).startswith(str(10_000 - LINES_A_MINUTE))
    assert not chorus.minutes


# Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def text_of(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def test_metrics_are_what_prometheus_reads(metrics: Metrics) -> None:
    metrics.reconciles.labels("ProviderError").inc(3)
    metrics.count_call("team", "shop", "secrets.get", "ok")
    metrics.secret_writes.labels("create").inc()
    metrics.reconcile_seconds.observe(0.2)
    metrics.not_ready.set(2)
    text = text_of(metrics)
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


def test_vaults_that_nobody_reads_any_more_are_forgotten(metrics: Metrics) -> None:
    for outcome in ("ok", "403"):
        for vault in ("shop", "old"):
            metrics.count_call("team", vault, "secrets.get", outcome)
    metrics.forget_vaults(["shop", "never-called"])
    text = text_of(metrics)
    assert text.count('vault="shop"') == 4  # each with the moment of its creation
    assert 'vault="old"' not in text
    metrics.count_call("team", "old", "secrets.get", "ok")
    assert 'vault="old"' in text_of(metrics)


def test_series_of_one_namespace_are_bounded_and_leave_the_neighbours_alone(metrics: Metrics) -> None:
    """An editor renames keyvaultName: new names, a neighbour's name, and a host that answers with any status."""
    most = int(budgets.SERIES.most)
    metrics.count_call("neighbour", "shop", "secrets.get", "ok")
    for number in range(3000):
        metrics.count_call("editor", f"v{number}", "secrets.get", str(400 + number % 600))
        if number == 1000:
            metrics.count_call("editor", "shop", "secrets.get", "ok")
    text = text_of(metrics)
    assert text.count("vault_calls_total{") == most + 1
    assert 'vault="shop"} 2.0' in text
    assert 'vault="v2999"' in text
    assert len(metrics.call_series) == most + 1
    assert len(metrics.series_users) == most + 1
    outcomes = {re.search('outcome="([^"]*)"', line)[1] for line in text.splitlines() if "calls_total{" in line}  # type: ignore[index]
    assert outcomes <= OUTCOMES | {"other"}
    metrics.forget_vaults([])
    assert not metrics.series_users
    assert "vault_calls_total{" not in text_of(metrics)


def test_what_is_documented_is_what_is_served() -> None:
    metrics = Metrics()
    metrics.registry.register(SecretSyncCollector(list, lambda _: None))
    served = {
        family.name + ("_total" if family.type == "counter" else ""): family.documentation
        for family in metrics.registry.collect()
    }
    assert {item.name: item.meaning for item in (*metrics.described, *DESCRIBED)} == served
