"""Measure one controller: the first sync of N Secrets, a poll without a change, a poll with 100 changes, a restart.

All figures are measured outside the controller: vault and Entra calls in the emulator, API writes in the audit log, CPU
and memory in /proc.
"""

import resource
import subprocess
import time
from pathlib import Path

from tests.bench import bound
from tests.bench.harness import BenchHarness, Shape, image_workload
from tests.bench.meter import Meter, SyncWrites
from tests.bench.results import Figures
from tests.bench.targets import CPU, RATIO, ROTATED, ROTATION
from tests.support.cluster.harness import InstalledRelease
from tests.support.cluster.namespace import Namespace
from tests.support.process_stats import cpu_seconds, resident_mebibytes
from tools.pods.pod_process import PodProcess

# The time after the start of a restarted controller in which its CPU time is measured.
RESTART_SECONDS = 5.0
# The time in which drift checks are counted.
DRIFT_SECONDS = 30.0
# A controller must be ready within this time, even on a machine with other work.
READY_TIMEOUT_SECONDS = 120.0
# The time between two drift checks of a Secret. The controller spreads the first checks over this time.
DRIFT_INTERVAL_SECONDS = 10
ROOT = Path(__file__).parents[2]
IDLE, MEMORY = "nothing to do", "memory, MiB"


def measure_idle(installed: InstalledRelease) -> Figures:
    """Measure a controller without SecretSyncs."""
    space = Namespace(installed)
    found = Figures(IDLE)
    with image_workload(installed, WATCH_NAMESPACES=space.name) as workload:
        workload.wait_ready(READY_TIMEOUT_SECONDS)
        time.sleep(2)
        found.note(MEMORY, resident_mebibytes(workload.pid))
        workload.stop()  # a killed leader would still hold the lease
    return found


def measure_shape(installed: InstalledRelease, shape: Shape) -> Figures:
    """Measure the first sync of one shape, and then the other work of the controller."""
    harness = BenchHarness(installed, shape)
    found = Figures(str(shape))
    has_one_version = shape.history == 1
    try:
        measure_first_sync(harness, found)
        if has_one_version:
            compare_with_bound(harness, found)
        measure_quiet_poll(harness, found)
        if has_one_version and shape.count > ROTATED:
            measure_rotation(harness, found)
        if has_one_version and not shape.latency:
            measure_restart(harness, found)
            measure_drift_checks(harness, found)
        harness.workload.stop()
    finally:
        harness.workload.kill()
    return found


def measure_first_sync(harness: BenchHarness, found: Figures) -> None:
    """Measure the time from the start of the process to the last Secret."""
    workload, meter = harness.workload, harness.meter
    meter.reset()
    began = time.time()
    workload.start()
    workload.wait_ready(READY_TIMEOUT_SECONDS)
    found.note("start: ready, s", time.time() - began)

    def all_done() -> bool:
        return min(_count_writes(meter, "secrets"), _count_writes(meter, "secretsyncs/status")) >= harness.shape.count

    meter.wait("all Secrets and statuses", all_done, 600, every=0.5)
    created = [item.moment for item in meter.writes() if item.resource == "secrets"]
    reported = [item.moment for item in meter.writes() if item.resource == "secretsyncs/status"]
    found.note("first sync: all Secrets there, s from the start", max(created) - began)
    found.note("first sync: all Secrets there, s from the first", max(created) - min(created))
    found.note("first sync: all written, s from the start", max(reported) - began)
    meter.wait_idle()
    spent = meter.cpu
    found.note_calls("first sync", meter.calls())
    found.note("first sync: CPU, s", spent)
    found.note(CPU, spent * 1000 / harness.shape.count)
    for name, count in SyncWrites.of(meter.attempts())._asdict().items():
        found.note(f"first sync: {name.replace('_', ' ')}", count)
    # The controller sends most of the events later.
    found.note("first sync: API writes except events", sum(item.resource != "events" for item in meter.writes()))
    found.note("memory: after the first sync, MiB", resident_mebibytes(workload.pid))


def compare_with_bound(harness: BenchHarness, found: Figures) -> None:
    """Compare the time from the start of the process with the time that the API server needs for the same writes."""
    seconds = bound.measure_bound(harness)
    found.note("first sync: bound, s", seconds)
    found.note(RATIO, found.figures["first sync: all written, s from the start"] / seconds)


def measure_quiet_poll(harness: BenchHarness, found: Figures) -> None:
    """Measure a poll without a change. First wait until all events are sent, because sending them takes CPU time."""
    meter = harness.meter
    sent = -1

    def all_sent() -> bool:
        nonlocal sent
        before, sent = sent, _count_writes(meter, "events")
        return sent == before

    meter.wait("the last event", all_sent, 300, every=2)
    meter.wait_idle()  # a poll may have started in the meantime
    _wait_for_poll(harness)
    found.note("memory: before a poll, MiB", resident_mebibytes(harness.workload.pid))
    meter.wait_idle()
    found.note_calls("quiet poll", meter.calls())
    found.note("quiet poll: CPU, s", meter.cpu)
    found.note("quiet poll: Secrets written", _count_writes(meter, "secrets"))
    found.note("quiet poll: statuses written", _count_writes(meter, "secretsyncs/status"))


def measure_rotation(harness: BenchHarness, found: Figures) -> None:
    """Measure a poll that finds changed objects, from its first vault call to the patch of the last Secret."""
    meter = harness.meter
    for name in harness.shape.names()[:ROTATED]:
        harness.space.set_secret(name, "second")
    began = _wait_for_poll(harness)
    meter.wait_idle()
    patched = [item.moment for item in meter.writes() if item.resource == "secrets"]
    found.note(ROTATION, max(patched, default=began) - began)
    found.note_calls("rotation", meter.calls())
    found.note("rotation: CPU, s", meter.cpu)


def measure_restart(harness: BenchHarness, found: Figures) -> None:
    """Measure a restart with the default interval, when no sync is due."""
    workload, meter = harness.workload, harness.meter
    del workload.env["ROTATION_POLL_INTERVAL"], workload.env["DRIFT_INTERVAL"]
    workload.stop()
    meter.reset()
    began = time.time()
    workload.start()
    workload.wait_ready(READY_TIMEOUT_SECONDS)
    found.note("restart: ready, s", time.time() - began)
    time.sleep(max(0.0, began + RESTART_SECONDS - time.time()))
    spent = cpu_seconds(workload.pid)
    found.note("restart: CPU in 5 s, s", spent)
    found.note("restart: CPU in 5 s after import, s", max(0.0, spent - _measure_import(workload)))
    found.note_calls("restart", meter.calls())
    # Drift checks are patches of Secrets and continue after a restart.
    found.note("restart: API writes except checks", sum(item.resource != "secrets" for item in meter.writes()))
    found.note("memory: after a restart, MiB", resident_mebibytes(workload.pid))


def measure_drift_checks(harness: BenchHarness, found: Figures) -> None:
    """Measure drift checks of unchanged Secrets, after the first check of each Secret."""
    workload, meter = harness.workload, harness.meter
    workload.stop()
    workload.env["DRIFT_INTERVAL"] = str(DRIFT_INTERVAL_SECONDS)
    workload.start()
    meter.reset()
    meter.wait("the first drift check", lambda: _count_writes(meter, "secrets") > 0, 60)
    time.sleep(DRIFT_INTERVAL_SECONDS)
    meter.reset()
    time.sleep(DRIFT_SECONDS)
    spent, checks = meter.cpu, _count_writes(meter, "secrets")
    found.note(f"drift: checks in {DRIFT_SECONDS:.0f} s", checks)
    found.note("drift: CPU of 1,000 checks, s", spent / max(checks, 1) * 1000)
    found.note_calls("drift", meter.calls())


def _wait_for_poll(harness: BenchHarness) -> float:
    """Wait until a poll starts. Count its calls from the start. Return the time of the start."""
    harness.meter.reset()
    return harness.meter.wait(
        "a poll", lambda: bool(harness.meter.calls()), 2.0 * harness.shape.interval + 60, every=0.02
    )


def _count_writes(meter: Meter, resource: str) -> int:
    return sum(item.resource == resource for item in meter.writes())


def _measure_import(workload: PodProcess) -> float:
    """Return the CPU time of a process that imports the controller and then exits at once, without cleanup."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = "import os, controller.__main__, controller.app; os._exit(0)"
    subprocess.run([workload.python, "-P", "-c", program], env=workload.env, cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
