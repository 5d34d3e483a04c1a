"""Measure what a cluster without changes costs its API server and its database in an hour.

    python -m tests.bench.idle [--count N] [--seconds S] [--database etcd|sqlite]

The controller runs with the chart's own times of the Lease and of the drift check. Its polls are more frequent than the
default, so that the window has some of them. What was counted in the window becomes figures for an hour:

- renewals of the Lease, empty patches of the drift check, audit lines and bytes: their number in the window, times the
  windows in an hour;
- statuses: those of one poll, times the polls in an hour (3,600 s / default interval), and one a day for each
  SecretSync, because each is read in full once a day.

Bytes are `write_bytes` of /proc/PID/io of the database's process. They are counted beside those of a window without a
controller, because an idle API server writes, too.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from controller.config.settings import Settings
from controller.secretsync.work_state import CONFIRM_EVERY
from tests.bench.audit_log import completed_requests, read_lines
from tests.bench.harness import BenchHarness, Shape, cluster
from tests.bench.results import Figures
from tests.support.cluster.harness import InstalledRelease
from tests.support.process_stats import written_bytes
from tools.codegen.values.chart import ChartValues

HOUR = 3600.0
ROTATED = 100
# The goal for 1,000 SecretSyncs: writes that reach the database, in an hour.
MAX_WRITES = 400
DATABASES = ("etcd", "sqlite")


class Window(NamedTuple):
    """The counts of a number of seconds. `requests` are lines of the audit log by verb and resource."""

    seconds: float
    polls: int
    requests: Mapping[tuple[str, str], int]
    written_bytes: int


def per_hour(window: Window, count: int, interval: float) -> dict[str, float]:
    """Return the figures of an hour for `count` SecretSyncs with polls every `interval` seconds."""
    factor = HOUR / window.seconds
    requests = window.requests
    polls = requests.get(("patch", "secretsyncs/status"), 0) / max(window.polls, 1) * HOUR / interval
    leases = requests.get(("patch", "leases"), 0) * factor
    daily = count * HOUR / CONFIRM_EVERY
    return {
        "statuses that record a poll": polls,
        "statuses that are written once a day": daily,
        "renewals of the Lease": leases,
        "writes in all": polls + daily + leases,
        "empty patches (each an UPDATE to admission webhooks)": requests.get(("patch", "secrets"), 0) * factor,
        "lines of the audit log (one a request)": sum(requests.values()) * factor,
        "KiB written by the database": window.written_bytes * factor / 1024,
    }


def count_requests(lines: Iterable[bytes], user: str) -> Counter[tuple[str, str]]:
    """Return how many requests of this user ended, by verb and resource, from lines of an audit log."""
    return Counter((entry.verb, entry.resource) for entry in completed_requests(lines, user))


def _watch(installed: InstalledRelease, vault: str, seconds: float, pages: int) -> Window:
    """Count for this many seconds."""
    installed.emulator.reset_counters()
    log = installed.plane.audit_log
    position, before, began = log.stat().st_size, written_bytes(installed.plane.database_pid), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    after = written_bytes(installed.plane.database_pid)
    requests = count_requests(read_lines(log, position), installed.user)
    lists = sum(n for what, n in installed.emulator.counters().items() if what.startswith(f"{vault}/secrets.list"))
    return Window(took, lists // pages, requests, after - before)


def measure(count: int, seconds: float, database: str) -> Figures:
    """Return the figures of an hour in which nothing changes, and of a poll that finds some objects changed."""
    found = Figures(f"{count:,} SecretSyncs in which nothing changes, {database}")
    election = {"leaseDurationInSeconds": 0, "renewIntervalInSeconds": 0}  # the chart's own
    pages = -(-count // 25)
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster(Path(folder), with_sqlite=database == "sqlite", leaderElection=election) as installed,
    ):
        harness = BenchHarness(installed, Shape(count))
        harness.workload.env["DRIFT_INTERVAL"] = str(ChartValues().drift_interval_in_seconds)
        # A poll within each third of the window, and the first one after what the first sync leaves to do.
        harness.workload.env["ROTATION_POLL_INTERVAL"] = str(int(seconds / 3))
        harness.workload.start()
        harness.workload.wait_ready()
        harness.meter.wait("all Secrets", lambda: len(harness.meter.writes()) >= 2 * count, 600, every=0.5)
        harness.meter.quiet(5)
        # The drift checks of new Secrets begin an interval later; after a restart they are spread over the interval.
        harness.workload.stop()
        harness.workload.start()
        harness.workload.wait_ready()
        harness.meter.quiet(5)
        idle = _watch(installed, harness.space.vault, seconds, pages)
        for name, value in per_hour(idle, count, Settings().rotation_poll_interval).items():
            found.note(f"an hour: {name}", value)
        changed = min(ROTATED, count)
        before, rotated = written_bytes(installed.plane.database_pid), harness.shape.names()[:changed]
        for name in rotated:
            harness.space.set_secret(name, "second")
        harness.meter.reset()
        harness.meter.wait("the rotation", lambda: _patched(harness, rotated), seconds + 60, every=0.5)
        found.note(
            f"{changed} rotated: KiB written by the database",
            (written_bytes(installed.plane.database_pid) - before) / 1024,
        )
        harness.workload.stop()
        alone = _watch(installed, harness.space.vault, seconds, pages)
        found.note(
            "an hour: KiB written by the database without a controller",
            per_hour(alone, 0, HOUR)["KiB written by the database"],
        )
    return found


def _patched(harness: BenchHarness, names: list[str]) -> bool:
    """Return whether each of these has a new status, which follows the Secret."""
    return {item.name for item in harness.meter.writes() if item.resource == "secretsyncs/status"} >= set(names)


def main() -> int:
    """Print the figures; exit code 1 if 1,000 SecretSyncs cost more writes than the goal allows."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.idle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="SecretSyncs (default: 1000)")
    parser.add_argument("--seconds", type=float, default=120, metavar="S", help="length of a window (default: 120)")
    parser.add_argument("--database", choices=DATABASES, nargs="*", default=["etcd"], help="default: etcd")
    options = parser.parse_args()
    missed = False
    for database in options.database:
        found = measure(options.count, options.seconds, database)
        print(f"\n{found.title}\n")
        for name, value in found.figures.items():
            print(f"{value:12,.0f}  {name}")
        missed = missed or found.figures["an hour: writes in all"] > MAX_WRITES * max(1.0, options.count / 1000)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
