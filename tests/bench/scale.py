"""One fleet member at work: the first sync of N Secrets, a poll that finds nothing, one that finds 100, a restart.

Everything is counted outside the controller: vault and Entra calls at the emulator, API writes in the audit log, CPU
and memory in /proc.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

from tests.bench import bound
from tests.bench.meter import Meter, SyncWrites
from tests.bench.results import Figures
from tests.bench.stage import Shape, Stage
from tests.bench.targets import CPU, RATIO, ROTATED, ROTATION
from tests.support.cluster.harness import InstalledRelease, Namespace
from tests.support.process_stats import cpu_seconds, resident_mebibytes
from tools.pods.pod_process import PodProcess

# Seconds after the start in which a restart's CPU is counted, and in which looks for drift are.
RESTARTED = 5.0
LOOKING = 30.0
# Seconds until a controller must be ready, on a machine that does other things, too.
READY_PATIENCE = 120.0
# Seconds between two looks at a Secret, over which the first round of them is spread.
DRIFT_INTERVAL = 10
ROOT = Path(__file__).parents[2]
IDLE, MEMORY = "nothing to do", "memory, MiB"


def idle(installed: InstalledRelease) -> Figures:
    """Return a controller that has nothing to do."""
    space = Namespace(installed)
    found = Figures(IDLE)
    with installed.workload(WATCH_NAMESPACES=space.name) as workload:
        workload.wait_ready(READY_PATIENCE)
        time.sleep(2)
        found.note(MEMORY, resident_mebibytes(workload.pid))
        workload.stop()  # a killed leader keeps the lease from the next one
    return found


def run(installed: InstalledRelease, shape: Shape) -> Figures:
    """One run of one shape, from nothing."""
    stage = Stage(installed, shape)
    found = Figures(str(shape))
    plain = shape.history == 1
    try:
        first_sync(stage, found)
        if plain:
            compare_with_bound(stage, found)
        quiet_poll(stage, found)
        if plain and shape.count > ROTATED:
            rotation(stage, found)
        if plain and not shape.latency:
            restart(stage, found)
            drift(stage, found)
        stage.workload.stop()
    finally:
        stage.workload.kill()
    return found


def first_sync(stage: Stage, found: Figures) -> None:
    """From the start of the process to the last Secret."""
    workload, meter = stage.workload, stage.meter
    meter.reset()
    began = time.time()
    workload.start()
    workload.wait_ready(READY_PATIENCE)
    found.note("start: ready, s", time.time() - began)

    def all_done() -> bool:
        return min(_written(meter, "secrets"), _written(meter, "secretsyncs/status")) >= stage.shape.count

    meter.wait("all Secrets and statuses", all_done, 600, every=0.5)
    created = [item.moment for item in meter.writes() if item.resource == "secrets"]
    reported = [item.moment for item in meter.writes() if item.resource == "secretsyncs/status"]
    found.note("first sync: all Secrets there, s from the start", max(created) - began)
    found.note("first sync: all Secrets there, s from the first", max(created) - min(created))
    found.note("first sync: all written, s from the start", max(reported) - began)
    meter.quiet()
    spent = meter.cpu
    found.note_calls("first sync", meter.calls())
    found.note("first sync: CPU, s", spent)
    found.note(CPU, spent * 1000 / stage.shape.count)
    for name, count in SyncWrites.of(meter.attempts())._asdict().items():
        found.note(f"first sync: {name.replace('_', ' ')}", count)
    # Of many events most are still to be sent.
    found.note("first sync: API writes but events", sum(item.resource != "events" for item in meter.writes()))
    found.note("memory: after the first sync, MiB", resident_mebibytes(workload.pid))


def compare_with_bound(stage: Stage, found: Figures) -> None:
    """Compare the time from the start of the process with what the API server needs for the same writes alone."""
    least = bound.seconds(stage)
    found.note("first sync: bound, s", least)
    found.note(RATIO, found.figures["first sync: all written, s from the start"] / least)


def quiet_poll(stage: Stage, found: Figures) -> None:
    """One poll in which nothing has changed, once the news of the first sync is out: 20 events a second take CPU."""
    meter = stage.meter
    told = -1

    def all_told() -> bool:
        nonlocal told
        before, told = told, _written(meter, "events")
        return told == before

    meter.wait("the last event", all_told, 300, every=2)
    meter.quiet()  # a poll may have begun meanwhile
    _poll(stage)
    found.note("memory: before a poll, MiB", resident_mebibytes(stage.workload.pid))
    meter.quiet()
    found.note_calls("quiet poll", meter.calls())
    found.note("quiet poll: CPU, s", meter.cpu)
    found.note("quiet poll: Secrets written", _written(meter, "secrets"))
    found.note("quiet poll: statuses written", _written(meter, "secretsyncs/status"))


def rotation(stage: Stage, found: Figures) -> None:
    """Measure a poll with changed objects: the seconds from its first vault call to the last Secret's patch."""
    meter = stage.meter
    for name in stage.shape.names()[:ROTATED]:
        stage.space.set_secret(name, "second")
    began = _poll(stage)
    meter.quiet()
    patched = [item.moment for item in meter.writes() if item.resource == "secrets"]
    found.note(ROTATION, max(patched, default=began) - began)
    found.note_calls("rotation", meter.calls())
    found.note("rotation: CPU, s", meter.cpu)


def restart(stage: Stage, found: Figures) -> None:
    """Measure a restart with the default interval, after which nothing is due."""
    workload, meter = stage.workload, stage.meter
    del workload.env["ROTATION_POLL_INTERVAL"], workload.env["DRIFT_INTERVAL"]
    workload.stop()
    meter.reset()
    began = time.time()
    workload.start()
    workload.wait_ready(READY_PATIENCE)
    found.note("restart: ready, s", time.time() - began)
    time.sleep(max(0.0, began + RESTARTED - time.time()))
    spent = cpu_seconds(workload.pid)
    found.note("restart: CPU in 5 s, s", spent)
    found.note("restart: CPU in 5 s after import, s", max(0.0, spent - _import_seconds(workload)))
    found.note_calls("restart", meter.calls())
    # Looks at Secrets are patches, and go on as always.
    found.note("restart: API writes but looks", sum(item.resource != "secrets" for item in meter.writes()))
    found.note("memory: after a restart, MiB", resident_mebibytes(workload.pid))


def drift(stage: Stage, found: Figures) -> None:
    """Measure drift checks of unchanged Secrets while the rounds are running."""
    workload, meter = stage.workload, stage.meter
    workload.stop()
    workload.env["DRIFT_INTERVAL"] = str(DRIFT_INTERVAL)
    workload.start()
    meter.reset()
    meter.wait("the first drift check", lambda: _written(meter, "secrets") > 0, 60)
    time.sleep(DRIFT_INTERVAL)
    meter.reset()
    time.sleep(LOOKING)
    spent, looks = meter.cpu, _written(meter, "secrets")
    found.note(f"drift: looks in {LOOKING:.0f} s", looks)
    found.note("drift: CPU of 1,000 looks, s", spent / max(looks, 1) * 1000)
    found.note_calls("drift", meter.calls())


def _poll(stage: Stage) -> float:
    """Wait for a poll, and count calls from its start; return that time."""
    stage.meter.reset()
    return stage.meter.wait("a poll", lambda: bool(stage.meter.calls()), 2.0 * stage.shape.interval + 60, every=0.02)


def _written(meter: Meter, resource: str) -> int:
    return sum(item.resource == resource for item in meter.writes())


def _import_seconds(workload: PodProcess) -> float:
    """CPU of a process that imports the controller and ends at once: tidying up would count, too."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = "import os, controller.__main__, controller.app; os._exit(0)"
    subprocess.run([sys.executable, "-P", "-c", program], env=workload.env, cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
