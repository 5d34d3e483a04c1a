"""Two images, one cluster with a node and one emulator for the whole suite; the story of one release runs on them."""

from collections.abc import Iterator

import pytest

from tests.node.release import Release
from tools import image
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane

figures: list[str] = []
"""What was measured on the way, for the README."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for figure in figures:
        terminalreporter.write_line(figure)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> image.Image:
    made = image.build(tmp_path_factory.mktemp("image") / "image.tar", base=image.DEBIAN)
    figures.append(f"image: {made.own_packed / 1e6:.1f} MB packed, {made.own_unpacked / 1e6:.1f} MB unpacked")
    return made


@pytest.fixture(scope="session")
def built_test(tmp_path_factory: pytest.TempPathFactory) -> image.Image:
    return image.build(tmp_path_factory.mktemp("image") / "test.tar", base=image.DEBIAN, target="test")


@pytest.fixture(scope="session")
def plane(
    tmp_path_factory: pytest.TempPathFactory, built: image.Image, built_test: image.Image
) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane"), with_node=True) as running:
        running.node.load(built.archive)
        running.node.load(built_test.archive)
        yield running


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory, plane: ControlPlane) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("emulator"), address=plane.node.network.host) as running:
        running.trust_issuer(plane.issuer, plane.ca_file)
        yield running


@pytest.fixture(scope="module")
def release(plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    release = Release(plane, emulator, tmp_path_factory.mktemp("release"))
    release.make_namespace()
    release.install()
    yield release
    release.uninstall()
    plane.kubectl("delete", "namespace", release.namespace, "--wait=false")
