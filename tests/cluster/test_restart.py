"""Restarts of the controller and of the API server, and what they cost the vault."""

import json
import os
import signal
import time
from collections import Counter

import pytest

from tests.support.cluster.harness import SINCE_POLICIES, InstalledRelease, StartController, canary_value, eventually
from tests.support.cluster.namespace import Namespace
from tools.codegen.deployment import PROBE_SECRET_TYPE
from tools.local_cluster.errors import ClusterError
from tools.pods.pod_emulation import WorkloadError
from tools.pods.pod_process import PodProcess


@pytest.fixture(scope="module")
def controller() -> None:
    """Each test here starts controllers of its own; `space` needs none."""


def test_restart_without_due_polls_makes_no_vault_call(
    installed: InstalledRelease, start: StartController, space: Namespace
) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    first = start()
    space.wait_secret("s", {"k": "1"})
    space.wait_reason("s", "UpdateValueChangeOrForceUpdateSucceeded")
    stopping = time.monotonic()
    assert first.stop() == 0
    assert time.monotonic() - stopping < 3  # nothing is under way: nothing is waited for
    installed.emulator.reset_counters()
    second = start(DRIFT_INTERVAL="1")
    time.sleep(4)  # several drift looks
    assert installed.emulator.counters() == {}
    # The metadata alone shows that a Secret was edited while no controller ran. Repairing it costs one get.
    assert second.stop() == 0
    space.kubectl("patch", "secret", "s", "--type=merge", "--patch", '{"data":{"k":"eA=="}}')
    third = start(DRIFT_INTERVAL="1")
    space.wait_secret("s", {"k": "1"})
    assert space.count_calls("secrets.get/200") == 1
    assert third.stop() == 0


def test_after_a_crash_no_vault_call_before_the_next_poll_is_due(
    installed: InstalledRelease, start: StartController, space: Namespace
) -> None:
    """The statuses are older than the last poll of their group, which only one of them records."""
    names = ("a", "b", "c")
    for name in names:
        space.set_secret(name, "1")
    space.apply(space.provider_class(*names), *(space.sync(name, {"k": name}) for name in names))

    def recorded() -> list[str]:
        found = [space.get("secretsync", name)["status"].get("lastGroupPoll") for name in names]
        return [record["time"] for record in found if record]

    first = start(ROTATION_POLL_INTERVAL="15", LEASE_NAME="")
    for name in names:
        space.wait_reason(name, "UpdateValueChangeOrForceUpdateSucceeded")
    eventually(recorded, bool, patience=40)
    polled = time.monotonic()
    first.kill()
    assert len(recorded()) == 1
    installed.emulator.reset_counters()
    start(ROTATION_POLL_INTERVAL="30", LEASE_NAME="")
    # By its own status, each Secret would be due 15 s after that poll.
    time.sleep(max(0.0, polled + 22 - time.monotonic()))
    assert installed.emulator.counters() == {}
    eventually(lambda: space.count_calls("secrets.list"), bool, patience=20)


def test_rotation_comes_by_itself(installed: InstalledRelease, start: StartController, space: Namespace) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    start(ROTATION_POLL_INTERVAL="2")
    space.wait_secret("s", {"k": "1"})
    space.set_secret("a", "2")
    space.wait_secret("s", {"k": "2"}, patience=6)
    installed.emulator.cut_off()
    space.wait_reason("s", "ProviderError")
    assert space.secret_values("s") == {"k": canary_value("2")}


def test_everything_restarts_offline_and_the_secret_stays(
    installed: InstalledRelease, start: StartController, space: Namespace
) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    first = start(ROTATION_POLL_INTERVAL="2")
    space.wait_secret("s", {"k": "1"})
    installed.emulator.cut_off()
    first.kill()
    installed.plane.stop_apiserver()
    installed.plane.start_apiserver()
    second = start(ROTATION_POLL_INTERVAL="2")
    space.wait_reason("s", "ProviderError")
    assert space.secret_values("s") == {"k": canary_value("1")}
    installed.emulator.restore()
    space.set_secret("a", "2")
    space.wait_secret("s", {"k": "2"}, patience=40)
    assert second.stop() == 0


def test_controller_continues_after_an_outage_of_the_api_server(
    installed: InstalledRelease, start: StartController, space: Namespace
) -> None:
    workload = start()
    lines = len(workload.log.read_text().splitlines())
    installed.plane.stop_apiserver()
    time.sleep(3)
    installed.plane.start_apiserver()
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"}, patience=40)
    # Lines about namespaces that earlier tests removed do not count.
    said = [json.loads(line) for line in workload.log.read_text().splitlines()[lines:]]
    own = [line["message"] for line in said if line.get("secretsync", f"{space.name}/s") == f"{space.name}/s"]
    assert max(Counter(own).values()) <= 3
    assert len(own) < 16
    assert workload.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_working_controller_ends_cleanly(
    installed: InstalledRelease, start: StartController, space: Namespace, number: signal.Signals
) -> None:
    space.set_secret("a", "1")
    installed.emulator.delay(5)
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    workload = start()
    time.sleep(1)
    started = time.monotonic()
    os.kill(workload.pid, number)
    assert workload.wait(15) == 0
    assert time.monotonic() - started < 15


def refused(installed: InstalledRelease) -> bool:
    """Whether the policies are in force: the API server hears of a change a moment later."""
    what = ["secret", "generic", "probe", f"--type={PROBE_SECRET_TYPE}", "--dry-run=server"]
    try:
        installed.plane.kubectl("create", *what, f"--as={installed.user}", "--namespace", installed.release)
    except ClusterError:
        return True
    return False


def problem(workload: PodProcess) -> str:
    """Return why the controller does not become ready within a second; empty if it does."""
    try:
        workload.wait_ready(timeout=1)
    except WorkloadError as error:
        return str(error)
    return ""


@pytest.mark.since(*SINCE_POLICIES)
def test_not_ready_until_the_policies_are_in_force(installed: InstalledRelease) -> None:
    plane = installed.plane
    bindings = plane.kubectl("get", "validatingadmissionpolicybindings", "-o", "json")
    plane.kubectl("delete", "validatingadmissionpolicybindings", "--all")
    eventually(lambda: refused(installed), lambda found: not found)
    with installed.workload() as workload:
        try:
            eventually(lambda: problem(workload), lambda text: "admission policies are not in force yet" in text)
        finally:
            plane.kubectl("create", "-f", "-", stdin=bindings)
        workload.wait_ready(timeout=30)
        assert workload.stop() == 0
