"""Test the demo as users start it: its claims are true, a false claim ends it, and no process or file remains."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.cli.common import helm, sse_guide
from tools.demonstration import demo
from tools.demonstration.stage import Console
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
TITLES = re.compile(r"^=== \d+\. (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """Provide a cluster that exists before the demo starts."""
    with ControlPlane() as running:
        yield running


def start_demo(scratch: Path, *args: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [ROOT / "tools" / "demo", *args],
        cwd="/",
        env=os.environ | {"TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def list_leftovers(scratch: Path) -> list[str]:
    """Wait up to five seconds until no file and no process of the scratch folder remains. Return what remains."""
    for _ in range(50):
        found = [path.name for path in scratch.iterdir()]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                known = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            except OSError:  # the process has ended or belongs to another user
                continue
            if str(scratch).encode() in known and process.name != str(os.getpid()):
                found.append(process.name)
        if not found:
            return []
        time.sleep(0.1)
    return found


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return the output of the process up to the line with this text."""
    assert process.stdout
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"the demo ended before it printed {text!r}:\n{seen}")


def run_kubectl(kubeconfig: Path, plane: ControlPlane, *args: str) -> str:
    return plane.kubectl(*args, kubeconfig=kubeconfig, check=False)


def test_demo_runs_to_its_end(tmp_path: Path) -> None:
    process = start_demo(tmp_path)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert len(TITLES.findall(output)) == 9
    assert re.findall(r"^Hello.$", output, re.MULTILINE) == [
        *("Hello2", "Hello!"),
        *("Hello3", "Hello2"),
        *("Hello3", "Hello2"),
        *("Hello3", "Hello2"),
        *("Hello4", "Hello3"),
    ]
    assert "ProviderError" in output
    assert "was refused" in output
    for command in ("kubectl apply -f ./spc.yaml", "helm install azure-secret-store ./chart"):
        assert f"$ {command}" in output
    times = [float(seconds) for seconds in re.findall(r"^ +([\d.]+) s  ", output, re.MULTILINE)]
    assert len(times) == 10
    assert times[-1] == pytest.approx(sum(times[:-1]), abs=1)
    assert "Nothing is left running" in output
    assert list_leftovers(tmp_path) == []


def test_ctrl_c_stops_all_processes(tmp_path: Path) -> None:
    process = start_demo(tmp_path)
    output = read_until(process, "$ kubectl apply -f ./ss.yaml")
    (pid,) = re.findall(r"process (\d+) is ready", output)
    assert Path(f"/proc/{pid}").exists()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "nothing is left running" in rest
    assert "Traceback" not in rest
    assert list_leftovers(tmp_path) == []


def test_demo_on_an_existing_cluster_removes_its_objects(plane: ControlPlane, tmp_path: Path) -> None:
    refused = start_demo(tmp_path, "--kubeconfig", plane.kubeconfig)
    output, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert plane.url in output
    assert "add --yes" in output
    before = plane.kubectl("get", "namespaces,crds", "--output=name")

    process = start_demo(tmp_path, "--kubeconfig", plane.kubeconfig, "--yes", "--keep")
    output = read_until(process, "To stop and remove everything")
    assert "is not restarted" in output
    (kubeconfig,) = re.findall(r"export KUBECONFIG=(\S+)", output)
    value = run_kubectl(
        Path(kubeconfig), plane, "get", "secret", sse_guide.SYNC_NAME, "-n", "my-namespace", "-o", "name"
    )
    assert value == f"secret/{sse_guide.SYNC_NAME}\n"
    assert plane.kubectl("get", "deployment", "-n", helm.RELEASE, "-o", "jsonpath={.items[*].spec.replicas}") == "0"
    (pid,) = re.findall(r"kill (\d+)$", output, re.MULTILINE)
    os.kill(int(pid), signal.SIGTERM)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0, rest
    assert plane.kubectl("get", "namespaces,crds", "--output=name") == before
    for kind in ("clusterroles", "clusterrolebindings", "validatingadmissionpolicies"):
        assert "akv-secret-store" not in plane.kubectl("get", kind, "--output=name")
    assert list_leftovers(tmp_path) == []


def test_existing_namespace_is_refused(plane: ControlPlane, tmp_path: Path) -> None:
    plane.kubectl("create", "namespace", "my-namespace")
    try:
        process = start_demo(tmp_path, "--kubeconfig", plane.kubeconfig, "--yes")
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "the namespace my-namespace exists" in output
    finally:
        plane.kubectl("delete", "namespace", "my-namespace")


def test_false_claim_ends_the_demo(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The vault never has the first value, because the second value replaces it.
    set_secret = Emulator.set_secret

    def set_wrong_secret(self: Emulator, vault: str, name: str, value: str) -> str:
        return set_secret(self, vault, name, "Hello2" if value == "Hello!" else value)

    monkeypatch.setattr(Emulator, "set_secret", set_wrong_secret)
    wait = Console.wait
    monkeypatch.setattr(Console, "wait", lambda self, what, probe, wanted, _: wait(self, what, probe, wanted, 4))
    with monkeypatch.context() as patch:
        patch.setattr(demo, "end_on_signals", lambda: None)  # this process keeps its signal handlers
        assert demo.main(["--kubeconfig", str(plane.kubeconfig), "--yes"]) == 1
    output = capsys.readouterr()
    assert "expected the Secret within 4 s: ('Hello2', 'Hello!'), found ('Hello2', 'Hello2')" in output.err
    assert "end of the controller's log" in output.out
    assert "my-namespace" not in plane.kubectl("get", "namespaces", "--output=name")


def test_missing_kubeconfig_of_the_demo_exits_with_code_2() -> None:
    done = subprocess.run(
        [ROOT / "tools" / "demo", "--kubeconfig", "/nowhere"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "/nowhere: there is no such file" in done.stderr
