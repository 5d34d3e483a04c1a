"""Two processes, one leads: it is killed, paused past its time, told to stop, and its release is upgraded."""

import base64
import contextlib
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.lease import HOLD, LEASE_SECONDS, RETRY
from tests.cluster.fleet import Fleet, fleet
from tests.cluster.world import Installed, Namespace, Start, eventually, leads, metrics, value
from tools import helm
from tools.workload import Workload

by_token = pytest.mark.since("1.30", "tokens' names in the audit log")
"""Where two processes of one ServiceAccount are told apart by it; in tests/node pods are, on any release."""
Pair = tuple[Workload, Workload]


@pytest.fixture(scope="module")
def controller() -> None:
    """Each test here starts a leader and a follower; `space` needs none."""


@pytest.fixture
def pair(start: Start) -> Pair:
    """A leader, and a follower that is ready."""
    leader = start(ROTATION_POLL_INTERVAL="1")
    eventually(lambda: leads(leader), lambda found: found)
    follower = start(ROTATION_POLL_INTERVAL="1")
    assert not leads(follower)
    return leader, follower


@pytest.fixture
def shops(installed: Installed, pair: Pair) -> Iterator[Fleet]:
    with fleet(installed, "one") as found:
        yield found


def token_id(workload: Workload) -> str:
    """How the audit log tells this process's requests from the other's."""
    body = Path(workload.env["SERVICE_ACCOUNT_FOLDER"], "token").read_text().split(".")[1]
    return f"JTI={json.loads(base64.urlsafe_b64decode(body + '=' * (-len(body) % 4))).get('jti')}"


def writes(installed: Installed, workload: Workload, since: str) -> list[tuple[str, str, int]]:
    """What a process sent since then to change something, but for its word on the lease: verb, resource, answer."""
    found: list[tuple[str, str, int]] = []
    ours = token_id(workload)
    for line in installed.plane.audit_log.read_text().splitlines():
        entry = json.loads(line)
        who = entry["user"].get("extra", {}).get("authentication.kubernetes.io/credential-id", [])
        what = (entry["verb"], entry.get("objectRef", {}).get("resource", ""), entry["responseStatus"]["code"])
        if who == [ours] and entry["requestReceivedTimestamp"] > since and what[0] not in ("get", "list", "watch"):
            found.append(what)
    return [what for what in found if what[1] != "leases"]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def lease(installed: Installed) -> dict[str, Any]:
    name = installed.deployment
    found = installed.plane.kubectl("get", "lease", name, "--namespace", installed.release, "--output", "json")
    return dict(json.loads(found)["spec"])


@by_token
def test_a_follower_makes_no_call_and_no_write(installed: Installed, space: Namespace, pair: Pair) -> None:
    leader, follower = pair
    space.put("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    assert writes(installed, leader, "")
    # While the leader is paused for less than its time, nobody looks at the vault although much is due.
    os.kill(leader.pid, signal.SIGSTOP)
    installed.emulator.reset_counters()
    space.force("s")
    time.sleep(HOLD / 2)
    assert installed.emulator.counters() == {}
    os.kill(leader.pid, signal.SIGCONT)
    eventually(space.calls, lambda count: count > 0)
    # Readiness tries the policies with a dry run and a token that they refuse; beyond that a follower sends nothing.
    tried = {("create", "secrets", 422), ("create", "serviceaccounts", 422)}
    assert set(writes(installed, follower, "")) <= tried
    assert "akv_secret_store_vault_calls_total{" not in metrics(follower)


def test_a_killed_leader_is_replaced_within_the_lease_time(installed: Installed, space: Namespace, pair: Pair) -> None:
    leader, _ = pair
    space.put("a", "1")
    space.apply(space.provider_class("a"))
    killed = datetime.now(UTC)
    leader.kill()
    space.apply(space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"}, patience=LEASE_SECONDS + 5)
    assert datetime.fromisoformat(lease(installed)["acquireTime"]) - killed < timedelta(seconds=LEASE_SECONDS)


@by_token
def test_a_leader_that_was_paused_past_its_time_writes_nothing(
    installed: Installed, space: Namespace, pair: Pair, shops: Fleet
) -> None:
    old, new = pair
    space.put("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    # It polls every second: when it is paused it waits for the vault's answer, with which it would go on.
    space.put("a", "2")
    installed.emulator.delay(6)
    time.sleep(2.5)
    os.kill(old.pid, signal.SIGSTOP)
    installed.emulator.heal()
    eventually(lambda: leads(new), lambda found: found, patience=LEASE_SECONDS + 5)
    space.put("a", "3")
    space.wait_secret("s", {"k": "3"})
    space.apply(space.akv_sync({"secretInAKV": "a"}))
    space.wait_secret("a", {"v0": "3"})
    woken = now()
    os.kill(old.pid, signal.SIGCONT)
    eventually(lambda: leads(old), lambda found: not found)
    time.sleep(RETRY)
    assert leads(new)
    assert space.secret("s") == {"k": value("3")}
    shops.closes()
    assert writes(installed, old, woken) == []


def test_a_leader_that_is_told_to_stop_hands_over_at_once(installed: Installed, pair: Pair) -> None:
    leader, follower = pair
    assert leader.stop() == 0
    eventually(lambda: leads(follower), lambda found: found, patience=RETRY + 1)
    assert follower.stop() == 0
    assert "holderIdentity" not in lease(installed)


def test_an_upgrade_of_the_release_leaves_the_leader_alone(installed: Installed, pair: Pair) -> None:
    leader, _ = pair
    before = lease(installed)
    at = ["--namespace", installed.release, "--kubeconfig", str(installed.plane.kubeconfig)]
    changes = ["--reuse-values", "--set-string", "podAnnotations.upgraded=yes"]
    helm.run(["upgrade", installed.release, str(helm.CHART), *at, *changes, "--no-hooks"])
    after = eventually(lambda: lease(installed), lambda found: found["renewTime"] > before["renewTime"])
    assert after["holderIdentity"] == before["holderIdentity"]
    assert after["leaseTransitions"] == before["leaseTransitions"]
    assert leads(leader)


def delete_lease(installed: Installed) -> None:
    at = ("--namespace", installed.release, "--ignore-not-found")
    installed.plane.kubectl("delete", "lease", installed.deployment, *at)


def test_lease_that_is_deleted_is_created_and_the_work_goes_on(
    installed: Installed, space: Namespace, start: Start
) -> None:
    """As where Argo CD prunes it, or never applied it: by default it leaves Leases out of every application."""
    plane = installed.plane
    path = f"/apis/coordination.k8s.io/v1/namespaces/{installed.release}/leases/{installed.deployment}"
    delete_lease(installed)
    alone = start(ROTATION_POLL_INTERVAL="1")
    eventually(lambda: leads(alone), bool)
    space.put("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    delete_lease(installed)
    eventually(lambda: plane.request("GET", path), lambda found: "holderIdentity" in found[1])
    space.put("a", "2")
    space.wait_secret("s", {"k": "2"})


def test_controller_that_cannot_have_its_lease_is_not_ready_and_says_what_to_do(
    installed: Installed,
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
            assert (
                f"no replica can lead: the Lease {installed.release}/{installed.deployment} cannot be read" in problem
            )
            assert f"restore the Role {installed.deployment} of the chart" in problem
            grant(role["rules"])
            workload.wait_ready()
            eventually(lambda: leads(workload), bool)
            assert workload.stop() == 0
    finally:
        grant(role["rules"])


def readiness(workload: Workload) -> str:
    """Return the body of /readyz; empty while the port is closed."""
    with contextlib.suppress(OSError, urllib.error.URLError):
        try:
            with urllib.request.urlopen(f"{workload.health_url}/readyz", timeout=5) as answer:  # noqa: S310
                return str(answer.read().decode())
        except urllib.error.HTTPError as refused:
            return refused.read().decode()
    return ""
