"""Test the number of vault calls that the README states. The counts do not depend on the machine's speed."""

import math
import time

import pytest

from controller.keyvault.reader import KEEP_SHARED
from tests.bench.harness import NEVER
from tests.bench.meter import Meter
from tests.support.cluster.harness import InstalledRelease
from tests.support.cluster.namespace import Namespace
from tools.pods.pod_process import PodProcess

pytestmark = pytest.mark.long

COUNT = 100
PAGES = math.ceil(COUNT / 25)
INTERVAL = 15.0
NAMES = [f"s{number:03}" for number in range(COUNT)]
# The controller reads each object in full once a day, with a drift check. One or two of the hundred objects can be due
# during the test.
DAILY = 2
# The controller records each poll of a group in one status, which costs one write.
RECORDED = 1


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": f"{INTERVAL:.0f}", "DRIFT_INTERVAL": str(NEVER)}


@pytest.fixture
def meter(installed: InstalledRelease, space: Namespace, controller: PodProcess) -> Meter:
    return Meter(installed, space, controller)


def make_class(space: Namespace, versions: int) -> dict[str, object]:
    """Return one class with all the objects."""
    items = "".join(f"  - |\n    objectName: {name}\n    objectVersionHistory: {versions}\n" for name in NAMES)
    return space.provider_class(objects=f"array:\n{items}")


def wait_all_synced(space: Namespace, meter: Meter) -> None:
    """Wait until each SecretSync has a status and the first poll is complete.

    This poll fetches the objects again that the controller fetched too soon after their change.
    """
    meter.wait("all statuses", lambda: _count_writes(meter, "secretsyncs/status") >= COUNT, 60)
    # The controller sends events last, at most 20 per second.
    meter.wait("all events", lambda: _count_writes(meter, "events") >= COUNT, 60)
    meter.wait("a poll", lambda: "secrets.list" in meter.calls() or "secrets.versions" in meter.calls(), 2 * INTERVAL)
    meter.wait_idle()


def measure_poll(meter: Meter) -> dict[str, int]:
    """Wait for the next poll, and return its vault calls."""
    meter.reset()
    meter.wait("a poll", lambda: bool(meter.calls()), 2 * INTERVAL)
    meter.wait_idle()
    return meter.calls()


def _count_writes(meter: Meter, resource: str) -> int:
    return sum(item.resource == resource for item in meter.writes())


def test_poll_costs_one_call_per_page_and_restart_costs_none(
    space: Namespace, installed: InstalledRelease, controller: PodProcess, meter: Meter
) -> None:
    for name in NAMES:
        space.set_secret(name, "first")
    meter.reset()
    space.apply(make_class(space, 1), *(space.sync(name, {"key": name}) for name in NAMES))
    meter.wait("all Secrets", lambda: _count_writes(meter, "secrets") >= COUNT, 60)
    first = meter.calls()
    # On a slow machine the first poll may have begun.
    assert first.pop("secrets.list", 0) <= PAGES
    # The vault sends no challenge, because the first call has a token.
    assert first == {"secrets.get": COUNT, "token": 1}
    wait_all_synced(space, meter)

    quiet = measure_poll(meter)
    assert quiet.pop("secrets.get", 0) <= DAILY
    assert quiet == {"secrets.list": PAGES}
    assert len(meter.writes()) <= DAILY + RECORDED

    for name in NAMES[:10]:
        space.set_secret(name, "second")
    rotated = measure_poll(meter)
    assert rotated["secrets.list"] == PAGES
    # The controller fetches each value once, and again if the next poll began before the measurement ended.
    assert 10 <= rotated["secrets.get"] <= 20
    written = {item.name for item in meter.writes() if item.resource == "secrets"}
    assert written >= set(NAMES[:10])
    assert len(written) <= 10 + DAILY

    assert controller.stop() == 0
    interval = controller.env.pop("ROTATION_POLL_INTERVAL")
    meter.reset()
    controller.start()
    controller.wait_ready()
    meter.wait_idle(seconds=5)
    assert meter.calls() == {}
    assert not meter.writes()
    assert controller.stop() == 0
    controller.env["ROTATION_POLL_INTERVAL"] = interval
    controller.start()
    controller.wait_ready()


def test_object_with_history_costs_one_list_of_versions(space: Namespace, meter: Meter) -> None:
    for text in ("older", "newer"):
        for name in NAMES:
            space.set_secret(name, text)
    meter.reset()
    space.apply(make_class(space, 2), *(space.sync(name, {"new": f"{name}/0", "old": f"{name}/1"}) for name in NAMES))
    wait_all_synced(space, meter)
    quiet = measure_poll(meter)
    assert quiet.pop("secrets.get", 0) <= 2 * DAILY
    assert COUNT <= quiet.pop("secrets.versions") <= COUNT + DAILY
    assert quiet == {}
    assert len(meter.writes()) <= DAILY + RECORDED


def test_object_of_many_secretsyncs_is_fetched_once(space: Namespace, meter: Meter) -> None:
    space.set_secret("shared", "first")
    meter.reset()
    space.apply(space.provider_class("shared"), *(space.sync(name, {"key": "shared"}) for name in NAMES))
    meter.wait("all Secrets", lambda: _count_writes(meter, "secrets") >= COUNT, 60)
    # kubectl creates the SecretSyncs one by one. A SecretSync uses only an answer to a request that began after its
    # creation.
    assert meter.calls()["secrets.get"] <= COUNT
    wait_all_synced(space, meter)
    meter.reset()  # a poll may begin right after the change
    space.set_secret("shared", "second")
    began = time.monotonic()
    meter.wait("all Secrets again", lambda: _count_writes(meter, "secrets") >= COUNT, 2 * INTERVAL + 60)
    # SecretSyncs share a fetched value for two seconds. A busy machine needs more time for a hundred writes.
    assert 1 <= meter.calls()["secrets.get"] <= 1 + DAILY + (time.monotonic() - began) / KEEP_SHARED
