"""Test the configuration of kubelet and kube-proxy. A kubelet exits if it does not know a setting."""

import json
from pathlib import Path

import pytest

from tools.local_cluster.nodes import system_packages
from tools.local_cluster.nodes.network import NodeNetwork
from tools.local_cluster.nodes.node_servers import NodeLayout, proxy_mode


@pytest.mark.parametrize(
    ("version", "mode", "allows_cgroup_v1"),
    [
        ("1.27.16", "iptables", False),
        ("1.30.9", "iptables", False),
        ("1.31.0", "nftables", True),
        ("1.37.2", "nftables", True),
    ],
)
def test_config_has_only_settings_that_the_release_knows(
    version: str, mode: str, allows_cgroup_v1: bool, tmp_path: Path
) -> None:
    programs = tmp_path / "programs"
    NodeLayout(
        tmp_path, version, tmp_path, programs, programs / "coredns", NodeNetwork(1, Path("/proc/1/ns/net"))
    ).write()
    kubelet, proxy = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("kubelet", "kube-proxy"))
    assert proxy["mode"] == proxy_mode(version) == mode
    assert ("failCgroupV1" in kubelet) is allows_cgroup_v1
    assert mode in system_packages.PROXY
