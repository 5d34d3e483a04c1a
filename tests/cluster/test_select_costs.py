"""Measure the cost of a selection of 50 objects in a vault with 5,000. `pytest -s` prints the figures.

The same controller first serves an AKVSync that names the same 50 objects, for comparison.
"""

from typing import Any

import pytest

from tests.bench.meter import Meter
from tests.support.cluster.harness import InstalledRelease, canary_value, eventually
from tests.support.cluster.namespace import Namespace
from tests.support.process_stats import resident_mebibytes
from tools.pods.pod_process import PodProcess

pytestmark = pytest.mark.long

OBJECTS, MATCHING, PAGES = 5_000, 50, 200
POLL = 15
SELECT = {"select": {"namePrefix": "shop-"}}
NAMED = [{"secretInAKV": f"shop-{number}"} for number in range(MATCHING)]


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": str(POLL), "JITTER": "0", "DRIFT_INTERVAL": "3600"}


@pytest.fixture
def meter(installed: InstalledRelease, space: Namespace, controller: PodProcess) -> Meter:
    return Meter(installed, space, controller)


def measure_poll(
    space: Namespace, controller: PodProcess, meter: Meter, *objects: dict[str, Any]
) -> tuple[dict[str, int], float, float]:
    """Return the calls and CPU seconds of one poll without changes, and the memory of the process in MiB afterwards."""
    space.apply(space.akv_sync(*objects, name="shop"))
    eventually(lambda: len(space.list_names("secret")), lambda found: found == MATCHING, patience=120)
    meter.wait_idle()
    meter.reset()
    meter.wait("a poll", lambda: bool(meter.calls()), 3 * POLL)
    meter.wait_idle()
    return meter.calls(), meter.cpu, resident_mebibytes(controller.pid)


def test_selection_costs_only_lists(space: Namespace, controller: PodProcess, meter: Meter) -> None:
    emulator = space.installed.emulator
    emulator.set_clock(-60)
    for number in range(OBJECTS):
        name = f"shop-{number}" if number < MATCHING else f"other-{number}"
        emulator.set_secret(space.vault, name, canary_value(name))
    emulator.set_clock(0)
    named = measure_poll(space, controller, meter, *NAMED)
    space.kubectl("delete", "akvsync", "shop")
    eventually(lambda: space.list_names("secret"), lambda found: not found, patience=60)
    selected = measure_poll(space, controller, meter, SELECT)
    for what, (calls, seconds, memory) in (("named", named), ("selected", selected)):
        print(f"{what}: {calls}, {seconds:.2f} s of CPU, {memory:.0f} MiB")  # noqa: T201
    # A poll of named objects uses get calls if they are fewer. A poll of a selection makes only list calls.
    assert named[0] == {"secrets.list": MATCHING, "secrets.get": MATCHING}
    assert selected[0] == {"secrets.list": PAGES}
    assert selected[2] - named[2] < 16
    assert selected[1] < 10
