"""A node beside the control plane: kubelet, kube-proxy and CoreDNS, with Debian's containerd, in Linux namespaces.

It needs root. One process holds the network, and another one is the node's pid 1. When both end, nothing remains.
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
    """Check that this machine has root, the packages and the programs that a node needs. Raise ClusterError if not."""
    if os.geteuid() != 0:
        raise BadInput("a node needs root, for namespaces, mounts and cgroups: run the same command with sudo")
    try:
        system_packages.require({**system_packages.NODE, **system_packages.PROXY[node_servers.proxy_mode(version)]})
    except system_packages.MissingPackagesError as error:
        raise ClusterError(f"a node needs Debian's packages {error}") from error
    assets.node(version)
    assets.tool("coredns")


class ClusterNode:
    """The node of one control plane. Its processes are started by `processes` and end with them."""

    def __init__(self, folder: Path, version: str, processes: ServerProcesses, logs: Path) -> None:
        self._folder, self._version, self._processes, self._logs = folder, version, processes, logs
        self.pid = 0
        self.network: NodeNetwork = network.create(processes, logs / "network.log")

    def start(self, url: str, authority: pki.ClusterAuthority) -> None:
        """Start the node, with the image of every pod's sandbox. The kubelet registers it at the API server `url`."""
        coredns = assets.tool("coredns")
        pki_folder = authority.pair.cert.parent
        layout = node_servers.NodeLayout(
            self._folder, self._version, pki_folder, assets.node(self._version).folder, coredns, self.network
        )
        layout.write()
        layout.image.write_bytes(pause_image.build_archive(coredns.with_name("pause"), node_servers.SANDBOX_IMAGE))
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
        # containerd 1.6 takes the scheme only from the name of this table.
        file.write_text(f'[host."http://{registry}"]\n  capabilities = ["pull", "resolve"]\n')

    def load(self, archive: Path) -> None:
        """Load the images of an archive (OCI or `docker save`) into the node."""
        load_images(self.pid, archive.read_bytes())


def _remove_abandoned(cgroups: Iterable[Path]) -> None:
    """Remove the empty cgroups of nodes whose supervisor was killed together with them."""
    for folder in cgroups:
        for old in folder.parent.glob("akv-node*-*"):
            if not Path("/proc", old.name.rpartition("-")[2]).exists():
                remove_cgroup(str(old))


def load_images(pid: int, archive: bytes) -> None:
    """Load the images of an archive into the node whose process is `pid`."""
    command = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "ctr", f"--address={node_servers.SOCKET}"]
    done = subprocess.run(
        [*command, "--namespace=k8s.io", "images", "import", "-"], input=archive, capture_output=True, check=False
    )
    if done.returncode:
        raise ClusterError(f"the image cannot be loaded: {done.stderr.decode(errors='replace').strip()}")
