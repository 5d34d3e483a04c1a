"""The machine under the controller fails: clock, names, disk, descriptors, memory (`tests.ledger.closes`).

The limit that a pod has, at which the kernel kills it, is in tests/node/test_release.py.
"""

import json
import re
from collections.abc import Iterator

import pytest

from controller.api.conditions import Reason
from tests.cluster.fleet import ALONE, Fleet
from tests.cluster.machine import Machine
from tests.cluster.relay import Relay
from tests.cluster.world import Installed, at_work, eventually
from tools.kubelet import WorkloadError
from tools.workload import Workload

SECONDS = 3.0
DAY = 86_400.0


@pytest.fixture(scope="module")
def unstarted(installed: Installed, relay: Relay) -> Workload:
    """Which reaches vault and Entra by a name."""
    workload = relay.workload(installed, **ALONE)
    clouds = workload.log.with_name("clouds.json")
    emulator = installed.emulator
    named = {
        "authority": emulator.authority.replace("127.0.0.1", "localhost"),
        "vaultUrl": emulator.vault_pattern.replace("127.0.0.1", "localhost"),
        "ca": emulator.ca_file.read_text(),
    }
    clouds.write_text(json.dumps({"emulator": named}))
    workload.env["CLOUDS_FILE"] = str(clouds)
    return workload


@pytest.fixture(scope="module")
def machine(unstarted: Workload, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(unstarted, tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def controller(unstarted: Workload, machine: Machine) -> Iterator[Workload]:
    with at_work(unstarted):
        yield unstarted


def restart(controller: Workload) -> None:
    """As a kubelet does."""
    controller.kill()
    controller.start()
    controller.wait_ready()


def revive(controller: Workload) -> None:
    """As a kubelet does where it has ended."""
    try:
        controller.wait(0)
    except WorkloadError:  # it lives
        return
    controller.start()
    controller.wait_ready()


def some_status_says(shops: Fleet, text: str) -> None:
    """Wait for it: while a vault is away, one SecretSync tries for all of its vault, so any one may report."""
    space = shops.spaces["one"]
    eventually(lambda: [space.ready(name)[1] for name in space.names("secretsync")], lambda found: text in str(found))


@pytest.mark.parametrize("jumps", [(DAY, 0.0), (-DAY, 0.0)], ids=["forward", "back"])
def test_the_clock_jumps_and_jumps_back(
    shops: Fleet, machine: Machine, controller: Workload, jumps: tuple[float, float]
) -> None:
    for ahead in jumps:
        machine.clock_goes(ahead)
        # Whoever trusts the clock takes its token for a good one, and what a status says for long ago or yet to come.
        shops.installed.emulator.roll_signing_key()
        shops.endures(2)
        restart(controller)
        shops.closes()


def test_no_name_resolves(shops: Fleet, machine: Machine, controller: Workload) -> None:
    machine.names_resolve(False)
    try:
        restart(controller)  # what was resolved is forgotten
        shops.endures(1)
        some_status_says(shops, "does not resolve")
    finally:
        machine.names_resolve(True)
    shops.closes()


def test_nothing_more_can_be_opened(shops: Fleet, machine: Machine, relay: Relay, controller: Workload) -> None:
    with machine.no_more_descriptors():
        shops.installed.emulator.heal()  # resets every connection
        # That to the API server is open still, so it can be said.
        some_status_says(shops, "no more files")
        relay.cut_watches()
        shops.endures(SECONDS)
    shops.closes()


def test_the_disk_under_the_log_is_full(shops: Fleet, machine: Machine, controller: Workload) -> None:
    """A line that cannot be written is lost, and nothing else."""
    before = controller.log.stat().st_size
    with machine.full_disk():
        shops.installed.emulator.cut_off()
        shops.spaces["one"].wait_reason("one", Reason.PROVIDER_ERROR)  # which is worth a line
        shops.endures(SECONDS)
        assert controller.log.stat().st_size == before
        shops.installed.emulator.restore()
    shops.closes()
    assert controller.stop() == 0
    assert "stopped" in controller.log.read_bytes()[before:].decode()
    controller.start()
    controller.wait_ready()


def test_no_more_memory_can_be_had(shops: Fleet, machine: Machine, controller: Workload) -> None:
    """Python itself ends where it gets none for a frame, and a task where it gets none for what it does."""
    with machine.no_more_memory():
        shops.adds_large(shops.spaces["one"], 16)
        shops.endures(SECONDS)
        # A group of tasks, one of which got no memory or no thread, ends as an ExceptionGroup.
        trouble = re.compile("MemoryError|Fatal Python error|unexpected ExceptionGroup")
        eventually(lambda: controller.tail(1000), trouble.search)
    revive(controller)
    shops.closes()
