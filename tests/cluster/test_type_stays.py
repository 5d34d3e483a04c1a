"""Test that a policy refuses to change a SecretSync's type if the CRD of another product has no such rule."""

import json
from collections.abc import Iterator

import pytest

from controller.api.secretsync import TYPE_STAYS, SecretSync
from tests.support.cluster.harness import SINCE_POLICIES, InstalledRelease, eventually
from tests.support.cluster.namespace import Namespace
from tools.local_cluster.errors import ClusterError

CRD = f"{SecretSync.plural}.{SecretSync.group}"
RULES = (
    "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/secretObject/properties/type"
    "/x-kubernetes-validations"
)


@pytest.fixture(scope="module")
def controller() -> None:
    """Do not run a controller, because the tests need none."""


@pytest.fixture
def crd_without_rule(installed: InstalledRelease) -> Iterator[None]:
    """Provide the CRD without its own rule."""

    def patch(**operation: object) -> None:
        change = json.dumps([{"path": RULES, **operation}])
        installed.plane.kubectl("patch", "crd", CRD, "--type=json", "--patch", change)

    patch(op="remove")
    yield
    patch(op="add", value=[{"rule": "self == oldSelf", "message": TYPE_STAYS}])


@pytest.mark.usefixtures("crd_without_rule")
@pytest.mark.since(*SINCE_POLICIES)
def test_policy_refuses_a_change_of_the_type(space: Namespace) -> None:
    space.apply(space.sync("s", {"tls.crt": "a", "tls.key": "b"}))

    def change(kind: str) -> str:
        patch = json.dumps({"spec": {"secretObject": {"type": kind}}})
        try:
            return space.kubectl("patch", "secretsync", "s", "--type=merge", "--patch", patch)
        except ClusterError as error:
            return str(error)

    # The API server uses the changed CRD after a short delay.
    message = eventually(lambda: change("kubernetes.io/tls"), lambda text: "ValidatingAdmissionPolicy" in text)
    assert TYPE_STAYS in message
    assert "patched" in change("Opaque")
    space.kubectl("patch", "secretsync", "s", "--type=merge", "--patch", '{"spec":{"forceSynchronization":"x"}}')


@pytest.mark.since(*SINCE_POLICIES)
def test_secretsync_without_a_spec_can_be_completed_and_deleted(space: Namespace) -> None:
    bare = {"apiVersion": SecretSync.api_version(), "kind": SecretSync.kind, "metadata": {"name": "bare"}}
    space.apply(bare)
    space.apply(space.sync("bare", {"a": "a"}))
    space.kubectl("delete", "secretsync", "bare")
    space.apply(bare)
    # The garbage collector removes the finalizer of this deletion by an update.
    space.kubectl("delete", "secretsync", "bare", "--cascade=foreground", "--timeout=20s")
