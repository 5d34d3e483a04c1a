"""Two control planes under attack: with the admission plugin OwnerReferencesPermissionEnforcement, and without it.

With pytest-xdist (`-n 2`) each plane has a worker of its own.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostile.arena import SETTINGS, Arena
from tests.hostile.drawing import SECONDS, SEED
from tests.support.cluster.harness import (
    InstalledRelease,
    chart_crds,
    install_first_release,
    read_metrics,
    running_controller,
)
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane

PLANES = [
    pytest.param([], id="owners-enforced"),
    pytest.param(["--enable-admission-plugins=NodeRestriction"], id="owners-not-enforced"),
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a worker all tests of one plane: the parameter at the end of their names."""
    from xdist.scheduler import LoadScopeScheduling

    class PlaneScheduling(LoadScopeScheduling):  # type: ignore[misc]  # untyped
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.rpartition("[")[2]

    return PlaneScheduling(config, log)


def pytest_report_header() -> str:
    return f"hostile: HOSTILE_SEED={SEED} HOSTILE_SECONDS={SECONDS:g}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Record the seed with each test, also in a report that has no header."""
    item.user_properties.append(("hostile_seed", SEED))
    yield


def cloud_by_name(emulator: Emulator, vault_url: str = "") -> dict[str, str]:
    """Return the emulator as a cloud whose vaults need name resolution, as Azure's do."""
    by_name = emulator.vault_pattern.replace("127.0.0.1", "localhost")
    return {**emulator.cloud, "vaultUrl": vault_url or by_name}


@pytest.fixture(scope="session", params=PLANES)
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane"), apiserver_flags=request.param, crds=chart_crds()) as running:
        yield running


@pytest.fixture(scope="session")
def arena(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """Provide the default chart's release at work; the controller runs under its own ServiceAccount."""
    with Emulator(tmp_path_factory.mktemp("emulator")) as emulator, pytest.MonkeyPatch.context() as patched:
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        clouds = {"emulator": cloud_by_name(emulator), "nowhere": cloud_by_name(emulator, "https://{vault}.invalid")}
        installed = install_first_release(plane, emulator, tmp_path_factory.mktemp("release"), clouds=clouds)
        patched.setenv("SSL_CERT_FILE", str(plane.ca_file))  # tools/doctor asks the issuer as the world sees it
        with running_controller(installed.workload(**SETTINGS)) as controller:
            found = Arena(installed, controller)
            yield found
            found.remove()
            InstalledRelease.exposed.append(("metrics", read_metrics(controller)))


@pytest.fixture(autouse=True)
def closing_check(arena: Arena) -> Iterator[None]:
    """End every fault, and check what no attack may change; what was created in the attackers' namespace goes."""
    yield
    arena.emulator.clear_faults()
    arena.assert_unharmed()
    arena.clear()
