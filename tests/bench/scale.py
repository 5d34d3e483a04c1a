"""One fleet member at work: the first sync of N Secrets, a poll that finds nothing, one that finds 100, a restart.

Everything is counted outside the controller: vault and Entra calls at the emulator, API writes in the audit log, CPU
and memory in /proc.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.bench.meter import Meter, resident
from tests.cluster.world import Namespace, install, metrics
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.workload import Workload

# Objects of one SecretProviderClass: its `objects` is one text, so people keep it short.
CLASS_SIZE = 100
ROTATED = 100
# Connections that nobody uses are closed after 15 s, and each has had a buffer of 256 KiB.
IDLE_AFTER = 18


class Shape(msgspec.Struct, frozen=True):
    """How many SecretSyncs, of one key each; seconds that each vault call takes; versions of each object."""

    count: int
    latency: float = 0.0
    history: int = 1

    @property
    def interval(self) -> int:
        """Seconds between polls: long enough for what happens between two of them."""
        return 40 + self.count // 50

    def __str__(self) -> str:
        history = f", history {self.history}" if self.history > 1 else ""
        return f"{self.count:,} Secrets, vault at {self.latency * 1000:.0f} ms{history}"


class Figures(msgspec.Struct):
    """What one run found: figures by name, in the order of measuring."""

    figures: dict[str, float] = {}

    def note(self, name: str, value: float) -> None:
        """Keeps one and tells it."""
        self.figures[name] = round(value, 3)
        print(f"  {name}: {value:.4g}", file=sys.stderr, flush=True)

    def note_calls(self, name: str, meter: Meter) -> None:
        """Keeps how many calls there were of each operation, and how many to the vault in all."""
        calls = meter.calls()
        for operation, count in sorted(calls.items()):
            self.note(f"{name}: {operation}", count)
        entra = ("token", "discovery", "instance")
        self.note(f"{name}: vault calls", sum(n for what, n in calls.items() if what not in entra))


@contextmanager
def stage(shape: Shape, folder: Path) -> Iterator[tuple[Namespace, Meter, Workload]]:
    """A cluster with the chart, a vault with the secrets, their SecretSyncs applied, and a controller not started."""
    with ControlPlane(folder / "plane") as plane, Emulator(folder / "emulator") as emulator:
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        installed = install(plane, emulator, folder)
        space = Namespace(installed)
        names = [f"s{number:05}" for number in range(shape.count)]
        for _ in range(shape.history):
            for name in names:
                space.put(name, "first")
        objects = []
        for start in range(0, shape.count, CLASS_SIZE):
            part = names[start : start + CLASS_SIZE]
            items = "".join(
                f"  - |\n    objectName: {name}\n    objectType: secret\n    objectVersionHistory: {shape.history}\n"
                for name in part
            )
            objects.append(space.provider_class(name=f"class-{start}", objects=f"array:\n{items}"))
            path = "{}/0" if shape.history > 1 else "{}"
            objects += [
                space.sync(name, {"key": path.format(name)}, secretProviderClassName=f"class-{start}") for name in part
            ]
        manifest = folder / "objects.json"
        manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        space.kubectl("create", "--filename", str(manifest))
        time.sleep(2)  # a value fetched within two seconds of its setting is fetched again at the next poll
        emulator.delay(shape.latency)
        workload = installed.workload(ROTATION_POLL_INTERVAL=str(shape.interval), DRIFT_INTERVAL="86400")
        try:
            yield space, Meter(installed, space, workload), workload
        finally:
            workload.kill()


def run(shape: Shape, folder: Path) -> Figures:
    """One run from nothing."""
    found = Figures()
    with stage(shape, folder) as (space, meter, workload):
        first_sync(shape, workload, meter, found)
        quiet_poll(shape, workload, meter, found)
        if shape.count > ROTATED:
            rotation(space, meter, found)
        restart(workload, meter, found)
    return found


def first_sync(shape: Shape, workload: Workload, meter: Meter, found: Figures) -> None:
    """From the start of the process to the last Secret."""
    began = time.time()
    workload.start()
    workload.wait_ready()
    found.note("start: seconds until ready", time.time() - began)

    def all_there() -> bool:
        return sum(item.resource == "secrets" for item in meter.writes()) >= shape.count

    meter.wait("all Secrets", all_there, 600, every=0.5)
    writes = meter.writes()
    created = [item.moment for item in writes if (item.verb, item.resource) == ("create", "secrets")]
    found.note("first sync: seconds from the start", max(created) - began)
    found.note("first sync: seconds from the first Secret", max(created) - min(created))
    meter.quiet()
    found.note_calls("first sync", meter)
    found.note("first sync: CPU seconds", meter.cpu)
    found.note("first sync: API writes", len(meter.writes()))
    found.note("memory: MiB at work", resident(workload.pid))
    time.sleep(IDLE_AFTER)
    found.note("memory: MiB idle again", resident(workload.pid))


def quiet_poll(shape: Shape, workload: Workload, meter: Meter, found: Figures) -> None:
    """One poll in which nothing has changed."""
    meter.reset()
    meter.wait("a poll", lambda: bool(meter.calls()), 2.0 * shape.interval + 60)
    meter.quiet()
    found.note_calls("quiet poll", meter)
    found.note("quiet poll: CPU seconds", meter.cpu)
    found.note("quiet poll: status writes", sum(item.resource == "secretsyncs/status" for item in meter.writes()))
    found.note("quiet poll: Secrets written", _secret_writes(workload) - shape.count)


def rotation(space: Namespace, meter: Meter, found: Figures) -> None:
    """A poll that finds some objects changed, seconds from its first vault call to the last Secret's patch."""
    for number in range(ROTATED):
        space.put(f"s{number:05}", "second")
    meter.reset()
    began = meter.wait("a poll", lambda: bool(meter.calls()), 300, every=0.01)
    meter.quiet()
    patched = [item.moment for item in meter.writes() if item.resource == "secrets"]
    found.note("rotation: seconds from the poll's start", max(patched, default=began) - began)
    found.note_calls("rotation", meter)
    found.note("rotation: CPU seconds", meter.cpu)


def restart(workload: Workload, meter: Meter, found: Figures) -> None:
    """A new process, with the default interval: nothing is due."""
    workload.stop()
    workload.env["ROTATION_POLL_INTERVAL"] = "3600"
    meter.reset()
    began = time.time()
    workload.start()
    workload.wait_ready()
    found.note("restart: seconds until ready", time.time() - began)
    meter.reset()
    time.sleep(5)
    found.note("restart: CPU seconds in 5 s once ready", meter.cpu)
    found.note_calls("restart", meter)


def _secret_writes(workload: Workload) -> float:
    lines = metrics(workload).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("akv_secret_store_secret_writes_total{"))
