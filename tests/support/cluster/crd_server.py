"""A control plane whose CRDs a test replaces, and the chart's Job that updates them."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.cluster.harness import eventually, version_flags
from tools.cli.common import helm
from tools.codegen import crds
from tools.local_cluster import ControlPlane

ROOT = Path(__file__).resolve().parents[3]
HOME = "crd-room"
NAMES = SYNCS, CLASSES, AKV_SYNCS = tuple(crd["metadata"]["name"] for crd in crds.build_all())
Manifest = dict[str, Any]
CHARTS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((helm.CHART / "crds").glob("*.yaml"))}


@dataclass(frozen=True)
class EndedProgram:
    """The exit code and the output of a program."""

    code: int
    out: str


class CrdServer:
    """A control plane of one test module, whose CRDs the tests replace."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.plane = plane
        self._folder = folder
        version = ["--kube-version", plane.version, *version_flags(plane)]
        hooks = helm.run(["template", "mine", str(helm.CHART), "--namespace", HOME, "--skip-tests", *version])
        made = [m for m in yaml.safe_load_all(hooks) if m and "helm.sh/hook" in m["metadata"].get("annotations", {})]
        self.job = next(m for m in made if m["kind"] == "Job")
        [config] = [m for m in made if m["kind"] == "ConfigMap"]
        self.crds = folder / "crds"
        self.crds.mkdir()
        for name, text in config["data"].items():
            (self.crds / name).write_text(text)
        plane.kubectl("create", "namespace", HOME)
        for each in made:
            if each["kind"] != "Job":
                plane.kubectl("apply", "-f", "-", stdin=json.dumps(each))
        self.account = self.job["spec"]["template"]["spec"]["serviceAccountName"]
        self._kubeconfig = plane.service_account_kubeconfig(HOME, self.account)

    def apply(self, *made: Manifest) -> EndedProgram:
        """Apply objects with server-side apply."""
        return self.kubectl(
            "apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": made})
        )

    def kubectl(self, *args: str, stdin: str = "") -> EndedProgram:
        """Run kubectl as cluster-admin. Return its exit code and its output."""
        command = [str(self.plane.kubectl_path), "--kubeconfig", str(self.plane.kubeconfig), *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
        return EndedProgram(done.returncode, done.stdout + done.stderr)

    def serve_crds(self, *definitions: Manifest) -> None:
        """Serve these CRDs, and no others."""
        self.remove_crds()
        for each in definitions:
            made = self.kubectl("create", "-f", "-", stdin=json.dumps(each))
            assert made.code == 0, made.out
            self.kubectl("wait", "--for=condition=Established", f"crd/{each['metadata']['name']}", "--timeout=30s")

    def remove_crds(self) -> None:
        """Delete the chart's CRDs. A CRD that is deleted while its storage is created must be deleted again."""
        delete = ["delete", "crd", *NAMES, "--ignore-not-found", "--timeout=10s"]
        eventually(lambda: self.kubectl(*delete), lambda done: done.code == 0, patience=60)

    def get_crd(self, name: str) -> Manifest:
        """Return the served CRD of that name."""
        return self.plane.read_object(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")

    def as_job(self, *args: str, stdin: str = "") -> EndedProgram:
        """Run kubectl with the Job's token."""
        return self.kubectl(*args, "--kubeconfig", str(self._kubeconfig), stdin=stdin)

    def run_upgrade(self) -> EndedProgram:
        """Run the Job's program with the Job's token. Return its exit code and its output."""
        command = [sys.executable, "-P", "-m", "controller", "upgrade-crds", str(self.crds)]
        env = {"PYTHONPATH": str(ROOT), "KUBECONFIG": str(self._kubeconfig)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
        return EndedProgram(done.returncode, done.stdout + done.stderr)


def sync_manifest(name: str = "thing", **spec: Any) -> Manifest:
    data = spec.pop("data", [{"sourcePath": "a/0", "targetKey": "k"}])
    return {
        "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
        "kind": "SecretSync",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "secretProviderClassName": "shop",
            "serviceAccountName": "shop",
            "secretObject": {"data": data, **spec.pop("secretObject", {})},
            **spec,
        },
    }


def data_pair(source: str = "a", key: str = "k") -> list[dict[str, str]]:
    return [{"sourcePath": source, "targetKey": key}]
