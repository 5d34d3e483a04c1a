"""Test the flags of the control plane's servers."""

from pathlib import Path

from tools.local_cluster import servers


def test_only_a_durable_etcd_syncs_its_writes(tmp_path: Path) -> None:
    for durable in (False, True):
        layout = servers.PlaneLayout(tmp_path, tmp_path, 1, 2, 3, None, (), durable=durable)
        assert ("--unsafe-no-fsync" in layout.etcd()) is not durable


def test_callers_flags_follow_the_default_flags(tmp_path: Path) -> None:
    layout = servers.PlaneLayout(tmp_path, tmp_path, 1, 2, 3, "https://issuer.example", ("--feature-gates=A=true",))
    flags = layout.apiserver()
    assert flags[-1] == "--feature-gates=A=true"
    assert "--service-account-issuer=https://issuer.example" in flags
    assert "--service-account-jwks-uri=https://127.0.0.1:3/openid/v1/jwks" in flags
