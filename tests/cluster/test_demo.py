"""The demo as people start it: its claims hold, a claim that does not hold ends it, and it leaves nothing behind."""

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

ROOT = Path(__file__).resolve().parents[2]
TITLES = re.compile(r"^=== \d+\. (.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """Provide an existing cluster."""
    with ControlPlane() as running:
        yield running


def start(scratch: Path, *args: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [ROOT / "tools" / "demo", *args],
        cwd="/",
        env=os.environ | {"TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left_behind(scratch: Path) -> list[str]:
    """Files in the scratch folder, and processes that know of it, up to five seconds after the end."""
    for _ in range(50):
        found = [path.name for path in scratch.iterdir()]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                known = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            except OSError:  # it has ended, or belongs to another user
                continue
            if str(scratch).encode() in known and process.name != str(os.getpid()):
                found.append(process.name)
        if not found:
            return []
        time.sleep(0.1)
    return found


def until(process: subprocess.Popen[str], text: str) -> str:
    """Return what it prints up to the line with that text."""
    assert process.stdout
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"it ended before it printed {text!r}:\n{seen}")


def read(kubeconfig: Path, plane: ControlPlane, *args: str) -> str:
    return plane.kubectl(*args, kubeconfig=kubeconfig, check=False)


def test_the_whole_story(tmp_path: Path) -> None:
    process = start(tmp_path)
    told, _ = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert len(TITLES.findall(told)) == 9
    assert re.findall(r"^Hello.$", told, re.MULTILINE) == [
        *("Hello2", "Hello!"),
        *("Hello3", "Hello2"),
        *("Hello3", "Hello2"),
        *("Hello3", "Hello2"),
        *("Hello4", "Hello3"),
    ]
    assert "ProviderError" in told
    assert "was refused" in told
    for command in ("kubectl apply -f ./spc.yaml", "helm install azure-secret-store ./chart"):
        assert f"$ {command}" in told
    times = [float(seconds) for seconds in re.findall(r"^ +([\d.]+) s  ", told, re.MULTILINE)]
    assert len(times) == 10
    assert times[-1] == pytest.approx(sum(times[:-1]), abs=1)
    assert "Nothing is left running" in told
    assert left_behind(tmp_path) == []


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    process = start(tmp_path)
    told = until(process, "$ kubectl apply -f ./ss.yaml")
    (pid,) = re.findall(r"process (\d+) is ready", told)
    assert Path(f"/proc/{pid}").exists()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "nothing is left running" in rest
    assert "Traceback" not in rest
    assert left_behind(tmp_path) == []


def test_a_cluster_that_one_has(plane: ControlPlane, tmp_path: Path) -> None:
    refused = start(tmp_path, "--kubeconfig", plane.kubeconfig)
    told, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert plane.url in told
    assert "add --yes" in told
    before = plane.kubectl("get", "namespaces,crds", "--output=name")

    process = start(tmp_path, "--kubeconfig", plane.kubeconfig, "--yes", "--keep")
    told = until(process, "To stop and remove everything")
    assert "is not restarted" in told
    (kubeconfig,) = re.findall(r"export KUBECONFIG=(\S+)", told)
    value = read(Path(kubeconfig), plane, "get", "secret", sse_guide.SYNC_NAME, "-n", "my-namespace", "-o", "name")
    assert value == f"secret/{sse_guide.SYNC_NAME}\n"
    assert plane.kubectl("get", "deployment", "-n", helm.RELEASE, "-o", "jsonpath={.items[*].spec.replicas}") == "0"
    (pid,) = re.findall(r"kill (\d+)$", told, re.MULTILINE)
    os.kill(int(pid), signal.SIGTERM)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0, rest
    assert plane.kubectl("get", "namespaces,crds", "--output=name") == before
    for kind in ("clusterroles", "clusterrolebindings", "validatingadmissionpolicies"):
        assert "akv-secret-store" not in plane.kubectl("get", kind, "--output=name")
    assert left_behind(tmp_path) == []


def test_a_namespace_of_somebody_elses_is_not_taken(plane: ControlPlane, tmp_path: Path) -> None:
    plane.kubectl("create", "namespace", "my-namespace")
    try:
        process = start(tmp_path, "--kubeconfig", plane.kubeconfig, "--yes")
        told, _ = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "the namespace my-namespace exists" in told
    finally:
        plane.kubectl("delete", "namespace", "my-namespace")


def test_a_claim_that_does_not_hold_ends_it(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The vault's first value never gets there: the second one is set twice.
    real = Emulator.set_secret

    def wrong(self: Emulator, vault: str, name: str, value: str) -> str:
        return real(self, vault, name, "Hello2" if value == "Hello!" else value)

    monkeypatch.setattr(Emulator, "set_secret", wrong)
    patient = Console.wait
    monkeypatch.setattr(Console, "wait", lambda self, what, look, wanted, _: patient(self, what, look, wanted, 4))
    with monkeypatch.context() as patch:
        patch.setattr(demo, "end_on_signals", lambda: None)  # this process keeps its signal handlers
        assert demo.main(["--kubeconfig", str(plane.kubeconfig), "--yes"]) == 1
    told = capsys.readouterr()
    assert "expected the Secret within 4 s: ('Hello2', 'Hello!'), found ('Hello2', 'Hello2')" in told.err
    assert "end of the controller's log" in told.out
    assert "my-namespace" not in plane.kubectl("get", "namespaces", "--output=name")


def test_a_kubeconfig_that_is_not_there_is_bad_input() -> None:
    done = subprocess.run(
        [ROOT / "tools" / "demo", "--kubeconfig", "/nowhere"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "/nowhere: there is no such file" in done.stderr
