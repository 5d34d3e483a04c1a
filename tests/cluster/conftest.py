"""Provide a control plane, an emulator and a release for each module, and check the records of all modules at the end.

The controller is a process of the chart's Deployment with the chart's own ServiceAccount and Roles. The modules of one
worker use one release in sequence (see `tests.support.cluster.shared_release`). A module that needs another release, or
a control plane without a release, has the mark `own_plane`. The result of a module therefore does not depend on the
order of the modules, and modules can run in parallel.
"""

import contextlib
import itertools
import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import suite_checks
from tests.support.cluster.fault_harness import FaultHarness, fault_harness
from tests.support.cluster.fault_proxy import FaultProxy
from tests.support.cluster.harness import (
    InstalledRelease,
    InstallRelease,
    StartController,
    chart_crds,
    install_release,
    is_at_least,
    read_metrics,
    running_controller,
    wait_policies,
)
from tests.support.cluster.leaks import read_texts, search_texts
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.permissions import list_granted, list_used
from tests.support.cluster.shared_release import SharedRelease
from tests.support.cluster.suite_checks import ModuleRecord
from tests.support.cluster.token_thief import (
    ALLOWED_TYPES,
    CONTROLLER_ACCOUNT,
    CONTROLLER_NAMESPACE,
    TARGET_NAMESPACE,
    TargetNamespace,
    TokenThief,
)
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.programs import assets
from tools.pods.pod_emulation import WorkloadError
from tools.pods.pod_process import PodProcess

HERE = Path(__file__).parent
# The slowest modules, longest first. pytest-xdist starts modules in this order (--no-loadscope-reorder), so that no
# worker starts a slow module when the other workers are already idle.
SLOW_MODULES = (
    "test_soak",
    "test_release_test",
    "test_failures",
    "test_restart",
    "test_flux",
    "test_demo",
    "test_argocd",
    "test_budgets",
    "test_docs",
    "test_costs",
    "test_leader",
    "test_isolation",
    "test_faults_apiserver",
    "test_faults_controller",
    "test_doctor_release",
    "test_kustomize",
    "test_rights",
    "test_faults_entra",
    "test_faults_machine",
    "test_properties",
    "test_arc",
    "test_crds",
    "test_faults_vault",
    "test_shared_release",
    "test_local_cluster",
    "test_foreign_text",
    "test_select",
    "test_free_values",
    "test_akvsync",
    "test_partial",
    "test_throttled",
    "test_stolen_token",
    "test_migrate_operators",
    "test_certificates",
    "test_secret_changes",
    "test_memory",
)
_release_numbers = itertools.count(1)
_unsupported = pytest.StashKey[Counter[str]]()
_records = pytest.StashKey[list[ModuleRecord]]()
_has_deselected = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_records] = []
    config.stash[_has_deselected] = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of features that this Kubernetes version lacks. Sort the slow modules to the front."""
    marked = {item: mark.args for item in items if (mark := item.get_closest_marker("since"))}
    unsupported = {
        item: feature
        for item, (since, feature) in marked.items()
        if not is_at_least(assets.kubernetes().version, since)
    }
    items[:] = [item for item in items if item not in unsupported]
    config.hook.pytest_deselected(items=list(unsupported))
    config.stash[_unsupported] = Counter(unsupported.values())
    is_random = config.pluginmanager.hasplugin("randomly")
    slow = {name: rank for rank, name in enumerate(SLOW_MODULES[: 1 if is_random else None])}
    items.sort(key=lambda item: slow.get(item.path.stem, len(slow)))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Record that the caller deselected tests. A granted right can then be unused because its test did not run."""
    for item in items:
        if not item.get_closest_marker("since"):
            item.config.stash[_has_deselected] = True


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add the records of a pytest-xdist worker. A crashed worker has no records, but the test that it ran fails."""
    if output := getattr(node, "workeroutput", {}).get("module_records"):
        node.config.stash[_records] += suite_checks.decode(output)
        node.config.stash[_has_deselected] |= node.workeroutput["is_partial_run"]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the records of a worker to the main process. In the main process, check all records."""
    config, records = session.config, session.config.stash[_records]
    is_partial = config.stash[_has_deselected] or bool(session.shouldfail or session.shouldstop)
    # With workers, the main process collects no tests. Each worker reports whether its own run was partial.
    is_partial |= bool(session.items) and not set(HERE.glob("test_*.py")) <= {item.path for item in session.items}
    if hasattr(config, "workeroutput"):
        config.workeroutput |= {"module_records": suite_checks.encode(records), "is_partial_run": is_partial}
        return
    is_complete = config.getoption("--granted-equals-used") or not is_partial
    for name, problem in suite_checks.check(records, is_complete=is_complete) if records else ():
        node_id = f"tests/support/cluster/suite_checks.py::{name}"
        outcome: Any = "failed" if problem else "passed"
        report = pytest.TestReport(node_id, (node_id, None, name), {}, outcome, problem or None, "call")
        config.hook.pytest_runtest_logreport(report=report)
        if problem:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for feature, count in config.stash.get(_unsupported, Counter()).items():
        version = assets.kubernetes().version
        terminalreporter.write_line(f"Kubernetes {version} has no {feature}: {count} tests do not run")


@pytest.fixture(scope="session")
def shared_release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRelease]:
    release = SharedRelease(tmp_path_factory.mktemp)
    yield release
    release.close()


@pytest.fixture(scope="module")
def lent_release(shared_release: SharedRelease, request: pytest.FixtureRequest) -> Iterator[InstalledRelease]:
    """Provide the release that the modules share. If a test of this module fails, the next one gets a new release."""
    failed = request.session.testsfailed
    yield shared_release.lend()
    if request.session.testsfailed > failed:
        shared_release.discard()


def _has_own_plane(request: pytest.FixtureRequest) -> bool:
    return request.node.get_closest_marker("own_plane") is not None


@pytest.fixture(scope="module")
def plane(request: pytest.FixtureRequest) -> ControlPlane:
    if _has_own_plane(request):
        own: ControlPlane = request.getfixturevalue("own_plane")
        return own
    lent_release: InstalledRelease = request.getfixturevalue("lent_release")
    return lent_release.plane


@pytest.fixture(scope="module")
def emulator(request: pytest.FixtureRequest) -> Emulator:
    if _has_own_plane(request):
        own: Emulator = request.getfixturevalue("own_emulator")
        return own
    lent_release: InstalledRelease = request.getfixturevalue("lent_release")
    return lent_release.emulator


@pytest.fixture(scope="module")
def installed(lent_release: InstalledRelease, request: pytest.FixtureRequest) -> Iterator[InstalledRelease]:
    InstalledRelease.logs.clear()
    InstalledRelease.exposed.clear()
    yield lent_release
    leaks = tuple(search_texts((*InstalledRelease.exposed, *read_texts(lent_release))))
    record = ModuleRecord(
        request.path.name, frozenset(list_granted(lent_release)), frozenset(list_used(lent_release)), leaks
    )
    request.config.stash[_records].append(record)


@pytest.fixture
def install_own(installed: InstalledRelease, tmp_path: Path) -> Iterator[InstallRelease]:
    """Install releases beside the one under test, each in a new namespace. Remove them at the end."""
    found: list[InstalledRelease] = []

    def install(begins: str = "own", **values: Any) -> InstalledRelease:
        name = f"{begins}-{next(_release_numbers)}"
        folder = tmp_path / name
        folder.mkdir()
        found.append(install_release(installed.plane, installed.emulator, folder, name, **values))
        return found[-1]

    yield install
    for each in found:
        each.remove()


@pytest.fixture
def own_release(install_own: InstallRelease) -> InstalledRelease:
    """Install a release that the test may uninstall."""
    return install_own()


@pytest.fixture(scope="module")
def own_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Provide a control plane without a release, for this module alone."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture(scope="module")
def own_emulator(tmp_path_factory: pytest.TempPathFactory, own_plane: ControlPlane) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("emulator")) as running:
        running.trust_issuer(own_plane.issuer, own_plane.ca_file)
        yield running


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """Return environment variables that differ from the chart's. A module can override this fixture."""
    return {}


@pytest.fixture(scope="module")
def controller(installed: InstalledRelease, settings: dict[str, str]) -> Iterator[PodProcess]:
    with running_controller(installed.workload(**settings)) as workload:
        yield workload
        InstalledRelease.exposed.append(("metrics", read_metrics(workload)))


@pytest.fixture
def start(installed: InstalledRelease) -> Iterator[StartController]:
    """Provide a function that starts a controller. Stop all controllers afterwards, so that none holds the lease."""
    with contextlib.ExitStack() as stack:

        def start_controller(**settings: str) -> PodProcess:
            workload = stack.enter_context(installed.workload(**settings))
            workload.wait_ready()
            running.append(workload)
            return workload

        running: list[PodProcess] = []
        yield start_controller
        for workload in running:
            with contextlib.suppress(WorkloadError):
                workload.stop()


@pytest.fixture(scope="module")
def harness(installed: InstalledRelease, controller: PodProcess) -> Iterator[FaultHarness]:
    with fault_harness(installed, "one", "two") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """Provide a proxy in front of the API server that injects the faults of a test."""
    with FaultProxy(plane, tmp_path_factory.mktemp("relay")) as running:
        yield running


@pytest.fixture
def space(installed: InstalledRelease, controller: PodProcess) -> Iterator[Namespace]:
    """Provide a namespace with its own vault and federated ServiceAccount."""
    namespace = Namespace(installed)
    yield namespace
    namespace.remove()
    installed.emulator.clear_faults()


@pytest.fixture
def neighbour(installed: InstalledRelease, controller: PodProcess) -> Iterator[Namespace]:
    """Provide another namespace with a synced Secret."""
    namespace = Namespace(installed)
    namespace.set_secret("a", "0")
    namespace.apply(namespace.provider_class("a"), namespace.sync("s", {"k": "a"}))
    namespace.wait_secret("s", {"k": "0"})
    yield namespace
    namespace.remove()


@pytest.fixture(scope="module", params=[True, False], ids=["owners-enforced", "owners-not-enforced"])
def attacked_plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Provide a control plane, once with and once without the plugin OwnerReferencesPermissionEnforcement."""
    flags = [] if request.param else ["--enable-admission-plugins=NodeRestriction"]
    with ControlPlane(tmp_path_factory.mktemp("attacked"), apiserver_flags=flags, crds=chart_crds()) as running:
        yield running


@pytest.fixture(scope="module")
def shop(attacked_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> TargetNamespace:
    """Provide a release to attack. All its names differ from the defaults, so its policies must contain them."""
    plane = attacked_plane
    values = tmp_path_factory.mktemp("policies") / "values.json"
    values.write_text(
        json.dumps(
            {
                "fullnameOverride": "scribe",
                "namespaceOverride": CONTROLLER_NAMESPACE,
                "serviceAccount": {"name": CONTROLLER_ACCOUNT},
                "validatingAdmissionPolicies": {"allowedSecretTypes": ALLOWED_TYPES},
            }
        )
    )
    plane.kubectl("create", "namespace", CONTROLLER_NAMESPACE)
    at = ["--namespace", "release-room", "--kubeconfig", str(plane.kubeconfig)]
    helm.run(["install", "mine", str(helm.CHART), *at, "--create-namespace", "--no-hooks", "--values", str(values)])
    # The attacks need only the ServiceAccount, the Roles and the policies of the release, not a running controller.
    plane.kubectl("delete", "deployment", "scribe", "--namespace", CONTROLLER_NAMESPACE)
    lease = {"metadata": {"name": "scribe"}}
    status, answer = plane.request(
        "POST", f"/apis/coordination.k8s.io/v1/namespaces/{CONTROLLER_NAMESPACE}/leases", lease
    )
    assert status == 201, answer
    plane.kubectl("create", "namespace", TARGET_NAMESPACE)
    wait_policies(plane)
    return TargetNamespace(plane)


@pytest.fixture
def thief(shop: TargetNamespace) -> TokenThief:
    return TokenThief(shop.plane, CONTROLLER_NAMESPACE, CONTROLLER_ACCOUNT)


@pytest.fixture
def refusing_proxy() -> Iterator[str]:
    """Provide the address of a proxy that refuses connections: a reserved port without a listener."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"
