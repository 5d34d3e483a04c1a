"""Test leader election of two processes: the leader is killed, paused past its deadline, stopped or upgraded."""

import base64
import contextlib
import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.kube.leader_election import LEASE_DURATION, RENEW_DEADLINE, RETRY_PERIOD
from tests.support.cluster.fault_harness import FaultHarness, fault_harness
from tests.support.cluster.harness import (
    InstalledRelease,
    StartController,
    audit_lines,
    canary_value,
    eventually,
    is_leader,
    read_metrics,
)
from tests.support.cluster.namespace import Namespace
from tools.cli.common import helm
from tools.pods.pod_process import PodProcess

by_token = pytest.mark.since("1.30", "tokens' names in the audit log")
"""Run a test only on Kubernetes releases whose audit log distinguishes two processes of one ServiceAccount.

In tests/node, the audit log of each release distinguishes the pods.
"""
Pair = tuple[PodProcess, PodProcess]


@pytest.fixture(scope="module")
def controller() -> None:
    """Start no controller for the fixture `space`. Each test starts its own controllers."""


@pytest.fixture
def pair(start: StartController) -> Pair:
    """Start a leader, and then a follower that is ready."""
    leader = start(ROTATION_POLL_INTERVAL="1")
    eventually(lambda: is_leader(leader), lambda found: found)
    follower = start(ROTATION_POLL_INTERVAL="1")
    assert not is_leader(follower)
    return leader, follower


@pytest.fixture
def shops(installed: InstalledRelease, pair: Pair) -> Iterator[FaultHarness]:
    with fault_harness(installed, "one") as found:
        yield found


def token_id(workload: PodProcess) -> str:
    """Return the ID of the process's token. The audit log shows it for each request of the process."""
    body = Path(workload.env["SERVICE_ACCOUNT_FOLDER"], "token").read_text().split(".")[1]
    return f"JTI={json.loads(base64.urlsafe_b64decode(body + '=' * (-len(body) % 4))).get('jti')}"


def writes(installed: InstalledRelease, workload: PodProcess, since: str) -> list[tuple[str, str, int]]:
    """Return the verb, resource and HTTP status of each write of a process since that time, except of its Lease."""
    found: list[tuple[str, str, int]] = []
    ours = token_id(workload)
    for line in audit_lines(installed.plane):
        entry = json.loads(line)
        who = entry["user"].get("extra", {}).get("authentication.kubernetes.io/credential-id", [])
        what = (entry["verb"], entry.get("objectRef", {}).get("resource", ""), entry["responseStatus"]["code"])
        if who == [ours] and entry["requestReceivedTimestamp"] > since and what[0] not in ("get", "list", "watch"):
            found.append(what)
    return [what for what in found if what[1] != "leases"]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def lease(installed: InstalledRelease) -> dict[str, Any]:
    name = installed.deployment
    found = installed.plane.kubectl("get", "lease", name, "--namespace", installed.release, "--output", "json")
    return dict(json.loads(found)["spec"])


@by_token
def test_follower_makes_no_call_and_no_write(installed: InstalledRelease, space: Namespace, pair: Pair) -> None:
    leader, follower = pair
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    assert writes(installed, leader, "")
    # While the leader is paused for less than its lease duration, no process calls the vault, although syncs are due.
    os.kill(leader.pid, signal.SIGSTOP)
    installed.emulator.reset_counters()
    space.force_sync("s")
    time.sleep(RENEW_DEADLINE / 2)
    assert installed.emulator.counters() == {}
    os.kill(leader.pid, signal.SIGCONT)
    eventually(space.count_calls, lambda count: count > 0)
    # For its readiness, a follower tests that the policies refuse a dry run and a token request. It sends no other
    # write.
    tried = {("create", "secrets", 422), ("create", "serviceaccounts", 422)}
    assert set(writes(installed, follower, "")) <= tried
    assert "akv_secret_store_vault_calls_total{" not in read_metrics(follower)


def test_killed_leader_is_replaced_within_the_lease_duration(
    installed: InstalledRelease, space: Namespace, pair: Pair
) -> None:
    leader, _ = pair
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"))
    killed = datetime.now(UTC)
    leader.kill()
    space.apply(space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"}, patience=LEASE_DURATION + 5)
    assert datetime.fromisoformat(lease(installed)["acquireTime"]) - killed < timedelta(seconds=LEASE_DURATION)


@by_token
def test_leader_paused_past_its_deadline_writes_nothing(
    installed: InstalledRelease, space: Namespace, pair: Pair, shops: FaultHarness
) -> None:
    old, new = pair
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    # The leader polls every second, so it is paused while it waits for the new value. The answer arrives during the
    # pause. After the pause, the leader must not write the value of this answer.
    installed.emulator.delay(8, "secrets.get", where=space.vault)
    lists, gets = space.count_calls("secrets.list"), space.count_calls("secrets.get/200")
    space.set_secret("a", "2")
    eventually(lambda: space.count_calls("secrets.list"), lambda found: found >= lists + 3)  # a poll saw the version
    os.kill(old.pid, signal.SIGSTOP)
    assert space.count_calls("secrets.get/200") == gets
    installed.emulator.delay(0, "secrets.get", where=space.vault)  # this does not shorten the pending call
    eventually(lambda: space.count_calls("secrets.get/200"), lambda found: found == gets + 1)
    assert not is_leader(new)
    assert space.secret_values("s") == {"k": canary_value("1")}
    eventually(lambda: is_leader(new), lambda found: found, patience=LEASE_DURATION + 5)
    space.set_secret("a", "3")
    space.wait_secret("s", {"k": "3"})
    space.apply(space.akv_sync({"secretInAKV": "a"}))
    space.wait_secret("a", {"v0": "3"})
    woken = now()
    os.kill(old.pid, signal.SIGCONT)
    eventually(lambda: is_leader(old), lambda found: not found)
    time.sleep(RETRY_PERIOD)
    assert is_leader(new)
    assert space.secret_values("s") == {"k": canary_value("3")}
    shops.assert_recovered()
    assert writes(installed, old, woken) == []


def test_terminated_leader_releases_the_lease_at_once(installed: InstalledRelease, pair: Pair) -> None:
    leader, follower = pair
    assert leader.stop() == 0
    eventually(lambda: is_leader(follower), lambda found: found, patience=LEASE_DURATION / 2)
    assert follower.stop() == 0
    assert "holderIdentity" not in lease(installed)


def test_upgrade_of_the_release_keeps_the_leader(installed: InstalledRelease, pair: Pair) -> None:
    leader, _ = pair
    before = lease(installed)
    changes = ["--reuse-values", "--set-string", "podAnnotations.upgraded=yes"]
    helm.run(["upgrade", installed.release, str(helm.CHART), *installed.helm_flags, *changes, "--no-hooks"])
    after = eventually(lambda: lease(installed), lambda found: found["renewTime"] > before["renewTime"])
    assert after["holderIdentity"] == before["holderIdentity"]
    assert after["leaseTransitions"] == before["leaseTransitions"]
    assert is_leader(leader)


# The Lease as older charts rendered it. Since then, the controller creates its Lease.
RENDERED_LEASE = """\
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  name: {{ include "akv-secret-store.fullname" . | quote }}
  namespace: {{ include "akv-secret-store.namespace" . | quote }}
  labels:
    {{- include "akv-secret-store.labels" . | nindent 4 }}
"""


def test_upgrade_from_a_chart_that_rendered_the_lease_keeps_a_leader(
    installed: InstalledRelease, space: Namespace, start: StartController, tmp_path: Path
) -> None:
    """Helm deletes the Lease, because the new chart does not render it. The controller then creates it again."""

    def upgrade(chart: Path) -> None:
        flags = [*installed.helm_flags, "--reuse-values", "--no-hooks"]
        helm.run(["upgrade", installed.release, str(chart), *flags])

    def uid() -> str:
        at = ("--namespace", installed.release, "--ignore-not-found", "--output", "jsonpath={.metadata.uid}")
        return installed.plane.kubectl("get", "lease", installed.deployment, *at)

    old = tmp_path / "chart"
    shutil.copytree(helm.CHART, old)
    (old / "templates" / "lease.yaml").write_text(RENDERED_LEASE)
    delete_lease(installed)
    upgrade(old)
    rendered = uid()
    assert rendered
    one, two = start(ROTATION_POLL_INTERVAL="1"), start(ROTATION_POLL_INTERVAL="1")
    eventually(lambda: is_leader(one) or is_leader(two), bool)
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    upgrade(helm.CHART)
    created = eventually(uid, lambda found: found not in ("", rendered), patience=LEASE_DURATION)
    eventually(lambda: [is_leader(one), is_leader(two)].count(True), lambda count: count == 1, patience=LEASE_DURATION)
    assert lease(installed)["holderIdentity"]
    space.set_secret("a", "2")
    space.wait_secret("s", {"k": "2"})
    assert [readiness(one), readiness(two)] == ["ok\n", "ok\n"]
    # The next upgrade does not delete the Lease of the controller.
    upgrade(helm.CHART)
    assert uid() == created


def delete_lease(installed: InstalledRelease) -> None:
    at = ("--namespace", installed.release, "--ignore-not-found")
    installed.plane.kubectl("delete", "lease", installed.deployment, *at)


def test_lease_that_is_deleted_is_created_and_the_work_goes_on(
    installed: InstalledRelease, space: Namespace, start: StartController
) -> None:
    """Argo CD can prune the Lease, or never apply it, because by default it excludes Leases from every Application."""
    plane = installed.plane
    path = f"/apis/coordination.k8s.io/v1/namespaces/{installed.release}/leases/{installed.deployment}"
    delete_lease(installed)
    alone = start(ROTATION_POLL_INTERVAL="1")
    eventually(lambda: is_leader(alone), bool)
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    delete_lease(installed)
    eventually(lambda: plane.request("GET", path), lambda found: "holderIdentity" in found[1])
    space.set_secret("a", "2")
    space.wait_secret("s", {"k": "2"})


def test_controller_without_access_to_its_lease_is_not_ready(
    installed: InstalledRelease,
) -> None:
    plane = installed.plane
    at = ("--namespace", installed.release)
    role = json.loads(plane.kubectl("get", "role", installed.deployment, *at, "--output", "json"))
    others = [rule for rule in role["rules"] if rule["resources"] != ["leases"]]

    def grant(rules: list[dict[str, Any]]) -> None:
        patch = json.dumps({"rules": rules})
        plane.kubectl("patch", "role", installed.deployment, *at, "--type=merge", "--patch", patch)

    delete_lease(installed)
    grant(others)
    try:
        with installed.workload() as workload:
            problem = eventually(lambda: readiness(workload), lambda found: "Lease" in found)
            assert f"the Lease {installed.release}/{installed.deployment} cannot be read, created or renewed" in problem
            assert f"restore the Role {installed.deployment} of the chart" in problem
            grant(role["rules"])
            workload.wait_ready()
            eventually(lambda: is_leader(workload), bool)
            assert workload.stop() == 0
    finally:
        grant(role["rules"])


def readiness(workload: PodProcess) -> str:
    """Return the body of /readyz, or an empty text while the port is closed."""
    with contextlib.suppress(OSError, urllib.error.URLError):
        try:
            with urllib.request.urlopen(f"{workload.health_url}/readyz", timeout=5) as answer:  # noqa: S310
                return str(answer.read().decode())
        except urllib.error.HTTPError as refused:
            return refused.read().decode()
    return ""
