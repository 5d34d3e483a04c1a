"""Act as the node of the release's Pods on a control plane without nodes: run hook Jobs, and report Pods as ready."""

import json
import threading
import traceback
from pathlib import Path
from typing import Any

from tools.local_cluster import ControlPlane
from tools.local_cluster.errors import ClusterError
from tools.pods.pod_process import PodProcess

PAUSE = 0.5
_READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}


class PlayedKubelet(threading.Thread):
    """A context manager that acts as the kubelet of the Pods in one namespace.

    It runs each Job's container as a process and reports the result. It reports every other Pod as ready, but ignores
    Pods whose image has a tag of `broken`, like a kubelet that waits for an image. It starts no controller.
    """

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        super().__init__(daemon=True)
        self.broken: set[str] = set()
        self.jobs: list[str] = []
        """The names of the Jobs that ran, in their order."""
        self.problem = ""
        self._plane, self._namespace, self._folder = plane, namespace, folder
        self._ended = threading.Event()

    def __enter__(self) -> "PlayedKubelet":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
        assert not self.problem, self.problem

    def run(self) -> None:
        """Serve the Pods until the context ends."""
        while not self._ended.wait(PAUSE):
            try:
                self._serve_once()
            except Exception:
                self.problem = traceback.format_exc()
                return

    def _serve_once(self) -> None:
        for pod in self._plane.read_object(f"/api/v1/namespaces/{self._namespace}/pods")["items"]:
            if pod["status"]["phase"] != "Pending" or "deletionTimestamp" in pod["metadata"]:
                continue
            owners = pod["metadata"].get("ownerReferences", [])
            if jobs := [owner["name"] for owner in owners if owner["kind"] == "Job"]:
                self._run_job(pod, jobs[0])
            elif not any(_tag(each["image"]) in self.broken for each in pod["spec"]["containers"]):
                self._report(pod, {"phase": "Running", "conditions": [_READY]})

    def _run_job(self, pod: dict[str, Any], job: str) -> None:
        try:
            process = PodProcess.of_job(self._plane, self._namespace, job, self._folder)
        except ClusterError:  # the Job was deleted in the meantime
            return
        with process:
            code = process.wait()
        self.jobs.append(job)
        self._report(pod, {"phase": "Failed" if code else "Succeeded"})

    def _report(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        at = ("--namespace", self._namespace, "--subresource=status", "--type=merge")
        # The Pod may be deleted by now, so ignore an error.
        self._plane.kubectl(
            "patch", "pod", pod["metadata"]["name"], *at, "--patch", json.dumps({"status": status}), check=False
        )


def _tag(image: str) -> str:
    return image.rpartition(":")[2]
