"""Test a second release with `watchNamespaces`: it has permissions only in that namespace and in its own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from controller.api.conditions import Reason
from controller.api.meta import CLIENT_ID
from controller.api.secretsync import REFRESH_INTERVAL
from controller.config.settings import TOKEN_AUDIENCE, TOKEN_SECONDS
from tests.support.cluster.harness import InstalledRelease, eventually, install_release, is_leader, running_controller
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.permissions import (
    EVERYWHERE,
    assert_all_granted_used,
    is_allowed,
    list_granted,
    use_all_permissions,
)
from tests.support.cluster.token_thief import MERGE, TokenThief, assert_denied_by_policy, make_owner, make_secret
from tools.pods.pod_process import PodProcess

HOME = "second-home"


@pytest.fixture(scope="module")
def controller() -> None:
    """Do not run the controller of the first release, because these tests do not need it."""


@pytest.fixture(scope="module")
def served(installed: InstalledRelease) -> Iterator[Namespace]:
    namespace = Namespace(installed)
    yield namespace
    namespace.remove()


@pytest.fixture(scope="module")
def second(
    installed: InstalledRelease, served: Namespace, tmp_path_factory: pytest.TempPathFactory
) -> InstalledRelease:
    folder, plane = tmp_path_factory.mktemp("second"), installed.plane
    values = {
        "watchNamespaces": [served.name],
        "fullnameOverride": "scribe",
        "serviceAccount": {"name": "writer"},
        "identityFromServiceAccount": True,
        "shortestRefreshIntervalInSeconds": 1,
    }
    return install_release(plane, installed.emulator, folder, HOME, **values)


@pytest.fixture(scope="module")
def running(second: InstalledRelease) -> Iterator[PodProcess]:
    with running_controller(second.workload()) as workload:
        yield workload


def test_only_watched_namespaces_are_synced(
    running: PodProcess, second: InstalledRelease, served: Namespace, space: Namespace
) -> None:
    for place in (space, served):
        place.set_secret("a", "1")
        place.apply(place.provider_class("a", clientID="", tenantID=""), place.sync("s", {"k": "a"}))
    message = served.wait_reason("s", Reason.SPC_ERROR)
    assert message.startswith(f"annotation {CLIENT_ID} of ServiceAccount shop is missing: correct it, or set")
    # `identityFromServiceAccount` is an extension to SSE: the client ID comes from the ServiceAccount's annotation.
    use_all_permissions(served, identity=True)
    assert space.secret_values("s") == {}
    assert space.ready_condition("s") == ("", "")
    assert space.count_calls() == 0
    assert_all_granted_used(second)
    assert {permission.scope for permission in list_granted(second)} == {served.name, HOME}


def test_secretsync_can_set_its_own_poll_interval(running: PodProcess, served: Namespace) -> None:
    served.set_secret("b", "1")
    served.apply(served.provider_class("b", name="other"))
    served.apply(served.sync("t", {"k": "b"}, secretProviderClassName="other"))
    served.wait_secret("t", {"k": "1"})
    served.set_secret("b", "2")
    served.kubectl("annotate", "secretsync", "t", f"{REFRESH_INTERVAL}=soon")
    message = served.wait_reason("t", Reason.INPUT_INVALID)
    assert message == f"annotation {REFRESH_INTERVAL} is 'soon': write a number of seconds"
    served.kubectl("annotate", "secretsync", "t", f"{REFRESH_INTERVAL}=2", "--overwrite")
    for text in ("2", "3"):
        served.set_secret("b", text)
        served.wait_secret("t", {"k": text})


def test_release_has_no_permission_outside_its_watched_namespace(
    second: InstalledRelease, served: Namespace, space: Namespace
) -> None:
    permissions = [permission for permission in list_granted(second) if permission.scope == served.name]
    assert permissions
    for permission in permissions:
        assert is_allowed(second.plane, second.user, permission), permission
        assert not is_allowed(second.plane, second.user, permission._replace(scope=space.name)), permission
        assert not is_allowed(second.plane, second.user, permission._replace(scope=EVERYWHERE)), permission


@pytest.fixture
def privileged_thief(running: PodProcess, second: InstalledRelease) -> Iterator[TokenThief]:
    """Provide a thief of the controller's token. The controller's ServiceAccount has the role cluster-admin."""
    _, _, home, account = second.user.split(":")
    to = ("--clusterrole=cluster-admin", f"--serviceaccount={home}:{account}")
    second.plane.kubectl("create", "clusterrolebinding", "too-many-permissions", *to)
    thief = TokenThief(second.plane, home, account)
    eventually(lambda: thief.send("GET", "/api/v1/secrets?limit=1").status, lambda status: status == 200)
    yield thief
    second.plane.kubectl("delete", "clusterrolebinding", "too-many-permissions")


def test_cluster_admin_role_allows_no_write_outside_watched_namespaces(
    privileged_thief: TokenThief, running: PodProcess, served: Namespace, space: Namespace
) -> None:
    space.apply(space.sync("theirs", {"k": "a"}))
    here, other, home = (f"/api/v1/namespaces/{name}" for name in (served.name, space.name, HOME))
    syncs = f"/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{space.name}/secretsyncs"
    cluster = "/apis/rbac.authorization.k8s.io/v1"
    root_ca = f"{other}/configmaps/kube-root-ca.crt"  # kube-controller-manager creates it in each namespace
    eventually(lambda: space.installed.plane.request("GET", root_ca)[0], lambda status: status == 200)
    named: dict[str, Any] = {"metadata": {"name": "from-the-thief"}}
    binding = {**named, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}}
    token = {"spec": {"audiences": [TOKEN_AUDIENCE], "expirationSeconds": TOKEN_SECONDS}}
    owned = make_secret("made-up", [make_owner("11111111-1111-1111-1111-111111111111", "made-up")])
    for method, path, body in (
        ("POST", f"{other}/secrets", owned),
        ("POST", f"{other}/configmaps", named),
        ("POST", f"{other}/configmaps?dryRun=All", named),
        ("POST", f"{other}/serviceaccounts/shop/token", token),
        ("POST", f"{other}/pods/any/exec?command=id", None),
        ("PATCH", root_ca, {}),
        ("PATCH", f"{syncs}/theirs/status", {"status": {"syncHash": "h"}}),
        ("DELETE", root_ca, None),
        ("DELETE", f"{other}/configmaps", None),
        # In its own namespace, the controller only writes its Lease and creates a Secret as a dry run.
        ("POST", f"{home}/secrets", owned),
        ("PATCH", f"{home}/serviceaccounts/writer", {}),
        ("POST", f"{home}/serviceaccounts/writer/token", token),
        # These objects belong to no namespace.
        ("POST", "/api/v1/namespaces", named),
        ("PATCH", here, {"metadata": {"labels": {"a": "b"}}}),
        ("DELETE", here, None),
        ("POST", f"{cluster}/clusterrolebindings", binding),
    ):
        answer = privileged_thief.send(method, path, body, MERGE if method == "PATCH" else "application/json")
        assert_denied_by_policy(answer, "the controller does not write outside the chart's watchNamespaces")
    # This policy allows requests in a watched namespace. Other policies restrict them there.
    assert privileged_thief.send("POST", f"{here}/configmaps", named).status == 201
    assert privileged_thief.send("POST", f"{home}/secrets?dryRun=All", owned).status == 201
    # The policy does not affect the controller, which renews its Lease and syncs Secrets.
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases/scribe"

    def read_renew_time() -> str:
        answer = privileged_thief.send("GET", lease)
        return str(json.loads(answer.text)["spec"]["renewTime"]) if answer.status == 200 else ""

    before = eventually(read_renew_time, bool)  # a ready controller can still wait for the Lease
    eventually(read_renew_time, lambda after: after > before)
    assert is_leader(running)
    served.set_secret("c", "1")
    served.apply(
        served.provider_class("c", name="third"), served.sync("u", {"k": "c"}, secretProviderClassName="third")
    )
    served.wait_secret("u", {"k": "1"})
