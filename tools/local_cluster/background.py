"""Named control planes that run in the background.

Each is a process (`serve`) with its state in <cache>/clusters/<name>/. This is the folder of the control plane, and is
locked while the control plane runs. `serve.json` exists while it is ready. `serve.log` has the output of the process.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.local_cluster import workspace
from tools.local_cluster.control_plane import ControlPlane
from tools.local_cluster.errors import BadInput, ClusterError
from tools.local_cluster.nodes import node as nodes
from tools.local_cluster.programs import assets, cache

_START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05
_CHECK_SECONDS = 2.0


@dataclass(frozen=True)
class RunningCluster:
    """A cluster that is ready."""

    name: str
    pid: int
    version: str
    url: str
    kubeconfig: str
    node: int = 0  # the process id of its node, or 0 without a node


class NamedCluster:
    """The cluster with this name, which can be running or not."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
            raise BadInput(f"--name {name!r}: a name has up to 32 lower-case letters, digits and hyphens")
        self.name = name
        self.folder = cache.cache_root() / "clusters" / name
        self._state = self.folder / "serve.json"

    def running(self) -> RunningCluster | None:
        """Return the cluster if it is ready, or None."""
        if not workspace.is_in_use(self.folder):
            return None
        try:
            return RunningCluster(**json.loads(self._state.read_text()))
        except FileNotFoundError:  # it is starting
            return None

    def require(self) -> RunningCluster:
        """Return the cluster. Raise ClusterError, with the command that starts it, if it is not ready."""
        if running := self.running():
            return running
        name = "" if self.name == "default" else f" --name {self.name}"
        raise ClusterError(f"no cluster {self.name!r} is running; start it: tools/cluster up{name}")

    def up(self, kubernetes: str | None, *, node: bool = False) -> RunningCluster:
        """Start the cluster in the background unless it runs. It runs until `down()`."""
        if running := self.running():
            wanted = kubernetes or os.environ.get("KUBERNETES")
            if wanted and assets.requested_version(wanted) != running.version:
                raise ClusterError(
                    f"cluster {self.name!r} runs Kubernetes {running.version}: stop it first (tools/cluster"
                    " down), or choose another --name"
                )
            if node and not running.node:
                raise ClusterError(
                    f"cluster {self.name!r} runs without a node: stop it first (tools/cluster down), or choose another"
                    " --name"
                )
            return running
        version = assets.kubernetes(kubernetes).version  # build it in this process, which shows the progress
        if node:
            nodes.prepare(version)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A process that was killed leaves its state. The loop below would take it for the state of the new process.
        self._state.unlink(missing_ok=True)
        log = self.folder / "serve.log"
        command = [sys.executable, "-P", "-m", "tools.local_cluster", "serve", "--name", self.name]
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, "--kubernetes", version, *(["--node"] if node else [])],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            # If two processes start the cluster at the same time, one finds the folder locked. Both then use one
            # cluster.
            if running := self.running():
                return running
            if process.poll() is not None and not workspace.is_in_use(self.folder):
                raise ClusterError(log.read_text().strip())
            time.sleep(_POLL_SECONDS)
        process.terminate()
        raise ClusterError(f"cluster {self.name!r} was not ready after {_START_SECONDS:g} s; see {log}")

    def load(self, archive: Path) -> None:
        """Load the images of an archive into the cluster's node."""
        running = self.require()
        if not running.node:
            raise ClusterError(f"cluster {self.name!r} has no node: stop it, then run tools/cluster up --node")
        if not archive.is_file():
            raise BadInput(f"{archive}: the file does not exist; create it with `make image`")
        nodes.load_images(running.node, archive.read_bytes())

    def serve(self, kubernetes: str | None, *, node: bool = False) -> None:
        """Run the cluster in this process until SIGTERM."""
        end = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: end.set())
        with ControlPlane(self.folder, kubernetes=kubernetes, with_node=node) as plane:
            pid = plane.node.pid if node else 0
            running = RunningCluster(self.name, os.getpid(), plane.version, plane.url, str(plane.kubeconfig), pid)
            part = self._state.with_suffix(".part")
            part.write_text(json.dumps(asdict(running)))
            part.replace(self._state)
            try:
                while not end.wait(_CHECK_SECONDS):
                    plane.check()
            finally:
                self._state.unlink()

    def down(self) -> bool:
        """Stop the cluster and remove its state. Return whether it was running."""
        running = self.running()
        if running:
            os.kill(running.pid, signal.SIGTERM)
            deadline = time.monotonic() + _STOP_SECONDS
            while workspace.is_in_use(self.folder):
                if time.monotonic() > deadline:
                    raise ClusterError(f"process {running.pid} has not ended after {_STOP_SECONDS:g} s")
                time.sleep(_POLL_SECONDS)
        elif workspace.is_in_use(self.folder):
            raise ClusterError(f"cluster {self.name!r} is starting or stopping; try again in a few seconds")
        shutil.rmtree(self.folder, ignore_errors=True)
        return running is not None


def list_running() -> list[RunningCluster]:
    """Return the clusters that are ready, sorted by name."""
    folders = (folder for folder in sorted((cache.cache_root() / "clusters").glob("*/")) if workspace.is_in_use(folder))
    return [running for folder in folders if (running := NamedCluster(folder.name).running())]
