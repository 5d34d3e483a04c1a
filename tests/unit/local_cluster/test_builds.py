"""Test builds of the programs: each runs once, an incomplete one is not used, and a long one reports progress."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster.harness import eventually
from tests.support.pids import wait_until_gone
from tests.unit.local_cluster.fake_go import FakeGo
from tools.local_cluster import ClusterError
from tools.local_cluster.programs import assets, cache, progress, versions
from tools.pods.pod_process import ROOT

DEFAULT = versions.DEFAULT_KUBERNETES


def start_build() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", "from tools.local_cluster.programs import assets; print(assets.kubernetes().folder)"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_node_programs_are_built_apart_from_the_control_plane(fake_go: FakeGo) -> None:
    control_plane, node = assets.kubernetes(), assets.node(DEFAULT)
    assert node.folder == cache.cache_root() / f"node-{DEFAULT}-{cache.machine_architecture()}"
    assert {"kubelet", "kube-proxy", "kube-scheduler"} <= {file.name for file in node.folder.iterdir()}
    assert [command.split(" ", 1)[0] for command in fake_go.list_commands("build")] == [
        str(assets.PINS / DEFAULT),
        str(assets.PINS / f"node-{DEFAULT}"),
    ]
    assert (assets.kubernetes(), assets.node(DEFAULT)) == (control_plane, node)


def test_pinned_release_is_built_once_from_its_pins(fake_go: FakeGo) -> None:
    built = assets.kubernetes()
    assert assets.kubernetes() == built
    assert built.version == DEFAULT
    assert {file.name for file in built.folder.iterdir()} == {*assets.PROGRAMS, ".made-from"}
    [command] = fake_go.list_commands("build")
    assert command.startswith(str(assets.PINS / DEFAULT) + " build -v -mod=readonly -trimpath ")
    assert f"-X k8s.io/component-base/version.gitVersion=v{DEFAULT} " in command


def test_changed_pins_cause_another_build(fake_go: FakeGo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tmp_path / "pins"
    (pins / DEFAULT).mkdir(parents=True)
    for name in ("go.mod", "go.sum"):
        (pins / DEFAULT / name).write_text((assets.PINS / DEFAULT / name).read_text())
    monkeypatch.setattr(assets, "PINS", pins)
    assets.kubernetes()
    with (pins / DEFAULT / "go.sum").open("a") as sums:
        sums.write("another module\n")
    assets.kubernetes()
    assets.kubernetes()
    assert len(fake_go.list_commands("build")) == 2


def test_failed_build_reports_the_cause_and_leaves_no_folder(fake_go: FakeGo) -> None:
    fake_go.set("mode", "fails")
    with pytest.raises(ClusterError, match=r"go build failed:\nmain\.go:1:2: undefined: nonsense$"):
        assets.kubernetes()
    assert not list(cache.cache_root().glob("*/"))
    fake_go.set("mode", "works")
    assert assets.kubernetes().path("etcd").exists()


def test_build_that_lacks_programs_fails(fake_go: FakeGo) -> None:
    fake_go.set("mode", "partial")
    with pytest.raises(ClusterError, match="did not create etcd, kube-controller-manager, kubectl"):
        assets.kubernetes()
    assert not list(cache.cache_root().glob("*/"))


def test_killed_build_is_removed_and_built_again(fake_go: FakeGo) -> None:
    fake_go.set("mode", "hangs")
    builder = start_build()
    pid_file = fake_go.folder / "pid"
    eventually(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"), bool)
    go = int(pid_file.read_text())
    builder.kill()
    builder.communicate()
    wait_until_gone(go)
    [part] = cache.cache_root().glob(".*.part")
    assert (part / "kube-apiserver").exists()

    fake_go.set("mode", "works")
    assert assets.kubernetes().path("kubectl").exists()
    assert len(fake_go.list_commands("build")) == 2
    assert not list(cache.cache_root().glob(".*.part"))


def test_second_of_two_concurrent_builds_waits_and_uses_the_first(fake_go: FakeGo) -> None:
    fake_go.set("mode", "slow")
    builders = [start_build(), start_build()]
    answers = [builder.communicate(timeout=30) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert len(fake_go.list_commands("build")) == 1
    assert sum("waiting for another process" in err for _, err in answers) == 1


def test_long_build_reports_progress(
    fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_UPDATES", 0.05)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.1)
    fake_go.set("mode", "slow")
    assets.kubernetes()
    lines = capsys.readouterr().err.splitlines()
    start = f"building the control plane of Kubernetes {DEFAULT}"
    assert len(lines) >= 3
    assert all(line.startswith(start) for line in lines)
    assert "0:00 elapsed" in lines[0]
    assert "done after 0:00" in lines[-1]
