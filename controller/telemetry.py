"""What people and machines see of the controller: JSON logs, Prometheus metrics, probes.

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

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

# Lines of one kind in a minute; more are only counted.
LINES_A_MINUTE = 10
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
    """Logs what many objects have in common a few times a minute, then how many more said the same."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        # By kind: when its minute began, how many lines it had, and the level.
        self._minutes: dict[str, tuple[float, int, int]] = {}

    def say(self, level: int, kind: str, message: str, **fields: str) -> None:
        """Logs the line, or only counts it where its kind has had its lines of this minute."""
        self.flush()
        began, count, _ = self._minutes.get(kind, (self._clock(), 0, level))
        self._minutes[kind] = (began, count + 1, level)
        if count < LINES_A_MINUTE:
            self._log.log(level, shorten(message), extra={"fields": fields})

    def unexpected(self, error: Exception) -> None:
        """Logs an error's type and its places: its own text could hold a value."""
        frames = traceback.extract_tb(error.__traceback__)
        places = ", ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
        self.say(logging.ERROR, "unexpected", f"unexpected {type(error).__name__}", at=places)

    def flush(self) -> None:
        """Ends the minutes that are over, and says how many lines each has held back."""
        for kind, (began, count, level) in list(self._minutes.items()):
            if self._clock() - began >= 60:
                del self._minutes[kind]
                if count > LINES_A_MINUTE:
                    self._log.log(level, "%d more lines like the last of this kind: %s", count - LINES_A_MINUTE, kind)


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
            "Calls to Key Vaults by operation and outcome (ok, HTTP status, no token, error)",
            "vault",
            "operation",
            "outcome",
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
        # Vaults are named by namespaces: without a bound, names that nobody uses any more would stay for ever.
        self._vaults: dict[str, set[tuple[str, str]]] = {}

    def _described(self, name: str, meaning: str, *labels: str, suffix: str = "") -> tuple[str, str, tuple[str, ...]]:
        self.described.append(Described(PREFIX + name + suffix, labels, meaning))
        return PREFIX + name, meaning, labels

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(*self._described(name, meaning, *labels, suffix="_total"), registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(*self._described(name, meaning), registry=self.registry)

    def count_call(self, vault: str, operation: str, outcome: str) -> None:
        """One call to a Key Vault has ended."""
        self._vaults.setdefault(vault, set()).add((operation, outcome))
        self.vault_calls.labels(vault, operation, outcome).inc()

    def forget_vaults(self, known: Collection[str]) -> None:
        """Drops the counters of all other vaults."""
        for vault in self._vaults.keys() - set(known):
            for operation, outcome in self._vaults.pop(vault):
                self.vault_calls.remove(vault, operation, outcome)


class Server:
    """/healthz, /readyz and /metrics over HTTP. `problems` says what keeps the controller from being ready."""

    def __init__(self, metrics: Metrics, problems: Callable[[], list[str]]) -> None:
        self._metrics = metrics
        self._problems = problems
        self._runner: web.AppRunner | None = None

    async def start(self, address: str, port: int) -> int:
        """Listens, and returns the port (a free one where 0 was asked for)."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._serve_metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, address, port).start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stops listening."""
        if self._runner:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        # Answering at all is the point: the event loop that does the work runs this too.
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        problems = self._problems()
        return web.Response(text="\n".join(problems or ["ok"]) + "\n", status=503 if problems else 200)

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
