"""A node's network: a network namespace, a veth pair to this machine, and addresses that no other network uses.

Pods reach this machine (the API server, an emulator) at `host`. This machine reaches pods and Services by routes over
the veth pair. The node changes no firewall rule and no setting of the machine. The kernel removes the veth pair with
the namespace, and with it the addresses and routes. Pods reach no other network.
"""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tools.local_cluster.errors import ClusterError
from tools.local_cluster.processes import ServerProcesses

_NUMBERS = range(200)
_START_SECONDS = 5.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class NodeNetwork:
    """The addresses of one node. They are in 198.18.0.0/15, which is reserved for benchmarks and therefore unused."""

    number: int
    namespace: Path

    @property
    def link(self) -> str:
        """Return the name of the veth device on this machine. It is unique, so each number belongs to one cluster."""
        return f"akv-node{self.number}"

    @property
    def host(self) -> str:
        """Return the address of this machine, as seen by the node and its pods."""
        return f"198.18.{self.number}.1"

    @property
    def node(self) -> str:
        """Return the address of the node."""
        return f"198.18.{self.number}.2"

    @property
    def pods(self) -> str:
        """Return the addresses of the pods."""
        return f"198.18.{self.number}.128/25"

    @property
    def services(self) -> str:
        """Return the addresses of the Services."""
        return f"198.19.{self.number}.0/24"

    @property
    def api(self) -> str:
        """Return the address of the Service `kubernetes`, which is the first address of the Services."""
        return f"198.19.{self.number}.1"

    @property
    def dns(self) -> str:
        """Return the address of CoreDNS."""
        return f"198.19.{self.number}.10"


def create(processes: ServerProcesses, log: Path) -> NodeNetwork:
    """Create the network. It lives as long as the process `network` of `processes`."""
    # The process only sleeps. It exists because the namespace needs a process.
    pid = processes.start("network", ["unshare", "--net", "sleep", "infinity"], log)
    namespace = Path(f"/proc/{pid}/ns/net")
    deadline = time.monotonic() + _START_SECONDS
    while _namespace_identity(namespace) in (None, _namespace_identity(Path("/proc/self/ns/net"))):
        processes.require("network")
        if time.monotonic() > deadline:
            raise ClusterError(f"unshare made no network namespace in {_START_SECONDS:g} s; see {log}")
        time.sleep(_POLL_SECONDS)
    network = _connect_namespace(pid, namespace)
    inside = ["nsenter", f"--net={namespace}"]
    _run_command(
        [*inside, "ip", "-batch", "-"],
        f"""
        link set lo up
        address add {network.node}/30 dev eth0
        address add {network.dns}/32 dev lo
        link set eth0 up
        route add default via {network.host}
        """,
    )
    _run_command([*inside, "tee", "/proc/sys/net/ipv4/ip_forward"], "1")
    _run_command(
        ["ip", "-batch", "-"],
        f"""
        address add {network.host}/30 dev {network.link}
        link set {network.link} up
        route add {network.pods} via {network.node}
        route add {network.services} via {network.node}
        """,
    )
    return network


def _connect_namespace(pid: int, namespace: Path) -> NodeNetwork:
    for number in _NUMBERS:
        network = NodeNetwork(number, namespace)
        if Path("/sys/class/net", network.link).exists():
            continue
        try:
            _run_command(["ip", "link", "add", network.link, "type", "veth", "peer", "name", "eth0", "netns", str(pid)])
        except ClusterError as error:
            if "File exists" in str(error):  # another node took the number in the meantime
                continue
            raise
        return network
    raise ClusterError(f"{len(_NUMBERS)} nodes run on this machine already: stop some (`ip link` shows them)")


def _namespace_identity(namespace: Path) -> str | None:
    try:
        return str(namespace.readlink())
    except OSError:
        return None


def _run_command(argv: list[str], stdin: str = "") -> None:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(argv)}: {done.stderr.strip()}")
