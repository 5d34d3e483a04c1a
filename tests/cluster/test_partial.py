"""Test keys that cannot be fetched, the all-or-nothing mode, and labels changed by another component.

If some keys of a SecretSync fail, the controller writes one status and makes few vault calls.
"""

import json
import time
from collections.abc import Iterator

import pytest

from controller.api.conditions import Reason
from tests.support.cluster.audit import count_probes
from tests.support.cluster.harness import InstalledRelease, canary_value, eventually, running_controller
from tests.support.cluster.namespace import Namespace, admission_policy
from tests.support.messages import NOT_IN_KEY_VAULT
from tools.pods.pod_process import PodProcess

MANY = 1000


@pytest.fixture
def strict(installed: InstalledRelease, space: Namespace) -> Iterator[PodProcess]:
    """Provide a second controller for this namespace only. It also serves SecretSyncs that name no controller."""
    settings = {"CONTROLLER_NAME": "strict", "ENABLE_PARTIAL_SECRET_SYNC": "false", "LEASE_NAME": ""}
    with running_controller(installed.workload(WATCH_NAMESPACES=space.name, **settings)) as workload:
        yield workload


def test_thousand_failing_keys_are_reported_in_one_status(space: Namespace) -> None:
    missing = [f"missing-{number}" for number in range(MANY)]
    space.set_secret("there", "1")
    space.apply(space.provider_class("there", *missing))
    space.apply(space.sync("s", {name: name for name in ["there", *missing]}))
    message = space.wait_reason("s", Reason.PARTIAL, patience=60)
    space.wait_secret("s", {"there": "1"})
    assert len(message) < 32_768
    *items, count = json.loads(message)
    assert count == {"failed": MANY, "keys": MANY + 1, "notShown": MANY + 1 - len(items)}
    assert {item["status"] for item in items} == {"failed"}
    for item in items:
        assert f"secret {item['sourcePath']} {NOT_IN_KEY_VAULT} {space.vault}; create or recover" in item["message"]


def test_strict_controller_writes_nothing_while_one_key_fails(space: Namespace, strict: PodProcess) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a", "b"))
    space.apply(space.sync("s", {"a": "a", "b": "b"}, secretSyncControllerName="strict"))
    assert f"secret b {NOT_IN_KEY_VAULT}" in space.wait_reason("s", Reason.PROVIDER_ERROR)
    assert space.secret_values("s") == {}
    space.set_secret("b", "1")
    space.force_sync("s")
    space.wait_secret("s", {"a": "1", "b": "1"})
    space.set_secret("a", "2")
    space.installed.emulator.disable_secret(space.vault, "b")
    space.force_sync("s")
    assert "secret b is disabled in Key Vault" in space.wait_reason("s", Reason.PROVIDER_ERROR)
    assert space.secret_values("s") == {"a": canary_value("1"), "b": canary_value("1")}


def test_one_missing_key_is_requested_again_and_the_others_are_not(space: Namespace) -> None:
    names = [f"key-{number}" for number in range(60)]
    for name in names[1:]:
        space.set_secret(name, "1")
    began = time.monotonic()
    space.apply(space.provider_class(*names), space.sync("s", {name: name for name in names}))
    space.wait_reason("s", Reason.PARTIAL)
    eventually(lambda: space.count_calls("secrets.get/404"), lambda calls: calls >= 3, patience=40)
    # The first delays are 2 and 4 s. Half of each delay is random.
    assert time.monotonic() - began >= 3
    assert space.count_calls("secrets.get/200") == len(names) - 1
    space.set_secret(names[0], "1")
    space.wait_secret("s", dict.fromkeys(names, "1"), patience=60)


@pytest.fixture
def quick(installed: InstalledRelease, space: Namespace) -> Iterator[PodProcess]:
    """Provide a second controller for this namespace only. It checks Secrets for drift every second."""
    settings = {"CONTROLLER_NAME": "quick", "DRIFT_INTERVAL": "1", "LEASE_NAME": ""}
    with running_controller(installed.workload(WATCH_NAMESPACES=space.name, **settings)) as workload:
        yield workload


@pytest.mark.since("1.36", "MutatingAdmissionPolicy")
def test_label_changed_by_a_policy_causes_few_writes_and_no_vault_read(space: Namespace, quick: PodProcess) -> None:
    policy = {
        "reinvocationPolicy": "Never",
        "failurePolicy": "Fail",
        "mutations": [
            {
                "patchType": "ApplyConfiguration",
                "applyConfiguration": {"expression": 'Object{metadata: Object.metadata{labels: {"tier": "theirs"}}}'},
            }
        ],
    }
    space.set_secret("a", "1")
    labelled = {"secretSyncControllerName": "quick", "secretObject": {"labels": {"tier": "data"}}}
    manifest = space.sync("s", {"k": "a"}, **labelled)
    manifest["spec"]["secretObject"]["data"] = [{"targetKey": "k", "sourcePath": "a"}]
    space.apply(space.provider_class("a"), manifest)
    space.wait_secret("s", {"k": "1"})
    with admission_policy(space, "MutatingAdmissionPolicy", policy):
        before = space.count_calls()
        space.kubectl("label", "secret", "s", "--overwrite", "tier=edited")
        eventually(quick.log.read_text, lambda text: "changes label tier of the Secret" in text, patience=30)
        probes = count_probes(space)
        eventually(lambda: count_probes(space), lambda count: count >= probes + 5, patience=40)
        assert space.count_calls() == before
        assert quick.log.read_text().count("changes label tier of the Secret") == 1
    eventually(
        lambda: space.get("secret", "s")["metadata"]["labels"]["tier"], lambda label: label == "data", patience=60
    )
    assert space.count_calls() == before
