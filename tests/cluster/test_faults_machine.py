"""The machine of the controller fails: clock, name resolution, disk, descriptors or memory.

Each test ends with `tests.support.invariants.assert_recovered`.

The limit that a pod has, at which the kernel kills it, is in tests/node/test_release.py.
"""

import json
import re
from collections.abc import Iterator

import pytest

from controller.api.conditions import Reason
from tests.support.cluster.fault_harness import SINGLE_CONTROLLER_SETTINGS, FaultHarness
from tests.support.cluster.fault_proxy import FaultProxy
from tests.support.cluster.harness import InstalledRelease, eventually, running_controller
from tests.support.cluster.machine_faults import MachineFaults
from tools.pods.pod_emulation import WorkloadError
from tools.pods.pod_process import PodProcess

SECONDS = 3.0
DAY = 86_400.0


@pytest.fixture(scope="module")
def unstarted(installed: InstalledRelease, relay: FaultProxy) -> PodProcess:
    """Which reaches vault and Entra by a name."""
    workload = relay.workload(installed, **SINGLE_CONTROLLER_SETTINGS)
    clouds = workload.log.with_name("clouds.json")
    named = {field: text.replace("127.0.0.1", "localhost") for field, text in installed.emulator.cloud.items()}
    clouds.write_text(json.dumps({"emulator": named}))
    workload.env["CLOUDS_FILE"] = str(clouds)
    return workload


@pytest.fixture(scope="module")
def machine(unstarted: PodProcess, tmp_path_factory: pytest.TempPathFactory) -> MachineFaults:
    return MachineFaults(unstarted, tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def controller(unstarted: PodProcess, machine: MachineFaults) -> Iterator[PodProcess]:
    with running_controller(unstarted):
        yield unstarted


def restart(controller: PodProcess) -> None:
    """As a kubelet does."""
    controller.kill()
    controller.start()
    controller.wait_ready()


def revive(controller: PodProcess) -> None:
    """Restart the controller if it has ended, as a kubelet does. After a fatal error Python takes a while to end."""
    is_ending = "Fatal Python error" in controller.log.read_text(errors="replace")
    try:
        controller.wait(30 if is_ending else 0)
    except WorkloadError:  # it lives
        return
    controller.start()
    controller.wait_ready()


def some_status_says(shops: FaultHarness, text: str) -> None:
    """Wait for it: while a vault is away, one SecretSync tries for all of its vault, so any one may report."""
    space = shops.namespaces["one"]
    eventually(
        lambda: [space.ready_condition(name)[1] for name in space.list_names("secretsync")],
        lambda found: text in str(found),
    )


@pytest.mark.parametrize("jumps", [(DAY, 0.0), (-DAY, 0.0)], ids=["forward", "back"])
def test_controller_recovers_after_jumps_of_the_clock(
    shops: FaultHarness, machine: MachineFaults, controller: PodProcess, jumps: tuple[float, float]
) -> None:
    for ahead in jumps:
        machine.set_clock_offset(ahead)
        # A wrong clock makes expired tokens seem valid, and times of a status seem long past or in the future.
        shops.installed.emulator.roll_signing_key()
        shops.rotate_during(2)
        restart(controller)
        shops.assert_recovered()


def test_no_name_resolves(shops: FaultHarness, machine: MachineFaults, controller: PodProcess) -> None:
    machine.set_name_resolution(False)
    try:
        restart(controller)  # what was resolved is forgotten
        shops.rotate_during(1)
        some_status_says(shops, "does not resolve")
    finally:
        machine.set_name_resolution(True)
    shops.assert_recovered()


def test_nothing_more_can_be_opened(
    shops: FaultHarness, machine: MachineFaults, relay: FaultProxy, controller: PodProcess
) -> None:
    with machine.exhaust_descriptors():
        shops.installed.emulator.clear_faults()  # resets every connection
        # That to the API server is open still, so it can be said.
        some_status_says(shops, "no more files")
        relay.cut_watches()
        shops.rotate_during(SECONDS)
    shops.assert_recovered()


def test_controller_recovers_after_the_disk_of_its_log_was_full(
    shops: FaultHarness, machine: MachineFaults, controller: PodProcess
) -> None:
    """A line that cannot be written is lost, and nothing else."""
    before = controller.log.stat().st_size
    with machine.fill_disk():
        shops.installed.emulator.cut_off()
        shops.namespaces["one"].wait_reason("one", Reason.PROVIDER_ERROR)  # which is worth a line
        shops.rotate_during(SECONDS)
        assert controller.log.stat().st_size == before
        shops.installed.emulator.restore()
    shops.assert_recovered()
    assert controller.stop() == 0
    assert "stopped" in controller.log.read_bytes()[before:].decode()
    controller.start()
    controller.wait_ready()


def test_no_more_memory_can_be_had(shops: FaultHarness, machine: MachineFaults, controller: PodProcess) -> None:
    """Python itself ends where it gets none for a frame, and a task where it gets none for what it does."""
    with machine.exhaust_memory():
        shops.add_large_syncs(shops.namespaces["one"], 16)
        shops.rotate_during(SECONDS)
        # A group of tasks, one of which got no memory or no thread, ends as an ExceptionGroup.
        trouble = re.compile("MemoryError|Fatal Python error|unexpected ExceptionGroup")
        eventually(lambda: controller.tail(1000), trouble.search)
    revive(controller)
    shops.assert_recovered()
