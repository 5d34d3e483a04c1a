"""Run the chart's Deployment or Job as a process of this machine, for a control plane without a node.

The environment, arguments, volumes and the ServiceAccount's token of the first container come from the objects on the
API server, as a kubelet provides them. So the process has the same configuration and rights as in a pod. A feature that
needs a node raises `WorkloadError`.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.local_cluster.ports import PortClaim
from tools.pods import pod_emulation
from tools.pods.pod_emulation import Cluster, WorkloadError

ROOT = Path(__file__).resolve().parents[2]

_ENTRYPOINT = ["python", "-P", "-m", "controller"]
"""The entry point of the image. A container's `command` replaces it."""

IMAGE_ENVIRONMENT = {"PYTHONOPTIMIZE": "2", "PYTHONNODEBUGRANGES": "1", "FROZENLIST_NO_EXTENSIONS": "1"}
"""The image's variables that change how Python runs. The container's own take precedence."""

# This program does what `python -m MODULE` does, and ends when standard input ends. Standard input ends with the
# parent, for whatever reason the parent ends, so the process does not outlive its parent.
_RUN_MODULE = """
import os, runpy, signal, sys, threading
def watch():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
_POLL_SECONDS = 0.05


class PodProcess:
    """One container as a process. As a context manager it starts on entry, unless it runs, and is killed at the end.

    `env` is the complete environment and `python` the interpreter. Both can be changed before `start()`. `log` gets
    stdout and stderr. `volumes.refresh()` updates the files of the volumes.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        args: list[str],
        env: dict[str, str],
        ready_path: str,
        service_account: str,
        volumes: pod_emulation.PodVolumes,
    ) -> None:
        self._port, self._health_port = PortClaim(), PortClaim()
        self.env = env | {"LISTEN_PORT": str(self._port.port), "HEALTH_PORT": str(self._health_port.port)}
        self.volumes = volumes
        self.python = sys.executable
        self.log = folder / "log"
        self.service_account = service_account
        self._name, self._folder, self.args, self._ready_path = name, folder, args, ready_path
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def of_deployment(cls, plane: Cluster, namespace: str, name: str, directory: Path) -> Self:
        """Create the process from a Deployment on the API server. Its files are in a new folder in `directory`."""
        found = plane.read_object(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
        return cls._from_template(plane, found, namespace, directory)

    @classmethod
    def of_job(cls, plane: Cluster, namespace: str, job: str | Mapping[str, Any], directory: Path) -> Self:
        """Create the process from a Job by its name, or from a manifest, because helm deletes the Jobs of hooks."""
        if not isinstance(job, str):
            return cls._from_template(plane, job, namespace, directory)
        found = plane.read_object(f"/apis/batch/v1/namespaces/{namespace}/jobs/{job}")
        return cls._from_template(plane, found, namespace, directory)

    @classmethod
    def _from_template(cls, plane: Cluster, owner: Mapping[str, Any], namespace: str, directory: Path) -> Self:
        name = str(owner["metadata"]["name"])
        spec = owner["spec"]["template"]["spec"]
        container = spec["containers"][0]
        for unknown in ("envFrom", "lifecycle"):
            if container.get(unknown):
                raise WorkloadError(f"{name}: the container's {unknown} is not supported here")
        if spec.get("initContainers"):
            raise WorkloadError(f"{name}: init containers are not supported here")
        directory.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory))
        account = str(spec.get("serviceAccountName", "default"))
        volumes = pod_emulation.PodVolumes(plane, namespace, account, folder / "volumes")
        places = volumes.mount(spec.get("volumes", []), container.get("volumeMounts", []))
        fields = {"metadata.name": name, "metadata.namespace": namespace, "spec.serviceAccountName": account}
        env = pod_emulation.container_environment(
            container.get("env", []), fields, places, pod_emulation.secret_reader(plane, namespace)
        )
        env = IMAGE_ENVIRONMENT | env
        env |= {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            **plane.account_environment(namespace, account, folder / "account"),
            "LISTEN_ADDRESS": "127.0.0.1",
        }
        words = [*(container.get("command") or _ENTRYPOINT), *container.get("args", [])]
        if words[:3] != _ENTRYPOINT[:3]:
            raise WorkloadError(f"{name}: only `{' '.join(_ENTRYPOINT[:3])}` is supported here, not {words[:3]}")
        args = [pod_emulation.replace_paths(pod_emulation.expand_variables(word, env), places) for word in words[3:]]
        ready = container.get("readinessProbe", {}).get("httpGet", {}).get("path", "/readyz")
        return cls(name, folder, args, env, ready, account, volumes)

    @property
    def url(self) -> str:
        """Return the address of the metrics."""
        return f"http://127.0.0.1:{self.env['LISTEN_PORT']}"

    @property
    def health_url(self) -> str:
        """Return the address of the probes."""
        return f"http://127.0.0.1:{self.env['HEALTH_PORT']}"

    @property
    def running(self) -> bool:
        """Return whether the process was started, and has neither been stopped nor ended by itself."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the id of the process that was started last. It may have ended by itself, see `running`."""
        return self._running_process().pid

    def start(self) -> None:
        """Start the process. Do not wait until it is ready."""
        if self._process:
            raise WorkloadError(f"{self._name} runs already")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.python, "-P", "-c", _RUN_MODULE, *self.args],
                cwd=self._folder,
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # only the parent handles Ctrl-C
            )

    def wait_ready(self, timeout: float = 20.0) -> None:
        """Wait until the readiness probe succeeds. If it does not, raise an error with the end of the log."""
        deadline = time.monotonic() + timeout
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        last = "no answer"
        while time.monotonic() < deadline:
            if self._running_process().poll() is not None:
                code = self.wait(0)
                raise WorkloadError(f"{self._name} ended with code {code}:\n{self.tail()}")
            try:
                with opener.open(self.health_url + self._ready_path, timeout=2.0):
                    return
            except urllib.error.HTTPError as error:
                with error:
                    last = f"{error.code} {error.read().decode(errors='replace').strip()}"
            except OSError as error:
                last = str(error)
            time.sleep(_POLL_SECONDS)
        raise WorkloadError(f"{self._name} was not ready after {timeout:g} s ({last}):\n{self.tail()}")

    def wait(self, timeout: float = 60.0) -> int:
        """Wait until the process ends by itself, as a Job does. Return its exit code, or the negative signal number."""
        process = self._running_process()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise WorkloadError(f"{self._name} still runs after {timeout:g} s:\n{self.tail()}") from error
        assert process.stdin is not None  # noqa: S101
        process.stdin.close()
        self._process = None
        return code

    def stop(self, timeout: float = 20.0) -> int:
        """Send SIGTERM and return the exit code. After `timeout` seconds, send SIGKILL and raise an error."""
        self._running_process().send_signal(signal.SIGTERM)
        try:
            return self.wait(timeout)
        except WorkloadError:
            self.kill()
            raise

    def kill(self) -> None:
        """Send SIGKILL if the process runs."""
        if self._process:
            self._process.kill()
            self.wait()

    def tail(self, lines: int = 12) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        if not self._process:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _running_process(self) -> subprocess.Popen[bytes]:
        if not self._process:
            raise WorkloadError(f"{self._name} was not started, or was stopped")
        return self._process
