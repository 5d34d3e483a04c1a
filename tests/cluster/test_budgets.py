"""Test the budgets of namespaces on a real API server: an editor's flood has limits and delays no other namespace."""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controller.api.conditions import Reason
from controller.runtime import budgets
from tests.support.cluster.harness import InstalledRelease, canary_value, eventually, read_metrics
from tests.support.cluster.hostile_inputs import MetricsFlood, measure_probe
from tests.support.cluster.namespace import Namespace, measure_propagation
from tests.support.process_stats import resident_mebibytes
from tools.pods.pod_process import PodProcess

POLL = 2
# Regardless of a flood, a new value of another namespace is synced within the poll interval plus this time.
MAX_DELAY = 10.0
RENAMES, CLASSES = 2000, 25


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": str(POLL)}


def list_vaults_with_series(controller: PodProcess) -> list[str]:
    """Return the vaults of all series of vault calls."""
    return [
        sample.labels["vault"]
        for family in text_string_to_metric_families(read_metrics(controller))
        for sample in family.samples
        if sample.name == "akv_secret_store_vault_calls_total"
    ]


@pytest.mark.timeout(600)
def test_renamed_vault_leaks_neither_memory_nor_metrics(
    space: Namespace, neighbour: Namespace, controller: PodProcess
) -> None:
    """An editor changes keyvaultName two thousand times, and the controller calls each vault."""
    plane = space.installed.plane
    for number in range(CLASSES):
        manifest = space.provider_class("a", name=f"c{number}", keyvaultName=f"v-{number}-{space.name}")
        space.apply(manifest, space.sync(f"s{number}", {"k": "a"}, secretProviderClassName=f"c{number}"))
    before = resident_mebibytes(controller.pid)
    path = f"/apis/secrets-store.csi.x-k8s.io/v1/namespaces/{space.name}/secretproviderclasses"

    def rename(numbers: Sequence[int]) -> None:
        found = json.loads(plane.request("GET", f"{path}/c{numbers[0] % CLASSES}")[1])
        for number in numbers:
            found["spec"]["parameters"]["keyvaultName"] = f"v{number}-{space.name}"
            status, answer = plane.request("PUT", f"{path}/c{number % CLASSES}", found)
            assert status == 200, answer
            found = json.loads(answer)

    waits = []
    began = time.monotonic()
    for first in range(0, RENAMES, RENAMES // 8):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(rename, [range(first + each, first + RENAMES // 8, CLASSES) for each in range(CLASSES)]))
        waits.append(measure_propagation(neighbour, f"r{first}"))
    grown = resident_mebibytes(controller.pid) - before
    figures = f"{RENAMES} renames in {time.monotonic() - began:.0f} s: {grown:.1f} MiB more, delays {waits}"
    assert max(waits) < POLL + MAX_DELAY, figures
    assert grown < 40, figures
    series = list_vaults_with_series(controller)
    assert sum(vault.endswith(f"-{space.name}") for vault in series) <= budgets.SERIES.limit, figures
    assert neighbour.vault in series
    print(figures)  # noqa: T201


# A hostile client of metrics


def test_hostile_client_of_metrics_delays_neither_probes_nor_namespaces(
    installed: InstalledRelease, neighbour: Namespace, controller: PodProcess
) -> None:
    plane, release = installed.plane, installed.release

    def read_holder() -> tuple[str, int]:
        lease = json.loads(
            plane.kubectl("get", "lease", controller.env["LEASE_NAME"], "--namespace", release, "--output", "json")
        )
        return lease["spec"]["holderIdentity"], lease["spec"]["leaseTransitions"]

    held = read_holder()
    before, probes, waits = resident_mebibytes(controller.pid), [], []
    with MetricsFlood(controller, 200) as flood:
        flood.wait_connected()
        for number in range(5):
            waits.append(measure_propagation(neighbour, f"h{number}"))
            probes += [measure_probe(controller, path) for path in ("/healthz", "/readyz") for _ in range(5)]
    figures = f"probes {max(probes):.3f} s, delays {waits}, {resident_mebibytes(controller.pid) - before:.1f} MiB more"
    assert max(probes) < 1, figures
    assert max(waits) < POLL + MAX_DELAY, figures
    assert read_holder() == held, figures
    assert resident_mebibytes(controller.pid) - before < 30, figures
    eventually(lambda: read_metrics(controller), lambda text: "akv_secret_store_leader 1.0" in text, patience=30)
    print(figures)  # noqa: T201


# A class that names the vault of another namespace


def test_editor_without_a_role_does_not_starve_the_refresh_of_a_vault(space: Namespace, neighbour: Namespace) -> None:
    """Throttle the vault while an editor has hundreds of new SecretSyncs and the victim refreshes one Secret."""
    names = [f"n{number}" for number in range(300)]
    space.apply(space.provider_class(*names, keyvaultName=neighbour.vault))
    space.installed.emulator.throttle(neighbour.vault, 10, 5)
    space.apply(*(space.sync(name, {"k": name}) for name in names))
    space.wait_reason(names[0], Reason.PROVIDER_ERROR, patience=60)
    # Each namespace gets half of the two calls per second, and a refresh takes two calls.
    waits = [measure_propagation(neighbour, f"t{number}") for number in range(3)]
    assert max(waits) < POLL + 45, waits
    assert space.secret_values(names[0]) == {}
    print(f"delays {waits}")  # noqa: T201


# Log lines and events


def test_flood_of_failures_hides_no_log_line_or_event_of_a_neighbour(
    space: Namespace, neighbour: Namespace, controller: PodProcess
) -> None:
    space.apply(space.provider_class("a"))
    space.apply(*(space.sync(f"s{number}", {"k": "missing"}) for number in range(300)))
    space.wait_reason("s299", Reason.PROVIDER_ERROR, Reason.INPUT_INVALID, patience=60)
    neighbour.apply(neighbour.sync("odd", {"k": "missing"}))
    neighbour.wait_reason("odd", Reason.PROVIDER_ERROR, Reason.INPUT_INVALID)

    def count_lines(namespace: str) -> int:
        return controller.log.read_text().count(f'"secretsync": "{namespace}/')

    assert f'"secretsync": "{neighbour.name}/odd"' in eventually(
        controller.log.read_text, lambda text: f"{neighbour.name}/odd" in text
    )
    assert count_lines(space.name) <= 3 * budgets.LOG_LINES.limit

    def list_events(about: Namespace) -> list[str]:
        items = json.loads(about.kubectl("get", "events", "--output", "json"))["items"]
        return [item["involvedObject"]["name"] for item in items]

    eventually(partial(list_events, neighbour), lambda found: "odd" in found)
    assert len(list_events(space)) <= 2 * budgets.EVENTS.limit


# Entra


def test_fault_of_entra_is_not_blamed_on_the_vault(neighbour: Namespace, controller: PodProcess) -> None:
    """A new identity has no token. While Entra fails, the status names Entra, and no vault call is counted."""
    emulator = neighbour.installed.emulator
    other = Namespace(neighbour.installed)
    try:
        other.set_secret("a", "1")
        emulator.fail(status=503, where="entra", seconds=30)
        other.apply(other.provider_class("a"), other.sync("s", {"k": "a"}))
        message = other.wait_reason("s", Reason.PROVIDER_ERROR)
        host = emulator.authority.partition("://")[2].partition("/")[0]
        assert f"Microsoft Entra ({host})" in message
        assert other.vault not in list_vaults_with_series(controller)
        # The text of the metrics is generated once per second.
        series = f'token_failures_total{{authority="{host}"}}'
        eventually(lambda: read_metrics(controller), lambda text: series in text)
        assert other.vault not in message
        emulator.clear_faults()
        other.wait_secret("s", {"k": "1"}, patience=60)
        assert neighbour.secret_values("s") == {"k": canary_value("0")}
    finally:
        emulator.clear_faults()
        other.remove()
