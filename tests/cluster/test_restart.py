"""Test restarts of the controller and of the API server, and count the vault calls that they cause."""

import json
import os
import signal
import time
from collections import Counter

import pytest

from controller.app import GRACE_SECONDS
from tests.support.cluster.audit import count_probes
from tests.support.cluster.harness import SINCE_POLICIES, InstalledRelease, StartController, canary_value, eventually
from tests.support.cluster.namespace import Namespace
from tools.codegen.deployment import PROBE_SECRET_TYPE
from tools.local_cluster.errors import ClusterError
from tools.pods.pod_emulation import WorkloadError
from tools.pods.pod_process import PodProcess


@pytest.fixture(scope="module")
def controller() -> None:
    """Do not run a shared controller: each test starts its own ones, and the fixture `space` needs none."""


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
    assert time.monotonic() - stopping < GRACE_SECONDS  # no sync is running, so the controller waits for nothing
    installed.emulator.reset_counters()
    seen = count_probes(space)
    second = start(DRIFT_INTERVAL="1")
    eventually(lambda: count_probes(space), lambda found: found >= seen + 2)
    assert installed.emulator.counters() == {}
    # The Secret's metadata shows the edit that was made while no controller ran. The repair costs one get call.
    assert second.stop() == 0
    space.kubectl("patch", "secret", "s", "--type=merge", "--patch", '{"data":{"k":"eA=="}}')
    third = start(DRIFT_INTERVAL="1")
    space.wait_secret("s", {"k": "1"})
    assert space.count_calls("secrets.get/200") == 1
    assert third.stop() == 0


def test_controller_makes_no_vault_call_after_a_crash_until_the_next_poll_is_due(
    installed: InstalledRelease, start: StartController, space: Namespace
) -> None:
    """Restart when the statuses are older than the last poll. Only one status of a poll group has the poll's time."""
    names = ("a", "b", "c")
    for name in names:
        space.set_secret(name, "1")
    space.apply(space.provider_class(*names), *(space.sync(name, {"k": name}) for name in names))

    def list_recorded_polls() -> list[str]:
        found = [space.get("secretsync", name)["status"].get("lastGroupPoll") for name in names]
        return [record["time"] for record in found if record]

    first = start(ROTATION_POLL_INTERVAL="15", LEASE_NAME="")
    for name in names:
        space.wait_reason(name, "UpdateValueChangeOrForceUpdateSucceeded")
    eventually(list_recorded_polls, bool, patience=40)
    polled = time.monotonic()
    first.kill()
    assert len(list_recorded_polls()) == 1
    installed.emulator.reset_counters()
    start(ROTATION_POLL_INTERVAL="30", LEASE_NAME="")
    # Without the recorded poll, the times in their own statuses would make the SecretSyncs due 15 s after that poll.
    time.sleep(max(0.0, polled + 22 - time.monotonic()))
    assert installed.emulator.counters() == {}
    eventually(lambda: space.count_calls("secrets.list"), bool, patience=20)


def test_new_value_is_synced_at_the_next_poll_and_kept_during_an_outage(
    installed: InstalledRelease, start: StartController, space: Namespace
) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    start(ROTATION_POLL_INTERVAL="2")
    space.wait_secret("s", {"k": "1"})
    space.set_secret("a", "2")
    space.wait_secret("s", {"k": "2"})
    installed.emulator.cut_off()
    space.wait_reason("s", "ProviderError")
    assert space.secret_values("s") == {"k": canary_value("2")}


def test_secret_remains_after_offline_restarts_of_controller_and_api_server(
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
    logged = [json.loads(line) for line in workload.log.read_text().splitlines()[lines:]]
    own = [line["message"] for line in logged if line.get("secretsync", f"{space.name}/s") == f"{space.name}/s"]
    assert max(Counter(own).values()) <= 3
    assert len(own) < 16
    assert workload.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_controller_stops_cleanly_on_a_signal_during_a_sync(
    installed: InstalledRelease, start: StartController, space: Namespace, number: signal.Signals
) -> None:
    space.set_secret("a", "1")
    installed.emulator.delay(3, "secrets.get", where=space.vault)
    installed.emulator.reset_counters()
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    workload = start()
    token = f"entra/token/200/{space.client}"
    eventually(lambda: installed.emulator.counters(by_client=True), lambda found: token in found)
    # The controller has a token and waits for the value.
    assert space.secret_values("s") == {}
    stopping = time.monotonic()
    os.kill(workload.pid, number)
    assert workload.wait(GRACE_SECONDS + 5) == 0
    assert time.monotonic() - stopping < GRACE_SECONDS  # the sync has finished
    assert space.secret_values("s") == {"k": canary_value("1")}


def is_probe_refused(installed: InstalledRelease) -> bool:
    """Return whether the policies are in force. The API server applies a change after a short delay."""
    what = ["secret", "generic", "probe", f"--type={PROBE_SECRET_TYPE}", "--dry-run=server"]
    try:
        installed.plane.kubectl("create", *what, f"--as={installed.user}", "--namespace", installed.release)
    except ClusterError:
        return True
    return False


def read_readiness_error(workload: PodProcess) -> str:
    """Return why the controller does not become ready within a second, or an empty string if it does."""
    try:
        workload.wait_ready(timeout=1)
    except WorkloadError as error:
        return str(error)
    return ""


@pytest.mark.since(*SINCE_POLICIES)
def test_controller_is_not_ready_until_the_policies_are_in_force(installed: InstalledRelease) -> None:
    plane = installed.plane
    bindings = plane.kubectl("get", "validatingadmissionpolicybindings", "-o", "json")
    plane.kubectl("delete", "validatingadmissionpolicybindings", "--all")
    eventually(lambda: is_probe_refused(installed), lambda found: not found)
    with installed.workload() as workload:
        try:
            eventually(
                lambda: read_readiness_error(workload), lambda text: "admission policies are not in force yet" in text
            )
        finally:
            plane.kubectl("create", "-f", "-", stdin=bindings)
        workload.wait_ready(timeout=30)
        assert workload.stop() == 0
