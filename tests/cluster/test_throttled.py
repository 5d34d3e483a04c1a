"""Test initial syncs and polls with a vault that accepts 25 calls in ten seconds.

The controller makes the calls of initial syncs first and honors Retry-After.
"""

import threading
import time
from pathlib import Path

import pytest

from tests.bench.harness import NEVER
from tests.bench.meter import Meter
from tests.support.cluster.harness import InstalledRelease, eventually
from tests.support.cluster.machine_faults import MachineFaults
from tests.support.cluster.namespace import Namespace
from tools.pods.pod_process import PodProcess

pytestmark = pytest.mark.long

LIMIT, RETRY_AFTER = 25, 10
INTERVAL = 30
OLD = [f"old-{number}" for number in range(10)]
NEW = [f"new-{number}" for number in range(40)]
KEYS = [f"key-{number}" for number in range(10)]
# Ignore calls within this many seconds after a 429 and before the end of its Retry-After, because the recorder sees a
# response late, and other calls may be in flight.
TOLERANCE = 1.0


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": str(INTERVAL), "DRIFT_INTERVAL": str(NEVER), "LEASE_NAME": ""}


class CallRecorder:
    """Record the times at which the vault answers and refuses calls. Read the emulator's counters every 50 ms."""

    def __init__(self, space: Namespace) -> None:
        self._space = space
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answered: list[float] = []
        self.refused: list[float] = []

    def __enter__(self) -> "CallRecorder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.05):
            now, totals = time.time(), [0, 0]
            for what, count in self._space.installed.emulator.counters().items():
                vault, _, outcome = what.split("/")
                if vault == self._space.vault:
                    totals[outcome == "429"] += count
            self.answered += [now] * (totals[0] - len(self.answered))
            self.refused += [now] * (totals[1] - len(self.refused))


def has_all_new_secrets(space: Namespace) -> bool:
    """Return whether the namespace has every new Secret, with all its keys."""
    found = {item["metadata"]["name"]: item.get("data", {}) for item in space.list_objects("secret")}
    return found.keys() >= {*NEW, "many"} and len(found["many"]) == len(KEYS)


def test_throttled_vault_serves_initial_syncs_first_and_then_all_others(
    space: Namespace, installed: InstalledRelease, controller: PodProcess, tmp_path: Path
) -> None:
    installed.emulator.set_clock(-10)  # the controller would read a value twice if it changed just before the read
    for name in [*OLD, *NEW, *KEYS]:
        space.set_secret(name, "1")
    space.apply(space.provider_class(*OLD, *NEW, *KEYS), *(space.sync(name, {"k": name}) for name in OLD))
    for name in OLD:
        space.wait_secret(name, {"k": "1"})
    assert controller.stop() == 0  # the controller must see all new SecretSyncs together when it starts again
    space.apply(*(space.sync(name, {"k": name}) for name in NEW), space.sync("many", {name: name for name in KEYS}))
    for name in OLD:
        space.set_secret(name, "2")
    installed.emulator.set_clock(0)
    MachineFaults(controller, tmp_path).set_clock_offset(INTERVAL)  # the poll is due when the controller starts
    controller.start()
    meter = Meter(installed, space, controller)
    installed.emulator.throttle(space.vault, LIMIT, RETRY_AFTER)
    began = time.time()
    with CallRecorder(space) as recorder:
        eventually(lambda: recorder.refused, bool)
        meter.wait("all new Secrets", lambda: has_all_new_secrets(space), 90, every=0.5)
        took = time.time() - began
        for name in OLD:
            space.wait_secret(name, {"k": "2"}, patience=60)
    answered, refused = recorder.answered, recorder.refused
    writes = [item for item in meter.writes() if item.resource == "secrets"]
    timeline = "\n".join(
        [
            f"all new after {took:.1f} s",
            f"answered {[round(moment - began, 1) for moment in answered]}",
            f"refused {[round(moment - began, 1) for moment in refused]}",
            f"written {[(item.name, round(item.moment - began, 1)) for item in writes]}",
        ]
    )
    for moment in refused:
        inside = [at for at in [*answered, *refused] if moment + TOLERANCE < at < moment + RETRY_AFTER - TOLERANCE]
        assert not inside, timeline
    # After the last new Secret, a poll may read an object in full, as it does once a day for each object.
    last_new = max(item.moment for item in writes if item.name not in OLD and item.moment <= began + took)
    assert not [item for item in writes if item.name in OLD and item.moment < last_new], timeline
    # The controller fetched each value once. The other calls are polls.
    assert len(answered) <= len(NEW) + len(KEYS) + len(OLD) + 10, timeline
    assert took < 1.5 * (RETRY_AFTER + (len(NEW) + len(KEYS) - LIMIT) / (LIMIT / 10)) + 5, timeline
