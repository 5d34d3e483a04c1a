"""Provide one control plane, one emulator and one log collector for the whole suite."""

from collections.abc import Iterator

import pytest

from tests.logs import page
from tests.logs.stack import ROOT, Stack
from tests.support.cluster.harness import InstalledRelease, install_release
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory, plane: ControlPlane) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("emulator")) as running:
        running.trust_issuer(plane.issuer, plane.ca_file)
        yield running


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, plane: ControlPlane) -> Iterator[Stack]:
    running = Stack(plane, tmp_path_factory.mktemp("stack"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def installed(
    plane: ControlPlane, emulator: Emulator, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> InstalledRelease:
    """Install the chart before any certificate is issued. The CRDs of cert-manager must exist before."""
    values, _ = page.read_blocks()
    otlp = values["logs"]["otlp"]
    otlp["endpoint"] = stack.url
    otlp["certificate"]["issuerRef"]["name"] = otlp["ca"]["secretName"] = ROOT
    found = install_release(plane, emulator, tmp_path_factory.mktemp("release"), helm.RELEASE, **values)
    plane.restart_controller_manager()  # its garbage collector finds new kinds only every 30 s
    return found
