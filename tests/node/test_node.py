"""Test that pods of the local node reach services and the host, and that a node leaves no traces on the host."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster.harness import eventually
from tools.images import image
from tools.local_cluster import ControlPlane
from tools.local_cluster.nodes import node_init
from tools.local_cluster.programs import cache

REPOSITORY = Path(__file__).parents[2]

PARENT = """
import time
from tools.local_cluster import ControlPlane
with ControlPlane(with_node=True) as plane:
    plane.kubectl("run", "held", "--image=localhost/pause:1")
    plane.kubectl("wait", "--for=condition=Ready", "pod/held")
    print(plane.kubeconfig.parent, flush=True)
    time.sleep(120)
"""

SERVERS = ("kubelet", "kube-proxy", "kube-scheduler", "coredns", "containerd", "containerd-shim-runc-v2", "pause")


def list_traces() -> dict[str, set[str]]:
    """Return all traces that a node can leave on the host."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "interfaces": {path.name for path in Path("/sys/class/net").iterdir()},
        "routes": set(Path("/proc/net/route").read_text().splitlines()),
        "mounts": {line.split(" ", 1)[1] for line in mounts},
        "cgroups": {str(path) for path in Path("/sys/fs/cgroup").glob("**/akv-node*")},
        "folders": {path for path in ("/var/lib/kubelet", "/var/lib/cni", "/etc/cni") if Path(path).exists()},
        "processes": {path.name for path in Path("/proc").glob("[0-9]*") if read_program_name(path) in SERVERS},
    }


def read_program_name(process: Path) -> str:
    return Path(read_command_line(process).split("\0")[0]).name


def read_command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:  # the process has ended
        return ""


def test_pods_reach_dns_services_and_the_host(plane: ControlPlane) -> None:
    code = (
        "import socket, urllib.request, ssl\n"
        "print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))\n"
        f"for url in ('https://kubernetes.default.svc', '{plane.url}'):\n"
        "    tls = ssl.create_default_context(cafile='/var/run/secrets/kubernetes.io/serviceaccount/ca.crt')\n"
        "    print(urllib.request.urlopen(url + '/readyz', context=tls, timeout=5).read().decode())\n"
    )
    run = ["run", "asks", f"--image={image.REPOSITORIES['controller']}:{image.chart_version()}", "--restart=Never"]
    plane.kubectl(*run, "--command", "--", "python", "-c", code)
    phase = "--output=jsonpath={.status.phase}"
    eventually(lambda: plane.kubectl("get", "pod", "asks", phase), lambda it: it in ("Succeeded", "Failed"), 60)
    assert plane.kubectl("logs", "asks").split() == [plane.node.network.api, "ok", "ok"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_second_cluster_leaves_no_traces_on_the_host(plane: ControlPlane, tmp_path: Path, end: signal.Signals) -> None:
    before = list_traces()
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        folder = Path(parent.stdout.readline().strip())
        during = list_traces()
        changed = {name for name in before if during[name] != before[name]}
        assert changed == {"interfaces", "routes", "cgroups", "processes"}
        parent.send_signal(end)
        parent.wait()
        eventually(lambda: {name for name, found in list_traces().items() if found != before[name]}, lambda it: not it)
    eventually(folder.exists, lambda exists: not exists)
    assert list(tmp_path.iterdir()) == []
    plane.check()


def test_cluster_command_runs_a_node_and_reports_a_killed_kubelet(built: image.BuiltImage, tmp_path: Path) -> None:
    home = tmp_path / "akv-secret-store"
    home.mkdir()
    for folder in cache.cache_root().glob("*-*/"):
        (home / folder.name).symlink_to(folder)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}

    def cluster(*arguments: str) -> "subprocess.CompletedProcess[str]":
        argv = [sys.executable, "-P", "-m", "tools.local_cluster", *arguments]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)

    # The folders of a node whose supervisor was killed with its parent. No process has such a high ID.
    abandoned = node_init.cgroup_folders("akv-node199-99999999")
    for folder in abandoned:
        (folder / "kubepods").mkdir(parents=True)
    try:
        up = cluster("up", "--node")
        assert up.returncode == 0, up.stderr
        assert not any(folder.exists() for folder in abandoned)
        assert cluster("up", "--node").stdout == up.stdout
        missing = cluster("load", str(tmp_path / "none.tar"))
        assert (missing.returncode, missing.stderr) == (
            2, f"error: {tmp_path}/none.tar: the file does not exist; create it with `make image`\n",
        )  # fmt: skip
        loaded = cluster("load", str(built.archive))
        assert loaded.returncode == 0, loaded.stderr
        run = [
            "run",
            "it",
            f"--image={image.REPOSITORIES['controller']}:{image.chart_version()}",
            "--restart=Never",
            "--",
            "--help",
        ]
        cluster("kubectl", "--", *run)
        done = cluster("kubectl", "--", "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/it", "--timeout=30s")
        assert done.returncode == 0, done.stderr
        folder = home / "clusters" / "default"
        kubelets = [path for path in Path("/proc").glob("[0-9]*") if read_program_name(path) == "kubelet"]
        [kubelet] = [path for path in kubelets if str(folder) in read_command_line(path)]
        os.kill(int(kubelet.name), signal.SIGKILL)
        eventually((folder / "serve.log").read_text, lambda text: "kubelet ended with code -9" in text)
        eventually(lambda: cluster("status").returncode, lambda code: code == 1)
    finally:
        cluster("down")
