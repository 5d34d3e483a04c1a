"""Where the programs come from: a given folder, the cache, or a build."""

from pathlib import Path

import pytest

from tests.unit.local_cluster.fake_go import FakeGo
from tools.local_cluster import BadInput
from tools.local_cluster.programs import assets, cache, versions

DEFAULT = versions.DEFAULT_KUBERNETES


def programs_in(folder: Path, version: str = DEFAULT) -> Path:
    folder.mkdir()
    for name in assets.PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho Kubernetes v{version}\n")
        (folder / name).chmod(0o755)
    return folder


def test_the_environments_folder_comes_before_the_cache(
    fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets.kubernetes()
    given = programs_in(tmp_path / "given", "1.35.3")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))
    assert assets.kubernetes() == assets.ProgramFolder(given, "1.35.3")


def test_the_environments_folder_must_be_complete(
    fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = programs_in(tmp_path / "given")
    (given / "kube-controller-manager").unlink()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))
    with pytest.raises(BadInput, match=r"KUBEBUILDER_ASSETS=.*/given has no kube-controller-manager: "):
        assets.kubernetes()


def test_the_environments_folder_must_hold_what_was_asked_for(
    fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(programs_in(tmp_path / "given", "1.35.3")))
    monkeypatch.setenv("KUBERNETES", "1.36.1")
    with pytest.raises(BadInput, match=r"holds Kubernetes 1\.35\.3, but 1\.36\.1 was asked for"):
        assets.kubernetes()


def test_the_cache_comes_before_a_build(fake_go: FakeGo, tmp_path: Path) -> None:
    built = assets.kubernetes()
    fake_go.program.unlink()
    assert assets.kubernetes() == built
    assert built.folder == tmp_path / "cache" / "akv-secret-store" / f"{DEFAULT}-{cache.architecture()}"


def test_the_default_cache_is_below_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache.root() == Path("/home/somebody/.cache/akv-secret-store")
