"""Test the number of vault calls that the README promises, counted at the vault, independent of the machine's speed."""

import math
import time

import pytest

from controller.keyvault.reader import KEEP_SHARED
from tests.bench.harness import NEVER
from tests.bench.meter import Meter
from tests.support.cluster.harness import InstalledRelease
from tests.support.cluster.namespace import Namespace
from tools.pods.pod_process import PodProcess

COUNT = 100
PAGES = math.ceil(COUNT / 25)
INTERVAL = 15.0
NAMES = [f"s{number:03}" for number in range(COUNT)]
# Each object is read in full once a day, with a drift check. Of a hundred, one or two can be due during the test.
DAILY = 2
# The status in which the poll of the group is recorded.
RECORDED = 1


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": f"{INTERVAL:.0f}", "DRIFT_INTERVAL": str(NEVER)}


@pytest.fixture
def meter(installed: InstalledRelease, space: Namespace, controller: PodProcess) -> Meter:
    return Meter(installed, space, controller)


def history(space: Namespace, versions: int) -> dict[str, object]:
    """One class of all the objects."""
    items = "".join(f"  - |\n    objectName: {name}\n    objectVersionHistory: {versions}\n" for name in NAMES)
    return space.provider_class(objects=f"array:\n{items}")


def all_synced(space: Namespace, meter: Meter) -> None:
    """Every SecretSync's first status is written, and what was fetched too soon after its setting is fetched again."""
    meter.wait("all statuses", lambda: _written(meter, "secretsyncs/status") >= COUNT, 60)
    # They come after all else, and no more than 20 a second.
    meter.wait("all events", lambda: _written(meter, "events") >= COUNT, 60)
    meter.wait("a poll", lambda: "secrets.list" in meter.calls() or "secrets.versions" in meter.calls(), 2 * INTERVAL)
    meter.quiet()


def poll(meter: Meter) -> dict[str, int]:
    """Return the calls of the next poll."""
    meter.reset()
    meter.wait("a poll", lambda: bool(meter.calls()), 2 * INTERVAL)
    meter.quiet()
    return meter.calls()


def _written(meter: Meter, resource: str) -> int:
    return sum(item.resource == resource for item in meter.writes())


def test_polls_cost_pages_and_restarts_nothing(
    space: Namespace, installed: InstalledRelease, controller: PodProcess, meter: Meter
) -> None:
    for name in NAMES:
        space.set_secret(name, "first")
    meter.reset()
    space.apply(history(space, 1), *(space.sync(name, {"key": name}) for name in NAMES))
    meter.wait("all Secrets", lambda: _written(meter, "secrets") >= COUNT, 60)
    first = meter.calls()
    # A slow machine may be at its first poll already.
    assert first.pop("secrets.list", 0) <= PAGES
    # No challenge either: the token goes along with the first call.
    assert first == {"secrets.get": COUNT, "token": 1}
    all_synced(space, meter)

    quiet = poll(meter)
    assert quiet.pop("secrets.get", 0) <= DAILY
    assert quiet == {"secrets.list": PAGES}
    assert len(meter.writes()) <= DAILY + RECORDED

    for name in NAMES[:10]:
        space.set_secret(name, "second")
    rotated = poll(meter)
    assert rotated["secrets.list"] == PAGES
    # Fetched once; and again in the next poll, if that began before the measurement ended.
    assert 10 <= rotated["secrets.get"] <= 20
    written = {item.name for item in meter.writes() if item.resource == "secrets"}
    assert written >= set(NAMES[:10])
    assert len(written) <= 10 + DAILY

    assert controller.stop() == 0
    interval = controller.env.pop("ROTATION_POLL_INTERVAL")
    meter.reset()
    controller.start()
    controller.wait_ready()
    meter.quiet(seconds=5)
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
    space.apply(history(space, 2), *(space.sync(name, {"new": f"{name}/0", "old": f"{name}/1"}) for name in NAMES))
    all_synced(space, meter)
    quiet = poll(meter)
    assert quiet.pop("secrets.get", 0) <= 2 * DAILY
    assert COUNT <= quiet.pop("secrets.versions") <= COUNT + DAILY
    assert quiet == {}
    assert len(meter.writes()) <= DAILY + RECORDED


def test_object_of_many_secretsyncs_is_fetched_once(space: Namespace, meter: Meter) -> None:
    space.set_secret("shared", "first")
    meter.reset()
    space.apply(space.provider_class("shared"), *(space.sync(name, {"key": "shared"}) for name in NAMES))
    meter.wait("all Secrets", lambda: _written(meter, "secrets") >= COUNT, 60)
    # kubectl hands them over one by one, and each is served by a request that began after it came.
    assert meter.calls()["secrets.get"] <= COUNT
    all_synced(space, meter)
    meter.reset()  # a poll may begin right after the change
    space.set_secret("shared", "second")
    began = time.monotonic()
    meter.wait("all Secrets again", lambda: _written(meter, "secrets") >= COUNT, 2 * INTERVAL + 60)
    # A value is shared for two seconds; a busy machine needs longer for a hundred writes.
    assert 1 <= meter.calls()["secrets.get"] <= 1 + DAILY + (time.monotonic() - began) / KEEP_SHARED
