"""Test a container that runs as a process: its environment, its readiness, and its end with the parent process."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster.harness import eventually
from tests.support.pids import wait_until_gone
from tools.pods import pod_emulation
from tools.pods.pod_emulation import WorkloadError
from tools.pods.pod_process import IMAGE_ENVIRONMENT, ROOT, PodProcess

PROGRAM = """
import http.server, os, pathlib, signal, sys, threading
if sys.argv[1:] == ["fail"]:
    sys.exit("it cannot work like this")
if sys.argv[1:] == ["once"]:
    sys.exit(7)
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = pathlib.Path("ready").exists()
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b"" if ready else b"the policies are not in force")
server = http.server.HTTPServer((os.environ["LISTEN_ADDRESS"], int(os.environ["HEALTH_PORT"])), Answers)
if sys.argv[1:] == ["stubborn"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start())
server.serve_forever()
sys.exit(3)
"""


class FakeControlPlane:
    """A fake control plane with at most one object of each kind. It records the calls of kubectl."""

    def __init__(self, folder: Path, **objects: dict[str, Any]) -> None:
        self.folder, self.objects, self.kubectl_calls = folder, objects, list[tuple[str, ...]]()

    def kubectl(self, *args: str) -> str:
        self.kubectl_calls.append(args)
        return "a-token\n"

    def read_object(self, path: str) -> dict[str, Any]:
        found = self.find_object(path)
        assert found is not None, path
        return found

    def find_object(self, path: str) -> dict[str, Any] | None:
        _, plural, _ = path.rsplit("/", 2)
        return self.objects.get(plural.removesuffix("s"))

    def account_environment(self, namespace: str, name: str, folder: Path) -> dict[str, str]:
        return {"ACCOUNT": f"{namespace} {name} {folder.name}"}


def make_deployment(**container: Any) -> dict[str, Any]:
    template = {"spec": {"serviceAccountName": "robot", "containers": [{"name": "c", **container}]}}
    return {"metadata": {"name": "akv", "namespace": "ns"}, "spec": {"template": template}}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Return a folder for PYTHONPATH in which `PROGRAM` is the package `controller`."""
    package = tmp_path / "path" / "controller"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(PROGRAM)
    return package.parent


def make_process(tmp_path: Path, program: Path, *args: str) -> PodProcess:
    deployment = make_deployment(args=list(args), readinessProbe={"httpGet": {"path": "/ready", "port": "http"}})
    workload = PodProcess.of_deployment(
        FakeControlPlane(tmp_path, deployment=deployment), "ns", "akv", tmp_path / "run"
    )
    workload.env["PYTHONPATH"] = str(program)
    return workload


@pytest.fixture
def workload(tmp_path: Path, program: Path) -> Iterator[PodProcess]:
    with make_process(tmp_path, program) as running:
        yield running


def test_process_has_the_environment_of_the_deployment(tmp_path: Path) -> None:
    env = [
        {"name": "LOG_LEVEL", "value": "debug"},
        {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "CLOUDS_FILE", "value": "/etc/clouds/clouds.json"},
        {"name": "EMPTY"},
        {"name": "HTTPS_PROXY", "valueFrom": {"secretKeyRef": {"name": "proxy", "key": "url"}}},
        {"name": "LISTEN_PORT", "value": "8080"},
    ]
    deployment = make_deployment(
        env=env, args=["crds", "/etc/clouds"], volumeMounts=[{"name": "v", "mountPath": "/etc/clouds/"}]
    )
    deployment["spec"]["template"]["spec"]["volumes"] = [{"name": "v", "configMap": {"name": "clouds"}}]
    control_plane = FakeControlPlane(tmp_path, deployment=deployment, configmap={"data": {"clouds.json": "{}"}})
    control_plane.objects["secret"] = {"data": {"url": "aHR0cDovL3Byb3h5"}}
    workload = PodProcess.of_deployment(control_plane, "ns", "akv", tmp_path / "run")
    file = Path(workload.env.pop("CLOUDS_FILE"))
    assert file.read_text() == "{}"
    assert file.is_relative_to(tmp_path / "run")
    assert workload.args == ["controller", "crds", str(file.parent)]
    port = workload.env["LISTEN_PORT"]
    assert workload.url == f"http://127.0.0.1:{port}"
    assert workload.health_url == f"http://127.0.0.1:{workload.env['HEALTH_PORT']}"
    del workload.env["LISTEN_PORT"], workload.env["HEALTH_PORT"]
    assert port != "8080"
    assert workload.env == IMAGE_ENVIRONMENT | {
        "LOG_LEVEL": "debug",
        "POD_NAMESPACE": "ns",
        "POD_NAME": "akv",
        "EMPTY": "",
        "HTTPS_PROXY": "http://proxy",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "ACCOUNT": "ns robot account",
        "LISTEN_ADDRESS": "127.0.0.1",
    }


def test_volumes_are_filled(tmp_path: Path) -> None:
    configmap = {"data": {"a": "one", "b": "two"}, "binaryData": {"c": "/w=="}}
    control_plane = FakeControlPlane(tmp_path, configmap=configmap)
    volumes = [
        {"name": "some", "configMap": {"name": "m", "items": [{"key": "a", "path": "deep/er"}]}},
        {"name": "all", "configMap": {"name": "m"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "unused", "hostPath": {"path": "/"}},
        {
            "name": "both",
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"path": "token", "audience": "api://x", "expirationSeconds": 600}},
                    {"configMap": {"name": "m", "items": [{"key": "b", "path": "b"}]}},
                ]
            },
        },
    ]
    mounts = [
        {"name": "some", "mountPath": "/some"},
        {"name": "all", "mountPath": "/c", "subPath": "c"},
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "both", "mountPath": "/both"},
    ]
    places = pod_emulation.PodVolumes(control_plane, "ns", "robot", tmp_path / "volumes").mount(volumes, mounts)
    assert (places["/some"] / "deep/er").read_text() == "one"
    assert [path.name for path in places["/some"].glob("[!.]*")] == ["deep"]
    assert places["/c"].read_bytes() == b"\xff"
    assert list(places["/tmp"].iterdir()) == []
    assert (places["/both"] / "token").read_text() == "a-token"
    assert (places["/both"] / "b").read_text() == "two"
    token = ("create", "token", "robot", "-n", "ns", "--duration=600s", "--audience=api://x")
    assert token in control_plane.kubectl_calls


def test_volumes_are_replaced_as_a_whole_and_optional_sources_may_be_missing(tmp_path: Path) -> None:
    control_plane = FakeControlPlane(tmp_path, secret={"data": {"k": "b25l", "other": ""}})
    sources: list[dict[str, Any]] = [
        {"secret": {"name": "s", "optional": True, "items": [{"key": "k", "path": "key"}]}},
        {"configMap": {"name": "m", "optional": True, "items": [{"key": "c", "path": "ca"}]}},
    ]
    volumes = pod_emulation.PodVolumes(control_plane, "ns", "robot", tmp_path / "volumes")
    place = volumes.mount(
        [{"name": "v", "projected": {"sources": sources}}, {"name": "s", "secret": {"secretName": "s"}}],
        [{"name": "v", "mountPath": "/v"}, {"name": "s", "mountPath": "/s"}],
    )
    assert (place["/s"] / "other").read_bytes() == b""
    folder = place["/v"]
    assert {path.name: path.read_text() for path in folder.glob("[!.]*")} == {"key": "one"}
    old_data = (folder / "..data").resolve()
    control_plane.objects |= {"secret": {"data": {"k": "dHdv"}}, "configmap": {"data": {"c": "CA"}}}
    assert (folder / "key").read_text() == "one"
    volumes.refresh()
    assert {path.name: path.read_text() for path in folder.glob("[!.]*")} == {"key": "two", "ca": "CA"}
    assert not old_data.exists()
    control_plane.objects |= {"secret": {}}
    volumes.refresh()
    assert [path.name for path in folder.glob("[!.]*")] == ["ca"]


@pytest.mark.parametrize(
    ("container", "pod", "words"),
    [
        ({"command": ["sh", "-c", "true"]}, {}, "only `python -P -m` is supported here"),
        ({"envFrom": [{}]}, {}, "envFrom"),
        ({}, {"initContainers": [{}]}, "init containers"),
        ({"env": [{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}, {}, "env X"),
        ({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}, {}, "podIP"),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]},
            "volume v: hostPath",
        ),
    ],
)
def test_features_that_need_a_node_are_refused_by_name(
    tmp_path: Path, container: dict[str, Any], pod: dict[str, Any], words: str
) -> None:
    deployment = make_deployment(**container)
    deployment["spec"]["template"]["spec"] |= pod
    with pytest.raises(WorkloadError, match=words):
        PodProcess.of_deployment(FakeControlPlane(tmp_path, deployment=deployment), "ns", "akv", tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("--name=$(NAME)", "--name=akv"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(NAME)", "$(NAME)"),
        ("$(NAME)$(NAME)", "akvakv"),
        ("$NAME", "$NAME"),
    ],
)
def test_variables_expand_as_in_kubernetes(text: str, expanded: str) -> None:
    assert pod_emulation.expand_variables(text, {"NAME": "akv"}) == expanded


@pytest.mark.parametrize(
    ("text", "relocated"),
    [
        ("/etc/x", "/1"),
        ("/etc/x/y.json", "/1/y.json"),
        ("/etc/x/deeper/y", "/tmp/2/y"),
        ("--file=/etc/x:/etc/x/deeper", "--file=/1:/tmp/2"),
        ("/etc/xyz", "/etc/xyz"),
        ("/etc/x.json", "/etc/x.json"),
        ("/other/etc/x", "/other/etc/x"),
        ("https://host/etc/x", "https://host/etc/x"),
        ("/tmp", "/3"),
    ],
)
def test_mount_paths_are_relocated(text: str, relocated: str) -> None:
    places = {"/etc/x": Path("/1"), "/etc/x/deeper": Path("/tmp/2"), "/tmp": Path("/3")}
    assert pod_emulation.replace_paths(text, places) == relocated


def test_ready_means_that_the_probe_succeeds(workload: PodProcess) -> None:
    with pytest.raises(WorkloadError, match="503 the policies are not in force"):
        workload.wait_ready(timeout=2)
    (workload.log.parent / "ready").touch()
    workload.wait_ready()


def test_stop_sends_sigterm_and_returns_the_exit_code(workload: PodProcess) -> None:
    (workload.log.parent / "ready").touch()
    workload.wait_ready()
    pid = workload.pid
    assert workload.stop() == 3
    wait_until_gone(pid)
    workload.start()
    assert workload.pid != pid
    with pytest.raises(WorkloadError, match="runs already"):
        workload.start()
    workload.kill()
    with pytest.raises(WorkloadError, match="not started, or was stopped"):
        workload.stop()


def test_process_that_does_not_stop_is_killed(tmp_path: Path, program: Path) -> None:
    with make_process(tmp_path, program, "stubborn") as workload:
        (workload.log.parent / "ready").touch()
        workload.wait_ready()
        pid = workload.pid
        with pytest.raises(WorkloadError, match=r"still runs after 0\.2 s"):
            workload.stop(timeout=0.2)
        wait_until_gone(pid)


def test_wait_for_readiness_fails_if_the_process_ends(tmp_path: Path, program: Path) -> None:
    with make_process(tmp_path, program, "fail") as workload, pytest.raises(WorkloadError) as raised:
        workload.wait_ready()
    assert "ended with code 1" in str(raised.value)
    assert "it cannot work like this" in str(raised.value)


def test_job_runs_to_its_end(tmp_path: Path, program: Path) -> None:
    job = make_deployment(command=["python", "-P", "-m", "controller"], args=["once"])
    workload = PodProcess.of_job(FakeControlPlane(tmp_path), "ns", job, tmp_path / "run")
    workload.env["PYTHONPATH"] = str(program)
    with workload:
        assert workload.wait() == 7
    assert PodProcess.of_job(FakeControlPlane(tmp_path, job=job), "ns", "akv", tmp_path / "run").args == [
        "controller",
        "once",
    ]


def test_process_that_ends_by_itself_is_not_running(tmp_path: Path, program: Path) -> None:
    with make_process(tmp_path, program) as workload:
        (workload.log.parent / "ready").touch()
        workload.wait_ready()
        assert workload.running
        os.kill(workload.pid, signal.SIGKILL)
        eventually(lambda: workload.running, lambda running: not running, 5.0)
        assert workload.wait() == -signal.SIGKILL
    assert not make_process(tmp_path, program).running


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_process_ends_with_its_parent(tmp_path: Path, program: Path, signal_number: signal.Signals) -> None:
    parent = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from tests.unit.pods.test_pod_process import make_process
        workload = make_process(Path({str(tmp_path)!r}), Path({str(program)!r}))
        workload.start()
        (workload.log.parent / "ready").touch()
        workload.wait_ready()
        print(workload.pid, flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        process.send_signal(signal_number)
    wait_until_gone(pid)
