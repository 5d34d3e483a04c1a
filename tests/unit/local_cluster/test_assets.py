"""Test the sources of the programs: the folder in KUBEBUILDER_ASSETS, the cache, or a build."""

from pathlib import Path

import pytest

from tests.unit.local_cluster.fake_go import FakeGo
from tools.local_cluster import BadInput
from tools.local_cluster.programs import assets, cache, versions

DEFAULT = versions.DEFAULT_KUBERNETES


def write_programs(folder: Path, version: str = DEFAULT) -> Path:
    folder.mkdir()
    for name in assets.PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho Kubernetes v{version}\n")
        (folder / name).chmod(0o755)
    return folder


def test_kubebuilder_assets_folder_is_used_before_the_cache(
    fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets.kubernetes()
    given = write_programs(tmp_path / "given", "1.35.3")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))
    assert assets.kubernetes() == assets.ProgramFolder(given, "1.35.3")


def test_kubebuilder_assets_folder_without_a_program_is_rejected(
    fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = write_programs(tmp_path / "given")
    (given / "kube-controller-manager").unlink()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))
    with pytest.raises(BadInput, match=r"KUBEBUILDER_ASSETS=.*/given has no kube-controller-manager: "):
        assets.kubernetes()


def test_kubebuilder_assets_of_another_version_are_rejected(
    fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(write_programs(tmp_path / "given", "1.35.3")))
    monkeypatch.setenv("KUBERNETES", "1.36.1")
    with pytest.raises(BadInput, match=r"has Kubernetes 1\.35\.3, but 1\.36\.1 was requested"):
        assets.kubernetes()


def test_cached_programs_are_used_without_another_build(fake_go: FakeGo, tmp_path: Path) -> None:
    built = assets.kubernetes()
    fake_go.program.unlink()
    assert assets.kubernetes() == built
    assert built.folder == tmp_path / "cache" / "akv-secret-store" / f"{DEFAULT}-{cache.machine_architecture()}"


def test_cache_without_an_absolute_xdg_folder_is_below_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    for ignored in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache.cache_root() == Path("/home/user/.cache/akv-secret-store")
