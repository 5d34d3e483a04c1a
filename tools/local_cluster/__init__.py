"""A real control plane on loopback: etcd, kube-apiserver, kube-controller-manager.

    from tools.local_cluster import ControlPlane

    with ControlPlane() as plane:
        print(plane.kubectl("get", "namespaces"))

`ControlPlane(with_node=True)`, as root, has a node that runs pods: `plane.node`.
`tools.local_cluster.programs.assets` finds, downloads or builds the programs. `tools/cluster` is the command line.
"""

from tools.local_cluster.control_plane import ControlPlane
from tools.local_cluster.errors import BadInput, ClusterError
from tools.local_cluster.programs.versions import DEFAULT_KUBERNETES

__all__ = ["DEFAULT_KUBERNETES", "BadInput", "ClusterError", "ControlPlane"]
