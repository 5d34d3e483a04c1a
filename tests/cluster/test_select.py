"""Test AKVSyncs that select objects, on a real API server with the emulator as the vault."""

import pytest

from tests.support.cluster.akv_syncs import SYNCED, list_parts, ready_condition, wait_gone, wait_ready
from tests.support.cluster.harness import canary_value, eventually
from tests.support.cluster.namespace import Namespace, past_time

SHOP = {"select": {"namePrefix": "shop-", "tags": {"app": "shop"}}, "stripPrefix": "shop-", "whenGone": "Remove"}
POLL = 4


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": str(POLL), "JITTER": "0", "DRIFT_INTERVAL": "60"}


def set_tagged_secret(space: Namespace, name: str, text: str, app: str = "shop") -> None:
    emulator = space.installed.emulator
    with past_time(emulator):
        emulator.set_secret(space.vault, name, canary_value(text), tags={"app": app})


def wait_secret_names(space: Namespace, *wanted: str) -> None:
    eventually(lambda: space.list_names("secret"), lambda found: found == sorted(wanted), patience=40)


def test_selection_follows_the_vault_from_creation_to_deletion(space: Namespace) -> None:
    set_tagged_secret(space, "shop-a", "a")
    set_tagged_secret(space, "shop-B", "b")
    set_tagged_secret(space, "shop-other", "x", app="other")
    space.apply(space.akv_sync(SHOP, name="shop"))
    wait_ready(space, *SYNCED)
    assert space.secret_values("a") == {"v0": canary_value("a")}
    assert space.secret_values("b") == {"v0": canary_value("b")}
    wait_secret_names(space, "a", "b")
    # The controller gets each matching object once, and no other object.
    assert space.count_calls("secrets.get") == 2

    # The next poll syncs a new object and does not read the others.
    set_tagged_secret(space, "shop-c", "c")
    wait_secret_names(space, "a", "b", "c")
    wait_ready(space, *SYNCED)
    assert space.secret_values("c") == {"v0": canary_value("c")}
    assert space.count_calls("secrets.get") == 3
    assert len(space.get("akvsync", "shop")["status"]["parts"]) == 3

    # The next poll syncs a changed value.
    set_tagged_secret(space, "shop-a", "a2")
    space.wait_secret("a", {"v0": "a2"})

    # If an object's tags no longer match, its Secret keeps its value, and the controller no longer reads the object.
    set_tagged_secret(space, "shop-B", "b2", app="other")
    eventually(lambda: list_parts(space)["b"]["reason"], lambda found: found == "KeptLastValue")
    assert space.secret_values("b") == {"v0": canary_value("b")}
    assert ready_condition(space)[0] == "True"

    # After two polls, the controller removes a disabled object's SecretSync and its Secret.
    space.installed.emulator.disable_secret(space.vault, "shop-c")
    wait_secret_names(space, "a", "b")
    wait_gone(lambda: space.get("secretsync", "c"))
    space.installed.emulator.enable_secret(space.vault, "shop-c")
    wait_secret_names(space, "a", "b", "c")
    assert space.secret_values("b") == {"v0": canary_value("b")}
    space.installed.emulator.delete_secret(space.vault, "shop-c")
    wait_secret_names(space, "a", "b")

    # Deleting the AKVSync removes all Secrets.
    space.kubectl("delete", "akvsync", "shop")
    wait_secret_names(space)


def test_one_secret_gets_a_key_for_each_match(space: Namespace) -> None:
    for name in ("shop-a", "shop-b"):
        set_tagged_secret(space, name, name)
    space.apply(space.akv_sync({"select": {"namePrefix": "shop-"}, "kubernetesSecretName": "all"}, name="shop"))
    wait_ready(space, *SYNCED)
    assert space.secret_values("all") == {"shop-a": canary_value("shop-a"), "shop-b": canary_value("shop-b")}
    gets = space.count_calls("secrets.get")
    set_tagged_secret(space, "shop-c", "c")
    space.installed.emulator.delete_secret(space.vault, "shop-a")
    wanted = {key: canary_value(key.replace("shop-c", "c")) for key in ("shop-a", "shop-b", "shop-c")}
    eventually(lambda: space.secret_values("all"), lambda found: found == wanted)
    eventually(lambda: list_parts(space)["all"]["reason"], lambda found: found == "KeptLastValue")
    assert space.count_calls("secrets.get") - gets == 1


def test_forbidden_list_is_reported_in_the_status(space: Namespace) -> None:
    emulator = space.installed.emulator
    emulator.revoke_role(space.client, space.vault)
    emulator.set_policy(space.client, space.vault, {"secrets": ["get"]})
    space.apply(space.akv_sync({"select": {}}, {"secretInAKV": "own"}, name="shop"))
    space.set_secret("own", "own")
    eventually(lambda: ready_condition(space)[2], lambda found: "select: " in found and "List for secrets" in found)
    space.wait_secret("own", {"v0": "own"})
    assert space.list_names("secret") == ["own"]
