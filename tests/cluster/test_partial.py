"""A thousand keys that cannot be fetched, told in one status; and a controller that writes all keys or none."""

import json
from collections.abc import Iterator

import pytest

from controller.api.conditions import Reason
from tests.cluster.world import Installed, Namespace, at_work, value
from tools.workload import Workload

MANY = 1000


@pytest.fixture(scope="module")
def strict(installed: Installed) -> Iterator[Workload]:
    """Beside the module's own controller, and with no part in its election."""
    settings = {"CONTROLLER_NAME": "strict", "ENABLE_PARTIAL_SECRET_SYNC": "false", "LEASE_NAME": ""}
    with at_work(installed.workload(**settings)) as workload:
        yield workload


def test_a_thousand_failing_keys_are_told_in_one_status(space: Namespace) -> None:
    missing = [f"missing-{number}" for number in range(MANY)]
    space.put("there", "1")
    space.apply(space.provider_class("there", *missing))
    space.apply(space.sync("s", {name: name for name in ["there", *missing]}))
    message = space.wait_reason("s", Reason.PARTIAL, patience=60)
    space.wait_secret("s", {"there": "1"})
    assert len(message) < 32_768
    *items, count = json.loads(message)
    assert count == {"failed": MANY, "keys": MANY + 1, "notShown": MANY + 1 - len(items)}
    assert {item["status"] for item in items} == {"failed"}
    for item in items:
        assert f"secret {item['sourcePath']} is not in Key Vault {space.vault}; create or recover" in item["message"]


def test_all_keys_or_none(space: Namespace, strict: Workload) -> None:
    space.put("a", "1")
    space.apply(space.provider_class("a", "b"))
    space.apply(space.sync("s", {"a": "a", "b": "b"}, secretSyncControllerName="strict"))
    assert "secret b is not in Key Vault" in space.wait_reason("s", Reason.PROVIDER_ERROR)
    assert space.secret("s") == {}
    space.put("b", "1")
    space.force("s")
    space.wait_secret("s", {"a": "1", "b": "1"})
    space.put("a", "2")
    space.installed.emulator.disable_secret(space.vault, "b")
    space.force("s")
    assert "secret b is disabled in Key Vault" in space.wait_reason("s", Reason.PROVIDER_ERROR)
    assert space.secret("s") == {"a": value("1"), "b": value("1")}
