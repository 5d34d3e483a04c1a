"""Provide two control planes: one with the admission plugin OwnerReferencesPermissionEnforcement, one without it.

pytest-xdist (`-n 2`) runs all tests of one control plane in one worker.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostile.attack_harness import SETTINGS, AttackHarness, make_cloud
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
    """Give all tests of one control plane to one worker. The parameter in a test's name is the control plane."""
    from xdist.scheduler import LoadScopeScheduling

    class PlaneScheduling(LoadScopeScheduling):  # type: ignore[misc]  # untyped
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.rpartition("[")[2]

    return PlaneScheduling(config, log)


def pytest_report_header() -> str:
    return f"hostile: HOSTILE_SEED={SEED} HOSTILE_SECONDS={SECONDS:g}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Record the seed with each test, because some reports have no header."""
    item.user_properties.append(("hostile_seed", SEED))
    yield


@pytest.fixture(scope="session", params=PLANES)
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane"), apiserver_flags=request.param, crds=chart_crds()) as running:
        yield running


@pytest.fixture(scope="session")
def harness(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttackHarness]:
    """Provide a release with the chart's defaults. Its controller runs under its own ServiceAccount."""
    with Emulator(tmp_path_factory.mktemp("emulator")) as emulator, pytest.MonkeyPatch.context() as patched:
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        clouds = {"emulator": make_cloud(emulator), "nowhere": make_cloud(emulator, "https://{vault}.invalid")}
        installed = install_first_release(plane, emulator, tmp_path_factory.mktemp("release"), clouds=clouds)
        # tools/doctor reads the issuer's keys and verifies its certificate.
        patched.setenv("SSL_CERT_FILE", str(plane.ca_file))
        with running_controller(installed.workload(**SETTINGS)) as controller:
            found = AttackHarness(installed, controller)
            yield found
            found.remove()
            InstalledRelease.exposed.append(("metrics", read_metrics(controller)))


@pytest.fixture(autouse=True)
def closing_check(harness: AttackHarness) -> Iterator[None]:
    """End all faults, check the invariants, and delete the objects in the attackers' namespace."""
    yield
    harness.emulator.clear_faults()
    try:
        harness.assert_unharmed()
    finally:
        harness.clear()
