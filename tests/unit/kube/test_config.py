"""Test the configuration for the API server: a kubeconfig, or the ServiceAccount of the pod."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from controller import errors
from controller.kube import config
from tools.local_cluster.pki import ClusterAuthority

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "https://127.0.0.1:6443"}}]
users: [{name: me, user: {token: t}}]
"""


def make_pod_environment(folder: Path, host: str = "10.0.0.1") -> dict[str, str]:
    """Write a ServiceAccount's files, and return the environment that a kubelet sets."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text("first\n")
    (folder / "ca.crt").write_bytes(ClusterAuthority(folder, "cluster").pair.cert.read_bytes())
    return {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": "443",
        "SERVICE_ACCOUNT_FOLDER": str(folder),
    }


@pytest.mark.parametrize(
    ("host", "server"),
    [("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443"), ("api.x", "https://api.x:443")],
)
async def test_pod_is_configured_by_its_service_account(host: str, server: str, tmp_path: Path) -> None:
    found = await config.find_config(make_pod_environment(tmp_path, host))
    assert found.server == server
    assert await found.authorization() == "Bearer first"
    [authority] = found.tls.get_ca_certs()
    assert authority["subject"]


async def test_replaced_token_is_read_again(tmp_path: Path) -> None:
    now = 1000.0
    found = config.read_pod_config(make_pod_environment(tmp_path), lambda: now)
    (tmp_path / "token").write_text("second")
    assert await found.authorization() == "Bearer first"
    now += config.REREAD_SECONDS
    assert await found.authorization() == "Bearer second"
    for unusable in (lambda: (tmp_path / "token").write_text(""), (tmp_path / "token").unlink):
        unusable()
        now += config.REREAD_SECONDS
        assert await found.authorization() == "Bearer second"


@pytest.mark.parametrize("missing", ["token", "ca.crt"])
async def test_pod_without_a_token_is_advised_to_mount_one(missing: str, tmp_path: Path) -> None:
    environment = make_pod_environment(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(errors.Refused, match=rf"{tmp_path} has no usable .* \(FileNotFoundError\); .*automount"):
        await config.find_config(environment)


async def test_invalid_ca_of_the_pod_is_refused(tmp_path: Path) -> None:
    environment = make_pod_environment(tmp_path)
    (tmp_path / "ca.crt").write_text("none")
    with pytest.raises(errors.Refused, match=r"has no usable token and ca\.crt"):
        await config.find_config(environment)


@pytest.mark.parametrize("environment", [{}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}])
async def test_missing_configuration_names_both_ways(environment: Mapping[str, str]) -> None:
    with pytest.raises(errors.Refused, match="run in a pod or set KUBECONFIG"):
        await config.find_config(environment)


async def test_kubeconfig_overrides_the_service_account(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    found = await config.find_config({**make_pod_environment(tmp_path / "pod"), "KUBECONFIG": str(tmp_path / "config")})
    assert found.server == "https://127.0.0.1:6443"
    assert await found.authorization() == "Bearer t"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "kind: Config", KUBECONFIG.replace("current-context: here", "current-context: elsewhere")],
)
async def test_invalid_kubeconfig_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(content)
    with pytest.raises(errors.Refused, match="KUBECONFIG"):
        await config.find_config({"KUBECONFIG": str(tmp_path / "config")})


async def test_missing_kubeconfig_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.Refused, match=r"KUBECONFIG names .*none, which is not a file"):
        await config.find_config({"KUBECONFIG": str(tmp_path / "none")})


async def test_kubeconfig_without_the_kubernetes_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    for name in [name for name in sys.modules if name.split(".")[0] == "kubernetes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(errors.Refused, match="is not installed; unset it in a pod, elsewhere install `kubernetes`"):
        await config.find_config({"KUBECONFIG": str(tmp_path / "config")})
