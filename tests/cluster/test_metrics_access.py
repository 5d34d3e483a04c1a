"""Test the metrics port with TLS and authentication: a real API server reviews tokens and rights."""

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.kube import metrics_access
from tests.support.cluster.harness import (
    InstalledRelease,
    create_object,
    eventually,
    install_first_release,
    running_controller,
)
from tools.cli.common import helm
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane
from tools.local_cluster.pki import ClusterAuthority
from tools.pods.pod_process import PodProcess

pytestmark = pytest.mark.own_plane
SECRET = "metrics-certificate"
READER_ROLE = f"metrics-reader.{helm.RELEASE}-akv-secret-store.{helm.RELEASE}"


@dataclass
class Scraper:
    """A client of metrics that trusts one certificate authority."""

    workload: PodProcess
    ca: Path

    def get(self, token: str = "", path: str = "/metrics") -> tuple[int, str]:
        """Send one request. Return the status and the text of the response."""
        tls = ssl.create_default_context(cafile=str(self.ca))
        port = int(self.workload.env["LISTEN_PORT"])
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=tls, timeout=10)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClusterAuthority:
    return ClusterAuthority(tmp_path_factory.mktemp("pki"), "metrics-ca")


@pytest.fixture(scope="module")
def installed(
    plane: ControlPlane, emulator: Emulator, authority: ClusterAuthority, tmp_path_factory: pytest.TempPathFactory
) -> InstalledRelease:
    pair = authority.issue("metrics", user="metrics", hosts=["127.0.0.1"])
    create_object(plane, "namespaces", helm.RELEASE)
    data = {"tls.crt": pair.cert.read_text(), "tls.key": pair.key.read_text()}
    create_object(plane, f"namespaces/{helm.RELEASE}/secrets", SECRET, stringData=data, type="kubernetes.io/tls")
    metrics = {"tls": {"secretName": SECRET}, "authentication": {"enabled": True}}
    return install_first_release(plane, emulator, tmp_path_factory.mktemp("release"), metrics=metrics)


@pytest.fixture
def scraper(installed: InstalledRelease, authority: ClusterAuthority) -> Iterator[Scraper]:
    """Provide a client of a new controller, because the controller limits token reviews for each address."""
    with running_controller(installed.workload()) as workload:
        yield Scraper(workload, authority.pair.cert)


def create_token(plane: ControlPlane, account: str) -> str:
    create_object(plane, f"namespaces/{helm.RELEASE}/serviceaccounts", account)
    return plane.kubectl("create", "token", account, "--namespace", helm.RELEASE).strip()


def test_metrics_are_served_only_to_an_account_with_the_reader_role(
    installed: InstalledRelease, scraper: Scraper
) -> None:
    plane = installed.plane
    token = create_token(plane, "prometheus")
    assert scraper.get()[0] == 401
    assert scraper.get("eyJhbGciOiJSUzI1NiJ9.e30.x")[0] == 401
    status, text = scraper.get(token)
    assert (status, "akv_secret_store" in text) == (403, False)
    account = f"--serviceaccount={helm.RELEASE}:prometheus"
    plane.kubectl("create", "clusterrolebinding", "prometheus", f"--clusterrole={READER_ROLE}", account)
    patience = metrics_access.DENIED_SECONDS + 20
    eventually(lambda: scraper.get(token)[0], lambda status: status == 200, patience)
    assert "akv_secret_store_leader 1.0" in scraper.get(token)[1]


def test_plain_http_and_unknown_authority_get_no_metrics(scraper: Scraper, tmp_path: Path) -> None:
    port = int(scraper.workload.env["LISTEN_PORT"])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress(ConnectionResetError):
            assert not plain.recv(2**16).startswith(b"HTTP/")
    with pytest.raises(ssl.SSLCertVerificationError):
        Scraper(scraper.workload, ClusterAuthority(tmp_path, "other").pair.cert).get()


def test_flood_of_bad_tokens_costs_a_bounded_number_of_reviews(installed: InstalledRelease, scraper: Scraper) -> None:
    def count_reviews() -> int:
        lines = installed.plane.audit_log.read_text().splitlines()
        return sum("tokenreviews" in line and '"stage":"ResponseComplete"' in line for line in lines)

    before, began = count_reviews(), time.monotonic()
    statuses = [scraper.get(f"bad-{number}")[0] for number in range(60)]
    assert set(statuses) <= {401, 429}
    limit = metrics_access.PER_ADDRESS.limit * (1 + (time.monotonic() - began) / 60)
    assert count_reviews() - before <= limit + 1
    assert statuses.count(429) >= 60 - limit - 1


def test_token_is_in_no_log(installed: InstalledRelease, scraper: Scraper) -> None:
    token = create_token(installed.plane, "another")
    assert scraper.get(token)[0] == 403  # the API server has reviewed the token
    assert token not in scraper.workload.log.read_text()
    assert token not in installed.plane.audit_log.read_text()
