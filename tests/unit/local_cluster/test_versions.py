"""Test the choice of the release, and the Go modules that it is built from."""

from pathlib import Path

import pytest

from tests.unit.local_cluster.fake_go import UPSTREAM, FakeGo
from tools.local_cluster import BadInput, ClusterError
from tools.local_cluster.programs import assets, cache, versions

DEFAULT = versions.DEFAULT_KUBERNETES


@pytest.mark.parametrize("text", ["1.37", "37.2", "1.37.2-rc.1", "latest", "1.37.2/../x", "2.0.0"])
def test_invalid_release_is_refused(text: str, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES", text)
    with pytest.raises(BadInput, match=r"^KUBERNETES='.*' is not a Kubernetes release: "):
        assets.kubernetes()


def test_parameter_overrides_the_environment_and_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBERNETES", "v1.36.1")
    assert assets.requested_version("1.35.0") == "1.35.0"
    assert assets.requested_version() == "1.36.1"
    monkeypatch.setenv("KUBERNETES", "")
    assert assets.requested_version() == DEFAULT


def test_unpinned_release_is_built_from_its_own_go_mod(fake_go: FakeGo, capsys: pytest.CaptureFixture[str]) -> None:
    built = assets.kubernetes("1.36.1")
    go_mod = (built.folder / "graph" / "go.mod").read_text()
    assert "\tk8s.io/kubernetes v1.36.1\n" in go_mod
    assert "\tgo.etcd.io/etcd/server/v3 v3.6.4\n" in go_mod
    assert "\tk8s.io/client-go => k8s.io/client-go v0.36.1\n" in go_mod
    assert (built.folder / "graph" / "go.sum").exists()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Kubernetes 1.36.1 is not pinned in this repository: the hashes of its modules come from Go's"
        " checksum database instead"
    ]
    assert assets.kubernetes("1.36.1") == built
    assert len(fake_go.list_commands("build")) == 1


def test_unpinned_node_is_built_without_etcd(fake_go: FakeGo) -> None:
    with pytest.raises(ClusterError, match="did not create kube-proxy, kube-scheduler, kubelet"):
        assets.node("1.36.1")  # the fake Go builds these programs only in the folder of the pins
    go_mod = versions.go_mod("1.36.1", UPSTREAM, assets.NODE.about, assets.NODE.packages.values())
    assert go_mod.startswith("// The node's programs of Kubernetes 1.36.1: ")
    assert "\tk8s.io/kubernetes/cmd/kubelet\n" in go_mod
    assert "etcd" not in go_mod


def test_unknown_release_is_reported(fake_go: FakeGo) -> None:
    with pytest.raises(ClusterError, match=r"^the modules of Kubernetes 1\.99\.0 cannot .*unknown revision v1\.99\.0"):
        assets.kubernetes("1.99.0")
    assert not list(cache.cache_root().glob("*/"))


def test_go_mod_without_the_usual_replacements_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"go\.mod of Kubernetes 1\.40\.0 does not have the expected form"):
        versions.go_mod("1.40.0", UPSTREAM.replace("./staging/", "./libraries/"), "it", [])


@pytest.mark.parametrize("pins", [*assets.PINS.glob("1.*"), *assets.PINS.glob("node-*")], ids=lambda it: it.name)
def test_all_pins_of_a_folder_name_one_release(pins: Path) -> None:
    version = pins.name.removeprefix("node-")
    go_mod = (pins / "go.mod").read_text()
    assert f"k8s.io/kubernetes v{version}" in go_mod
    published = [line.split()[-1] for line in go_mod.splitlines() if " => k8s.io/" in line]
    exact, series = "v0." + version.split(".", 1)[1], "v0." + version.split(".")[1] + "."
    assert published.count(exact) >= 0.8 * len(published)
    assert all(library.startswith(series) for library in published)


def test_default_release_is_pinned() -> None:
    assert (assets.PINS / DEFAULT / "go.sum").exists()
    assert (assets.PINS / f"node-{DEFAULT}" / "go.sum").exists()
