"""Test that the chart accepts the values that the extension manager of Azure Arc sets, all as strings."""

import base64
import json
import re
from typing import Any

import pytest

from controller.config.settings import Settings
from tests.chart.rendering import FULL_NAME, Manifest, build_environment, get_container, get_object, list_kinds, render
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


def render_for_arc(
    proxy_settings: dict[str, str] | None = None, cluster: dict[str, str] | None = None, **more: Any
) -> list[Manifest]:
    azure = {
        "Cluster": {**CLUSTER, **(cluster or {})},
        "proxySettings": {**NO_PROXY, **(proxy_settings or {})},
        "Identity": {"isEnabled": "true", "Type": "SystemAssigned"},
        "Extension": {"Name": "akv", "ResourceId": f"{CLUSTER['ResourceId']}/extensions/akv"},
    }
    return render(given={"Azure": azure, **more})


def list_proxies(manifests: list[Manifest]) -> dict[str, str]:
    return {name: text for name, text in build_environment(manifests).items() if name.endswith("_PROXY")}


def test_arc_values_only_add_an_annotation_to_the_deployment() -> None:
    manifests = render_for_arc()
    [(name, content)] = get_object(manifests, "Deployment")["metadata"].pop("annotations").items()
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
    assert render_for_arc({"more": "x"}, cluster={"KubernetesVersion": "1.34"})


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
        manifests = render_for_arc(cluster={"Cloud": cloud}, clouds=clouds, **more)
        return Settings.from_environment(build_environment(manifests)).default_cloud

    assert default() == found
    assert default(defaultCloud="AzureUSGovernmentCloud") == "AzureUSGovernmentCloud"


def test_enabled_proxy_of_the_cluster_is_used_unless_overridden() -> None:
    proxy = {"httpProxy": "http://arc:1", "httpsProxy": "http://arc:2", "noProxy": "10.0.0.0/8,.svc"}
    assert list_proxies(render_for_arc(proxy)) == {}
    assert "Secret" not in list_kinds(render_for_arc(proxy))
    expected = {"HTTP_PROXY": "http://arc:1", "HTTPS_PROXY": "http://arc:2", "NO_PROXY": "10.0.0.0/8,.svc"}
    assert list_proxies(render_for_arc({**proxy, "isProxyEnabled": "true"})) == expected
    own = render_for_arc({**proxy, "isProxyEnabled": "True"}, proxy={"https": "http://own:3"})
    assert list_proxies(own) == {**expected, "HTTPS_PROXY": "http://own:3"}


@pytest.mark.parametrize("text", [PEM, base64.b64encode(PEM.encode()).decode()], ids=["PEM", "base64"])
def test_arc_certificate_is_added_to_the_ca_bundle(text: str) -> None:
    own = "-----BEGIN CERTIFICATE-----\nown\n-----END CERTIFICATE-----"
    manifests = render_for_arc({"proxyCert": text, "isCustomCert": "true"}, caBundle=own)
    assert list_proxies(manifests) == {}
    assert get_object(manifests, "ConfigMap", f"{FULL_NAME}-files")["data"] == {"ca.pem": f"{own}\n{PEM}"}
    assert (
        build_environment(manifests)["CA_FILE"] == f"{get_container(manifests)['volumeMounts'][0]['mountPath']}/ca.pem"
    )
