"""Test the packaged chart as Azure Arc's extension manager installs, upgrades and deletes it, with string values."""

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
# The settings that the extension manager always sets, in addition to the user's.
ARC_SETTINGS = {
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
    """The chart as an extension of a cluster. `settings` holds the user's settings."""

    def __init__(self, plane: ControlPlane, emulator: Emulator, folder: Path) -> None:
        self.plane, self.emulator, self.folder = plane, emulator, folder
        helm.run(["package", str(helm.CHART), "--destination", str(folder)])
        (self.package,) = folder.glob("*.tgz")
        self.settings: dict[str, str] = {}
        self._where = ["--namespace", helm.RELEASE, "--kubeconfig", str(plane.kubeconfig)]

    def install_or_upgrade(self, **proxy_settings: str) -> InstalledRelease:
        """Install or upgrade the release. `proxy_settings` override settings below Azure.proxySettings."""
        proxy = {f"Azure.proxySettings.{name}": text for name, text in proxy_settings.items()}
        values = ARC_SETTINGS | proxy | self.settings
        pairs = [f"{path}={text}".replace(",", r"\,") for path, text in values.items()]
        words = [word for pair in pairs for word in ("--set-string", pair)]
        # The Job for CRDs needs a node.
        command = ["upgrade", "--install", helm.RELEASE, str(self.package), "--create-namespace", "--no-hooks"]
        helm.run([*command, *version_flags(self.plane), *self._where, *words])
        return InstalledRelease(self.plane, self.emulator, helm.RELEASE, self.folder)

    def delete(self) -> None:
        helm.run(["uninstall", helm.RELEASE, *self._where])

    def read_settings(self) -> Settings:
        """Install or upgrade the release, and return the settings that the controller then reads."""
        return Settings.from_environment(self.install_or_upgrade().workload().env)

    def list_policies(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self.plane.kubectl("get", "validatingadmissionpolicies", "--output", "json")
        )["items"]
        return found


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extension]:
    """Provide an extension on a separate cluster, because the shared cluster has a release of the same name."""
    folder = tmp_path_factory.mktemp("arc")
    with ControlPlane(folder / "plane") as plane, Emulator(folder / "emulator") as emulator:
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        yield Extension(plane, emulator, folder)


@pytest.fixture(autouse=True)
def settings(extension: Extension) -> Iterator[None]:
    """Set the user's settings for one test. The cloud has no CA, so the controller does not trust the vaults."""
    cloud = {f"clouds.emulator.{field}": text for field, text in extension.emulator.cloud.items() if field != "ca"}
    extension.settings = {**cloud, "defaultCloud": "emulator"}
    yield
    extension.settings = {}


def test_settings_have_the_names_and_defaults_of_sse(extension: Extension) -> None:
    found = extension.read_settings()
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
def test_upgrade_applies_a_changed_setting(
    path: str, text: str, field: str, wanted: object, extension: Extension
) -> None:
    extension.settings[path] = text
    assert getattr(extension.read_settings(), field) == wanted


@pytest.mark.since(*SINCE_POLICIES)
def test_string_false_disables_policies(extension: Extension) -> None:
    extension.settings |= {"validatingAdmissionPolicies.applyPolicies": "false", "acceptUnrestrictedTokens": "true"}
    extension.install_or_upgrade()
    assert extension.list_policies() == []
    extension.settings["validatingAdmissionPolicies.applyPolicies"] = "true"
    extension.install_or_upgrade()
    assert extension.list_policies()


def test_extension_syncs_with_its_certificate_and_its_deletion_keeps_secrets(extension: Extension) -> None:
    certificate = b64encode(extension.emulator.ca_file.read_bytes()).decode()
    namespace = sync_secret(extension, proxyCert=certificate, isCustomCert="true")
    extension.delete()
    assert namespace.secret_values("s")
    assert namespace.list_names("secretsync") == ["s"]
    # Install the extension again, now with the certificate as PEM.
    assert sync_secret(extension, proxyCert=extension.emulator.ca_file.read_text()).secret_values("s")


def test_doctor_trusts_the_certificates_of_the_controller(
    extension: Extension, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace = sync_secret(extension, proxyCert=extension.emulator.ca_file.read_text())
    where = ["--namespace", namespace.name, "--kubeconfig", str(extension.plane.kubeconfig)]
    addresses = (extension.emulator.authority, extension.emulator.vault_pattern.replace("{vault}", namespace.vault))
    hosts = [word for address in addresses for word in ("--allow-host", urlsplit(address).netloc)]
    doctor.main(["secretsync/s", *where, *hosts, "-o", "json"])
    found = {check["name"]: check["level"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert (found["settings"], found["entra"], found["vault"]) == ("ok", "ok", "ok")


def test_only_vault_and_entra_calls_use_the_proxy_of_the_cluster(extension: Extension) -> None:
    with running_proxy() as (url, targets):
        sync_secret(
            extension,
            isProxyEnabled="true",
            httpProxy=url,
            httpsProxy=url,
            noProxy="10.0.0.0/8,.svc",
            proxyCert=extension.emulator.ca_file.read_text(),
        )
        addresses = (extension.emulator.authority, extension.emulator.vault_pattern.replace("{vault}", "x"))
        ports = {urlsplit(address).port for address in addresses}
        assert {int(target.rpartition(":")[2]) for target in targets} == ports
        assert urlsplit(extension.plane.url).port not in ports


def sync_secret(extension: Extension, **proxy_settings: str) -> Namespace:
    """Upgrade the release, run its controller until it has synced a Secret, and return the Secret's namespace."""
    installed = extension.install_or_upgrade(**proxy_settings)
    namespace = Namespace(installed)
    namespace.set_secret("a", "1")
    namespace.apply(namespace.provider_class("a"), namespace.sync("s", {"k": "a"}))
    with installed.workload() as workload:
        workload.wait_ready()
        namespace.wait_secret("s", {"k": "1"})
        assert workload.stop() == 0
    return namespace


@contextlib.contextmanager
def running_proxy() -> Iterator[tuple[str, list[str]]]:
    """Run an HTTP proxy. Provide its address and the list of the targets of its CONNECT requests."""
    targets: list[str] = []

    class Tunnel(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            _, target, _ = self.rfile.readline().decode().split()
            targets.append(target)
            while self.rfile.readline().strip():
                pass
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port))) as far:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=copy_data, args=(far, self.connection), daemon=True)
                back.start()
                copy_data(self.connection, far)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", targets
        server.shutdown()


def copy_data(source: socket.socket, target: socket.socket) -> None:
    """Copy all data until one side closes its connection."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
