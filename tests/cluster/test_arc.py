"""The extension manager of Azure Arc: it installs, upgrades and deletes the packaged chart, every setting a string."""

import contextlib
import json
import socket
import socketserver
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from controller.config.settings import Settings
from tests.support.cluster.harness import SINCE_POLICIES, InstalledRelease, version_flags
from tests.support.cluster.namespace import Namespace
from tools.cli.common import helm
from tools.cli.doctor import doctor
from tools.keyvault_emulator import Emulator
from tools.local_cluster import ControlPlane

CLUSTER = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c"
# What the extension manager says by itself, whatever the user has set.
SAID = {
    "Azure.Cluster.ResourceId": CLUSTER,
    "Azure.Cluster.Region": "westeurope",
    "Azure.Cluster.Distribution": "k3s",
    "Azure.Cluster.Infrastructure": "generic",
    "Azure.Cluster.Cloud": "AZUREPUBLICCLOUD",
    "Azure.proxySettings.isProxyEnabled": "false",
    "Azure.proxySettings.httpProxy": "",
    "Azure.proxySettings.httpsProxy": "",
    "Azure.proxySettings.noProxy": "",
    "Azure.proxySettings.proxyCert": "",
    "Azure.proxySettings.isCustomCert": "false",
    "Azure.proxySettings.autonomousFqdn": "",
    "Azure.Identity.isEnabled": "true",
    "Azure.Identity.Type": "SystemAssigned",
    "Azure.Extension.Name": helm.RELEASE,
    "Azure.Extension.ResourceId": f"{CLUSTER}/providers/Microsoft.KubernetesConfiguration/extensions/e",
}


class Extension:
    """One extension of a cluster; `settings` are the user's."""

    def __init__(self, plane: ControlPlane, emulator: Emulator, folder: Path) -> None:
        self.plane, self.emulator, self.folder = plane, emulator, folder
        helm.run(["package", str(helm.CHART), "--destination", str(folder)])
        (self.package,) = folder.glob("*.tgz")
        self.settings: dict[str, str] = {}
        self._where = ["--namespace", helm.RELEASE, "--kubeconfig", str(plane.kubeconfig)]

    def put(self, **said: str) -> InstalledRelease:
        """Installs or upgrades; `said` is what the extension manager says otherwise, below Azure.proxySettings."""
        every = SAID | {f"Azure.proxySettings.{name}": text for name, text in said.items()} | self.settings
        pairs = [f"{path}={text}".replace(",", r"\,") for path, text in every.items()]
        words = [word for pair in pairs for word in ("--set-string", pair)]
        # The Job for CRDs needs a node.
        command = ["upgrade", "--install", helm.RELEASE, str(self.package), "--create-namespace", "--no-hooks"]
        helm.run([*command, *version_flags(self.plane), *self._where, *words])
        return InstalledRelease(self.plane, self.emulator, helm.RELEASE, self.folder)

    def delete(self) -> None:
        helm.run(["uninstall", helm.RELEASE, *self._where])

    def read(self, **said: str) -> Settings:
        """Installs or upgrades; what the controller reads then."""
        return Settings.from_environment(self.put(**said).workload().env)

    def policies(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self.plane.kubectl("get", "validatingadmissionpolicies", "--output", "json")
        )["items"]
        return found


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extension]:
    """In a cluster of its own: the suite's has a release of this name."""
    folder = tmp_path_factory.mktemp("arc")
    with ControlPlane(folder / "plane") as plane, Emulator(folder / "emulator") as emulator:
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        yield Extension(plane, emulator, folder)


@pytest.fixture(autouse=True)
def settings(extension: Extension) -> Iterator[None]:
    """Provide the user's settings, for one test. Its clouds have no CA, so the vaults' CA is not trusted."""
    cloud = {f"clouds.emulator.{field}": text for field, text in extension.emulator.cloud.items() if field != "ca"}
    extension.settings = {**cloud, "defaultCloud": "emulator"}
    yield
    extension.settings = {}


def test_settings_have_the_names_and_defaults_of_sse(extension: Extension) -> None:
    found = extension.read()
    assert (found.rotation_poll_interval, found.enable_partial_secret_sync, found.jitter) == (3600, True, 0)


@pytest.mark.parametrize(
    ("path", "text", "field", "wanted"),
    [
        ("rotationPollIntervalInSeconds", "120", "rotation_poll_interval", 120),
        ("enablePartialSecretSync", "false", "enable_partial_secret_sync", False),
        ("enablePartialSecretSync", "True", "enable_partial_secret_sync", True),
        ("jitterSeconds", "5", "jitter", 5),
        ("driftIntervalInSeconds", "60", "drift_interval", 60),
        ("shortestRefreshIntervalInSeconds", "30", "shortest_refresh_interval", 30),
        ("identityFromServiceAccount", "true", "identity_from_service_account", True),
        ("akvSync.enabled", "false", "akv_sync", False),
        ("controllerName", "edge", "controller_name", "edge"),
        ("watchNamespaces", "default, kube-system", "watch_namespaces", ("default", "kube-system")),
        ("defaultCloud", "", "default_cloud", "AzurePublicCloud"),
        ("logLevel", "debug", "log_level", "debug"),
    ],
)
def test_settings_are_upgraded_one_by_one(
    path: str, text: str, field: str, wanted: object, extension: Extension
) -> None:
    extension.settings[path] = text
    assert getattr(extension.read(), field) == wanted


@pytest.mark.since(*SINCE_POLICIES)
def test_false_is_false_for_policies_too(extension: Extension) -> None:
    extension.settings |= {"validatingAdmissionPolicies.applyPolicies": "false", "acceptUnrestrictedTokens": "true"}
    extension.put()
    assert extension.policies() == []
    extension.settings["validatingAdmissionPolicies.applyPolicies"] = "true"
    extension.put()
    assert extension.policies()


def test_extension_syncs_with_its_certificate_and_its_end_loses_nothing(extension: Extension) -> None:
    certificate = b64encode(extension.emulator.ca_file.read_bytes()).decode()
    place = synced(extension, proxyCert=certificate, isCustomCert="true")
    extension.delete()
    assert place.secret_values("s")
    assert place.list_names("secretsync") == ["s"]
    # And back again, as the PEM this time.
    assert synced(extension, proxyCert=extension.emulator.ca_file.read_text()).secret_values("s")


def test_doctor_trusts_the_certificates_of_the_controller(
    extension: Extension, capsys: pytest.CaptureFixture[str]
) -> None:
    place = synced(extension, proxyCert=extension.emulator.ca_file.read_text())
    where = ["--namespace", place.name, "--kubeconfig", str(extension.plane.kubeconfig)]
    addresses = (extension.emulator.authority, extension.emulator.vault_pattern.replace("{vault}", place.vault))
    hosts = [word for address in addresses for word in ("--allow-host", urlsplit(address).netloc)]
    doctor.main(["secretsync/s", *where, *hosts, "-o", "json"])
    found = {check["name"]: check["level"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert (found["settings"], found["entra"], found["vault"]) == ("ok", "ok", "ok")


def test_only_vaults_are_reached_through_the_proxy_of_the_cluster(extension: Extension) -> None:
    with proxy() as (url, asked):
        synced(
            extension,
            isProxyEnabled="true",
            httpProxy=url,
            httpsProxy=url,
            noProxy="10.0.0.0/8,.svc",
            proxyCert=extension.emulator.ca_file.read_text(),
        )
        addresses = (extension.emulator.authority, extension.emulator.vault_pattern.replace("{vault}", "x"))
        ports = {urlsplit(address).port for address in addresses}
        assert {int(target.rpartition(":")[2]) for target in asked} == ports
        assert urlsplit(extension.plane.url).port not in ports


def synced(extension: Extension, **said: str) -> Namespace:
    """Return the release upgraded, its controller started, and a namespace in which it has synced a Secret."""
    installed = extension.put(**said)
    place = Namespace(installed)
    place.set_secret("a", "1")
    place.apply(place.provider_class("a"), place.sync("s", {"k": "a"}))
    with installed.workload() as workload:
        workload.wait_ready()
        place.wait_secret("s", {"k": "1"})
        assert workload.stop() == 0
    return place


@contextlib.contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """Provide a proxy's address, and where it was asked to connect to."""
    asked: list[str] = []

    class Tunnel(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            _, target, _ = self.rfile.readline().decode().split()
            asked.append(target)
            while self.rfile.readline().strip():
                pass
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as far:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=pump, args=(far, self.connection), daemon=True)
                back.start()
                pump(self.connection, far)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Everything that comes, until either side ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
