"""Test that the controller recovers after faults of its machine: clock, name resolution, disk, descriptors, memory.

Each test ends with `tests.support.invariants.assert_recovered`. tests/node/test_release.py tests the memory limit of a
pod, at which the kernel kills it.
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

pytestmark = pytest.mark.long

SECONDS = 3.0
DAY = 86_400.0


@pytest.fixture(scope="module")
def stopped_controller(installed: InstalledRelease, proxy: FaultProxy) -> PodProcess:
    """Return a controller that reaches the vault and Entra by host name. It is not started yet."""
    workload = proxy.workload(installed, **SINGLE_CONTROLLER_SETTINGS)
    clouds = workload.log.with_name("clouds.json")
    named = {field: text.replace("127.0.0.1", "localhost") for field, text in installed.emulator.cloud.items()}
    clouds.write_text(json.dumps({"emulator": named}))
    workload.env["CLOUDS_FILE"] = str(clouds)
    return workload


@pytest.fixture(scope="module")
def machine(stopped_controller: PodProcess, tmp_path_factory: pytest.TempPathFactory) -> MachineFaults:
    return MachineFaults(stopped_controller, tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def controller(stopped_controller: PodProcess, machine: MachineFaults) -> Iterator[PodProcess]:
    with running_controller(stopped_controller):
        yield stopped_controller


def restart(controller: PodProcess) -> None:
    """Kill the controller and start it again, as a kubelet does."""
    controller.kill()
    controller.start()
    controller.wait_ready()


def restart_if_ended(controller: PodProcess) -> None:
    """Start the controller again if it has ended, as a kubelet does. After a fatal error Python needs time to end."""
    is_ending = "Fatal Python error" in controller.log.read_text(errors="replace")
    try:
        controller.wait(30 if is_ending else 0)
    except WorkloadError:  # the controller still runs
        return
    controller.start()
    controller.wait_ready()


def wait_any_status(harness: FaultHarness, text: str) -> None:
    """Wait until any SecretSync reports the text. While a vault is unreachable, only one of them probes it."""
    space = harness.namespaces["one"]
    eventually(
        lambda: [space.ready_condition(name)[1] for name in space.list_names("secretsync")],
        lambda found: text in str(found),
    )


@pytest.mark.parametrize("jumps", [(DAY, 0.0), (-DAY, 0.0)], ids=["forward", "back"])
def test_controller_recovers_after_jumps_of_the_clock(
    harness: FaultHarness, machine: MachineFaults, controller: PodProcess, jumps: tuple[float, float]
) -> None:
    for ahead in jumps:
        machine.set_clock_offset(ahead)
        # A wrong clock makes expired tokens seem valid, and times of a status seem long past or in the future.
        harness.installed.emulator.roll_signing_key()
        harness.rotate_during(2)
        restart(controller)
        harness.assert_recovered()


def test_controller_recovers_after_name_resolution_failed(
    harness: FaultHarness, machine: MachineFaults, controller: PodProcess
) -> None:
    machine.set_name_resolution(False)
    try:
        restart(controller)  # a new process has no resolved addresses
        harness.rotate_during(1)
        wait_any_status(harness, "does not resolve")
    finally:
        machine.set_name_resolution(True)
    harness.assert_recovered()


def test_controller_recovers_after_descriptors_were_exhausted(
    harness: FaultHarness, machine: MachineFaults, proxy: FaultProxy, controller: PodProcess
) -> None:
    with machine.exhaust_descriptors():
        harness.installed.emulator.clear_faults()  # resets every connection
        # The connection to the API server is still open, so the controller can report the error.
        wait_any_status(harness, "no more files")
        proxy.cut_watches()
        harness.rotate_during(SECONDS)
    harness.assert_recovered()


def test_controller_recovers_after_the_disk_of_its_log_was_full(
    harness: FaultHarness, machine: MachineFaults, controller: PodProcess
) -> None:
    """The controller loses only the log lines that it cannot write."""
    before = controller.log.stat().st_size
    with machine.fill_disk():
        harness.installed.emulator.cut_off()
        harness.namespaces["one"].wait_reason("one", Reason.PROVIDER_ERROR)  # the controller logs this
        harness.rotate_during(SECONDS)
        assert controller.log.stat().st_size == before
        harness.installed.emulator.restore()
    harness.assert_recovered()
    assert controller.stop() == 0
    assert "stopped" in controller.log.read_bytes()[before:].decode()
    controller.start()
    controller.wait_ready()


def test_controller_recovers_after_memory_was_exhausted(
    harness: FaultHarness, machine: MachineFaults, controller: PodProcess
) -> None:
    """Python ends if it cannot allocate a frame. A task fails if it cannot allocate an object."""
    start = len(controller.log.read_text(errors="replace"))
    with machine.exhaust_memory():
        harness.add_large_syncs(harness.namespaces["one"], 16)
        harness.rotate_during(SECONDS)
        # A TaskGroup raises an ExceptionGroup if one of its tasks gets no memory or no thread.
        fatal = re.compile("MemoryError|Fatal Python error|unexpected ExceptionGroup")
        eventually(lambda: controller.log.read_text(errors="replace")[start:], fatal.search)
    restart_if_ended(controller)
    harness.assert_recovered()
