"""Test the parts of an image build that need no buildah."""

import os
import re
from pathlib import Path

import pytest
import yaml

from tools.images import debian_base, image
from tools.local_cluster.nodes import system_packages
from tools.pods.pod_process import IMAGE_ENVIRONMENT

ROOT = Path(__file__).parents[3]


def test_image_has_the_name_that_the_chart_uses() -> None:
    values = yaml.safe_load((ROOT / "chart" / "values.yaml").read_text())
    for target, named in (("controller", values["image"]), ("test", values["test"]["image"])):
        registry = named["registry"] or values["image"]["registry"]
        assert f"{registry}/{named['repository']}" == image.REPOSITORIES[target]
        assert named["tag"] == "", "the tag must be empty, so that the chart uses its appVersion"


def test_build_without_root_is_refused_with_the_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert image.main(["--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "tools/image: the build of an image needs root: run the same command with sudo\n"
    )


def test_failure_of_mmdebstrap_is_reported_and_leaves_no_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "mmdebstrap"
    program.write_text("#!/bin/sh\necho 'E: no way to the archive' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(system_packages, "PROGRAM_PATHS", str(tmp_path))
    with pytest.raises(debian_base.DebianBaseError, match=r"^mmdebstrap failed:\nE: no way to the archive$"):
        debian_base.build_rootfs()
    assert not list((tmp_path / "cache").glob("*/base-*"))


def test_containerfile_has_the_base_entrypoint_and_user_of_the_chart() -> None:
    lines = (ROOT / "Containerfile").read_text().splitlines()
    assert any(line.startswith("ARG BASE=docker.io/library/python:3.") for line in lines)
    # A build without a target builds the last stage.
    assert [line for line in lines if line.startswith("FROM")][-1] == "FROM ${BASE} AS controller"
    assert [line for line in lines if line.startswith("ENTRYPOINT")] == [
        f'ENTRYPOINT ["python", "-P", "-m", "{module}"]' for module in ("tools.helm_test", "controller")
    ]
    assert "USER 65532:65532" in lines


def test_processes_of_tests_run_as_the_image_does() -> None:
    _, _, stage = (ROOT / "Containerfile").read_text().rpartition("\nFROM ")
    found = dict(re.findall(r"^(?:ENV| {3}) *(\w+)=(\S+)", stage, re.MULTILINE))
    assert IMAGE_ENVIRONMENT.items() <= found.items()
    others = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONWARNINGS"}
    assert found.keys() - IMAGE_ENVIRONMENT.keys() <= others


def test_test_image_has_every_module_that_its_programs_import() -> None:
    copied = [
        ROOT / path for path in re.findall(r"^COPY (\S+) /app/", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    ]
    assert all(path.is_file() or any(path.rglob("*.py")) for path in copied), "the Containerfile copies a missing file"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{path.relative_to(ROOT)}" for path in copied} <= set(ignored)
    for path in [file for found in copied for file in ([found] if found.suffix else found.rglob("*.py"))]:
        for line in re.findall(r"^\s*(?:from (tools\S* import .+)|import (tools\S*))", path.read_text(), re.MULTILINE):
            package, _, names = (line[0] or line[1]).partition(" import ")
            for module in [package] if package != "tools" else [f"tools.{name.strip()}" for name in names.split(",")]:
                place = ROOT / module.replace(".", "/")
                assert any(place.is_relative_to(each.with_suffix("")) for each in copied), f"{path}: {module}"
