"""Install, upgrade and uninstall the chart on a node with helm, read its pods, and check that it syncs."""

import json
from pathlib import Path
from typing import Any

from tests.support.cluster.harness import TIMEOUT, eventually, version_flags
from tests.support.cluster.namespace import Namespace
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
        """Return the name of the objects of the release."""
        return f"{self.name}-akv-secret-store"

    @property
    def user(self) -> str:
        """Return the name of the controller in the audit log."""
        return f"system:serviceaccount:{self.namespace}:{self.full_name}"

    def make_namespace(self) -> None:
        """Create the release's namespace. It enforces the Pod Security level "restricted"."""
        self.plane.kubectl("create", "namespace", self.namespace)
        self.plane.kubectl("label", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted")

    def install(self, *flags: str) -> str:
        """Run `helm install --wait`. Return its output."""
        return self._helm("install", self.name, *self._chart(), *flags)

    def upgrade(self, *flags: str) -> None:
        """Run `helm upgrade --wait` with the same chart and these flags."""
        self._helm("upgrade", self.name, *self._chart(), *flags)

    def rollback(self) -> None:
        """Run `helm rollback --wait` to the previous revision."""
        self._helm("rollback", self.name, "--wait")

    def uninstall(self) -> None:
        """Run `helm uninstall --wait`."""
        self._helm("uninstall", self.name, "--wait")

    def test(self) -> str:
        """Run `helm test --logs`. Return its output. Raise `helm.HelmError` if the test fails."""
        return self._helm("test", self.name, "--logs")

    def kubectl(self, *args: str, check: bool = True) -> str:
        """Run kubectl as cluster-admin in the release's namespace."""
        return self.plane.kubectl("--namespace", self.namespace, *args, check=check)

    @property
    def selector(self) -> str:
        """Return the label selector of the pods of the controller."""
        return f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=controller"

    def list_pods(self) -> list[Pod]:
        """Return the controller's current pods."""
        found = json.loads(self.kubectl("get", "pods", "--selector", self.selector, "--output", "json"))["items"]
        return list(found)

    def wait_pod(self) -> Pod:
        """Wait until the controller has exactly one pod and it is Ready. Return this pod."""
        [pod] = eventually(self.list_pods, lambda found: len(found) == 1 and is_ready(found[0]), PATIENCE)
        return dict(pod)

    def wait_restart(self, restarts: int) -> Pod:
        """Wait until the container's restart count has this value. Return the state in which it terminated before."""
        status = eventually(
            lambda: self.wait_pod()["status"]["containerStatuses"][0],
            lambda it: it["restartCount"] == restarts,
            PATIENCE,
        )
        return dict(status["lastState"]["terminated"])

    def list_terminations(self) -> list[Pod]:
        """Return the last terminated state of each restarted container, except those of pods that are being deleted."""
        staying = (pod for pod in self.list_pods() if "deletionTimestamp" not in pod["metadata"])
        containers = (each for pod in staying for each in pod["status"].get("containerStatuses", []))
        return [each["lastState"]["terminated"] for each in containers if "terminated" in each["lastState"]]

    def _chart(self) -> list[str]:
        return [str(helm.CHART), "--values", str(self._values), *version_flags(self.plane), "--wait"]

    def _helm(self, *args: str) -> str:
        connection = ["--namespace", self.namespace, "--kubeconfig", str(self.plane.kubeconfig)]
        try:
            return helm.run([*args, *connection, "--timeout", "2m"], executable=self.executable)
        except helm.HelmError as error:
            self.plane.check()
            raise helm.HelmError(f"{error}; {self._describe_pods()}\n{self._describe_events()}") from error

    def _describe_pods(self) -> str:
        """Return the states of the pods, because helm does not report the pods that it waited for.

        The result is one line, because the summary of a test shows only complete lines.
        """
        pods = json.loads(self.kubectl("get", "pods", "--output=json"))["items"]
        states = {pod["metadata"]["name"]: pod["status"].get("containerStatuses", pod["status"]) for pod in pods}
        return f"its pods: {json.dumps(states)}"

    def _describe_events(self) -> str:
        return self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)


def is_ready(pod: Pod) -> bool:
    """Return whether a pod is Ready and is not being deleted."""
    conditions = pod["status"].get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        (each["type"], each["status"]) == ("Ready", "True") for each in conditions
    )


def assert_rotates(shop: Namespace, text: str, patience: float = TIMEOUT) -> None:
    """Check that the running controller syncs a new value of the SecretSync `db`."""
    shop.set_secret("db", text)
    shop.force_sync("db")
    shop.wait_secret("db", {"password": text}, patience)


def list_watch_events(shop: Namespace, since: str) -> list[str]:
    """Return the watch events of the Secret `db` after this resourceVersion."""
    where = f"/api/v1/namespaces/{shop.name}/secrets?watch=true&fieldSelector=metadata.name%3Ddb&timeoutSeconds=1"
    lines = shop.installed.plane.kubectl("get", "--raw", f"{where}&resourceVersion={since}").splitlines()
    return [json.loads(line)["type"] for line in lines]
