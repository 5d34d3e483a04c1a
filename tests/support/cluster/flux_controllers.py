"""Run Flux's own controllers with a control plane, and with a registry for their artifacts."""

import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.chart import registry
from tests.support.cluster.harness import eventually
from tools.local_cluster import ControlPlane
from tools.local_cluster.ports import PortClaim
from tools.local_cluster.processes import ServerProcesses

REQUESTED = "reconcile.fluxcd.io/requestedAt"
_SOURCES = "/apis/source.toolkit.fluxcd.io/v1"
_PATHS = {
    "helmchart": f"{_SOURCES}/namespaces/{{}}/helmcharts",
    "helmrelease": "/apis/helm.toolkit.fluxcd.io/v2/namespaces/{}/helmreleases",
    "kustomization": "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/{}/kustomizations",
    "ocirepository": f"{_SOURCES}/namespaces/{{}}/ocirepositories",
}
Manifest = dict[str, Any]


class FluxControllers:
    """source-controller and another controller. The folders of the executables `programs` have the CRDs."""

    def __init__(self, plane: ControlPlane, store: registry.Registry, folder: Path, *programs: Path) -> None:
        self.plane, self.store = plane, store
        self._processes, self._folder, self._port = ServerProcesses(), folder, PortClaim()
        self._requests = itertools.count(1)
        self._names = [program.name for program in programs]
        for crds in {program.parent / "config" / "crd" / "bases" for program in programs}:
            plane.kubectl("apply", "--server-side", "--filename", str(crds))
            # A controller ends if its kinds are not served yet.
            plane.kubectl("wait", "--for=condition=Established", "--filename", str(crds), "--timeout=60s")
        served = f"127.0.0.1:{self._port.port}"
        storage = [f"--storage-path={folder}", f"--storage-addr={served}", f"--storage-adv-addr={served}"]
        for program in programs:
            self._start_program(program, storage if program.name == "source-controller" else [])

    def _start_program(self, program: Path, flags: list[str]) -> None:
        own = ["--metrics-addr=0", "--health-addr=0", "--log-encoding=json", *flags]
        command = ["env", f"KUBECONFIG={self.plane.kubeconfig}", "NO_PROXY=*", str(program), *own]
        self._processes.start(program.name, command, self._folder / f"{program.name}.log")

    def stop_controllers(self) -> None:
        """Stop both controllers."""
        self._processes.close()

    def apply_objects(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects with kubectl."""
        self.plane.kubectl("apply", "--filename", "-", stdin=yaml.safe_dump_all(objects))

    def get_object(self, kind: str, name: str, namespace: str) -> Manifest:
        """Return one of Flux's objects. Raise `ClusterError` if a controller has ended."""
        for program in self._names:
            self._processes.require(program)
        return self.plane.read_object(f"{_PATHS[kind].format(namespace)}/{name}")

    def reconcile_object(self, kind: str, name: str, namespace: str, patience: float) -> Manifest:
        """Request a reconciliation, and wait until the object is ready after it. Return the object."""
        requested = f"request-{next(self._requests)}"
        at = ("--namespace", namespace, "--overwrite", f"{REQUESTED}={requested}")
        self.plane.kubectl("annotate", kind, name, *at)
        return eventually(
            functools.partial(self.get_object, kind, name, namespace),
            lambda found: found.get("status", {}).get("lastHandledReconcileAt") == requested and is_ready(found),
            patience,
        )


def find_condition(found: Manifest, kind: str) -> Manifest:
    """Return the condition of that type for this generation, or {} if there is none."""
    generation = found["metadata"]["generation"]
    conditions = found.get("status", {}).get("conditions", [])
    return next((each for each in conditions if (each["type"], each["observedGeneration"]) == (kind, generation)), {})


def is_ready(found: Manifest) -> bool:
    """Return whether the object is ready in this generation.

    Flux writes the conditions in a separate request, before the other fields of the status.
    """
    return find_condition(found, "Ready").get("status") == "True"
