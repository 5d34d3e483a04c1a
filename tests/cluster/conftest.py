"""One control plane, one emulator and one installed release for the whole suite; a controller per test module.

The controller is the chart's Deployment run as a process, under the chart's own ServiceAccount and Roles.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.cluster.fleet import Fleet, fleet
from tests.cluster.relay import Relay
from tests.cluster.thief import ACCOUNT, HOME, LISTED, SECRETS, SHOP, Shop, Thief, secret
from tests.cluster.world import Installed, Namespace, Start, at_work, eventually, has, install
from tools import helm
from tools.deployment import PROBE_SECRET_TYPE
from tools.keyvault_emulator import Emulator
from tools.kubelet import WorkloadError
from tools.local_cluster import ControlPlane, assets
from tools.workload import Workload

_left_out = pytest.StashKey[Counter[str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The proofs over everything that the suite did come last; what this Kubernetes does not have yet is left out."""
    items.sort(key=lambda item: "test_zz_" in item.nodeid)
    marked = {item: mark.args for item in items if (mark := item.get_closest_marker("since"))}
    pointless = {item: what for item, (since, what) in marked.items() if not has(assets.kubernetes().version, since)}
    items[:] = [item for item in items if item not in pointless]
    config.hook.pytest_deselected(items=list(pointless))
    config.stash[_left_out] = Counter(pointless.values())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for what, count in config.stash.get(_left_out, Counter()).items():
        version = assets.kubernetes().version
        terminalreporter.write_line(f"Kubernetes {version} has no {what}: {count} tests of them are left out")


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory, plane: ControlPlane) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("emulator")) as running:
        running.trust_issuer(plane.issuer, plane.ca_file)
        yield running


@pytest.fixture(scope="session")
def installed(plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(plane, emulator, tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """The environment in which a module's controller differs from the chart's; a module may override this."""
    return {}


@pytest.fixture(scope="module")
def controller(installed: Installed, settings: dict[str, str]) -> Iterator[Workload]:
    with at_work(installed.workload(**settings)) as workload:
        yield workload


@pytest.fixture
def start(installed: Installed) -> Iterator[Start]:
    """Starts controllers; those that a test does not end itself are told to, so that the lease is free for the next."""
    with contextlib.ExitStack() as stack:

        def started(**settings: str) -> Workload:
            workload = stack.enter_context(installed.workload(**settings))
            workload.wait_ready()
            running.append(workload)
            return workload

        running: list[Workload] = []
        yield started
        for workload in running:
            with contextlib.suppress(WorkloadError):
                workload.stop()


@pytest.fixture(scope="module")
def shops(installed: Installed, controller: Workload) -> Iterator[Fleet]:
    with fleet(installed, "one", "two") as found:
        yield found


@pytest.fixture(scope="module")
def relay(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """A way to the API server that fails where a test says so."""
    with Relay(plane, tmp_path_factory.mktemp("relay")) as running:
        yield running


@pytest.fixture
def space(installed: Installed, controller: Workload) -> Iterator[Namespace]:
    """A namespace with a federated ServiceAccount and a vault of its own."""
    namespace = Namespace(installed)
    yield namespace
    installed.emulator.heal()
    installed.emulator.restore()
    namespace.remove()


@pytest.fixture(scope="session")
def shop(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A second release, under attack: renamed in every way that the chart knows, so policies must follow the names."""
    values = tmp_path_factory.mktemp("policies") / "values.json"
    values.write_text(
        json.dumps(
            {
                "fullnameOverride": "scribe",
                "namespaceOverride": HOME,
                "serviceAccount": {"name": ACCOUNT},
                "validatingAdmissionPolicies": {"allowedSecretTypes": LISTED},
            }
        )
    )
    plane.kubectl("create", "namespace", HOME)
    at = ["--namespace", "release-room", "--kubeconfig", str(plane.kubeconfig)]
    helm.run(["install", "mine", str(helm.CHART), *at, "--create-namespace", "--no-hooks", "--values", str(values)])
    # Nothing of it runs: its account, its rights and its policies are all that a thief meets.
    plane.kubectl("delete", "deployment", "scribe", "--namespace", HOME)
    plane.kubectl("create", "namespace", SHOP)
    thief = Thief(plane, HOME, ACCOUNT)
    # What the controller itself waits for before it is ready: the policies are in force a moment after the install.
    probe = {**secret("probe", []), "type": PROBE_SECRET_TYPE}
    eventually(lambda: thief.send("POST", f"{SECRETS}?dryRun=All", probe), lambda answer: answer.status == 422)
    return Shop(plane)


@pytest.fixture
def thief(shop: Shop) -> Thief:
    return Thief(shop.plane, HOME, ACCOUNT)
