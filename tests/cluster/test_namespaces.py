"""A second release that serves one namespace: rights there and at home, none elsewhere and none in the cluster."""

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
    """Do not run the controller of the first release, which does nothing here."""


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
    said = served.wait_reason("s", Reason.SPC_ERROR)
    assert said.startswith(f"annotation {CLIENT_ID} of ServiceAccount shop is missing: correct it, or set")
    # Beyond SSE, and asked for in this release's values: the ServiceAccount tells who it is.
    use_all_permissions(served, identity=True)
    assert space.secret_values("s") == {}
    assert space.ready_condition("s") == ("", "")
    assert space.count_calls() == 0
    assert_all_granted_used(second)
    assert {right.scope for right in list_granted(second)} == {served.name, HOME}


def test_secretsync_can_set_its_own_poll_interval(running: PodProcess, served: Namespace) -> None:
    served.set_secret("b", "1")
    served.apply(served.provider_class("b", name="other"))
    served.apply(served.sync("t", {"k": "b"}, secretProviderClassName="other"))
    served.wait_secret("t", {"k": "1"})
    served.set_secret("b", "2")
    served.kubectl("annotate", "secretsync", "t", f"{REFRESH_INTERVAL}=soon")
    said = served.wait_reason("t", Reason.INPUT_INVALID)
    assert said == f"annotation {REFRESH_INTERVAL} is 'soon': write a number of seconds"
    served.kubectl("annotate", "secretsync", "t", f"{REFRESH_INTERVAL}=2", "--overwrite")
    for text in ("2", "3"):
        served.set_secret("b", text)
        served.wait_secret("t", {"k": text}, patience=6)


def test_no_right_reaches_beyond(second: InstalledRelease, served: Namespace, space: Namespace) -> None:
    there = [right for right in list_granted(second) if right.scope == served.name]
    assert there
    for right in there:
        assert is_allowed(second.plane, second.user, right), right
        assert not is_allowed(second.plane, second.user, right._replace(scope=space.name)), right
        assert not is_allowed(second.plane, second.user, right._replace(scope=EVERYWHERE)), right


@pytest.fixture
def mighty(running: PodProcess, second: InstalledRelease) -> Iterator[TokenThief]:
    """Return a thief of the token, after an administrator has granted the controller every permission."""
    _, _, home, account = second.user.split(":")
    to = ("--clusterrole=cluster-admin", f"--serviceaccount={home}:{account}")
    second.plane.kubectl("create", "clusterrolebinding", "far-too-much", *to)
    thief = TokenThief(second.plane, home, account)
    eventually(lambda: thief.send("GET", "/api/v1/secrets?limit=1").status, lambda status: status == 200)
    yield thief
    second.plane.kubectl("delete", "clusterrolebinding", "far-too-much")


def test_nothing_is_changed_elsewhere_whatever_was_granted(
    mighty: TokenThief, running: PodProcess, served: Namespace, space: Namespace
) -> None:
    space.apply(space.sync("theirs", {"k": "a"}))
    here, there, home = (f"/api/v1/namespaces/{name}" for name in (served.name, space.name, HOME))
    syncs = f"/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/{space.name}/secretsyncs"
    cluster = "/apis/rbac.authorization.k8s.io/v1"
    root_ca = f"{there}/configmaps/kube-root-ca.crt"  # kube-controller-manager creates it in each namespace
    eventually(lambda: space.installed.plane.request("GET", root_ca)[0], lambda status: status == 200)
    named: dict[str, Any] = {"metadata": {"name": "by-the-thief"}}
    binding = {**named, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}}
    token = {"spec": {"audiences": [TOKEN_AUDIENCE], "expirationSeconds": TOKEN_SECONDS}}
    owned = make_secret("made-up", [make_owner("11111111-1111-1111-1111-111111111111", "made-up")])
    for method, path, body in (
        ("POST", f"{there}/secrets", owned),
        ("POST", f"{there}/configmaps", named),
        ("POST", f"{there}/configmaps?dryRun=All", named),
        ("POST", f"{there}/serviceaccounts/shop/token", token),
        ("POST", f"{there}/pods/any/exec?command=id", None),
        ("PATCH", root_ca, {}),
        ("PATCH", f"{syncs}/theirs/status", {"status": {"syncHash": "h"}}),
        ("DELETE", root_ca, None),
        ("DELETE", f"{there}/configmaps", None),
        # At home there is its Lease, and a Secret that it tries to create, dry.
        ("POST", f"{home}/secrets", owned),
        ("PATCH", f"{home}/serviceaccounts/writer", {}),
        ("POST", f"{home}/serviceaccounts/writer/token", token),
        # What belongs to no namespace.
        ("POST", "/api/v1/namespaces", named),
        ("PATCH", here, {"metadata": {"labels": {"a": "b"}}}),
        ("DELETE", here, None),
        ("POST", f"{cluster}/clusterrolebindings", binding),
    ):
        answer = mighty.send(method, path, body, MERGE if method == "PATCH" else "application/json")
        assert_denied_by_policy(answer, "the controller does not write outside the chart's watchNamespaces")
    # Where it serves, this policy leaves the rest to the others; and the controller itself goes on.
    assert mighty.send("POST", f"{here}/configmaps", named).status == 201
    assert mighty.send("POST", f"{home}/secrets?dryRun=All", owned).status == 201
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases/scribe"

    def renewed() -> str:
        return str(json.loads(mighty.send("GET", lease).text)["spec"]["renewTime"])

    before = renewed()
    eventually(renewed, lambda found: found > before)
    assert is_leader(running)
    served.set_secret("c", "1")
    served.apply(
        served.provider_class("c", name="third"), served.sync("u", {"k": "c"}, secretProviderClassName="third")
    )
    served.wait_secret("u", {"k": "1"})
