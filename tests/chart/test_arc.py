"""What the extension manager of Azure Arc sets: all of it taken, all of it as strings."""

import base64
import json
import re
from typing import Any

import pytest

from controller.config.settings import Settings
from tests.chart.rendering import FULL_NAME, Manifest, container, environment, kinds, one, render
from tools.cli.common import helm

PEM = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----"
CLUSTER = {
    "ResourceId": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Kubernetes/connectedClusters/c",
    "Region": "westeurope",
    "Distribution": "k3s",
    "Infrastructure": "generic",
    "Cloud": "AZUREPUBLICCLOUD",
}
NO_PROXY = {
    "isProxyEnabled": "false",
    "httpProxy": "",
    "httpsProxy": "",
    "noProxy": "",
    "proxyCert": "",
    "isCustomCert": "false",
    "autonomousFqdn": "",
}


def arc(settings: dict[str, str] | None = None, cluster: dict[str, str] | None = None, **more: Any) -> list[Manifest]:
    azure = {
        "Cluster": {**CLUSTER, **(cluster or {})},
        "proxySettings": {**NO_PROXY, **(settings or {})},
        "Identity": {"isEnabled": "true", "Type": "SystemAssigned"},
        "Extension": {"Name": "akv", "ResourceId": f"{CLUSTER['ResourceId']}/extensions/akv"},
    }
    return render(given={"Azure": azure, **more})


def proxies(manifests: list[Manifest]) -> dict[str, str]:
    return {name: text for name, text in environment(manifests).items() if name.endswith("_PROXY")}


def test_the_deployment_tells_where_it_comes_from_and_is_the_same_otherwise() -> None:
    manifests = arc()
    [(name, told)] = one(manifests, "Deployment")["metadata"].pop("annotations").items()
    assert name == "akv-secret-store/azure-arc"
    assert json.loads(told) == {
        **{f"Cluster.{name}": text for name, text in CLUSTER.items()},
        "Identity.isEnabled": "true",
        "Identity.Type": "SystemAssigned",
        "Extension.Name": "akv",
        "Extension.ResourceId": f"{CLUSTER['ResourceId']}/extensions/akv",
    }
    assert manifests == render()


def test_no_template_asks_a_cluster() -> None:
    for path in (helm.CHART / "templates").iterdir():
        assert not re.search(r"\blookup\b", path.read_text()), path


def test_what_a_newer_extension_manager_adds_is_taken() -> None:
    assert arc({"more": "x"}, cluster={"KubernetesVersion": "1.34"})


@pytest.mark.parametrize(
    ("cloud", "found"),
    [
        ("AZUREPUBLICCLOUD", "AzurePublicCloud"),
        ("AzurePublicCloud", "AzurePublicCloud"),
        ("AZUREUSGOVERNMENTCLOUD", "AzureUSGovernmentCloud"),
        ("AZURECHINACLOUD", "AzureChinaCloud"),
        ("azurechinacloud", "AzureChinaCloud"),
        ("", "AzurePublicCloud"),
        ("STACK", "Stack"),
    ],
)
def test_the_cloud_follows_unless_something_else_says_so(cloud: str, found: str) -> None:
    clouds = {"Stack": {"authority": "https://a", "vaultUrl": "https://{vault}.b"}}

    def default(**more: Any) -> str:
        manifests = arc(cluster={"Cloud": cloud}, clouds=clouds, **more)
        return Settings.from_environment(environment(manifests)).default_cloud

    assert default() == found
    assert default(defaultCloud="AzureUSGovernmentCloud") == "AzureUSGovernmentCloud"


def test_the_clusters_proxy_is_the_controllers_where_it_is_enabled_and_ours_goes_before() -> None:
    proxy = {"httpProxy": "http://arc:1", "httpsProxy": "http://arc:2", "noProxy": "10.0.0.0/8,.svc"}
    assert proxies(arc(proxy)) == {}
    assert "Secret" not in kinds(arc(proxy))
    expected = {"HTTP_PROXY": "http://arc:1", "HTTPS_PROXY": "http://arc:2", "NO_PROXY": "10.0.0.0/8,.svc"}
    assert proxies(arc({**proxy, "isProxyEnabled": "true"})) == expected
    own = arc({**proxy, "isProxyEnabled": "True"}, proxy={"https": "http://own:3"})
    assert proxies(own) == {**expected, "HTTPS_PROXY": "http://own:3"}


@pytest.mark.parametrize("text", [PEM, base64.b64encode(PEM.encode()).decode()], ids=["PEM", "base64"])
def test_a_certificate_counts_without_a_proxy_and_beside_ours(text: str) -> None:
    own = "-----BEGIN CERTIFICATE-----\nown\n-----END CERTIFICATE-----"
    manifests = arc({"proxyCert": text, "isCustomCert": "true"}, caBundle=own)
    assert proxies(manifests) == {}
    assert one(manifests, "ConfigMap", f"{FULL_NAME}-files")["data"] == {"ca.pem": f"{own}\n{PEM}"}
    assert environment(manifests)["CA_FILE"] == f"{container(manifests)['volumeMounts'][0]['mountPath']}/ca.pem"
