"""A `go` that pretends, which is the only one to be found, and an empty cache."""

from pathlib import Path

import pytest

from tests.unit.local_cluster.fake_go import FakeGo


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGo:
    go = FakeGo(tmp_path / "fake")
    monkeypatch.setenv("FAKE", str(go.folder))
    monkeypatch.setenv("PATH", f"{go.program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("KUBERNETES", raising=False)
    return go
