"""What people and machines see of the controller: JSON logs, Prometheus metrics, probes.

A secret value has no way here: values travel as `controller.vault.Hidden`, errors are written by ourselves.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

# Lines of one kind in a minute; more are only counted.
LINES_A_MINUTE = 10
MOST_LINE = 500


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


class Metrics:
    """The controller's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prefix = "akv_secret_store_"
        self.reconciles = Counter(
            prefix + "reconciles", "Reconciles of SecretSyncs by outcome", ["reason"], registry=self.registry
        )
        self.reconcile_seconds = Histogram(
            prefix + "reconcile_seconds",
            "Seconds that one reconcile took",
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30),
            registry=self.registry,
        )
        self.vault_calls = Counter(
            prefix + "vault_calls",
            "Calls to Key Vaults by operation and outcome (HTTP status, ok, error, no token)",
            ["vault", "operation", "outcome"],
            registry=self.registry,
        )
        self.secret_writes = Counter(
            prefix + "secret_writes", "Secrets created or patched", ["verb"], registry=self.registry
        )
        self.not_ready = Gauge(
            prefix + "not_ready", "SecretSyncs whose Ready condition is not True", registry=self.registry
        )
        self.leader = Gauge(prefix + "leader", "1 while this process leads, else 0", registry=self.registry)
        self.queue_due = Gauge(prefix + "queue_due", "SecretSyncs that wait for a worker", registry=self.registry)

    def count_call(self, vault: str, operation: str, outcome: str) -> None:
        """One call to a Key Vault has ended."""
        self.vault_calls.labels(vault, operation, outcome).inc()


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
