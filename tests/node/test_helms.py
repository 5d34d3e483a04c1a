"""Test releases with helm 3, with helm 4, and with helm 3 for the installation and helm 4 for the upgrade."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.node.release import Release, assert_rotates
from tests.support.cluster.namespace import Namespace
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.programs import assets

Helm = Callable[[], Path]


def find_helm_4() -> Path:
    return assets.tool("helm")


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("three", helm.find_executable, helm.find_executable),
        ("four", find_helm_4, find_helm_4),
        ("both", helm.find_executable, find_helm_4),
    ],
)
def test_release_works_with_each_helm_and_its_secret_remains(
    plane: ControlPlane, emulator: Emulator, tmp_path: Path, name: str, first: Helm, then: Helm
) -> None:
    release = Release(plane, emulator, tmp_path, name, first())
    shop = Namespace(release)

    release.make_namespace()
    assert f"rollout status deployment/{release.full_name}" in release.install()
    shop.set_secret("db", "installed")
    shop.apply(shop.provider_class("db"), shop.sync("db", {"password": "db"}))
    shop.wait_secret("db", {"password": "installed"})
    release.executable = then()
    assert re.search(r"Phase: +Succeeded", release.test())
    release.upgrade("--set", "logLevel=debug")
    assert_rotates(shop, "upgraded")
    release.rollback()
    assert_rotates(shop, "rolled-back")
    before = shop.get("secret", "db")
    release.uninstall()
    assert shop.get("secret", "db") == before
    assert shop.get("secretsync", "db")
    shop.remove()
    plane.kubectl("delete", "namespace", release.namespace, "--wait=false")


def test_helm_3_and_helm_4_render_the_same_manifests() -> None:
    chart = ["template", helm.RELEASE, str(helm.CHART), "--namespace", helm.RELEASE, "--include-crds"]
    three, four = (
        list(yaml.safe_load_all(helm.run(chart, executable=each()))) for each in (helm.find_executable, find_helm_4)
    )
    assert four == three
    helm.run(["lint", "--strict", str(helm.CHART)], executable=find_helm_4())


def test_helm_4_names_the_path_of_a_wrong_value() -> None:
    wrong = ["template", str(helm.CHART), "--set", "image.digests=x"]
    with pytest.raises(helm.HelmError, match=r"(?s)image.*digests"):
        helm.run(wrong, executable=find_helm_4())
