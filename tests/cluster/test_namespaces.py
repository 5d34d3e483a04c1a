"""A second release that serves one namespace: rights there and at home, none elsewhere and none in the cluster."""

from collections.abc import Iterator

import pytest

from controller.api.conditions import Reason
from controller.api.meta import CLIENT_ID, TENANT_ID
from controller.api.secretsync import REFRESH_INTERVAL
from tests.cluster.rights import Right, granted, make_mend_prune, used
from tests.cluster.world import TENANT, Installed, Namespace, eventually, release
from tools import helm
from tools.local_cluster.errors import ClusterError
from tools.workload import Workload

HOME = "second-home"


@pytest.fixture(scope="module")
def controller() -> None:
    """The first release's does not run: nothing here is its work."""


@pytest.fixture(scope="module")
def served(installed: Installed) -> Iterator[Namespace]:
    namespace = Namespace(installed)
    yield namespace
    namespace.remove()


@pytest.fixture(scope="module")
def second(installed: Installed, served: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder, plane = tmp_path_factory.mktemp("second"), installed.plane
    values = {
        "watchNamespaces": [served.name],
        "fullnameOverride": "scribe",
        "serviceAccount": {"name": "writer"},
        "identityFromServiceAccount": True,
        "shortestRefreshIntervalInSeconds": 1,
    }
    yield release(plane, installed.emulator, folder, HOME, **values)
    helm.run(["uninstall", HOME, "--namespace", HOME, "--kubeconfig", str(plane.kubeconfig)])
    plane.kubectl("delete", "namespace", HOME, "--wait=false")


@pytest.fixture(scope="module")
def running(second: Installed) -> Iterator[Workload]:
    with second.workload() as workload:
        second.logs.append(workload.log)
        workload.wait_ready()
        yield workload
        assert workload.stop() == 0


def may(installed: Installed, right: Right, *where: str) -> bool:
    resource, _, sub = right.resource.partition("/")
    what = [f"{resource}.{right.group}" if right.group else resource, *([f"--subresource={sub}"] if sub else [])]
    try:
        return bool(installed.plane.kubectl("auth", "can-i", right.verb, *what, f"--as={installed.user}", *where))
    except ClusterError:  # kubectl says no by its exit code
        return False


def test_it_syncs_there_and_leaves_others_alone(
    running: Workload, second: Installed, served: Namespace, space: Namespace
) -> None:
    for place in (space, served):
        place.put("a", "1")
        place.apply(place.provider_class("a", clientID="", tenantID=""), place.sync("s", {"k": "a"}))
    said = served.wait_reason("s", Reason.SPC_ERROR)
    assert said.startswith(f"annotation {CLIENT_ID} of ServiceAccount shop is missing: correct it, or set")
    # Beyond SSE, and asked for in this release's values: the ServiceAccount tells who it is.
    served.kubectl("annotate", "serviceaccount", "shop", f"{CLIENT_ID}={served.client}", f"{TENANT_ID}={TENANT}")
    served.wait_secret("s", {"k": "1"})
    served.put("a", "2")
    served.force("s")
    served.wait_secret("s", {"k": "2"})
    assert space.secret("s") == {}
    assert space.ready("s") == ("", "")
    assert space.calls() == 0
    make_mend_prune(served, beside=["s"])
    # The event comes after the status.
    eventually(lambda: used(second), lambda found: found == granted(second))
    assert {right.scope for right in granted(second)} == {served.name, HOME}


def test_a_secretsync_may_ask_for_an_interval_of_its_own(running: Workload, served: Namespace) -> None:
    served.put("b", "1")
    served.apply(served.provider_class("b", name="other"))
    served.apply(served.sync("t", {"k": "b"}, secretProviderClassName="other"))
    served.wait_secret("t", {"k": "1"})
    served.put("b", "2")
    served.kubectl("annotate", "secretsync", "t", f"{REFRESH_INTERVAL}=soon")
    said = served.wait_reason("t", Reason.INPUT_INVALID)
    assert said == f"annotation {REFRESH_INTERVAL} is 'soon': write a number of seconds"
    served.kubectl("annotate", "secretsync", "t", f"{REFRESH_INTERVAL}=2", "--overwrite")
    for text in ("2", "3"):
        served.put("b", text)
        served.wait_secret("t", {"k": text}, patience=6)


def test_no_right_reaches_beyond(second: Installed, served: Namespace, space: Namespace) -> None:
    there = [right for right in granted(second) if right.scope == served.name]
    assert there
    for right in there:
        assert may(second, right, "--namespace", served.name), right
        assert not may(second, right, "--namespace", space.name), right
        assert not may(second, right, "--all-namespaces"), right
