"""The program of `helm test` on the real API server: what it says of a controller that does not do its work.

What it shows of one that does is in tests/node, where the kubelet brings the test's cloud to the controller.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.world import Installed, Namespace, eventually

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def program(installed: Installed, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    """It, started as in the chart's Pod."""
    environment = {
        "KUBECONFIG": str(installed.plane.kubeconfig),
        "PYTHONPATH": str(ROOT),
        "NAMESPACE": installed.release,
        "DEPLOYMENT": installed.deployment,
        "NAME": f"{installed.deployment}-test",
        "POD_IP": "127.0.0.1",
        "SAMPLE_NAMESPACE": installed.release,
        "SERVICE_ACCOUNT": "shop",
    }
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "tools.release_test"],
        env=os.environ | environment | settings,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        yield running
        running.kill()


def left(installed: Installed, kinds: str = "secretsyncs,secretproviderclasses") -> list[str]:
    at = ("--namespace", installed.release)
    return installed.plane.kubectl("get", kinds, *at, "--output", "name").split()


def clouds(installed: Installed) -> list[str]:
    at = ("--namespace", installed.release)
    found = installed.plane.kubectl("get", "configmap", f"{installed.deployment}-test", *at, "--output", "json")
    return list(json.loads(found).get("data") or {})


def test_told_to_stop_it_leaves_nothing(installed: Installed) -> None:
    with program(installed) as running:
        eventually(lambda: left(installed), lambda found: len(found) == 2)
        assert clouds(installed) == ["clouds.json"]
        running.send_signal(signal.SIGTERM)
        told, _ = running.communicate(timeout=60)
    assert (running.returncode, told.splitlines()[-1]) == (1, "ERROR failed: it was told to stop")
    assert (left(installed), clouds(installed)) == ([], [])


def test_where_no_controller_runs_it_says_so_and_where_to_look(installed: Installed) -> None:
    with program(installed) as running:
        told, _ = running.communicate(timeout=120)
    assert running.returncode == 1
    last = told.splitlines()[-1]
    assert "the controller says nothing of its SecretSync" in last
    assert f"kubectl --namespace {installed.release} logs deployment/{installed.deployment}" in last
    assert (left(installed), clouds(installed)) == ([], [])


def test_what_an_earlier_run_left_is_replaced(installed: Installed, space: Namespace) -> None:
    """One that was killed: its sample is there, in a namespace of somebody's, with another source."""
    name = f"{installed.deployment}-test"
    space.put("old", "1")
    space.apply(space.provider_class("old", name=name), space.sync(name, {"k": "old"}, secretProviderClassName=name))
    space.wait_secret(name, {"k": "1"})
    space.put("new", "2")
    users = {"KEYVAULT_NAME": space.vault, "CLIENT_ID": space.client, "SECRET_NAME": "new"}
    tenant = space.provider_class("new")["spec"]["parameters"]["tenantID"]
    with program(installed, SAMPLE_NAMESPACE=space.name, TENANT_ID=tenant, **users) as running:
        told, _ = running.communicate(timeout=120)
    assert told.splitlines()[-1] == f"INFO passed: secret new of Key Vault {space.vault} arrives"
    assert running.returncode == 0
    assert (space.names("secretsync"), space.names("secretproviderclass"), space.names("secret")) == ([], [], [])
