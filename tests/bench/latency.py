"""Measure the time from `kubectl apply` of a SecretSync to its Secret, and the controller's memory afterwards.

The time starts before `kubectl apply`, so it includes the time of kubectl. It ends when a watch shows the Secret.
"""

import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.bench.harness import cluster, image_workload
from tests.bench.results import Figures
from tests.support.cluster.namespace import Namespace
from tests.support.process_stats import resident_mebibytes
from tools.local_cluster import ControlPlane
from tools.pods.pod_process import PodProcess


class SecretWatch:
    """The time at which `kubectl get --watch` first showed each Secret of a namespace, by name."""

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

    def wait(self, name: str, timeout: float = 30.0) -> float:
        """Wait for a Secret. Return the time of the monotonic clock at which the watch first showed it."""
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._seen, timeout):
                raise TimeoutError(f"the watch did not show Secret {name} within {timeout:g} s")
            return self._seen[name]

    def close(self) -> None:
        """End the watch."""
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        if self._process.stdout:
            self._process.stdout.close()


def measure(controller: PodProcess, space: Namespace, count: int) -> tuple[list[float], float]:
    """Create `count` Secrets one after another. Return the seconds of each, and the memory with all of them in MiB."""
    watch = SecretWatch(space.installed.plane, space.name)
    try:
        space.set_secret("warm-up", "x")
        space.apply(space.provider_class("warm-up"), space.sync("warm-up", {"k": "warm-up"}))
        watch.wait("warm-up")
        seconds = []
        for number in range(count):
            if number % 20 == 0:
                print(f"{number} of {count} Secrets", file=sys.stderr, flush=True)
            name = f"s{number}"
            manifest = json.dumps(space.sync(name, {"k": "warm-up"}))
            began = time.monotonic()
            space.kubectl("apply", "--filename", "-", stdin=manifest)
            seconds.append(watch.wait(name) - began)
    finally:
        watch.close()
    time.sleep(2)
    return seconds, resident_mebibytes(controller.pid)


def measure_latency(count: int, folder: Path) -> Figures:
    """Measure the latency in a new cluster."""
    with cluster(folder) as installed, image_workload(installed) as controller:
        controller.wait_ready()
        seconds, full = measure(controller, Namespace(installed), count)
    centiles = statistics.quantiles(seconds, n=100, method="inclusive")
    found = Figures("one Secret after another")
    found.note(f"kubectl apply to the Secret, s, median of {count}", statistics.median(seconds))
    found.note("… 99th percentile", centiles[98])
    found.note("… fastest", min(seconds))
    found.note("… slowest", max(seconds))
    found.note(f"memory with {count} SecretSyncs, MiB", full)
    return found
