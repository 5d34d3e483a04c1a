"""What a release's kubelet and kube-proxy are told: a kubelet ends at a setting that it does not know yet."""

import json
from pathlib import Path

import pytest

from tools.local_cluster.nodes import system_packages
from tools.local_cluster.nodes.network import NodeNetwork
from tools.local_cluster.nodes.node_servers import NodeLayout, proxy_mode


@pytest.mark.parametrize(
    ("version", "mode", "asks_for_cgroup_v1"),
    [
        ("1.27.16", "iptables", False),
        ("1.30.9", "iptables", False),
        ("1.31.0", "nftables", True),
        ("1.37.2", "nftables", True),
    ],
)
def test_by_release(version: str, mode: str, asks_for_cgroup_v1: bool, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    NodeLayout(
        tmp_path, version, tmp_path, programs, programs / "coredns", NodeNetwork(1, Path("/proc/1/ns/net"))
    ).write()
    kubelet, proxy = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("kubelet", "kube-proxy"))
    assert proxy["mode"] == proxy_mode(version) == mode
    assert ("failCgroupV1" in kubelet) is asks_for_cgroup_v1
    assert mode in system_packages.PROXY
