"""One release's life by either helm, and that of one which helm 3 has installed and helm 4 goes on with."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.node.release import Release
from tests.support.cluster.harness import Namespace
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.programs import assets

Helm = Callable[[], Path]


def helm_4() -> Path:
    return assets.tool("helm")


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("three", helm.find_executable, helm.find_executable),
        ("four", helm_4, helm_4),
        ("both", helm.find_executable, helm_4),
    ],
)
def test_a_release_lives_and_the_secret_outlives_it(
    plane: ControlPlane, emulator: Emulator, tmp_path: Path, name: str, first: Helm, then: Helm
) -> None:
    release = Release(plane, emulator, tmp_path, name, first())
    shop = Namespace(release)

    def rotates(text: str) -> None:
        shop.set_secret("db", text)
        shop.force_sync("db")
        shop.wait_secret("db", {"password": text})

    release.make_namespace()
    assert f"rollout status deployment/{release.full_name}" in release.install()
    shop.set_secret("db", "installed")
    shop.apply(shop.provider_class("db"), shop.sync("db", {"password": "db"}))
    shop.wait_secret("db", {"password": "installed"})
    release.executable = then()
    assert re.search(r"Phase: +Succeeded", release.test())
    release.upgrade("--set", "logLevel=debug")
    rotates("upgraded")
    release.rollback()
    rotates("rolled-back")
    before = shop.get("secret", "db")
    release.uninstall()
    assert shop.get("secret", "db") == before
    assert shop.get("secretsync", "db")
    shop.remove()
    plane.kubectl("delete", "namespace", release.namespace, "--wait=false")


def test_both_render_the_same() -> None:
    chart = ["template", helm.RELEASE, str(helm.CHART), "--namespace", helm.RELEASE, "--include-crds"]
    three, four = (
        list(yaml.safe_load_all(helm.run(chart, executable=each()))) for each in (helm.find_executable, helm_4)
    )
    assert four == three
    helm.run(["lint", "--strict", str(helm.CHART)], executable=helm_4())


def test_a_wrong_value_is_refused_by_its_path() -> None:
    wrong = ["template", str(helm.CHART), "--set", "image.digests=x"]
    with pytest.raises(helm.HelmError, match=r"(?s)image.*digests"):
        helm.run(wrong, executable=helm_4())
