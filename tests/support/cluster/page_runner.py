"""Run a page from top to bottom: its commands, manifests and outputs.

- A `console` block runs in a shell that keeps its folder and variables from block to block.
- A `text` block after it is the expected output, in which … matches any text.
- A `yaml` block with a kind is applied, and the runner waits for its SecretSyncs. Without a kind it is a values file of
  the chart, and helm renders it.
"""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster.harness import KIND_PATHS, TENANT, InstalledRelease
from tests.support.pages import ROOT, Block, matches_output
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.pods.pod_process import PodProcess

PATIENCE = 30.0
_SHELL = """\
set -euo pipefail
[ ! -e {state} ] || . {state}
{text}
{{ export -p; printf 'cd %q\\n' "$PWD"; }} > {state}
"""
_READS = ("kubectl get ", "kubectl describe ", "tools/doctor ", "export ", "#")
# Kinds that the chart's values may need and this cluster does not serve (cert-manager, trust-manager).
_EXTRA_KINDS = ("cert-manager.io/v1/Certificate", "trust.cert-manager.io/v1alpha1/Bundle")
_SYNCED = ("SecretSync", "AKVSync")


class PageRunner:
    """Run one page with its own cluster and its own Azure.

    `substitutions` maps texts of the page to their replacements. `folder` becomes the current folder, with links to
    the checkout. A process runs the release's Deployment, because there is no node.
    """

    def __init__(self, plane: ControlPlane, emulator: Emulator, folder: Path, instead: Mapping[str, str]) -> None:
        self.plane, self.emulator, self.folder, self.substitutions = plane, emulator, folder, dict(instead)
        self._programs = folder / ".programs"
        self._programs.mkdir()
        for name in ("chart", "tools"):
            (folder / name).symlink_to(ROOT / name)
        for name, path in (("kubectl", plane.kubectl_path), ("helm", helm.find_executable())):
            (self._programs / name).symlink_to(path)
        self._env = {
            **helm.isolated_environment(folder / ".helm"),
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "KUBECONFIG": str(plane.kubeconfig),
            # The cluster has its own CA. Users' machines trust the public CA of their cluster's issuer.
            "SSL_CERT_FILE": str(plane.ca_file),
        }
        self._controller: PodProcess | None = None
        self._running: list[tuple[str, Any]] = []

    def add_program(self, name: str, *command: str) -> None:
        """Put a program on the PATH that runs this command."""
        path = self._programs / name
        path.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {shlex.join(command)} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def add_az(self, **world: Any) -> None:
        """Put `az` on the PATH, with the emulator as its Azure. `world` is the state at the start."""
        control = json.loads((self.emulator.directory / "connection.json").read_text())["control"]
        world |= {"directory": str(self.emulator.directory), "port": int(control.rpartition(":")[2])}
        (self.folder / ".azure.json").write_text(json.dumps({**world, "issuer": self.plane.issuer, "tenant": TENANT}))
        self.add_program("az", sys.executable, "-P", "-m", "tests.support.cluster.az", str(self.folder / ".azure.json"))

    def run_blocks(self, blocks: Iterable[Block]) -> None:
        """Run the blocks in their order."""
        before: Block | None = None
        waiting = list(blocks)
        for at, block in enumerate(waiting):
            shown = waiting[at + 1] if at + 1 < len(waiting) and waiting[at + 1].language == "text" else None
            match block.language:
                case "console":
                    self._type(block, shown)
                case "yaml":
                    self._apply(block)
                case "text":
                    assert getattr(before, "language", "") == "console", (
                        f"{block}: a text block follows a console block"
                    )
                case other:
                    pytest.fail(f"{block}: the runner cannot run a block of {other or 'no language'}")
            before = block
            if "helm " in block.text or "kubectl " in block.text:
                self._run_deployment()

    def stop(self) -> None:
        """Stop the controller."""
        if self._controller:
            self._controller.kill()

    def _type(self, block: Block, shown: Block | None) -> None:
        """Run a block. Repeat a block that only reads until its output matches, as a person would."""
        text = self.substitute(block.text)
        again = shown and all(line.startswith(_READS) for line in list_commands(text))
        deadline = time.monotonic() + (PATIENCE if again else 0)
        done = self._shell(text)
        while not (
            right := done.returncode == 0 and (not shown or matches_output(done.stdout, self.substitute(shown.text)))
        ):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.2)
            done = self._shell(text)
        if right:
            return
        wanted = f"\n--- wanted, line {shown.line}\n{shown.text}" if shown else ""
        log = f"\n--- the controller's log\n{self._controller.tail()}" if self._controller else ""
        pytest.fail(f"{block}, exit code {done.returncode}\n{text}--- found\n{done.stdout}{done.stderr}{wanted}{log}")

    def _apply(self, block: Block) -> None:
        text = self.substitute(block.text)
        objects = [item for item in yaml.safe_load_all(text) if item]
        if not any("kind" in item for item in objects):
            served = [word for kind in _EXTRA_KINDS for word in ("--api-versions", kind)]
            helm.run(["template", helm.RELEASE, str(helm.CHART), "--values", "-", *served], stdin=text)
            return
        self.plane.kubectl("apply", "--filename", "-", stdin=text)
        for item in objects:
            if item["kind"] in _SYNCED:
                name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
                what = f"{item['kind']}/{name}"
                self.plane.kubectl("wait", what, "--namespace", namespace, "--for=condition=Ready", "--timeout=30s")

    def substitute(self, text: str) -> str:
        """Return a text of the page with the substitutions applied."""
        for original, replacement in self.substitutions.items():
            text = text.replace(original, replacement)
        return text

    def _shell(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", _SHELL.format(state=self.folder / ".state", text=text)],
            cwd=self.folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def _run_deployment(self) -> None:
        """Run the Deployment as it is now, and report its pod as ready."""
        listed = self.plane.read_object(KIND_PATHS["deployment"].format(helm.RELEASE))["items"]
        found = [(item["metadata"]["uid"], item["spec"]["template"]) for item in listed]
        if found == self._running:
            return
        if self._controller:
            self._controller.stop()
            self._controller = None
        if not self._running:
            # The controller manager discovers new kinds only every 30 s.
            self.plane.restart_controller_manager()
        self._running = found
        if found:
            installed = InstalledRelease(self.plane, self.emulator, helm.RELEASE, self.folder)
            self._controller = installed.workload()
            self._controller.start()
            self._controller.wait_ready()
            installed.make_available()


def list_commands(text: str) -> list[str]:
    """Return the lines that begin a command."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [line for line in lines if line.strip()]
