"""Test one release on a node, from its installation to its uninstallation. The tests depend on their order."""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.node.conftest import figures
from tests.node.release import PATIENCE, Release, assert_rotates, list_watch_events
from tests.support.cluster.fault_harness import POLL_INTERVAL, fault_harness
from tests.support.cluster.harness import CANARY, InstalledRelease, eventually
from tests.support.cluster.namespace import Namespace
from tests.support.invariants import RECOVERY_TIME
from tools.local_cluster import ControlPlane
from tools.local_cluster.errors import ClusterError

SYNCS = "secretsyncs.secret-sync.x-k8s.io"
CRDS = (SYNCS, "secretproviderclasses.secrets-store.csi.x-k8s.io")

# The idle controller needs less than half of this limit. A large Secret needs several times its size during a sync.
TIGHT = "96Mi"
LARGE_SECRETS = 16
# Seconds. The chart's default for one pod.
LEASE_DURATION = 60.0
# MiB, including the first connections to a vault and to Entra.
MAX_RESIDENT = 58


@pytest.fixture(scope="module")
def shop(release: Release) -> Iterator[Namespace]:
    """Provide a namespace for the SecretSync `db`, which all tests use."""
    namespace = Namespace(release)
    yield namespace
    namespace.remove()


def read_resource_version(shop: Namespace) -> str:
    """Return the Secret's resourceVersion, which changes with each write."""
    version: str = shop.get("secret", "db")["metadata"]["resourceVersion"]
    return version


def test_default_values_run_in_a_restricted_namespace(release: Release) -> None:
    pod = release.wait_pod()
    created, ready = (
        datetime.fromisoformat(text)
        for text in (
            pod["metadata"]["creationTimestamp"],
            next(each for each in pod["status"]["conditions"] if each["type"] == "Ready")["lastTransitionTime"],
        )
    )
    figures.append(f"pod Ready: {(ready - created).total_seconds():.0f} s after it was created")
    with pytest.raises(ClusterError, match='violates PodSecurity "restricted:latest"'):
        release.kubectl("run", "root", "--image=localhost/pause:1")


def test_upgrade_job_completed(release: Release) -> None:
    events = json.loads(release.kubectl("get", "events", "--output", "json"))["items"]
    ended = [each for each in events if each["reason"] == "Completed" and each["involvedObject"]["kind"] == "Job"]
    assert [each["involvedObject"]["name"] for each in ended] == [f"{release.full_name}-crds"]


def test_secretsync_is_synced(release: Release, shop: Namespace) -> None:
    shop.set_secret("db", "first")
    shop.apply(shop.provider_class("db"), shop.sync("db", {"password": "db"}))
    shop.wait_secret("db", {"password": "first"})


def test_kubectl_logs_prints_json_lines(release: Release, shop: Namespace) -> None:
    text = release.kubectl("logs", f"deployment/{release.full_name}")
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"started", "listed"} <= {line["message"] for line in lines}
    assert any(line.get("secretsync") == f"{shop.name}/db" or shop.name in json.dumps(line) for line in lines)
    assert CANARY not in text


def test_probes_and_metrics_answer(release: Release) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    reconciles = "akv_secret_store_reconciles_total"
    for path, expected in (("8081/healthz", "ok\n"), ("8081/readyz", "ok\n"), ("8080/metrics", reconciles)):
        with opener.open(f"http://{release.wait_pod()['status']['podIP']}:{path}", timeout=5) as answer:
            assert expected in answer.read().decode()


def test_memory_of_the_pod_is_far_below_its_limit(release: Release) -> None:
    uid = release.wait_pod()["metadata"]["uid"]

    def read_memory() -> int:
        summary = json.loads(release.plane.kubectl("get", "--raw", "/api/v1/nodes/node/proxy/stats/summary"))
        [found] = [pod for pod in summary["pods"] if pod["podRef"]["uid"] == uid] or [{}]
        return int(found.get("memory", {}).get("workingSetBytes", 0))

    used = eventually(read_memory, bool, 60)
    figures.append(f"memory of the pod (its cgroup's working set): {used / 2**20:.0f} MiB")
    assert used < 128 * 2**20


def test_controller_needs_little_memory_with_the_python_of_the_image(release: Release) -> None:
    status = release.kubectl("exec", release.wait_pod()["metadata"]["name"], "--", "cat", "/proc/1/status")
    [resident] = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    mebibytes = int(resident) / 2**10
    figures.append(f"resident memory of the controller in its pod, with one SecretSync: {mebibytes:.1f} MiB")
    assert mebibytes <= MAX_RESIDENT


def test_deleted_pod_is_replaced_and_no_secret_is_written(release: Release, shop: Namespace) -> None:
    before, pod = read_resource_version(shop), release.wait_pod()["metadata"]["name"]
    release.kubectl("delete", "pod", pod)
    assert release.wait_pod()["metadata"]["name"] != pod
    assert_rotates(shop, "after-delete")
    assert list_watch_events(shop, before) == ["MODIFIED"]


def test_sigterm_ends_the_container_with_exit_code_0(release: Release) -> None:
    pod = release.wait_pod()["metadata"]["name"]
    started = time.monotonic()
    release.kubectl("exec", pod, "--", "python", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")
    ended = release.wait_restart(1)
    assert (ended["reason"], ended["exitCode"]) == ("Completed", 0)
    assert time.monotonic() - started < 20
    assert json.loads(release.kubectl("logs", pod, "--previous").splitlines()[-1])["message"] == "stopped"


def test_pod_killed_at_its_memory_limit_recovers_without_loss(
    release: Release, shop: Namespace, tmp_path: Path
) -> None:
    """The kernel kills a container above its memory limit, and the kubelet restarts it."""
    before = read_resource_version(shop)
    polls = ("--set", f"rotationPollIntervalInSeconds={POLL_INTERVAL}")
    release.upgrade(*polls, "--set", f"resources.limits.memory={TIGHT}", "--set", f"resources.requests.memory={TIGHT}")
    with fault_harness(
        InstalledRelease(release.plane, release.emulator, release.namespace, tmp_path), "one", "two"
    ) as shops:
        assert not release.list_terminations()
        shops.add_large_syncs(shops.namespaces["one"], LARGE_SECRETS)
        eventually(release.list_terminations, bool, PATIENCE)
        shops.rotate_during(10)
        assert {end["reason"] for end in release.list_terminations()} == {"OOMKilled"}
        release.upgrade(*polls)  # the chart's default limit applies again
        # A killed leader does not release its Lease. The next leader waits until it expires.
        shops.assert_recovered(LEASE_DURATION + RECOVERY_TIME)
        assert not release.list_terminations()
    release.upgrade()
    assert read_resource_version(shop) == before
    assert_rotates(shop, "after-oom")


def test_upgrade_updates_crds_and_rollback_restores_settings(release: Release, shop: Namespace) -> None:
    before = read_resource_version(shop)
    columns = "{.spec.versions[0].additionalPrinterColumns[*].name}"

    def read_columns() -> str:
        return release.plane.kubectl("get", "crd", SYNCS, "--output", f"jsonpath={columns}")

    def read_log_level() -> str:
        [container] = release.wait_pod()["spec"]["containers"]
        return next(str(each["value"]) for each in container["env"] if each["name"] == "LOG_LEVEL")

    newest = read_columns()
    older = [{"op": "remove", "path": "/spec/versions/0/additionalPrinterColumns"}]
    release.plane.kubectl("patch", "crd", SYNCS, "--type=json", "--patch", json.dumps(older))
    assert read_columns() != newest
    release.upgrade("--set", "logLevel=debug")
    assert read_columns() == newest
    assert read_log_level() == "debug"
    assert_rotates(shop, "after-upgrade")
    assert list_watch_events(shop, before) == ["MODIFIED"]
    release.rollback()
    assert read_log_level() == "info"
    assert_rotates(shop, "after-rollback")


def test_uninstallation_keeps_crds_and_secrets(release: Release, shop: Namespace) -> None:
    before = read_resource_version(shop)
    release.uninstall()
    assert read_resource_version(shop) == before
    assert shop.get("secretsync", "db")
    for crd in CRDS:
        release.plane.kubectl("get", "crd", crd)
    # The pod ends later than the Deployment. The CRD Job remains for a day because of its log.
    job = f"{release.full_name}-crds"
    kinds = "deployments,pods,serviceaccounts,jobs,roles,rolebindings"
    eventually(
        lambda: release.kubectl("get", kinds, f"--selector=job-name!={job}", "--output=name").split(),
        lambda it: it == ["serviceaccount/default", f"job.batch/{job}"],
    )
    assert "nothing to do" in release.kubectl("logs", f"job/{job}")


def test_another_release_continues_the_synchronization(plane: ControlPlane, release: Release, shop: Namespace) -> None:
    before = read_resource_version(shop)
    release.name = "another"
    release.install()
    assert "another" in release.wait_pod()["metadata"]["name"]
    assert_rotates(shop, "after-reinstall")
    assert list_watch_events(shop, before) == ["MODIFIED"]


def test_deleted_crd_removes_only_secrets_that_are_still_owned(release: Release, shop: Namespace) -> None:
    shop.apply(shop.sync("kept", {"password": "db"}))
    shop.wait_secret("kept", {"password": "after-reinstall"})
    shop.kubectl("patch", "secret", "kept", "--type=merge", "--patch", '{"metadata":{"ownerReferences":null}}')
    release.plane.kubectl("delete", "crd", SYNCS)
    eventually(lambda: shop.get("secret", "db"), lambda found: not found, 60)
    shop.wait_secret("kept", {"password": "after-reinstall"})
