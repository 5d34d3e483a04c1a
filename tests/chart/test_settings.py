"""Test that the values reach the controller in its environment and in the file of clouds."""

import copy
from typing import Any

import msgspec
import pytest

from controller.config.settings import BUILT_IN_CLOUDS, Cloud, Settings, parse_clouds
from tests.chart.rendering import FULL_NAME, Manifest, build_environment, get_container, get_object, render
from tools.cli.common import helm

# Settings of the chart without values, in addition to the defaults of the controller.
DEFAULTS = Settings(
    test_clouds_file="/etc/akv-secret-store-test/clouds.json",
    probe_secret_type="akv-secret-store/probe",
    allowed_secret_types=(
        "Opaque",
        "kubernetes.io/tls",
        "kubernetes.io/ssh-auth",
        "kubernetes.io/basic-auth",
        "kubernetes.io/dockercfg",
        "kubernetes.io/dockerconfigjson",
    ),
    policies_name=f"{FULL_NAME}.{helm.RELEASE}",
    service_account="the-account",
    lease_name=FULL_NAME,
    lease_duration=60,
    lease_renew_interval=15,
    pod_namespace="the-namespace",
    pod_name="the-pod",
)


def test_values_reach_the_settings_of_the_controller() -> None:
    given = {
        "rotationPollIntervalInSeconds": "120",
        "enablePartialSecretSync": "False",
        "jitterSeconds": 86400000,
        "driftIntervalInSeconds": "60",
        "akvSync": {"enabled": "False"},
        "controllerName": "edge",
        "shortestRefreshIntervalInSeconds": "30",
        "normalEvents": "False",
        "identityFromServiceAccount": "True",
        "watchNamespaces": ["shop", "web", "shop"],
        "logLevel": "debug",
    }
    settings = Settings.from_environment(build_environment(render(given=given)))
    assert settings == msgspec.structs.replace(
        DEFAULTS,
        rotation_poll_interval=120,
        enable_partial_secret_sync=False,
        jitter=86400000,
        drift_interval=60,
        akv_sync=False,
        controller_name="edge",
        shortest_refresh_interval=30,
        normal_events=False,
        identity_from_service_account=True,
        watch_namespaces=("shop", "web"),
        log_level="debug",
    )


def test_without_values_the_controller_has_its_defaults() -> None:
    assert Settings.from_environment(build_environment(render())) == DEFAULTS


def test_clouds_are_a_file_and_a_change_replaces_the_pod() -> None:
    cloud = {"authority": "https://login.stack", "vaultUrl": "https://{vault}.<stack>", "ca": "-----\nabc\n-----\n"}
    given = {"clouds": {"Stack": cloud}, "defaultCloud": "Stack"}
    manifests = render(given=given)
    [mount, _] = get_container(manifests)["volumeMounts"]
    [volume, _] = get_object(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]
    config = get_object(manifests, "ConfigMap", volume["configMap"]["name"])
    variables = build_environment(manifests)
    [(name, content)] = config["data"].items()
    assert variables["CLOUDS_FILE"] == f"{mount['mountPath']}/{name}"
    found = msgspec.json.decode(content, type=dict[str, Cloud])["Stack"]
    assert (found.authority, found.vault_url, found.ca) == (cloud["authority"], cloud["vaultUrl"], cloud["ca"])

    def annotations(rendered: list[Manifest]) -> Any:
        return get_object(rendered, "Deployment")["spec"]["template"]["metadata"]["annotations"]

    changed = copy.deepcopy(given)
    changed["clouds"]["Stack"]["authority"] = "https://other.stack"  # type: ignore[index]
    assert annotations(render(given=changed)) != annotations(manifests)
    assert annotations(render(given=given)) == annotations(manifests)


def test_single_field_of_a_built_in_cloud_can_be_set() -> None:
    arguments = ["--set-string", "clouds.AzureChinaCloud.apiVersion=2016-10-01", "--set", "networkPolicy.enabled=true"]
    [volume, _] = get_object(manifests := render(*arguments), "Deployment")["spec"]["template"]["spec"]["volumes"]
    content = get_object(manifests, "ConfigMap", volume["configMap"]["name"])["data"]["clouds.json"]
    assert parse_clouds(content.encode())["AzureChinaCloud"] == msgspec.structs.replace(
        BUILT_IN_CLOUDS["AzureChinaCloud"], api_version="2016-10-01"
    )


@pytest.mark.parametrize("version", ["latest", "7", "7.4.1 "])
def test_invalid_api_version_of_a_cloud_is_refused(version: str) -> None:
    with pytest.raises(helm.BadValues, match=r"clouds\.AzureChinaCloud\.apiVersion"):
        render("--set-string", f"clouds.AzureChinaCloud.apiVersion={version}")


def test_unknown_default_cloud_is_refused() -> None:
    with pytest.raises(helm.BadValues, match=r"defaultCloud: Stack is not among AzurePublicCloud, .*: name one"):
        render("--set", "defaultCloud=Stack")


@pytest.mark.parametrize(
    ("replicas", "duration", "interval", "expected"),
    [
        (1, 0, 0, (60, 15)),
        (2, 0, 0, (15, 2)),
        ("3", "0", "0", (15, 2)),
        (1, 15, 0, (15, 3)),
        (2, 60, 0, (60, 8)),
        (2, 5, 0, (5, 1)),
        (1, 5, 0, (5, 1)),
        (1, "120", "5", (120, 5)),
        (2, 30, 7, (30, 7)),
    ],
)
def test_lease_times_depend_on_the_number_of_pods(
    replicas: Any, duration: Any, interval: Any, expected: tuple[int, int]
) -> None:
    election = {"leaseDurationInSeconds": duration, "renewIntervalInSeconds": interval}
    given = {"replicaCount": replicas, "leaderElection": election}
    settings = Settings.from_environment(build_environment(render(given=given)))
    assert (settings.lease_duration, settings.lease_renew_interval) == expected
