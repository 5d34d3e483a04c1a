"""Test polls, edits, deletion and conflicts of a SecretSync with SSE's fields and reasons."""

import json
from typing import Any

import pytest

from controller.api.conditions import Reason
from tests.support.cluster.harness import MANAGED_LABEL, audit_lines, canary_value, eventually
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.sse_cases import covers_rows
from tools.pods.pod_process import PodProcess


@covers_rows(
    "spec: forceSynchronization",
    "reason: UpdateValueChangeOrForceUpdateSucceeded",
    "reason: UpdateNoValueChangeSucceeded",
    "life: a change of spec polls now",
    "life: dies with it",
)
def test_secretsync_from_its_first_sync_to_its_deletion(space: Namespace) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.set_secret("a", "2")
    space.force_sync("s")
    space.wait_secret("s", {"k": "2"})
    space.wait_reason("s", Reason.WRITTEN)
    space.force_sync("s")
    space.wait_reason("s", Reason.UP_TO_DATE)
    space.set_secret("a", "3")
    space.apply(space.sync("s", {"k": "a"}, secretObject={"labels": {"tier": "data"}}))
    space.wait_secret("s", {"k": "3"})
    space.kubectl("delete", "secretsync", "s")
    eventually(lambda: space.get("secret", "s"), lambda found: not found)


def count_token_requests(space: Namespace) -> int:
    """Return how many tokens of the namespace's ServiceAccounts the controller has requested."""
    lines = map(json.loads, audit_lines(space.installed.plane))
    requested = [line["objectRef"] for line in lines if line.get("objectRef", {}).get("subresource") == "token"]
    return sum(reference["namespace"] == space.name for reference in requested)


@covers_rows("life: missing while it is reconciled")
def test_secretsync_deleted_during_the_sync_is_not_an_error(space: Namespace, controller: PodProcess) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"))
    lines = len(controller.log.read_text().splitlines())
    space.installed.emulator.delay(2, where=space.vault)
    space.apply(space.sync("going", {"k": "a"}))
    # The controller requests a token first. The vault then delays its response.
    eventually(lambda: count_token_requests(space), lambda found: found)
    space.kubectl("delete", "secretsync", "going")
    space.apply(space.sync("staying", {"k": "a"}))
    space.wait_secret("staying", {"k": "1"})
    logged = [json.loads(line) for line in controller.log.read_text().splitlines()[lines:]]
    assert [line for line in logged if line["level"] in ("warning", "error")] == []
    eventually(lambda: space.list_names("secret"), ["staying"].__eq__)


@covers_rows("reason: InvalidClusterSecretLabelError", "reason: InvalidClusterSecretAnnotationError")
@pytest.mark.parametrize("metadata", [{}, {"labels": MANAGED_LABEL}, {"annotations": {"note": "theirs"}}])
def test_foreign_secret_is_reported_as_sse_does(space: Namespace, metadata: dict[str, Any]) -> None:
    """SSE has one reason for a missing label and one for a missing annotation. This controller checks the owner only.

    It therefore uses one of the two reasons.
    """
    space.set_secret("a", "1")
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", **metadata}, "data": {"x": "eA=="}}
    space.apply(theirs, space.provider_class("a"))
    before = space.get("secret", "s")
    space.apply(space.sync("s", {"k": "a"}))
    assert "was not touched" in space.wait_reason("s", Reason.LABEL_ERROR)
    assert space.get("secret", "s") == before


@covers_rows("reason: ControllerSyncFailed", "reason: UnknownError")
def test_write_refused_by_the_api_server_is_reported(space: Namespace) -> None:
    """SSE reports UnknownError here. This controller reports the cause, with SSE's reason for refusals."""
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.kubectl("patch", "secret", "s", "--type=merge", "--patch", '{"immutable":true}')
    space.set_secret("a", "2")
    space.force_sync("s")
    assert "marked immutable: delete it" in space.wait_reason("s", Reason.SYNC_FAILED)
    assert space.secret_values("s") == {"k": canary_value("1")}
