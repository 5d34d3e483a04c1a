"""Write JSON logs and Prometheus metrics.

A secret value cannot get into them: values are `controller.domain.values.SecretBytes`, which never print themselves,
and error texts are the controller's own.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from controller.runtime import budgets
from controller.runtime.budgets import RecentEntries

# Lines of one kind and namespace per minute. Further lines are only counted.
LINES_A_MINUTE, SECONDS = int(budgets.LOG_LINES.limit), budgets.LOG_LINES.seconds
# Outcomes of calls with their own series, because a hostile vault can answer with any number.
OUTCOMES = frozenset({"ok", "error", "400", "401", "403", "404", "409", "429", "500", "502", "503", "504"})
MAX_LINE = 500
# The prefix of every metric's name.
PREFIX = "akv_secret_store_"


class JsonLines(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, and the fields passed as `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def start_logging(level: str) -> None:
    """Write all logs to stdout as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # These loggers repeat the controller's own lines without a next step.
    for name in ("azure", "msal", "asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class RateLimitedLog:
    """Log lines of one kind a few times a minute per namespace, then the number of further lines."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        # By kind and namespace: the start of the minute, the number of lines, and the level.
        self.minutes: dict[tuple[str, str], tuple[float, int, int]] = {}

    def log_message(self, level: int, kind: str, message: str, *, namespace: str = "", **fields: str) -> None:
        """Log the line, or only count it if its kind and namespace have reached their limit."""
        key = (kind, namespace)
        self._end_minute(key)
        began, count, _ = self.minutes.get(key, (self._clock(), 0, level))
        self.minutes[key] = (began, count + 1, level)
        if count < LINES_A_MINUTE:
            self._log.log(level, shorten_message(message), extra={"fields": fields})

    def log_unexpected(self, error: Exception) -> None:
        """Log the type and the traceback of an error without its text, which could contain a value."""
        frames = traceback.walk_tb(error.__traceback__)
        places = ", ".join(f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}" for frame, line in frames)
        self.log_message(logging.ERROR, "unexpected", f"unexpected {type(error).__name__}", at=places)

    def flush_minutes(self) -> None:
        """End the minutes that are over, and log how many lines each has suppressed."""
        for key in list(self.minutes):
            self._end_minute(key)

    def _end_minute(self, key: tuple[str, str]) -> None:
        began, count, level = self.minutes.get(key, (self._clock(), 0, 0))
        if self._clock() - began < SECONDS:
            return
        del self.minutes[key]
        kind, namespace = key
        if count > LINES_A_MINUTE:
            fields = {"namespace": namespace} if namespace else {}
            text = "%d more lines like the last of this kind: %s"
            self._log.log(level, text, count - LINES_A_MINUTE, kind, extra={"fields": fields})


def shorten_message(message: str) -> str:
    """Return a message shortened for a log line."""
    return message if len(message) <= MAX_LINE else message[: MAX_LINE - 3] + "..."


class MetricDescription(NamedTuple):
    """The name, labels and meaning of a metric, for the documentation."""

    name: str
    labels: tuple[str, ...]
    meaning: str


class Metrics:
    """The controller's metrics in their own registry.

    `described` lists them; `controller.secretsync.collector` adds more.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.described: list[MetricDescription] = []
        self.reconciles = self._new_counter("reconciles", "Reconciles of SecretSyncs by result", "reason")
        self.reconcile_seconds = Histogram(
            *self._describe_metric("reconcile_seconds", "Seconds of one reconcile"),
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30),
            registry=self.registry,
        )
        self.vault_calls = self._new_counter(
            "vault_calls",
            "Calls to Key Vaults by operation and outcome (ok, HTTP status, other, error)",
            "vault",
            "operation",
            "outcome",
        )
        self.token_failures = self._new_counter(
            "token_failures", "Failed requests for vault tokens, by the host of Microsoft Entra", "authority"
        )
        self.secret_writes = self._new_counter("secret_writes", "Secrets written, by verb (create, patch)", "verb")
        self.not_ready = self._new_gauge("not_ready", "SecretSyncs whose Ready condition is not True")
        self.queue_due = self._new_gauge("queue_due", "SecretSyncs that are due and wait for a worker")
        self.leader = self._new_gauge("leader", "1 while this process leads, else 0")
        self.log_lines_shipped = self._new_counter("log_lines_shipped", "Log lines that the collector accepted")
        self.log_lines_lost = self._new_counter(
            "log_lines_lost",
            "Log lines that were lost: the backlog was full (full), or the collector refused them (refused)",
            "cause",
        )
        # Editors choose the names of vaults: without a limit, series of unused names would remain.
        self.call_series: RecentEntries[tuple[str, str, str], None] = RecentEntries(budgets.SERIES)
        self.series_users: dict[tuple[str, str, str], int] = {}

    def _describe_metric(
        self, name: str, meaning: str, *labels: str, suffix: str = ""
    ) -> tuple[str, str, tuple[str, ...]]:
        self.described.append(MetricDescription(PREFIX + name + suffix, labels, meaning))
        return PREFIX + name, meaning, labels

    def _new_counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(*self._describe_metric(name, meaning, *labels, suffix="_total"), registry=self.registry)

    def _new_gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(*self._describe_metric(name, meaning), registry=self.registry)

    def count_call(self, namespace: str, vault: str, operation: str, outcome: str) -> None:
        """Count a finished call to a Key Vault for that namespace."""
        if outcome not in OUTCOMES:
            outcome = "other"
        series = (vault, operation, outcome)
        if not self.call_series.has(namespace, series):
            self.series_users[series] = self.series_users.get(series, 0) + 1
        for evicted, _ in self.call_series.put(namespace, series, None):
            self._remove_series(evicted)
        self.vault_calls.labels(*series).inc()

    def count_no_token(self, authority: str) -> None:
        """Count a token that was not issued because of Entra or the identity, not because of a vault."""
        self.token_failures.labels(authority).inc()

    def forget_vaults(self, known: Collection[str]) -> None:
        """Remove the series of all other vaults."""
        for namespace, series, _ in self.call_series.items():
            if series[0] not in known:
                self.call_series.drop(namespace, series)
                self._remove_series(series)

    def _remove_series(self, series: tuple[str, str, str]) -> None:
        """Remove the series, unless calls of another namespace are counted there, too."""
        self.series_users[series] -= 1
        if not self.series_users[series]:
            del self.series_users[series]
            self.vault_calls.remove(*series)
