"""`make bench`: how long one Secret takes and how much memory the controller holds, as a Markdown table.

One control plane, one emulator that answers at once, the chart's controller under its own rights. Latency is taken
from the start of `kubectl apply` (its own time is in it) to the moment a watch shows the Secret.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.cluster.world import Namespace, install
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.workload import Workload


class Arrivals:
    """When each Secret of a namespace was first seen, by name, as `kubectl get --watch` tells."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        arguments = [f"--kubeconfig={plane.kubeconfig}", "get", "secrets", "-n", namespace, "--watch", "-o", "name"]
        self._process = subprocess.Popen([str(plane.kubectl_path), *arguments], stdout=subprocess.PIPE, text=True)
        self._seen: dict[str, float] = {}
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            with self._changed:
                self._seen.setdefault(line.strip().removeprefix("secret/"), time.monotonic())
                self._changed.notify_all()

    def wait(self, name: str, patience: float = 30.0) -> float:
        """The moment of the Secret's arrival."""
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._seen, patience):
                raise TimeoutError(f"Secret {name} did not come within {patience:g} s")
            return self._seen[name]

    def close(self) -> None:
        """Ends the watch."""
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        if self._process.stdout:
            self._process.stdout.close()


def resident(pid: int) -> float:
    """A process's resident memory in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{pid}/status has no VmRSS")


def measure(controller: Workload, space: Namespace, count: int) -> tuple[float, list[float], float]:
    """Memory idle (MiB), seconds for each of `count` Secrets one after another, memory with all of them."""
    time.sleep(2)
    idle = resident(controller.pid)
    arrivals = Arrivals(space.installed.plane, space.name)
    try:
        space.put("warm-up", "x")
        space.apply(space.provider_class("warm-up"), space.sync("warm-up", {"k": "warm-up"}))
        arrivals.wait("warm-up")
        seconds = []
        for number in range(count):
            if number % 20 == 0:
                print(f"{number} of {count} Secrets", file=sys.stderr, flush=True)
            name = f"s{number}"
            manifest = space.sync(name, {"k": "warm-up"})
            began = time.monotonic()
            space.apply(manifest)
            seconds.append(arrivals.wait(name) - began)
    finally:
        arrivals.close()
    time.sleep(2)
    return idle, seconds, resident(controller.pid)


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--count", type=int, default=100, metavar="N", help="how many Secrets (default: 100)")
    count = parser.parse_args().count
    with (
        tempfile.TemporaryDirectory() as folder,
        ControlPlane(Path(folder) / "plane") as plane,
        Emulator(Path(folder) / "emulator") as emulator,
    ):
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        installed = install(plane, emulator, Path(folder))
        with installed.workload() as controller:
            controller.wait_ready()
            idle, seconds, full = measure(controller, Namespace(installed), count)
    centiles = statistics.quantiles(seconds, n=100, method="inclusive")
    print(f"Python {platform.python_version()}, Kubernetes {plane.version}, {os.cpu_count()} cores\n")
    print("| what | figure |\n| --- | --- |")
    print(f"| `kubectl apply` to the Secret, median of {count} | {statistics.median(seconds):.2f} s |")
    print(f"| … 99th percentile | {centiles[98]:.2f} s |")
    print(f"| … fastest and slowest | {min(seconds):.2f} s, {max(seconds):.2f} s |")
    print(f"| resident memory of the controller, idle | {idle:.0f} MiB |")
    print(f"| … with {count} SecretSyncs | {full:.0f} MiB |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
