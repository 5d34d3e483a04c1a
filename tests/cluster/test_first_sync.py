"""Test in the audit log that the first sync of each SecretSync costs one create and one status patch."""

import asyncio

import pytest

from tests.bench.harness import create_objects
from tests.bench.meter import Meter, SyncWrites
from tests.support.cluster.harness import InstalledRelease
from tests.support.cluster.namespace import Namespace
from tools.pods.pod_process import PodProcess

CLASSES, EACH = 20, 10
COUNT = CLASSES * EACH
# Drift checks run at random times, but not in the first half of the interval. That half is longer than a first sync on
# a busy machine, so no drift check runs during the first sync.
DRIFT_INTERVAL = 300


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": "3600", "DRIFT_INTERVAL": str(DRIFT_INTERVAL)}


@pytest.fixture
def meter(installed: InstalledRelease, space: Namespace, controller: PodProcess) -> Meter:
    return Meter(installed, space, controller)


def test_objects_applied_to_a_running_controller_cost_two_writes(
    installed: InstalledRelease, space: Namespace, meter: Meter
) -> None:
    """Classes and SecretSyncs have separate watches, so the controller often receives a SecretSync before its class."""
    objects = []
    for number in range(CLASSES):
        names = [f"s{number:02}-{index}" for index in range(EACH)]
        for name in names:
            space.set_secret(name, "first")
        objects += [space.sync(name, {"key": name}, secretProviderClassName=f"class-{number}") for name in names]
        objects.append(space.provider_class(*names, name=f"class-{number}"))
    meter.reset()
    asyncio.run(create_objects(installed.plane.kubeconfig, space.name, objects))
    meter.wait("all statuses", lambda: SyncWrites.of(meter.writes()).status_patches >= COUNT, 120)
    done = SyncWrites.of(meter.attempts())
    assert (done.creates, done.status_patches) == (COUNT, COUNT)
    assert (done.empty_patches, done.repeated_status_patches) == (0, 0)
