"""Test that the controller can end at any moment and its successor continues.

Each test ends with `tests.support.invariants.assert_recovered`.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import get_args

import pytest

from controller.kube.leader_election import LEASE_DURATION
from tests.support.cluster.fault_harness import CONTROLLER_SETTINGS, SINGLE_CONTROLLER_SETTINGS, fault_harness
from tests.support.cluster.fault_proxy import FaultProxy, ProxiedRequest, RequestPhase
from tests.support.cluster.harness import InstalledRelease, eventually, is_leader, running_controller
from tests.support.invariants import RECOVERY_TIME, SYNCS, assert_intact, wait_until_current
from tools.pods.pod_process import PodProcess

pytestmark = pytest.mark.long

# The seed of the random delays. The same seed gives the same delays.
SEED = 20301
# All writes that the controller sends for a new SecretSync and for a rotated value.
WRITES = [
    ProxiedRequest("create", "serviceaccounts/token"),
    ProxiedRequest("create", "secrets"),
    ProxiedRequest("probe", "secrets"),
    ProxiedRequest("patch", "secrets"),
    ProxiedRequest("patch", "secretsyncs/status"),
    ProxiedRequest("create", "events"),
]
LEASE = ProxiedRequest("patch", "leases")


class KillableController:
    """A controller behind a proxy that kills it at a chosen phase of a chosen write."""

    def __init__(self, proxy: FaultProxy, workload: PodProcess) -> None:
        self.workload = workload
        self._at: tuple[ProxiedRequest, RequestPhase] | None = None
        proxy.interrupt_when(self._kill_if_due)

    def _kill_if_due(self, phase: RequestPhase, request: ProxiedRequest) -> bool:
        """Kill the controller at the chosen phase. The proxy waits for this call, which runs in the proxy's thread."""
        if self._at != (request, phase):
            return False
        self._at = None
        os.kill(self.workload.pid, signal.SIGKILL)
        return True

    def kill_at(self, request: ProxiedRequest, phase: RequestPhase) -> None:
        """Let the proxy kill the controller at this phase of the next such request."""
        self._at = (request, phase)

    def wait_and_restart(self) -> None:
        """Wait until the controller was killed, and start it again."""
        assert self.workload.wait(20) == -signal.SIGKILL
        self.workload.start()
        self.workload.wait_ready()


@pytest.fixture
def killable(installed: InstalledRelease, proxy: FaultProxy) -> Iterator[KillableController]:
    """Run a killable controller with a short poll interval and a long drift interval."""
    settings = {**SINGLE_CONTROLLER_SETTINGS, "ROTATION_POLL_INTERVAL": "1", "DRIFT_INTERVAL": "3600"}
    found = KillableController(proxy, proxy.workload(installed, **settings))
    with running_controller(found.workload):
        yield found


def test_controller_recovers_from_a_kill_around_every_request(
    installed: InstalledRelease, proxy: FaultProxy, killable: KillableController
) -> None:
    with fault_harness(installed, "one", both=SYNCS["both"]) as harness:
        seen = len(proxy.requests)
        for number, request in enumerate(WRITES):
            for phase in get_args(RequestPhase):
                killable.kill_at(request, phase)
                if request.resource == "serviceaccounts/token":  # a running controller has its token already
                    killable.workload.kill()
                    killable.workload.start()
                harness.add_sync(harness.namespaces["one"], f"{number}-{phase.replace(' ', '-')}")
                harness.rotate_values()
                killable.wait_and_restart()
                wait_until_current(harness, RECOVERY_TIME)
        assert {found for found in proxy.requests[seen:] if found.is_write} == set(WRITES)
        harness.assert_recovered()


def test_lease_is_taken_over_after_a_leader_dies_around_a_lease_write(
    installed: InstalledRelease, proxy: FaultProxy
) -> None:
    """test_leader.py tests a leader that pauses past its deadline."""
    first, second = (
        KillableController(proxy, proxy.workload(installed, **CONTROLLER_SETTINGS)),
        installed.workload(**CONTROLLER_SETTINGS),
    )
    with second:
        second.wait_ready()
        eventually(lambda: is_leader(second), bool, LEASE_DURATION + 5)
        with fault_harness(installed, "one") as harness, first.workload:
            first.workload.wait_ready()
            # The released lease has no holder, so no controller waits for it to expire.
            first.kill_at(LEASE, "before the request")
            assert second.stop() == 0
            first.wait_and_restart()
            eventually(lambda: is_leader(first.workload), bool, LEASE_DURATION / 2)
            harness.rotate_values()
            wait_until_current(harness, RECOVERY_TIME)
            # The API server has renewed the lease, but the leader dies before it reads the response.
            first.kill_at(LEASE, "before the response")
            first.wait_and_restart()
            harness.rotate_values()
            wait_until_current(harness, LEASE_DURATION + 5)
            harness.assert_recovered()
            assert first.workload.stop() == 0


def test_controller_recovers_from_termination_at_any_time_under_load(
    installed: InstalledRelease, killable: KillableController
) -> None:
    rng = random.Random(SEED)
    with fault_harness(installed, *"12345678") as harness:
        for number in (signal.SIGKILL, signal.SIGTERM) * 2:
            harness.rotate_values()
            time.sleep(rng.uniform(0.05, 1.5))
            harness.rotate_values()
            if number == signal.SIGKILL:
                killable.workload.kill()
            else:
                assert killable.workload.stop() == 0
            assert_intact(harness)
            killable.workload.start()
            killable.workload.wait_ready()
        harness.assert_recovered()
