"""Provide one cluster with a node and one emulator for each worker. Build the two images once for all workers."""

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.node.release import Release
from tools.images import image
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane

HERE = Path(__file__).parent
figures: list[str] = []
"""The figures that the tests measure. The README quotes some of them."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = figures


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Collect the figures of a pytest-xdist worker."""
    found = getattr(node, "workeroutput", {}).get("figures", [])
    figures.extend(figure for figure in found if figure not in figures)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Raise the time limit of each test, because the first test of a worker builds the images and starts the node."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(900))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for figure in figures:
        terminalreporter.write_line(figure)


def _build_once(factory: pytest.TempPathFactory, worker: str, target: str) -> image.BuiltImage:
    """Return the image of a target of the Containerfile. The first worker that needs it builds it."""
    base = factory.getbasetemp()
    folder = base if worker == "master" else base.parent  # the workers' common folder
    record = folder / f"{target}.json"
    with (folder / f"{target}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            built = image.build_image(folder / f"{target}.tar", base=image.DEBIAN, target=target)
            record.write_bytes(msgspec.json.encode(built, enc_hook=str))
    return msgspec.json.decode(record.read_bytes(), type=image.BuiltImage, dec_hook=lambda kind, given: kind(given))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> image.BuiltImage:
    found = _build_once(tmp_path_factory, worker_id, "controller")
    figures.append(f"image: {found.own_packed / 1e6:.1f} MB packed, {found.own_unpacked / 1e6:.1f} MB unpacked")
    return found


@pytest.fixture(scope="session")
def built_test(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> image.BuiltImage:
    return _build_once(tmp_path_factory, worker_id, "test")


@pytest.fixture(scope="session")
def plane(
    tmp_path_factory: pytest.TempPathFactory, built: image.BuiltImage, built_test: image.BuiltImage
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
