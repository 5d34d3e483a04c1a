"""Test log export with cert-manager, trust-manager and the OpenTelemetry Collector.

One controller process runs during all tests. The tests depend on their order.
"""

import json
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from controller.observability.otlp.backlog import OWN
from tests.logs.stack import OTHER, Stack, make_certificate
from tests.support.cluster.harness import CANARY, InstalledRelease, eventually
from tests.support.cluster.metric_series import read_series
from tests.support.cluster.namespace import Namespace
from tools.pods.pod_process import PodProcess

CERTIFICATE = "azure-secret-store-akv-secret-store-logs"


@pytest.fixture(scope="module")
def controller(installed: InstalledRelease) -> Iterator[PodProcess]:
    workload = installed.workload()
    with workload:
        workload.wait_ready()
        yield workload


@pytest.fixture(scope="module")
def space(installed: InstalledRelease) -> Iterator[Namespace]:
    namespace = Namespace(installed)
    yield namespace
    namespace.remove()


def read_printed_lines(workload: PodProcess, own: bool = False) -> list[dict[str, Any]]:
    """Return the lines on standard output: those about log export with `own`, otherwise the others."""
    lines = []
    for text in workload.log.read_text().splitlines():
        line = json.loads(text)
        line["time"] = round(datetime.fromisoformat(line["time"]).timestamp() * 1000)
        if (line["logger"] == OWN) is own:
            lines.append(line)
    return lines


def list_export_messages(workload: PodProcess) -> list[str]:
    return [line["message"] for line in read_printed_lines(workload, own=True)]


def wait_arrived(stack: Stack, workload: PodProcess, patience: float = 30) -> None:
    """Wait until the collector has each line of standard output, once and in the order of its logger."""
    expected = read_printed_lines(workload)

    def list_missing_lines() -> list[dict[str, Any]]:
        arrived = stack.read_lines()
        return [line for line in expected if line not in arrived]

    eventually(list_missing_lines, lambda found: not found, patience)
    arrived = [line for line in stack.read_lines() if line in expected]
    for logger in {line["logger"] for line in expected}:
        assert [line for line in arrived if line["logger"] == logger] == [
            line for line in expected if line["logger"] == logger
        ]


def count_shipped_lines(workload: PodProcess) -> float:
    return read_series(workload, "log_lines_shipped_total")[0][1]


def sync_secret(space: Namespace, workload: PodProcess, name: str) -> None:
    """Create a SecretSync, and wait for its log line."""
    space.set_secret(name, name)
    space.apply(space.provider_class(name, name=name), space.sync(name, {"k": name}, secretProviderClassName=name))
    space.wait_secret(name, {"k": name})
    eventually(
        lambda: [line.get("secretsync") for line in read_printed_lines(workload)],
        lambda names: f"{space.name}/{name}" in names,
    )


def read_secret_data(installed: InstalledRelease, name: str) -> dict[str, str]:
    found = installed.plane.kubectl("get", "secret", name, "--namespace", installed.release, "--output", "json")
    return dict(json.loads(found)["data"])


def test_without_a_certificate_the_controller_syncs_and_logs_the_cause(
    controller: PodProcess, space: Namespace
) -> None:
    sync_secret(space, controller, "first")
    found = eventually(lambda: list_export_messages(controller), bool)
    assert len(found) == 1
    assert "tls.crt: No such file or directory; see the Certificate and the Bundle" in found[0]


def test_all_lines_arrive_after_the_certificate_is_issued(
    installed: InstalledRelease, stack: Stack, controller: PodProcess
) -> None:
    stack.issue_certificates()
    stack.start_collector()
    stack.wait_ready(CERTIFICATE, installed.release)
    stack.plane.kubectl("wait", "bundle", "--all", "--for=condition=Synced", "--timeout=60s")
    controller.volumes.refresh()
    # The first line also arrives.
    wait_arrived(stack, controller, patience=90)
    assert read_printed_lines(controller)[0]["message"] == "started"
    eventually(lambda: list_export_messages(controller)[-1], lambda last: last == "logs are shipped again")
    # Only the namespace of the release gets the ConfigMap.
    configmaps = stack.plane.kubectl("get", "configmaps", "-A", "--selector=trust.cert-manager.io/bundle", "-o", "json")
    assert [item["metadata"]["namespace"] for item in json.loads(configmaps)["items"]] == [installed.release]


def test_new_line_arrives_within_ten_seconds(stack: Stack, controller: PodProcess, space: Namespace) -> None:
    before = len(stack.read_lines())
    sync_secret(space, controller, "second")
    wait_arrived(stack, controller, patience=10)
    assert len(stack.read_lines()) > before
    eventually(
        lambda: (count_shipped_lines(controller), len(stack.read_lines())), lambda counts: counts[0] == counts[1]
    )


def test_collector_refuses_clients_without_a_certificate_of_its_ca(
    installed: InstalledRelease, stack: Stack, tmp_path: Path
) -> None:
    """Check also that the same request succeeds with a certificate of the root CA."""
    stack.apply(make_certificate("stranger", installed.release, OTHER, commonName="stranger", usages=["client auth"]))
    stack.wait_ready("stranger", installed.release)
    folder = stack.mount_secrets(installed.release, "stranger", CERTIFICATE)

    def post_logs(secret: str) -> int:
        tls = ssl.create_default_context(cafile=str(folder / CERTIFICATE / "ca.crt"))
        if secret:
            tls.load_cert_chain(folder / secret / "tls.crt", folder / secret / "tls.key")
        request = urllib.request.Request(f"{stack.url}/v1/logs", b"{}", {"Content-Type": "application/json"})  # noqa: S310
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
        with opener.open(request, timeout=5) as answer:
            return int(answer.status)

    assert post_logs(CERTIFICATE) == 200
    for secret in ("", "stranger"):
        with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)) as refused:
            post_logs(secret)
        assert not isinstance(refused.value, urllib.error.HTTPError)
    assert post_logs(CERTIFICATE) == 200

    # A controller with the other certificate logs the refusal, and no line of it arrives.
    impostor = tmp_path / "impostor"
    shutil.copytree(folder / "stranger", impostor)
    shutil.copyfile(folder / CERTIFICATE / "ca.crt", impostor / "ca.crt")
    with installed.workload(OTLP_FOLDER=str(impostor), POD_NAME="impostor") as other:
        other.wait_ready()
        (message,) = eventually(lambda: list_export_messages(other), bool)
        assert "the collector ends the connection" in message
        assert other.stop() == 0
    assert list_export_messages(other)[-1].endswith("log lines were not shipped")
    assert "impostor" not in stack.received.read_text()


def test_renewed_certificate_is_used_without_a_restart(
    installed: InstalledRelease, stack: Stack, controller: PodProcess, space: Namespace
) -> None:
    pid, old = controller.pid, read_secret_data(installed, CERTIFICATE)
    # `cmctl renew` sets the same condition.
    renew = [
        {"op": "add", "path": "/status/conditions/-", "value": {"type": "Issuing", "status": "True", "reason": "Test"}}
    ]
    namespace = ("--namespace", installed.release)
    stack.plane.kubectl(
        "patch",
        "certificate",
        CERTIFICATE,
        *namespace,
        "--subresource=status",
        "--type=json",
        "--patch",
        json.dumps(renew),
    )
    new = eventually(lambda: read_secret_data(installed, CERTIFICATE), lambda found: found["tls.crt"] != old["tls.crt"])
    assert new["tls.key"] != old["tls.key"]
    # The collector accepts only the new certificate. No line arrives before the kubelet has mounted it.
    folder = stack.mount_secrets(installed.release, CERTIFICATE)
    stack.stop_collector()
    stack.start_collector(clients=folder / CERTIFICATE / "tls.crt")
    before, refused = len(stack.read_lines()), stack.count_refused()
    sync_secret(space, controller, "third")
    eventually(stack.count_refused, lambda count: count > refused, patience=90)
    assert len(stack.read_lines()) == before
    controller.volumes.refresh()
    wait_arrived(stack, controller, patience=90)
    assert controller.pid == pid


def test_outage_of_the_collector_loses_no_line_and_stops_no_sync(
    stack: Stack, controller: PodProcess, space: Namespace
) -> None:
    stack.stop_collector()
    before = len(stack.read_lines())
    for number in range(5):
        sync_secret(space, controller, f"down-{number}")
    assert len(stack.read_lines()) == before
    stack.start_collector()
    wait_arrived(stack, controller, patience=90)
    assert not read_series(controller, "log_lines_lost_total")


def test_last_lines_arrive_before_the_process_ends(stack: Stack, controller: PodProcess) -> None:
    assert controller.stop() == 0
    lines = read_printed_lines(controller)
    assert lines[-1]["message"] == "stopped"
    wait_arrived(stack, controller, patience=10)


def test_no_secret_value_was_shipped(stack: Stack) -> None:
    assert CANARY not in stack.received.read_text()
