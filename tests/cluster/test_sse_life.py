"""What becomes of a SecretSync in time, as SSE has it: looks, edits, its end, and who stands in its way."""

import json
from typing import Any

import pytest

from controller.api.conditions import Reason
from tests.cluster.sse import holds
from tests.cluster.world import LABEL, Namespace, eventually, value
from tools.workload import Workload


@holds(
    "spec: forceSynchronization",
    "reason: UpdateValueChangeOrForceUpdateSucceeded",
    "reason: UpdateNoValueChangeSucceeded",
    "life: a change of spec looks now",
    "life: dies with it",
)
def test_from_the_first_look_to_the_end(space: Namespace) -> None:
    space.put("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.put("a", "2")
    space.force("s")
    space.wait_secret("s", {"k": "2"})
    space.wait_reason("s", Reason.WRITTEN)
    space.force("s")
    space.wait_reason("s", Reason.UP_TO_DATE)
    space.put("a", "3")
    space.apply(space.sync("s", {"k": "a"}, secretObject={"labels": {"tier": "data"}}))
    space.wait_secret("s", {"k": "3"})
    space.kubectl("delete", "secretsync", "s")
    eventually(lambda: space.get("secret", "s"), lambda found: not found)


def tokens_of(space: Namespace) -> int:
    """How many tokens of the namespace's ServiceAccounts the controller has asked for."""
    lines = map(json.loads, space.installed.plane.audit_log.read_text().splitlines())
    asked = [line["objectRef"] for line in lines if line.get("objectRef", {}).get("subresource") == "token"]
    return sum(where["namespace"] == space.name for where in asked)


@holds("life: missing while it is reconciled")
def test_a_secretsync_that_goes_meanwhile_is_no_error(space: Namespace, controller: Workload) -> None:
    space.put("a", "1")
    space.apply(space.provider_class("a"))
    lines = len(controller.log.read_text().splitlines())
    space.installed.emulator.delay(2, where=space.vault)
    space.apply(space.sync("going", {"k": "a"}))
    # Its token comes first, and then the vault takes its time.
    eventually(lambda: tokens_of(space), lambda found: found)
    space.kubectl("delete", "secretsync", "going")
    space.apply(space.sync("staying", {"k": "a"}))
    space.wait_secret("staying", {"k": "1"})
    said = [json.loads(line) for line in controller.log.read_text().splitlines()[lines:]]
    assert [line for line in said if line["level"] in ("warning", "error")] == []
    eventually(lambda: space.names("secret"), ["staying"].__eq__)


@holds("reason: InvalidClusterSecretLabelError", "reason: InvalidClusterSecretAnnotationError")
@pytest.mark.parametrize("metadata", [{}, {"labels": LABEL}, {"annotations": {"note": "theirs"}}])
def test_a_secret_that_is_not_ours(space: Namespace, metadata: dict[str, Any]) -> None:
    """SSE tells a missing label from a missing annotation. Here the owner counts, so there is one reason."""
    space.put("a", "1")
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", **metadata}, "data": {"x": "eA=="}}
    space.apply(theirs, space.provider_class("a"))
    before = space.get("secret", "s")
    space.apply(space.sync("s", {"k": "a"}))
    assert "was not touched" in space.wait_reason("s", Reason.LABEL_ERROR)
    assert space.get("secret", "s") == before


@holds("reason: ControllerSyncFailed", "reason: UnknownError")
def test_a_write_that_the_api_server_refuses(space: Namespace) -> None:
    """SSE calls that UnknownError. What is known is told, with SSE's reason for the API server's refusals."""
    space.put("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.kubectl("patch", "secret", "s", "--type=merge", "--patch", '{"immutable":true}')
    space.put("a", "2")
    space.force("s")
    assert "marked immutable: delete it" in space.wait_reason("s", Reason.SYNC_FAILED)
    assert space.secret("s") == {"k": value("1")}
