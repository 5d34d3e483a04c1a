"""Give each test module its own control plane, emulator and release, and check what all of them did at the end.

The controller is the chart's Deployment, run as a process under the chart's own ServiceAccount and Roles. A module
shares nothing with another one, so that modules run alone, in any order and side by side with the same result.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import suite_checks
from tests.cluster.fleet import Fleet, fleet
from tests.cluster.leaks import search, texts
from tests.cluster.relay import Relay
from tests.cluster.rights import granted, used
from tests.cluster.suite_checks import ModuleRecord
from tests.cluster.thief import ACCOUNT, HOME, LISTED, SECRETS, SHOP, Shop, Thief, secret
from tests.cluster.world import Installed, Namespace, Start, at_work, eventually, has, install, metrics
from tools import helm
from tools.deployment import PROBE_SECRET_TYPE
from tools.keyvault_emulator import Emulator
from tools.kubelet import WorkloadError
from tools.local_cluster import ControlPlane, assets
from tools.workload import Workload

HERE = Path(__file__).parent
# The modules that take most time, longest first. pytest-xdist starts modules in this order (--no-loadscope-reorder), so
# that no worker begins a long one when the others have nothing left to do.
SLOW_MODULES = (
    "test_soak",
    "test_failures",
    "test_demo",
    "test_policies",
    "test_docs",
    "test_costs",
    "test_restart",
    "test_budgets",
    "test_faults_apiserver",
    "test_faults_controller",
    "test_arc",
    "test_isolation",
    "test_faults_entra",
    "test_crds",
    "test_faults_machine",
    "test_rights",
    "test_leader",
    "test_doctor",
    "test_faults_vault",
    "test_akvsync",
    "test_local_cluster",
    "test_throttled",
    "test_release_test",
    "test_namespaces",
    "test_memory",
)
_left_out = pytest.StashKey[Counter[str]]()
_records = pytest.StashKey[list[ModuleRecord]]()
_has_deselected = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_records] = []
    config.stash[_has_deselected] = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of what this Kubernetes does not have yet."""
    marked = {item: mark.args for item in items if (mark := item.get_closest_marker("since"))}
    pointless = {item: what for item, (since, what) in marked.items() if not has(assets.kubernetes().version, since)}
    items[:] = [item for item in items if item not in pointless]
    config.hook.pytest_deselected(items=list(pointless))
    config.stash[_left_out] = Counter(pointless.values())
    is_random = config.pluginmanager.hasplugin("randomly")
    slow = {name: rank for rank, name in enumerate(SLOW_MODULES[: 1 if is_random else None])}
    items.sort(key=lambda item: slow.get(item.path.stem, len(slow)))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Note that the caller chose some tests: then a right may be unused because its test did not run."""
    for item in items:
        if not item.get_closest_marker("since") and not item.get_closest_marker("long"):
            item.config.stash[_has_deselected] = True


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a pytest-xdist worker recorded. A worker that crashed recorded nothing: its test fails."""
    if output := getattr(node, "workeroutput", {}).get("module_records"):
        node.config.stash[_records] += suite_checks.decode(output)
        node.config.stash[_has_deselected] |= node.workeroutput["is_partial_run"]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker, hand over the records. In the session itself, run the checks over all of them."""
    config, records = session.config, session.config.stash[_records]
    is_partial = config.stash[_has_deselected] or bool(session.shouldfail or session.shouldstop)
    # With workers the session itself collects nothing; they say what they have seen.
    is_partial |= bool(session.items) and not set(HERE.glob("test_*.py")) <= {item.path for item in session.items}
    if hasattr(config, "workeroutput"):
        config.workeroutput |= {"module_records": suite_checks.encode(records), "is_partial_run": is_partial}
        return
    is_complete = config.getoption("--granted-equals-used") or not is_partial
    for name, problem in suite_checks.check(records, is_complete=is_complete) if records else ():
        node_id = f"tests/cluster/suite_checks.py::{name}"
        outcome: Any = "failed" if problem else "passed"
        report = pytest.TestReport(node_id, (node_id, None, name), {}, outcome, problem or None, "call")
        config.hook.pytest_runtest_logreport(report=report)
        if problem:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for what, count in config.stash.get(_left_out, Counter()).items():
        version = assets.kubernetes().version
        terminalreporter.write_line(f"Kubernetes {version} has no {what}: {count} tests of them are left out")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory, plane: ControlPlane) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("emulator")) as running:
        running.trust_issuer(plane.issuer, plane.ca_file)
        yield running


@pytest.fixture(scope="module")
def installed(
    plane: ControlPlane, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Installed]:
    Installed.logs.clear()
    Installed.exposed.clear()
    found = install(plane, emulator, tmp_path_factory.mktemp("release"))
    yield found
    leaks = tuple(search((*Installed.exposed, *texts(found))))
    record = ModuleRecord(request.path.name, frozenset(granted(found)), frozenset(used(found)), leaks)
    request.config.stash[_records].append(record)


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """The environment in which a module's controller differs from the chart's; a module may override this."""
    return {}


@pytest.fixture(scope="module")
def controller(installed: Installed, settings: dict[str, str]) -> Iterator[Workload]:
    with at_work(installed.workload(**settings)) as workload:
        yield workload
        Installed.exposed.append(("metrics", metrics(workload)))


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


@pytest.fixture
def neighbour(installed: Installed, controller: Workload) -> Iterator[Namespace]:
    """Another namespace, whose Secret was synced."""
    namespace = Namespace(installed)
    namespace.put("a", "0")
    namespace.apply(namespace.provider_class("a"), namespace.sync("s", {"k": "a"}))
    namespace.wait_secret("s", {"k": "0"})
    yield namespace
    namespace.remove()


@pytest.fixture(scope="module", params=[True, False], ids=["owners-enforced", "owners-not-enforced"])
def attacked_plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with the plugin OwnerReferencesPermissionEnforcement, and one without, as by default."""
    if request.param:
        yield request.getfixturevalue("plane")
        return
    flags = ["--enable-admission-plugins=NodeRestriction"]
    with ControlPlane(tmp_path_factory.mktemp("lenient"), apiserver_flags=flags) as running:
        yield running


@pytest.fixture(scope="module")
def shop(attacked_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A second release, under attack: renamed in every way that the chart knows, so policies must follow the names."""
    plane = attacked_plane
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
    lease = {"metadata": {"name": "scribe"}}
    status, answer = plane.request("POST", f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases", lease)
    assert status == 201, answer
    plane.kubectl("create", "namespace", SHOP)
    plane.restart_controller_manager()  # its garbage collector learns of new kinds only every 30 s
    thief = Thief(plane, HOME, ACCOUNT)
    # What the controller itself waits for before it is ready: the policies are in force a moment after the install.
    probe = {**secret("probe", []), "type": PROBE_SECRET_TYPE}
    eventually(lambda: thief.send("POST", f"{SECRETS}?dryRun=All", probe), lambda answer: answer.status == 422)
    return Shop(plane)


@pytest.fixture
def thief(shop: Shop) -> Thief:
    return Thief(shop.plane, HOME, ACCOUNT)
