"""One control plane, one emulator and one installed release for the whole suite; a controller per test module.

The controller is the chart's Deployment run as a process, under the chart's own ServiceAccount and Roles.
"""

from collections.abc import Iterator

import pytest

from tests.cluster.world import Installed, Namespace, install
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.workload import Workload


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The proofs over everything that the suite did come last."""
    items.sort(key=lambda item: "test_zz_" in item.nodeid)


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
def installed(plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(plane, emulator, tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """The environment in which a module's controller differs from the chart's; a module may override this."""
    return {}


@pytest.fixture(scope="module")
def controller(installed: Installed, settings: dict[str, str]) -> Iterator[Workload]:
    workload = installed.workload(**settings)
    installed.logs.append(workload.log)
    with workload:
        workload.wait_ready()
        yield workload
        assert workload.stop() == 0


@pytest.fixture
def space(installed: Installed, controller: Workload) -> Iterator[Namespace]:
    """A namespace with a federated ServiceAccount and a vault of its own."""
    namespace = Namespace(installed)
    yield namespace
    installed.emulator.heal()
    installed.emulator.restore()
    namespace.remove()
