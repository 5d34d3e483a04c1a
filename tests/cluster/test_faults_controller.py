"""The controller itself ends, at any moment; what it left is gone on with (`tests.ledger.closes`)."""

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import get_args

import pytest

from controller.lease import LEASE_SECONDS, RETRY
from tests.cluster.fleet import ALONE, LEADING, fleet
from tests.cluster.relay import Asked, Moment, Relay
from tests.cluster.world import Installed, at_work, eventually, leads
from tests.ledger import SOON, SYNCS, arrives, sound
from tools.workload import Workload

# The dice of these tests; the same seed, the same moments.
SEED = 20301
# All that a SecretSync which comes and one whose values rotate have the controller send to change something.
WRITES = [
    Asked("create", "serviceaccounts/token"),
    Asked("create", "secrets"),
    Asked("look", "secrets"),
    Asked("patch", "secrets"),
    Asked("patch", "secretsyncs/status"),
    Asked("create", "events"),
]
LEASE = Asked("patch", "leases")


class Mortal:
    """A controller behind a relay, to be killed at one moment of one kind of its writes."""

    def __init__(self, relay: Relay, workload: Workload) -> None:
        self.workload = workload
        self._at: tuple[Asked, Moment] | None = None
        relay.interrupts(self._ask)

    def _ask(self, moment: Moment, asked: Asked) -> bool:
        """Runs in the relay's thread, which waits."""
        if self._at != (asked, moment):
            return False
        self._at = None
        os.kill(self.workload.pid, signal.SIGKILL)
        return True

    def will_die(self, asked: Asked, moment: Moment) -> None:
        """When it sends the next such request."""
        self._at = (asked, moment)

    def comes_back(self) -> None:
        """Is dead by now or soon, and is started again."""
        assert self.workload.wait(20) == -signal.SIGKILL
        self.workload.start()
        self.workload.wait_ready()


@pytest.fixture
def mortal(installed: Installed, relay: Relay) -> Iterator[Mortal]:
    """It polls often, and looks at no Secret without a reason."""
    settings = {**ALONE, "ROTATION_POLL_INTERVAL": "1", "DRIFT_INTERVAL": "3600"}
    found = Mortal(relay, relay.workload(installed, **settings))
    with at_work(found.workload):
        yield found


def test_it_is_killed_around_every_request_of_a_write(installed: Installed, relay: Relay, mortal: Mortal) -> None:
    with fleet(installed, "one", both=SYNCS["both"]) as shops:
        seen = len(relay.asked)
        for number, asked in enumerate(WRITES):
            for moment in get_args(Moment):
                mortal.will_die(asked, moment)
                if asked.resource == "serviceaccounts/token":  # which a running one has
                    mortal.workload.kill()
                    mortal.workload.start()
                shops.adds(shops.spaces["one"], f"{number}-{moment.replace(' ', '-')}")
                shops.rotate()
                mortal.comes_back()
                arrives(shops, SOON)
        assert {found for found in relay.asked[seen:] if found.writes} == set(WRITES)
        shops.closes()


def test_a_leader_dies_around_its_claim(installed: Installed, relay: Relay) -> None:
    """One that freezes past it is in test_leader.py."""
    first, second = Mortal(relay, relay.workload(installed, **LEADING)), installed.workload(**LEADING)
    with second:
        second.wait_ready()
        eventually(lambda: leads(second), bool, LEASE_SECONDS + 5)
        with fleet(installed, "one") as shops, first.workload:
            first.workload.wait_ready()
            # What was just given back was not claimed yet: nobody waits for the end of a claim.
            first.will_die(LEASE, "before the request")
            assert second.stop() == 0
            first.comes_back()
            eventually(lambda: leads(first.workload), bool, RETRY + 1)
            shops.rotate()
            arrives(shops, SOON)
            # The claim was renewed, and who did it does not know.
            first.will_die(LEASE, "before the response")
            first.comes_back()
            shops.rotate()
            arrives(shops, LEASE_SECONDS + 5)
            shops.closes()
            assert first.workload.stop() == 0


def test_it_ends_at_any_moment_of_a_storm(installed: Installed, mortal: Mortal) -> None:
    dice = random.Random(SEED)
    with fleet(installed, *"12345678") as shops:
        for number in (signal.SIGKILL, signal.SIGTERM) * 2:
            shops.rotate()
            time.sleep(dice.uniform(0.05, 1.5))
            shops.rotate()
            if number == signal.SIGKILL:
                mortal.workload.kill()
            else:
                assert mortal.workload.stop() == 0
            sound(shops)
            mortal.workload.start()
            mortal.workload.wait_ready()
        shops.closes()
