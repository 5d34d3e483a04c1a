"""Somebody who follows a page from top to bottom: types every command, applies every manifest, compares what is shown.

A `console` block is typed into one shell, which keeps its folder and variables from block to block. A `text` block
behind it is what it prints, where … stands for anything. A `yaml` block is applied, and what it syncs is waited for;
without a kind it is a file of the chart's values, which is rendered.
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

from tests.cluster.world import TENANT, Installed
from tests.pages import ROOT, Block, alike
from tools import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.workload import Workload

PATIENCE = 30.0
_SHELL = """\
set -euo pipefail
[ ! -e {state} ] || . {state}
{text}
{{ export -p; printf 'cd %q\\n' "$PWD"; }} > {state}
"""
_READS = ("kubectl get ", "kubectl describe ", "tools/doctor ", "export ", "#")
# What values may ask for, of those whom this cluster does not have: cert-manager and trust-manager.
_ASKED_FOR = ("cert-manager.io/v1/Certificate", "trust.cert-manager.io/v1alpha1/Bundle")
_SYNCED = ("SecretSync", "AKVSync")


class Reader:
    """One reader of one page, with a cluster and an Azure of their own.

    `instead` is what differs here from what the page says: a text and what takes its place. `folder` becomes the
    checkout that the reader stands in. Where a node would run the release's Deployment, a process does.
    """

    def __init__(self, plane: ControlPlane, emulator: Emulator, folder: Path, instead: Mapping[str, str]) -> None:
        self.plane, self.emulator, self.folder, self.instead = plane, emulator, folder, dict(instead)
        self._programs = folder / ".programs"
        self._programs.mkdir()
        for name in ("chart", "tools"):
            (folder / name).symlink_to(ROOT / name)
        for name, path in (("kubectl", plane.kubectl_path), ("helm", helm.program())):
            (self._programs / name).symlink_to(path)
        self._env = {
            **helm.environment(folder / ".helm"),
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "KUBECONFIG": str(plane.kubeconfig),
            # A public issuer's certificate is one that a machine knows; this cluster's is its own.
            "SSL_CERT_FILE": str(plane.ca_file),
        }
        self._controller: Workload | None = None
        self._running: list[tuple[str, Any]] = []

    def program(self, name: str, *command: str) -> None:
        """A program of the reader's that is this command."""
        path = self._programs / name
        path.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {shlex.join(command)} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def azure(self, **world: Any) -> None:
        """`az`, whose Azure is the emulator; `world` is what is there already."""
        control = json.loads((self.emulator.directory / "connection.json").read_text())["control"]
        world |= {"directory": str(self.emulator.directory), "port": int(control.rpartition(":")[2])}
        (self.folder / ".azure.json").write_text(json.dumps({**world, "issuer": self.plane.issuer, "tenant": TENANT}))
        self.program("az", sys.executable, "-P", "-m", "tests.cluster.az", str(self.folder / ".azure.json"))

    def read(self, blocks: Iterable[Block]) -> None:
        """The page's blocks, in their order."""
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
                    assert getattr(before, "language", "") == "console", f"{block} shows what no command printed"
                case other:
                    pytest.fail(f"{block}: nobody knows what to do with a block of {other or 'no language'}")
            before = block
            if "helm " in block.text or "kubectl " in block.text:
                self._be_the_node()

    def end(self) -> None:
        """Stops what it started."""
        if self._controller:
            self._controller.kill()

    def _type(self, block: Block, shown: Block | None) -> None:
        """A block that only reads is read again until it shows what it should: a person looks twice, too."""
        text = self.here(block.text)
        again = shown and all(line.startswith(_READS) for line in _commands(text))
        deadline = time.monotonic() + (PATIENCE if again else 0)
        done = self._shell(text)
        while not (right := done.returncode == 0 and (not shown or alike(done.stdout, self.here(shown.text)))):
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
        text = self.here(block.text)
        objects = [item for item in yaml.safe_load_all(text) if item]
        if not any("kind" in item for item in objects):
            served = [word for kind in _ASKED_FOR for word in ("--api-versions", kind)]
            helm.run(["template", helm.RELEASE, str(helm.CHART), "--values", "-", *served], stdin=text)
            return
        self.plane.kubectl("apply", "--filename", "-", stdin=text)
        for item in objects:
            if item["kind"] in _SYNCED:
                name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
                what = f"{item['kind']}/{name}"
                self.plane.kubectl("wait", what, "--namespace", namespace, "--for=condition=Ready", "--timeout=30s")

    def here(self, text: str) -> str:
        """What the page says, with what differs here."""
        for theirs, ours in self.instead.items():
            text = text.replace(theirs, ours)
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

    def _be_the_node(self) -> None:
        """Runs the Deployment as it is by now, and says so in its pod."""
        listed = self.plane.kubectl("get", "deployments", "--namespace", helm.RELEASE, "--output", "json")
        found = [(item["metadata"]["uid"], item["spec"]["template"]) for item in json.loads(listed)["items"]]
        if found == self._running:
            return
        if self._controller:
            self._controller.stop()
            self._controller = None
        if not self._running:
            # It learns of new kinds only every 30 s.
            self.plane.restart_controller_manager()
        self._running = found
        if found:
            installed = Installed(self.plane, self.emulator, helm.RELEASE, self.folder)
            self._controller = installed.workload()
            self._controller.start()
            self._controller.wait_ready()
            installed.make_available()


def _commands(text: str) -> list[str]:
    """The lines that begin a command."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [line for line in lines if line.strip()]
