"""The configuration files and command lines of a node's servers. This module starts nothing."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.local_cluster.nodes.network import NodeNetwork
from tools.local_cluster.programs import versions

NAME = "node"
SANDBOX_IMAGE = "localhost/pause:1"
SOCKET = Path("/run/akv-node/containerd.sock")
"""The socket of the node's containerd. A containerd of this machine uses another path."""

# The minor releases that introduced these settings. A kubelet ends if its configuration has an unknown setting.
_NFTABLES_SINCE = 31
_FAIL_CGROUP_V1_SINCE = 31
_PULL_CREDENTIALS_SINCE = 35

CLIENTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "kubelet": (f"system:node:{NAME}", ("system:nodes",)),
    "kube-proxy": ("system:kube-proxy", ()),
    "coredns": ("system:coredns", ()),
}
"""The user and the groups as which each client authenticates to the API server."""

# All state is below /run. The node's /run is in memory and ends with the node.
_CONTAINERD = """\
version = 2
root = "/run/containerd/root"
state = "/run/containerd/state"

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  # Without CAP_SYS_RESOURCE no process can lower a score, and runc ends with "can't get final child's PID".
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/registries"
"""

_COREFILE = """\
. {{
    bind {dns}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig}
    }}
}}
"""


def registry_file(folder: Path, host: str) -> Path:
    """Return the file with the address of a registry. containerd reads it at each pull."""
    return folder / "registries" / host / "hosts.toml"


def proxy_mode(version: str) -> str:
    """Return the mode in which the release's kube-proxy routes to Services: nftables or iptables."""
    return "nftables" if versions.minor_version(version) >= _NFTABLES_SINCE else "iptables"


@dataclass(frozen=True)
class NodeLayout:
    """The folder, release, programs and network of one node. `pki` has kubelet-server.crt and ca.crt."""

    folder: Path
    version: str
    pki: Path
    kubernetes: Path
    coredns: Path
    network: NodeNetwork

    @property
    def image(self) -> Path:
        """Return the archive with the image of every pod's sandbox."""
        return self.folder / "pause.tar"

    def kubeconfig(self, client: str) -> Path:
        """Return the kubeconfig of one of CLIENTS."""
        return self.folder / f"{client}.kubeconfig"

    def write(self) -> None:
        """Write the files to which the command lines refer."""
        texts = {
            "containerd.toml": _CONTAINERD.format(socket=SOCKET, sandbox=SANDBOX_IMAGE, folder=self.folder),
            "Corefile": _COREFILE.format(dns=self.network.dns, kubeconfig=self.kubeconfig("coredns")),
            "resolv.conf": f"nameserver {self.network.dns}\n",
            "kubelet.json": json.dumps(self._kubelet_config()),
            "kube-proxy.json": json.dumps(self._kube_proxy()),
            "cni/pods.conflist": json.dumps(self._pod_network()),
        }
        for name, text in texts.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def init(self, program: Path, cgroup: str, logs: Path) -> list[str]:
        """Write the file for the node's first process, which starts the others. Return its command line."""
        config = {
            "namespace": str(self.network.namespace),
            "cgroup": cgroup,
            "hostname": NAME,
            "servers": self._server_commands(),
            "containerd_socket": str(SOCKET),
            "image": str(self.image),
            "logs": str(logs),
        }
        file = self.folder / "node.json"
        file.write_text(json.dumps(config))
        return [sys.executable, "-I", str(program), str(file)]

    def _server_commands(self) -> dict[str, list[str]]:
        # In the order of the start.
        return {
            "containerd": ["containerd", f"--config={self.folder}/containerd.toml"],
            "kubelet": [
                f"{self.kubernetes}/kubelet",
                f"--config={self.folder}/kubelet.json",
                f"--kubeconfig={self.kubeconfig('kubelet')}",
                "--root-dir=/run/kubelet",
                f"--hostname-override={NAME}",
                f"--node-ip={self.network.node}",
            ],
            "kube-proxy": [f"{self.kubernetes}/kube-proxy", f"--config={self.folder}/kube-proxy.json"],
            "coredns": [str(self.coredns), "-conf", f"{self.folder}/Corefile"],
        }

    def _kubelet_config(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{self.pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{self.pki}/kubelet-server.crt",
            "tlsPrivateKeyFile": f"{self.pki}/kubelet-server.key",
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "clusterDNS": [self.network.dns],
            "clusterDomain": "cluster.local",
            "resolvConf": f"{self.folder}/resolv.conf",
            "cgroupDriver": "cgroupfs",
            **({"failCgroupV1": False} if versions.minor_version(self.version) >= _FAIL_CGROUP_V1_SINCE else {}),
            # Without this setting, a kubelet that has pulled an image refuses the same image if it was loaded under
            # another name.
            **(
                {"imagePullCredentialsVerificationPolicy": "NeverVerify"}
                if versions.minor_version(self.version) >= _PULL_CREDENTIALS_SINCE
                else {}
            ),
            "failSwapOn": False,
            "oomScoreAdj": 0,  # a lower value than the current one needs CAP_SYS_RESOURCE
            # The machine also has other uses: the node must not react to its full disk or delete its images.
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "registerWithTaints": [],
            # Apply changes of ConfigMaps and the results of probes soon.
            "syncFrequency": "10s",
        }

    def _kube_proxy(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": proxy_mode(self.version),
            "clientConnection": {"kubeconfig": str(self.kubeconfig("kube-proxy"))},
            "hostnameOverride": NAME,
            "clusterCIDR": self.network.pods,
            # A network namespace cannot set the limits of the machine's connection tracking.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }

    def _pod_network(self) -> dict[str, Any]:
        return {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "pods",
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": self.network.pods}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": "/run/addresses",
                    },
                }
            ],
        }
