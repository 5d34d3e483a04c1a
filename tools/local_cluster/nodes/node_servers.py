"""The configuration files and command lines of a node's servers. Nothing is started here."""

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
"""The containerd's, as the node sees it; not where a containerd of this machine would have its own."""

# Minor releases. A kubelet ends at a setting that it does not know.
_NFTABLES_SINCE = 31
_FAIL_CGROUP_V1_SINCE = 31
_PULL_CREDENTIALS_SINCE = 35

CLIENTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "kubelet": (f"system:node:{NAME}", ("system:nodes",)),
    "kube-proxy": ("system:kube-proxy", ()),
    "coredns": ("system:coredns", ()),
}
"""As whom each speaks to the API server: user and groups."""

# /run is the node's own, in memory, and gone with it: everything lies there.
_CONTAINERD = """\
version = 2
root = "/run/containerd/root"
state = "/run/containerd/state"

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  # Without CAP_SYS_RESOURCE nobody's score can be lowered, and runc ends with "can't get final child's PID".
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
    """Return the file from which containerd learns, at each pull, how to reach a registry."""
    return folder / "registries" / host / "hosts.toml"


def proxy_mode(version: str) -> str:
    """By which of the kernel's tables that release's kube-proxy leads to Services."""
    return "nftables" if versions.minor(version) >= _NFTABLES_SINCE else "iptables"


@dataclass(frozen=True)
class NodeLayout:
    """One node's folder, release, programs and network. `pki` has kubelet.crt and ca.crt of the control plane."""

    folder: Path
    version: str
    pki: Path
    kubernetes: Path
    coredns: Path
    network: NodeNetwork

    @property
    def image(self) -> Path:
        """The archive with the image of every pod's sandbox."""
        return self.folder / "pause.tar"

    def kubeconfig(self, client: str) -> Path:
        """Of one of CLIENTS."""
        return self.folder / f"{client}.kubeconfig"

    def write(self) -> None:
        """The files that the command lines below refer to."""
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
        """The command line of the node's first process, which starts the others."""
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
        # In the order in which they are started.
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
            **({"failCgroupV1": False} if versions.minor(self.version) >= _FAIL_CGROUP_V1_SINCE else {}),
            # A kubelet that has pulled an image refuses the same image under another name, by which it was loaded.
            **(
                {"imagePullCredentialsVerificationPolicy": "NeverVerify"}
                if versions.minor(self.version) >= _PULL_CREDENTIALS_SINCE
                else {}
            ),
            "failSwapOn": False,
            "oomScoreAdj": 0,  # lower than its own nobody may set it without CAP_SYS_RESOURCE
            # The machine is somebody's: neither its full disk nor its old images are the node's business.
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "registerWithTaints": [],
            # Changes of ConfigMaps and probes' results are wanted soon.
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
            # Limits of the machine's connection tracking cannot be set from a network namespace.
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
