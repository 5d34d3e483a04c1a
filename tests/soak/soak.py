"""Run rotations, faults, restarts and edits by users for a long time, in the order that a seed draws.

`SoakState` checks the Secrets every ten seconds. At the end, the run ends all faults. Then all Secrets must get the
newest value, and the last controller process must not have grown.
"""

import time
from collections.abc import Callable

from tests.soak.actions import SoakActions
from tests.soak.process_growth import ProcessGrowth, ProcessSample, measure_growth
from tests.soak.state import VAULTS, SoakState
from tests.soak.steps import draw_steps
from tests.support.cluster.harness import InstalledRelease
from tools.pods.pod_process import PodProcess

# The settings of the controller. The intervals are short, so that a run has many polls and drift checks. There is no
# leader election, so that a new process does not wait for the Lease of a killed one.
SETTINGS = {"ROTATION_POLL_INTERVAL": "10", "DRIFT_INTERVAL": "60", "LEASE_NAME": ""}
# A new process allocates memory for caches and connections. Samples count after this many seconds, or after this part
# of a short life.
WARM_UP_SECONDS = 120.0
WARM_UP_FRACTION = 0.3
# A process whose measured time is at most this long has not finished its warm-up, and may grow more.
SHORT_MEASUREMENT_SECONDS = 300.0
# The buffers of a few connections; in a short measurement also the rest of the warm-up.
MAX_GROWTH_MEBIBYTES = 6.0
MAX_GROWTH_MEBIBYTES_SHORT = 12.0
# The controller opens and closes connections to four vaults and Entra as its work needs them. In a short measurement,
# the growth is high if a class is edited near the end, because the controller then opens most of them.
MAX_GROWTH_DESCRIPTORS = 40.0
MAX_GROWTH_DESCRIPTORS_SHORT = 70.0
# The average of the whole run: lists, reads of rotated objects, and retries.
MAX_CALLS_PER_SECOND_AND_VAULT = 10.0


class Soak:
    """One run of the soak test on a running controller."""

    def __init__(
        self,
        installed: InstalledRelease,
        controller: PodProcess,
        count: int,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.state = SoakState(installed, controller, count, report)
        self.actions = SoakActions(self.state)
        self._emulator = installed.emulator
        self._report = report

    def run(self, seed: int, seconds: float) -> ProcessGrowth:
        """Run the soak, and return the growth of the last process. Report first which options repeat the run."""
        self._report(f"--seconds {seconds:g} --count {len(self.state.keys)} --seed {seed}")
        self.state.create_objects()
        self.state.samples.clear()  # the creation of the objects is no part of the growth
        calls_before, began = self.state.count_vault_calls(), time.monotonic()
        for step in draw_steps(seed, seconds):
            self.state.watch_until(began + step.at)
            elapsed = time.monotonic() - began
            self._report(f"{elapsed:6.0f} s: {step.action} {step.seed}; {self.state.describe_process()}")
            self.actions.perform(step)
        self.state.watch_until(began + seconds)
        elapsed, calls = time.monotonic() - began, self.state.count_vault_calls() - calls_before
        growth = measure_growth(self.state.samples, warm_up_seconds(self.state.samples))
        counts = ", ".join(f"{action} {count}" for action, count in sorted(self.actions.counts.items()))
        self._report(f"{growth}; {calls / VAULTS / elapsed:.1f} calls a second to each vault; {counts}")
        self.check_recovery()
        assert calls <= MAX_CALLS_PER_SECOND_AND_VAULT * VAULTS * elapsed, f"{calls} vault calls in {elapsed:.0f} s"
        check_growth(growth)
        return growth

    def check_recovery(self) -> None:
        """End all faults, set a new version of every vault object, and check that every Secret gets it."""
        self._emulator.clear_faults()
        self.state.check_secrets()
        for key in self.state.keys:
            self.state.set_new_version(key)
        self.state.wait_for_newest_values()
        self.state.check_secrets()

    def remove(self) -> None:
        """End all faults, and remove the namespaces."""
        self._emulator.clear_faults()
        self.state.remove_namespaces()


def warm_up_seconds(samples: list[ProcessSample]) -> float:
    """Return how many seconds of a process's samples to leave out."""
    return min(WARM_UP_SECONDS, WARM_UP_FRACTION * (samples[-1].at - samples[0].at))


def check_growth(growth: ProcessGrowth) -> None:
    """Check that the process has grown within the limits for a measurement of its length."""
    is_short = growth.seconds <= SHORT_MEASUREMENT_SECONDS
    assert growth.mebibytes <= (MAX_GROWTH_MEBIBYTES_SHORT if is_short else MAX_GROWTH_MEBIBYTES), growth
    assert growth.descriptors <= (MAX_GROWTH_DESCRIPTORS_SHORT if is_short else MAX_GROWTH_DESCRIPTORS), growth
