"""What of building an image needs no buildah."""

import os
import re
from pathlib import Path

import pytest
import yaml

from tools.images import debian_base, image
from tools.local_cluster.nodes import system_packages

ROOT = Path(__file__).parents[3]


def test_it_is_named_as_the_chart_names_it() -> None:
    values = yaml.safe_load((ROOT / "chart" / "values.yaml").read_text())
    for target, named in (("controller", values["image"]), ("test", values["test"]["image"])):
        registry = named["registry"] or values["image"]["registry"]
        assert f"{registry}/{named['repository']}" == image.REPOSITORIES[target]
        assert named["tag"] == "", "the chart's appVersion"


def test_others_than_root_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert image.main(["--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "tools/image: building an image here needs root: run the same command with sudo\n"
    )


def test_a_failing_mmdebstrap_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "mmdebstrap"
    program.write_text("#!/bin/sh\necho 'E: no way to the archive' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(system_packages, "PROGRAM_PATHS", str(tmp_path))
    with pytest.raises(debian_base.DebianBaseError, match=r"^mmdebstrap failed:\nE: no way to the archive$"):
        debian_base.rootfs()
    assert not list((tmp_path / "cache").glob("*/base-*"))


def test_the_containerfile_names_its_base_and_runs_what_the_chart_expects() -> None:
    lines = (ROOT / "Containerfile").read_text().splitlines()
    assert any(line.startswith("ARG BASE=docker.io/library/python:3.") for line in lines)
    # What a builder makes that is not told which.
    assert [line for line in lines if line.startswith("FROM")][-1] == "FROM ${BASE} AS controller"
    assert [line for line in lines if line.startswith("ENTRYPOINT")] == [
        f'ENTRYPOINT ["python", "-P", "-m", "{module}"]' for module in ("tools.helm_test", "controller")
    ]
    assert "USER 65532:65532" in lines


def test_the_test_image_has_every_module_of_ours_that_its_programs_import() -> None:
    copied = [
        ROOT / path for path in re.findall(r"^COPY (\S+) /app/", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    ]
    assert all(path.is_file() or any(path.rglob("*.py")) for path in copied), "the Containerfile copies what is gone"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{path.relative_to(ROOT)}" for path in copied} <= set(ignored)
    for path in [file for found in copied for file in ([found] if found.suffix else found.rglob("*.py"))]:
        for line in re.findall(r"^\s*(?:from (tools\S* import .+)|import (tools\S*))", path.read_text(), re.MULTILINE):
            package, _, names = (line[0] or line[1]).partition(" import ")
            for module in [package] if package != "tools" else [f"tools.{name.strip()}" for name in names.split(",")]:
                place = ROOT / module.replace(".", "/")
                assert any(place.is_relative_to(each.with_suffix("")) for each in copied), f"{path}: {module}"
