"""The chart on a node: installed, upgraded and removed by helm, its pod looked at by kubectl."""

import json
from pathlib import Path
from typing import Any

from tests.support.cluster.harness import eventually, version_flags
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane

PATIENCE = 60.0
Pod = dict[str, Any]


class Release:
    """A release of the chart with its default values, and the emulator as its cloud."""

    def __init__(
        self,
        plane: ControlPlane,
        emulator: Emulator,
        folder: Path,
        name: str = helm.RELEASE,
        executable: Path | None = None,
    ) -> None:
        self.plane, self.emulator = plane, emulator
        self.name = self.namespace = name
        self.executable = executable
        self._values = folder / "values.json"
        self._values.write_text(json.dumps({"clouds": {"emulator": emulator.cloud}, "defaultCloud": "emulator"}))

    @property
    def full_name(self) -> str:
        """As the chart names the release's objects."""
        return f"{self.name}-akv-secret-store"

    @property
    def user(self) -> str:
        """The controller's name in the audit log."""
        return f"system:serviceaccount:{self.namespace}:{self.full_name}"

    def make_namespace(self) -> None:
        """Its namespace, in which only pods of the restricted Pod Security level may run."""
        self.plane.kubectl("create", "namespace", self.namespace)
        self.plane.kubectl("label", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted")

    def install(self, *flags: str) -> str:
        """helm install --wait; what it prints."""
        return self._helm("install", self.name, *self._chart(), *flags)

    def upgrade(self, *flags: str) -> None:
        """helm upgrade --wait, of this very chart with other values."""
        self._helm("upgrade", self.name, *self._chart(), *flags)

    def rollback(self) -> None:
        """helm rollback --wait, to the revision before."""
        self._helm("rollback", self.name, "--wait")

    def uninstall(self) -> None:
        """helm uninstall --wait."""
        self._helm("uninstall", self.name, "--wait")

    def test(self) -> str:
        """helm test --logs; what it prints. `helm.HelmError` where the test failed."""
        return self._helm("test", self.name, "--logs")

    def kubectl(self, *args: str, check: bool = True) -> str:
        """kubectl as cluster-admin, in the release's namespace."""
        return self.plane.kubectl("--namespace", self.namespace, *args, check=check)

    @property
    def selector(self) -> str:
        """Of the controller's pods."""
        return f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=controller"

    def pods(self) -> list[Pod]:
        """Return the controller's, as they are now."""
        found = json.loads(self.kubectl("get", "pods", "--selector", self.selector, "--output", "json"))["items"]
        return list(found)

    def pod(self) -> Pod:
        """Return the controller's pod, once there is one alone and it is Ready."""
        [pod] = eventually(self.pods, lambda found: len(found) == 1 and ready(found[0]), PATIENCE)
        return dict(pod)

    def ended(self, restarts: int) -> Pod:
        """How the container ended the last time, once it was started again for the `restarts`th time."""
        status = eventually(
            lambda: self.pod()["status"]["containerStatuses"][0], lambda it: it["restartCount"] == restarts, PATIENCE
        )
        return dict(status["lastState"]["terminated"])

    def ends(self) -> list[Pod]:
        """How the container of each pod that is to stay ended the last time, if it was started again."""
        staying = (pod for pod in self.pods() if "deletionTimestamp" not in pod["metadata"])
        containers = (each for pod in staying for each in pod["status"].get("containerStatuses", []))
        return [each["lastState"]["terminated"] for each in containers if "terminated" in each["lastState"]]

    def _chart(self) -> list[str]:
        return [str(helm.CHART), "--values", str(self._values), *version_flags(self.plane), "--wait"]

    def _helm(self, *args: str) -> str:
        at = ["--namespace", self.namespace, "--kubeconfig", str(self.plane.kubeconfig)]
        try:
            return helm.run([*args, *at, "--timeout", "2m"], executable=self.executable)
        except helm.HelmError as error:
            self.plane.check()
            raise helm.HelmError(f"{error}; {self._describe_pods()}\n{self._describe_events()}") from error

    def _describe_pods(self) -> str:
        """Return one line, which a test's summary shows whole: helm does not say what it waited for."""
        pods = json.loads(self.kubectl("get", "pods", "--output=json"))["items"]
        states = {pod["metadata"]["name"]: pod["status"].get("containerStatuses", pod["status"]) for pod in pods}
        return f"its pods: {json.dumps(states)}"

    def _describe_events(self) -> str:
        return self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)


def ready(pod: Pod) -> bool:
    """Whether it is Ready and not on its way out."""
    conditions = pod["status"].get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        (each["type"], each["status"]) == ("Ready", "True") for each in conditions
    )
