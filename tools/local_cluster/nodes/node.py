"""A node beside the control plane: kubelet, kube-proxy and CoreDNS, with Debian's containerd, in namespaces.

It needs root, and nothing of it is left when it ends: one process holds the network, another is the node's pid 1.
"""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tools.local_cluster import kubeconfig, pki
from tools.local_cluster.errors import BadInput, ClusterError
from tools.local_cluster.nodes import network, node_init, node_servers, pause_image, system_packages
from tools.local_cluster.nodes.network import NodeNetwork
from tools.local_cluster.processes import ServerProcesses
from tools.local_cluster.programs import assets
from tools.local_cluster.supervisor import remove_cgroup

_INIT = Path(__file__).with_name("node_init.py")

DNS_RIGHTS = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "system:coredns"},
    "rules": [
        {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ],
}
DNS_BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "system:coredns"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}],
}


def prepare(version: str) -> None:
    """Everything that a node needs of this machine: programs, packages, and root. Raises ClusterError."""
    if os.geteuid() != 0:
        raise BadInput("a node needs root, for namespaces, mounts and cgroups: run the same command with sudo")
    try:
        system_packages.require({**system_packages.NODE, **system_packages.PROXY[node_servers.proxy_mode(version)]})
    except system_packages.MissingPackagesError as error:
        raise ClusterError(f"a node needs Debian's packages {error}") from error
    assets.node(version)
    assets.tool("coredns")


class ClusterNode:
    """The node of one control plane. Its processes are those of `processes`, and end with them."""

    def __init__(self, folder: Path, version: str, processes: ServerProcesses, logs: Path) -> None:
        self._folder, self._version, self._processes, self._logs = folder, version, processes, logs
        self.pid = 0
        self.network: NodeNetwork = network.create(processes, logs / "network.log")

    def start(self, url: str, authority: pki.ClusterAuthority) -> None:
        """Start it, with the image that every pod needs; the kubelet registers it with the API server at `url`."""
        coredns = assets.tool("coredns")
        pki_folder = authority.pair.cert.parent
        layout = node_servers.NodeLayout(
            self._folder, self._version, pki_folder, assets.node(self._version).folder, coredns, self.network
        )
        layout.write()
        layout.image.write_bytes(pause_image.archive(coredns.with_name("pause"), node_servers.SANDBOX_IMAGE))
        authority.issue("kubelet-server", user=node_servers.NAME, hosts=(self.network.node, node_servers.NAME))
        for name, (user, groups) in node_servers.CLIENTS.items():
            pair = authority.issue(name, user=user, groups=groups)
            credentials = {"client-certificate": str(pair.cert), "client-key": str(pair.key)}
            kubeconfig.write(layout.kubeconfig(name), url, authority.pair.cert, user, credentials)
        cgroup = f"akv-node{self.network.number}-{os.getpid()}"
        cgroups = node_init.cgroup_folders(cgroup)
        _remove_abandoned(cgroups)
        self._processes.remove_cgroups(cgroups)
        self.pid = self._processes.start("node", layout.init(_INIT, cgroup, self._logs), self._logs / "node.log")

    def pull_by_http(self, registry: str) -> None:
        """Let the node pull images from this registry, `HOST:PORT`, without TLS."""
        file = node_servers.registry_file(self._folder, registry)
        file.parent.mkdir(parents=True, exist_ok=True)
        # containerd 1.6 takes the scheme from the table alone.
        file.write_text(f'[host."http://{registry}"]\n  capabilities = ["pull", "resolve"]\n')

    def load(self, archive: Path) -> None:
        """Make the images of an archive (OCI or `docker save`) known to the node."""
        load(self.pid, archive.read_bytes())


def _remove_abandoned(cgroups: Iterable[Path]) -> None:
    """Remove what those left whose supervisor was killed together with them: empty, since the kernel ended the rest."""
    for folder in cgroups:
        for old in folder.parent.glob("akv-node*-*"):
            if not Path("/proc", old.name.rpartition("-")[2]).exists():
                remove_cgroup(str(old))


def load(pid: int, archive: bytes) -> None:
    """The same, for the node whose process is `pid`."""
    command = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "ctr", f"--address={node_servers.SOCKET}"]
    done = subprocess.run(
        [*command, "--namespace=k8s.io", "images", "import", "-"], input=archive, capture_output=True, check=False
    )
    if done.returncode:
        raise ClusterError(f"the image cannot be loaded: {done.stderr.decode(errors='replace').strip()}")
