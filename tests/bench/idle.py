"""Measure the load of the API server and its database in an hour in which nothing changes.

    python -m tests.bench.idle [--count N] [--seconds S] [--database etcd|sqlite]

The controller runs with the chart's default intervals for the Lease and the drift check. It polls more often than the
default, so that the measured window contains polls. The program converts the counts of the window to an hour:

- renewals of the Lease, empty patches of the drift check, audit lines and bytes: the count of the window, times the
  number of windows in an hour;
- statuses: the count of one poll, times the number of polls in an hour (3,600 s / default interval), and one a day for
  each SecretSync, because the controller reads each object in full once a day.

The KiB are `write_bytes` in /proc/PID/io of the database's process. etcd syncs each write to disk, as in production. A
second window without a controller shows how many KiB an idle API server writes.
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
from controller.secretsync.tasks import CONFIRM_EVERY
from tests.bench.audit_log import read_completed_requests, read_lines
from tests.bench.harness import CHART_ELECTION, DATABASES, BenchHarness, Shape, cluster, database_kibibytes
from tests.bench.results import Figures
from tests.support.cluster.harness import InstalledRelease
from tools.codegen.values.chart import ChartValues

HOUR = 3600.0
ROTATED = 100
# The goal for 1,000 SecretSyncs: writes that reach the database, in an hour.
MAX_WRITES = 400


class Window(NamedTuple):
    """The counts of a measured window. `requests` has the number of requests by verb and resource."""

    seconds: float
    polls: int
    requests: Mapping[tuple[str, str], int]
    written_kibibytes: float


def convert_to_hour(window: Window, count: int, interval: float) -> dict[str, float]:
    """Return the figures of an hour with `count` SecretSyncs and a poll every `interval` seconds."""
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
        "KiB written by the database": window.written_kibibytes * factor,
    }


def count_requests(lines: Iterable[bytes], user: str) -> Counter[tuple[str, str]]:
    """Count the completed requests of a user in lines of an audit log, by verb and resource."""
    return Counter((entry.verb, entry.resource) for entry in read_completed_requests(lines, user))


def _measure_window(installed: InstalledRelease, vault: str, seconds: float, pages: int) -> Window:
    """Count requests, polls and written bytes for this many seconds."""
    installed.emulator.reset_counters()
    log = installed.plane.audit_log
    position, before, began = log.stat().st_size, database_kibibytes(installed), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    after = database_kibibytes(installed)
    requests = count_requests(read_lines(log, position), installed.user)
    lists = sum(n for what, n in installed.emulator.counters().items() if what.startswith(f"{vault}/secrets.list"))
    return Window(took, lists // pages, requests, after - before)


def measure(count: int, seconds: float, database: str) -> Figures:
    """Measure an hour in which nothing changes, and a poll that finds some changed objects."""
    found = Figures(f"{count:,} SecretSyncs in which nothing changes, {database}")
    pages = -(-count // 25)
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster(Path(folder), database=database, durable=True, leaderElection=CHART_ELECTION) as installed,
    ):
        harness = BenchHarness(installed, Shape(count))
        harness.workload.env["DRIFT_INTERVAL"] = str(ChartValues().drift_interval_in_seconds)
        # So each third of the window has a poll, and the first poll comes after the remaining work of the first sync.
        harness.workload.env["ROTATION_POLL_INTERVAL"] = str(int(seconds / 3))
        harness.workload.start()
        harness.workload.wait_ready()
        harness.meter.wait("all Secrets", lambda: len(harness.meter.writes()) >= 2 * count, 600, every=0.5)
        harness.meter.wait_idle(5)
        # The drift checks of new Secrets begin an interval later; after a restart they are spread over the interval.
        harness.workload.stop()
        harness.workload.start()
        harness.workload.wait_ready()
        harness.meter.wait_idle(5)
        idle = _measure_window(installed, harness.space.vault, seconds, pages)
        for name, value in convert_to_hour(idle, count, Settings().rotation_poll_interval).items():
            found.note(f"an hour: {name}", value)
        changed = min(ROTATED, count)
        before, rotated = database_kibibytes(installed), harness.shape.names()[:changed]
        for name in rotated:
            harness.space.set_secret(name, "second")
        harness.meter.reset()
        harness.meter.wait("the rotation", lambda: _have_new_statuses(harness, rotated), seconds + 60, every=0.5)
        found.note(f"{changed} rotated: KiB written by the database", database_kibibytes(installed) - before)
        harness.workload.stop()
        without_controller = _measure_window(installed, harness.space.vault, seconds, pages)
        found.note(
            "an hour: KiB written by the database without a controller",
            convert_to_hour(without_controller, 0, HOUR)["KiB written by the database"],
        )
    return found


def _have_new_statuses(harness: BenchHarness, names: list[str]) -> bool:
    """Return whether the controller has written the statuses of these SecretSyncs. It writes the Secrets before."""
    return {item.name for item in harness.meter.writes() if item.resource == "secretsyncs/status"} >= set(names)


def main() -> int:
    """Print the figures. Return exit code 1 if there are more writes than the goal for 1,000 SecretSyncs allows."""
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
