"""The controller ends at any moment, and its successor continues (`tests.support.invariants.assert_recovered`)."""

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import get_args

import pytest

from controller.kube.leader_election import LEASE_DURATION, RETRY_PERIOD
from tests.support.cluster.fault_harness import CONTROLLER_SETTINGS, SINGLE_CONTROLLER_SETTINGS, fault_harness
from tests.support.cluster.fault_proxy import FaultProxy, ProxiedRequest, RequestPhase
from tests.support.cluster.harness import InstalledRelease, eventually, is_leader, running_controller
from tests.support.invariants import RECOVERY_TIME, SYNCS, assert_intact, wait_until_current
from tools.pods.pod_process import PodProcess

# The random source of these tests. The same seed gives the same moments.
SEED = 20301
# All that a SecretSync which comes and one whose values rotate have the controller send to change something.
WRITES = [
    ProxiedRequest("create", "serviceaccounts/token"),
    ProxiedRequest("create", "secrets"),
    ProxiedRequest("probe", "secrets"),
    ProxiedRequest("patch", "secrets"),
    ProxiedRequest("patch", "secretsyncs/status"),
    ProxiedRequest("create", "events"),
]
LEASE = ProxiedRequest("patch", "leases")


class Mortal:
    """A controller behind a relay, to be killed at one moment of one kind of its writes."""

    def __init__(self, relay: FaultProxy, workload: PodProcess) -> None:
        self.workload = workload
        self._at: tuple[ProxiedRequest, RequestPhase] | None = None
        relay.interrupt_when(self._ask)

    def _ask(self, moment: RequestPhase, requested_at: ProxiedRequest) -> bool:
        """Run in the thread of the proxy, which waits."""
        if self._at != (requested_at, moment):
            return False
        self._at = None
        os.kill(self.workload.pid, signal.SIGKILL)
        return True

    def will_die(self, requested_at: ProxiedRequest, moment: RequestPhase) -> None:
        """When it sends the next such request."""
        self._at = (requested_at, moment)

    def comes_back(self) -> None:
        """Is dead by now or soon, and is started again."""
        assert self.workload.wait(20) == -signal.SIGKILL
        self.workload.start()
        self.workload.wait_ready()


@pytest.fixture
def mortal(installed: InstalledRelease, relay: FaultProxy) -> Iterator[Mortal]:
    """Use a short poll interval and a long drift interval."""
    settings = {**SINGLE_CONTROLLER_SETTINGS, "ROTATION_POLL_INTERVAL": "1", "DRIFT_INTERVAL": "3600"}
    found = Mortal(relay, relay.workload(installed, **settings))
    with running_controller(found.workload):
        yield found


def test_controller_recovers_from_a_kill_around_every_request(
    installed: InstalledRelease, relay: FaultProxy, mortal: Mortal
) -> None:
    with fault_harness(installed, "one", both=SYNCS["both"]) as shops:
        seen = len(relay.requests)
        for number, requested_at in enumerate(WRITES):
            for moment in get_args(RequestPhase):
                mortal.will_die(requested_at, moment)
                if requested_at.resource == "serviceaccounts/token":  # which a running one has
                    mortal.workload.kill()
                    mortal.workload.start()
                shops.add_sync(shops.namespaces["one"], f"{number}-{moment.replace(' ', '-')}")
                shops.rotate_values()
                mortal.comes_back()
                wait_until_current(shops, RECOVERY_TIME)
        assert {found for found in relay.requests[seen:] if found.is_write} == set(WRITES)
        shops.assert_recovered()


def test_lease_is_taken_over_when_a_leader_dies_around_its_claim(
    installed: InstalledRelease, relay: FaultProxy
) -> None:
    """One that freezes past it is in test_leader.py."""
    first, second = (
        Mortal(relay, relay.workload(installed, **CONTROLLER_SETTINGS)),
        installed.workload(**CONTROLLER_SETTINGS),
    )
    with second:
        second.wait_ready()
        eventually(lambda: is_leader(second), bool, LEASE_DURATION + 5)
        with fault_harness(installed, "one") as shops, first.workload:
            first.workload.wait_ready()
            # The released lease has no holder, so no controller waits for it to expire.
            first.will_die(LEASE, "before the request")
            assert second.stop() == 0
            first.comes_back()
            eventually(lambda: is_leader(first.workload), bool, RETRY_PERIOD + 1)
            shops.rotate_values()
            wait_until_current(shops, RECOVERY_TIME)
            # The claim was renewed, and who did it does not know.
            first.will_die(LEASE, "before the response")
            first.comes_back()
            shops.rotate_values()
            wait_until_current(shops, LEASE_DURATION + 5)
            shops.assert_recovered()
            assert first.workload.stop() == 0


def test_controller_recovers_from_termination_at_any_time_under_load(
    installed: InstalledRelease, mortal: Mortal
) -> None:
    rng = random.Random(SEED)
    with fault_harness(installed, *"12345678") as shops:
        for number in (signal.SIGKILL, signal.SIGTERM) * 2:
            shops.rotate_values()
            time.sleep(rng.uniform(0.05, 1.5))
            shops.rotate_values()
            if number == signal.SIGKILL:
                mortal.workload.kill()
            else:
                assert mortal.workload.stop() == 0
            assert_intact(shops)
            mortal.workload.start()
            mortal.workload.wait_ready()
        shops.assert_recovered()
