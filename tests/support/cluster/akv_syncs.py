"""Wait for conditions in the status of an AKVSync."""

from collections.abc import Callable
from typing import Any

from tests.support.cluster.harness import eventually
from tests.support.cluster.namespace import Namespace

UP_TO_DATE = "UpdateNoValueChangeSucceeded"
SYNCED = ("True", UP_TO_DATE)


def ready_condition(space: Namespace, name: str = "shop") -> tuple[str, str, str]:
    """Return the status, reason and message of Ready. They are empty if there is no Ready of this generation."""
    found = space.get("akvsync", name)
    for item in found.get("status", {}).get("conditions", []):
        if item["type"] == "Ready" and item["observedGeneration"] == found["metadata"]["generation"]:
            return item["status"], item["reason"], item["message"]
    return "", "", ""


def wait_ready(space: Namespace, *wanted: str, name: str = "shop") -> str:
    """Wait until Ready has this status and this reason (both are optional). Return its message."""
    return eventually(lambda: ready_condition(space, name), lambda found: found[: len(wanted)] == wanted)[2]


def list_parts(space: Namespace, name: str = "shop") -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in space.get("akvsync", name)["status"]["parts"]}


def wait_gone(read: Callable[[], object]) -> None:
    eventually(read, lambda found: not found)
