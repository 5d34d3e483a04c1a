"""Provide a fake `go` as the only one in the PATH, an empty cache, and a server of releases."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.local_cluster.fake_go import FakeGo
from tests.unit.local_cluster.release_server import ReleaseServer
from tools.local_cluster.programs import download, official


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGo:
    """Provide a fake `go`. Downloads are off, unless a test also uses `release_server`."""
    go = FakeGo(tmp_path / "fake")
    monkeypatch.setenv("FAKE", str(go.folder))
    monkeypatch.setenv("PATH", f"{go.program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AKV_ASSETS", "build")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("KUBERNETES", raising=False)
    return go


@pytest.fixture
def release_server(fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    """Provide a mirror with the default release. Downloads are on, and a slow machine does not stop them."""
    for name in [*os.environ]:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("AKV_ASSETS")
    monkeypatch.setenv("NETRC", os.devnull)
    monkeypatch.setattr(official, "silent", set())
    monkeypatch.setattr(download, "PATIENCE", 60.0)
    monkeypatch.setattr(download, "CONNECT_SECONDS", 60.0)
    server = ReleaseServer()
    server.add()
    server.use(monkeypatch)
    yield server
    server.close()
