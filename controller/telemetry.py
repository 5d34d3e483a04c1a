"""What people and machines see of the controller: JSON logs and Prometheus metrics.

A secret value has no way here: values travel as `controller.vault.Hidden`, errors are written by ourselves.
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

from controller import budgets
from controller.budgets import Recent

# Lines of one kind and namespace in a minute; more are only counted.
LINES_A_MINUTE, SECONDS = int(budgets.LOG_LINES.most), budgets.LOG_LINES.seconds
# Outcomes of calls that have a series of their own: a hostile vault may answer with any number.
OUTCOMES = frozenset({"ok", "error", "400", "401", "403", "404", "409", "429", "500", "502", "503", "504"})
MOST_LINE = 500
# Of every metric's name.
PREFIX = "akv_secret_store_"


class JsonLines(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, and the fields passed as `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
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
    """All logs to stdout as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # These repeat, in words that nobody can act on, what our own lines say.
    for name in ("azure", "msal", "asyncio", "aiohttp"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Chorus:
    """Logs what many objects have in common a few times a minute for each namespace, then how many more there were."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        # By kind and namespace: when its minute began, how many lines it had, and the level.
        self._minutes: dict[tuple[str, str], tuple[float, int, int]] = {}

    def say(self, level: int, kind: str, message: str, *, namespace: str = "", **fields: str) -> None:
        """Log the line, or only count it where its kind and namespace have had their lines of this minute."""
        key = (kind, namespace)
        self._end(key)
        began, count, _ = self._minutes.get(key, (self._clock(), 0, level))
        self._minutes[key] = (began, count + 1, level)
        if count < LINES_A_MINUTE:
            self._log.log(level, shorten(message), extra={"fields": fields})

    def unexpected(self, error: Exception) -> None:
        """Logs an error's type and its places: its own text could hold a value."""
        frames = traceback.extract_tb(error.__traceback__)
        places = ", ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
        self.say(logging.ERROR, "unexpected", f"unexpected {type(error).__name__}", at=places)

    def flush(self) -> None:
        """End the minutes that are over, and log how many lines each has held back."""
        for key in list(self._minutes):
            self._end(key)

    def _end(self, key: tuple[str, str]) -> None:
        began, count, level = self._minutes.get(key, (self._clock(), 0, 0))
        if self._clock() - began < SECONDS:
            return
        del self._minutes[key]
        kind, namespace = key
        if count > LINES_A_MINUTE:
            fields = {"namespace": namespace} if namespace else {}
            text = "%d more lines like the last of this kind: %s"
            self._log.log(level, text, count - LINES_A_MINUTE, kind, extra={"fields": fields})


def shorten(message: str) -> str:
    """A log line's worth of a message."""
    return message if len(message) <= MOST_LINE else message[: MOST_LINE - 3] + "..."


class Described(NamedTuple):
    """A metric as the documentation tells it."""

    name: str
    labels: tuple[str, ...]
    meaning: str


class Metrics:
    """The controller's metrics, in a registry of their own. `described` has each; `controller.census` adds to them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.described: list[Described] = []
        self.reconciles = self._counter("reconciles", "Reconciles of SecretSyncs by what came of them", "reason")
        self.reconcile_seconds = Histogram(
            *self._described("reconcile_seconds", "Seconds that one reconcile took"),
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30),
            registry=self.registry,
        )
        self.vault_calls = self._counter(
            "vault_calls",
            "Calls to Key Vaults by operation and outcome (ok, HTTP status, other, error)",
            "vault",
            "operation",
            "outcome",
        )
        self.token_failures = self._counter(
            "token_failures", "Tokens for vaults that could not be had, by the host of Microsoft Entra", "authority"
        )
        self.secret_writes = self._counter("secret_writes", "Secrets written, by verb (create, patch)", "verb")
        self.not_ready = self._gauge("not_ready", "SecretSyncs whose Ready condition is not True")
        self.queue_due = self._gauge("queue_due", "SecretSyncs that could be worked on now and wait for a worker")
        self.leader = self._gauge("leader", "1 while this process leads, else 0")
        self.log_lines_shipped = self._counter("log_lines_shipped", "Log lines that the logs' collector has taken")
        self.log_lines_lost = self._counter(
            "log_lines_lost",
            "Log lines that it has not: more waited for it than is kept (full), or it did not want them (refused)",
            "cause",
        )
        # Editors name vaults: without a bound, series of names that are not used any more would stay.
        self._series: Recent[tuple[str, str, str], None] = Recent(budgets.SERIES)
        self._users: dict[tuple[str, str, str], int] = {}

    def _described(self, name: str, meaning: str, *labels: str, suffix: str = "") -> tuple[str, str, tuple[str, ...]]:
        self.described.append(Described(PREFIX + name + suffix, labels, meaning))
        return PREFIX + name, meaning, labels

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(*self._described(name, meaning, *labels, suffix="_total"), registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(*self._described(name, meaning), registry=self.registry)

    def count_call(self, namespace: str, vault: str, operation: str, outcome: str) -> None:
        """Count a call to a Key Vault that has ended, on behalf of that namespace."""
        if outcome not in OUTCOMES:
            outcome = "other"
        series = (vault, operation, outcome)
        if not self._series.has(namespace, series):
            self._users[series] = self._users.get(series, 0) + 1
        for evicted, _ in self._series.put(namespace, series, None):
            self._remove(evicted)
        self.vault_calls.labels(*series).inc()

    def count_no_token(self, authority: str) -> None:
        """Count a token that was not granted: a fault of Entra or of an identity, and no vault's."""
        self.token_failures.labels(authority).inc()

    def forget_vaults(self, known: Collection[str]) -> None:
        """Remove the series of all other vaults."""
        for namespace, series, _ in self._series.items():
            if series[0] not in known:
                self._series.drop(namespace, series)
                self._remove(series)

    def _remove(self, series: tuple[str, str, str]) -> None:
        """Remove the series, unless another namespace's calls are counted there, too."""
        self._users[series] -= 1
        if not self._users[series]:
            del self._users[series]
            self.vault_calls.remove(*series)
