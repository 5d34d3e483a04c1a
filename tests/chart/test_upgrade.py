"""Test upgrades from older charts. `old-releases/` contains their packages."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import NEWEST, OLD_RELEASES, render_text
from tools.cli.common import helm


def test_there_are_old_releases() -> None:
    assert OLD_RELEASES


@pytest.mark.parametrize("old", OLD_RELEASES, ids=lambda path: path.stem)
def test_reused_values_of_an_old_release_render_the_same_manifests(old: Path, tmp_path: Path) -> None:
    """With --reuse-values, helm replaces the defaults of the new chart by those of the old chart."""
    chart = tmp_path / "chart"
    shutil.copytree(helm.CHART, chart)
    (chart / "values.yaml").write_text(helm.run(["show", "values", str(old)]))
    assert _render(chart) == render_text(given=yaml.safe_load((chart / "values.yaml").read_text()), tests=True)


@pytest.mark.parametrize("missing", ["rbac", "logs", "test", "networkPolicy", "replicaCount", "image"])
def test_values_that_an_old_release_lacks_have_their_defaults(missing: str, tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    shutil.copytree(helm.CHART, chart)
    values = yaml.safe_load((chart / "values.yaml").read_text())
    del values[missing]
    (chart / "values.yaml").write_text(yaml.safe_dump(values))
    assert _render(chart) == render_text(tests=True)


def _render(chart: Path) -> str:
    flags = ["--namespace", helm.RELEASE, "--kube-version", NEWEST]
    return helm.run(["template", helm.RELEASE, str(chart), *flags])
