"""The values that the extension manager of Azure Arc sets, all as strings. The chart accepts each of them."""

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


def test_arc_values_only_add_an_annotation_to_the_deployment() -> None:
    manifests = arc()
    [(name, content)] = one(manifests, "Deployment")["metadata"].pop("annotations").items()
    assert name == "akv-secret-store/azure-arc"
    assert json.loads(content) == {
        **{f"Cluster.{name}": text for name, text in CLUSTER.items()},
        "Identity.isEnabled": "true",
        "Identity.Type": "SystemAssigned",
        "Extension.Name": "akv",
        "Extension.ResourceId": f"{CLUSTER['ResourceId']}/extensions/akv",
    }
    assert manifests == render()


def test_no_template_uses_lookup() -> None:
    for path in (helm.CHART / "templates").iterdir():
        assert not re.search(r"\blookup\b", path.read_text()), path


def test_unknown_values_of_the_extension_manager_are_accepted() -> None:
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
def test_default_cloud_follows_the_cluster_unless_it_is_set(cloud: str, found: str) -> None:
    clouds = {"Stack": {"authority": "https://a", "vaultUrl": "https://{vault}.b"}}

    def default(**more: Any) -> str:
        manifests = arc(cluster={"Cloud": cloud}, clouds=clouds, **more)
        return Settings.from_environment(environment(manifests)).default_cloud

    assert default() == found
    assert default(defaultCloud="AzureUSGovernmentCloud") == "AzureUSGovernmentCloud"


def test_enabled_proxy_of_the_cluster_is_used_unless_overridden() -> None:
    proxy = {"httpProxy": "http://arc:1", "httpsProxy": "http://arc:2", "noProxy": "10.0.0.0/8,.svc"}
    assert proxies(arc(proxy)) == {}
    assert "Secret" not in kinds(arc(proxy))
    expected = {"HTTP_PROXY": "http://arc:1", "HTTPS_PROXY": "http://arc:2", "NO_PROXY": "10.0.0.0/8,.svc"}
    assert proxies(arc({**proxy, "isProxyEnabled": "true"})) == expected
    own = arc({**proxy, "isProxyEnabled": "True"}, proxy={"https": "http://own:3"})
    assert proxies(own) == {**expected, "HTTPS_PROXY": "http://own:3"}


@pytest.mark.parametrize("text", [PEM, base64.b64encode(PEM.encode()).decode()], ids=["PEM", "base64"])
def test_arc_certificate_is_added_to_the_ca_bundle(text: str) -> None:
    own = "-----BEGIN CERTIFICATE-----\nown\n-----END CERTIFICATE-----"
    manifests = arc({"proxyCert": text, "isCustomCert": "true"}, caBundle=own)
    assert proxies(manifests) == {}
    assert one(manifests, "ConfigMap", f"{FULL_NAME}-files")["data"] == {"ca.pem": f"{own}\n{PEM}"}
    assert environment(manifests)["CA_FILE"] == f"{container(manifests)['volumeMounts'][0]['mountPath']}/ca.pem"
