"""Test the folder and the ports of one control plane."""

import socket
from pathlib import Path

import pytest

from tools.local_cluster import ClusterError, workspace


@pytest.fixture(autouse=True)
def use_tmp_path_for_temporary_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_temporary_folder_is_removed_and_a_given_one_is_kept(tmp_path: Path) -> None:
    temporary = workspace.Workspace(None)
    given = workspace.Workspace(tmp_path / "given")
    assert temporary.folder.stat().st_mode & 0o777 == 0o700
    temporary.close()
    given.close()
    assert not temporary.folder.exists()
    assert given.folder.exists()


def test_folder_in_use_is_rejected_for_a_second_control_plane(tmp_path: Path) -> None:
    first = workspace.Workspace(tmp_path / "given")
    assert workspace.is_in_use(first.folder)
    with pytest.raises(ClusterError, match="another control plane runs in"):
        workspace.Workspace(tmp_path / "given")
    first.close()
    assert not workspace.is_in_use(first.folder)
    workspace.Workspace(tmp_path / "given").close()


def test_new_workspace_removes_abandoned_folders_only(tmp_path: Path) -> None:
    running = workspace.Workspace(None)
    abandoned, foreign = tmp_path / "akv-cluster-x", tmp_path / "akv-cluster-y"
    abandoned.mkdir()
    (abandoned / "lock").touch()
    foreign.mkdir()  # It has no lock, so a workspace did not create it.
    workspace.Workspace(None).close()
    assert running.folder.exists()
    assert foreign.exists()
    assert not abandoned.exists()
    running.close()


def test_reserved_port_accepts_only_a_server_with_reuse_port() -> None:
    with workspace.reserve_port() as reserved:
        address = reserved.getsockname()
        with socket.socket() as stranger, pytest.raises(OSError, match="Address already in use"):
            stranger.bind(address)
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(address)
        with socket.socket() as server, socket.socket() as client:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            server.bind(address)
            server.listen()
            client.connect(address)
