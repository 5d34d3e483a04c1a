"""Test the metadata for catalogs: Chart.yaml's fields and Artifact Hub's annotations."""

import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.pages import list_blocks
from tools.cli.common import changelog, helm, project
from tools.release import layout, package

ROOT = Path(__file__).parents[2]
PROJECT = project.read()


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    return dict(yaml.safe_load((helm.CHART / "Chart.yaml").read_text()))


def read_annotation(metadata: dict[str, Any], name: str) -> Any:
    return yaml.safe_load(metadata["annotations"][f"artifacthub.io/{name}"])


def test_chart_names_its_project(metadata: dict[str, Any]) -> None:
    assert metadata["home"] == PROJECT.repository
    assert metadata["sources"] == [PROJECT.repository]
    assert [person["name"] for person in metadata["maintainers"]] == list(PROJECT.maintainers)


def test_icon_is_an_svg_of_the_repository(metadata: dict[str, Any]) -> None:
    prefix = f"{PROJECT.repository}/raw/v{PROJECT.version}/"
    assert metadata["icon"].startswith(prefix)
    path = ROOT / metadata["icon"].removeprefix(prefix)
    assert ET.fromstring(path.read_text()).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 -- our own file


def test_links_are_pages_of_the_repository(metadata: dict[str, Any]) -> None:
    prefix = f"{PROJECT.repository}/blob/v{PROJECT.version}/"
    for link in read_annotation(metadata, "links"):
        assert link["url"].startswith(prefix)
        assert (ROOT / link["url"].removeprefix(prefix)).is_file(), link


def test_changes_are_those_of_the_changelog(metadata: dict[str, Any]) -> None:
    entries = changelog.entries((ROOT / "CHANGELOG.md").read_text(), PROJECT.version)
    expected = [{"kind": kind.lower(), "description": text} for kind in entries for text in entries[kind]]
    assert read_annotation(metadata, "changes") == expected


def test_every_kind_has_an_example(metadata: dict[str, Any]) -> None:
    examples = read_annotation(metadata, "crdsExamples")
    assert {one["kind"] for one in examples} == {crd["kind"] for crd in read_annotation(metadata, "crds")}
    assert not any("${" in yaml.safe_dump(one) for one in examples), "a variable of the guide is left"


def test_image_is_what_a_release_publishes(metadata: dict[str, Any]) -> None:
    images = [each["image"] for each in read_annotation(metadata, "images")]
    names = (layout.NAME, f"{layout.NAME}-test")
    assert images == [f"{PROJECT.registry}/{name}:{PROJECT.version}" for name in names]
    assert metadata["appVersion"] == PROJECT.version


def test_readme_installs_the_published_chart() -> None:
    block = next(block for block in list_blocks("README.md") if "helm install" in block.text)
    command = block.text.replace("\\\n", " ").split()
    position = command.index(f"oci://{PROJECT.registry}/{layout.CHART}")
    assert command[position + 1 : position + 3] == ["--version", PROJECT.version]


def test_packed_chart_has_the_license(tmp_path: Path) -> None:
    assert package.main(["--changed", "--output", str(tmp_path / "release")]) == 0
    with tarfile.open(tmp_path / "release" / f"{layout.NAME}-{PROJECT.version}.tgz") as chart:
        packed = chart.extractfile(f"{layout.NAME}/LICENSE")
        assert packed is not None
        assert packed.read() == (ROOT / "LICENSE").read_bytes()
