"""Test the values that most charts have, and their effect on the manifests."""

import base64
import re
from typing import Any

import pytest

from controller.config.settings import Settings
from tests.chart.rendering import (
    FULL_NAME,
    Manifest,
    build_environment,
    get_container,
    get_object,
    get_pod_spec,
    list_kinds,
    nested,
    render,
)
from tools.cli.common import helm
from tools.codegen.values import IMAGE_USER

PEM = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----"
OPENSHIFT = ["--api-versions", "security.openshift.io/v1"]
OPERATOR = [f"monitoring.coreos.com/v1/{kind}" for kind in ("ServiceMonitor", "PrometheusRule")]


# --- All objects ---------------------------------------------------------------------------------------------------


def test_pull_secrets_of_parent_and_chart_are_merged() -> None:
    given = {"global": {"imagePullSecrets": [{"name": "a"}, {"name": "b"}]}, "imagePullSecrets": [{"name": "b"}]}
    manifests = render(given=given)
    for kind in ("Deployment", "Job"):
        assert get_pod_spec(manifests, kind)["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    assert get_object(manifests, "ServiceAccount", f"{FULL_NAME}-crds")["imagePullSecrets"]


@pytest.mark.parametrize("where", [{}, {"watchNamespaces": ["shop"]}])
def test_namespace_override_leaves_no_object_in_the_release_namespace(where: dict[str, Any]) -> None:
    # These names are not a part of any other name.
    given = {"namespaceOverride": "elsewhere", **where}
    manifests = render(given=given, release="mine", namespace="first-one")
    assert "first-one" not in str(manifests)
    assert {m["metadata"].get("namespace", "elsewhere") for m in manifests} - {"shop"} == {"elsewhere"}


def test_common_labels_are_on_all_objects_and_break_no_selector() -> None:
    own = {"app.kubernetes.io/name": "x", "team": "a"}
    everything = {group: {"enabled": True} for group in ("podDisruptionBudget", "networkPolicy", "grafanaDashboard")}
    for manifest in (manifests := render(given={"commonLabels": own, **everything})):
        labels = manifest["metadata"]["labels"]
        assert (labels["team"], labels["app.kubernetes.io/name"]) == ("a", "akv-secret-store"), manifest["kind"]
    labels = get_object(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "a"
    for kind, path in (
        ("Deployment", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        assert get_object(manifests, kind, FULL_NAME)["spec"][path]["matchLabels"].items() <= labels.items()


def test_without_rbac_neither_roles_nor_the_upgrade_job_are_rendered() -> None:
    manifests = render("--set-string", "rbac.create=false")
    assert list_kinds(manifests) == {
        "ServiceAccount",
        "Deployment",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }


def test_extra_objects_are_rendered_as_templates() -> None:
    extra = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}, "data": {"a": "1"}}
    found = get_object(render("--no-hooks", given={"extraObjects": [extra]}), "ConfigMap", f"{helm.RELEASE}-x")
    assert found == {**extra, "metadata": {"name": f"{helm.RELEASE}-x"}}


# --- Pods ----------------------------------------------------------------------------------------------------------


def test_update_strategy_follows_its_values() -> None:
    spec = get_object(render("--set-string", "strategy.type=Recreate,revisionHistoryLimit=3"), "Deployment")["spec"]
    # The API server refuses Recreate with rollingUpdate, and helm merges the default rollingUpdate into the value.
    assert spec["strategy"] == {"type": "Recreate"}
    assert spec["revisionHistoryLimit"] == 3
    # On the cluster's only node, the new pod would wait forever for the ports of the old one.
    on_host = get_object(render("--set-string", "hostNetwork=true"), "Deployment")["spec"]
    assert on_host["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    surge = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}}
    on_host = get_object(render(given={"hostNetwork": True, "strategy": surge}), "Deployment")["spec"]
    assert on_host["strategy"] == surge
    slow = render("--set", "strategy.rollingUpdate.maxUnavailable=1")
    assert get_object(slow, "Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 1}


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
@pytest.mark.parametrize("flags", [OPENSHIFT, ["--set", "Azure.Cluster.Distribution=OpenShift"]])
def test_on_openshift_the_pod_has_no_user_id(flags: list[str], kind: str) -> None:
    assert get_pod_spec(render(*flags), kind)["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    chosen = get_pod_spec(render(*flags, "--set-string", "podSecurityContext.runAsUser=1000680000"), kind)[
        "securityContext"
    ]
    assert chosen["runAsUser"] == 1000680000
    assert "runAsGroup" not in chosen


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_security_contexts_accept_strings(kind: str) -> None:
    given = {
        "podSecurityContext": {"runAsUser": "7", "runAsNonRoot": "true", "fsGroup": "8"},
        "securityContext": {"readOnlyRootFilesystem": "False", "runAsUser": "9"},
    }
    found = get_pod_spec(render(given=given), kind)
    assert found["securityContext"] == {
        "runAsUser": 7,
        "runAsGroup": IMAGE_USER,
        "runAsNonRoot": True,
        "fsGroup": 8,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert found["containers"][0]["securityContext"] == {
        "readOnlyRootFilesystem": False,
        "runAsUser": 9,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_extra_values_are_added_to_the_pod() -> None:
    given = {
        "extraArgs": "--listen-address=::",
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraVolumes": [{"name": "x", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "x", "mountPath": "/x"}],
        "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["my-vault.vault.azure.net"]}],
        "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
        "caBundle": PEM,
    }
    manifests = render(given=given)
    main = get_container(manifests)
    assert main["args"] == ["--listen-address=::"]
    assert main["env"][-1] == {"name": "TZ", "value": "UTC"}
    assert [mount["name"] for mount in main["volumeMounts"]] == ["files", "test-clouds", "x"]
    assert [volume["name"] for volume in get_pod_spec(manifests)["volumes"]] == ["files", "test-clouds", "x"]
    assert get_pod_spec(manifests)["hostAliases"] == given["hostAliases"]
    assert get_pod_spec(manifests)["dnsConfig"] == given["dnsConfig"]


CONTROLLER_SELECTOR = {
    "matchLabels": {
        "app.kubernetes.io/name": "akv-secret-store",
        "app.kubernetes.io/instance": "azure-secret-store",
        "app.kubernetes.io/component": "controller",
    }
}
OVER_NODES = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
OVER_ZONES = {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        ({"replicaCount": 1}, None),
        ({"replicaCount": "2"}, [{**OVER_NODES, "labelSelector": CONTROLLER_SELECTOR}]),
        ({"topologySpreadConstraints": [OVER_ZONES]}, [{**OVER_ZONES, "labelSelector": CONTROLLER_SELECTOR}]),
        (
            {"replicaCount": 3, "topologySpreadConstraints": [OVER_NODES, OVER_ZONES]},
            [
                {**OVER_NODES, "labelSelector": CONTROLLER_SELECTOR},
                {**OVER_ZONES, "labelSelector": CONTROLLER_SELECTOR},
            ],
        ),
        (
            {"topologySpreadConstraints": [OVER_ZONES | {"labelSelector": {"matchLabels": {"a": "b"}}}]},
            [{**OVER_ZONES, "labelSelector": {"matchLabels": {"a": "b"}}}],
        ),
    ],
)
def test_several_pods_are_spread_over_nodes(given: dict[str, Any], spread: list[Any] | None) -> None:
    assert get_pod_spec(render(given=given)).get("topologySpreadConstraints") == spread


def test_no_pod_gets_environment_variables_of_services() -> None:
    found = [each["spec"] for each in render(tests=True) if each["kind"] in ("Deployment", "Job", "Pod")]
    assert [each.get("template", {"spec": each})["spec"]["enableServiceLinks"] for each in found] == [False] * 4


def test_deployment_has_its_annotations_and_that_of_arc() -> None:
    given = {"deploymentAnnotations": {"a": "b"}, "Azure": {"Cluster": {"Region": "westeurope"}}}
    found = get_object(render(given=given), "Deployment")["metadata"]["annotations"]
    assert found == {"a": "b", "akv-secret-store/azure-arc": '{"Cluster.Region":"westeurope"}'}
    assert "annotations" not in get_object(render(), "Deployment")["metadata"]


CONTROLLER_VARIABLES = [each["name"] for each in get_container(render())["env"]]


@pytest.mark.parametrize("name", CONTROLLER_VARIABLES)
def test_variable_that_the_chart_sets_is_refused(name: str) -> None:
    with pytest.raises(helm.BadValues, match=rf"^extraEnv\.1\.name: {name} is set by a value of the chart"):
        render(given={"extraEnv": [{"name": "A"}, {"name": name, "value": "x"}]})


@pytest.mark.parametrize("argument", ["--log-level", "--listen-port", "--health-port"])
def test_argument_that_a_value_sets_is_refused(argument: str) -> None:
    for given in ([f"{argument}=9090"], ["--listen-address", "::", argument, "9090"]):
        with pytest.raises(helm.BadValues, match=rf"^extraArgs\.[02]: {argument}.* is set by a value of the chart"):
            render(given={"extraArgs": given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"extraArgs": ["--verbose"]}, "extraArgs.0: the controller has no argument --verbose"),
        ({"extraArgs": ["--listen-addresses=::"]}, "extraArgs.0: the controller has no argument --listen-addresses=::"),
        ({"extraArgs": ["upgrade-crds", "/x"]}, "extraArgs.0: the controller has no argument upgrade-crds"),
        ({"extraArgs": ["--listen-address"]}, "extraArgs: --listen-address has no value"),
        ({"extraArgs": ["--listen-address=127.0.0.1"]}, "extraArgs.0: 127.0.0.1 does not accept the kubelet's probes"),
        ({"extraArgs": "--listen-address, ::1"}, "extraArgs.1: ::1 does not accept the kubelet's probes"),
        (
            {"extraEnv": [{"name": "LISTEN_ADDRESS", "value": "localhost"}]},
            "extraEnv.0.value: localhost does not accept the kubelet's probes",
        ),
        ({"extraEnv": [{"name": "A"}, {"name": "A"}]}, "extraEnv.1.name: another variable is named A"),
        (
            {"proxy": {"https": "http://a"}, "extraEnv": [{"name": "https_proxy", "value": "http://b"}]},
            "extraEnv.0.name: https_proxy is set by proxy or Azure.proxySettings",
        ),
        ({"healthPort": 8080}, "healthPort: 8080 is metrics.port, too"),
        (
            {
                "clouds": {"S": {"authority": "https://a", "vaultUrl": "https://{vault}.b"}},
                "extraVolumes": [{"name": "x", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "x", "mountPath": "/etc/akv-secret-store/"}],
            },
            "extraVolumeMounts.0.mountPath: another volume is mounted at /etc/akv-secret-store/",
        ),
    ],
)
def test_addition_that_contradicts_the_chart_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(helm.BadValues) as refused:
        render(given=given)
    assert str(refused.value).startswith(message)


def test_proxy_can_be_set_by_variables_alone() -> None:
    added = [{"name": "HTTPS_PROXY", "value": "http://a"}, {"name": "no_proxy", "value": "b"}]
    assert get_container(render(given={"extraEnv": added}))["env"][-2:] == added


def test_ports_are_those_that_the_controller_listens_on() -> None:
    on = {"enabled": True, "renderMode": "alwaysRender"}
    given = {"metrics": {"port": "9090"}, "healthPort": 9091, "serviceMonitor": on, "hostNetwork": "true"}
    manifests = render(given=given)
    settings = Settings.from_environment(build_environment(manifests))
    assert (settings.listen_port, settings.health_port) == (9090, 9091)
    ports = {each["name"]: each["containerPort"] for each in get_container(manifests)["ports"]}
    assert ports == {"http": 9090, "health": 9091}
    [port] = get_object(manifests, "Service")["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (9090, "http")
    for wrong in (0, 65536, "65536", "a"):
        with pytest.raises(helm.BadValues, match=r"^healthPort: "):
            render(given={"healthPort": wrong})


@pytest.mark.parametrize(
    ("settings", "spec"),
    [
        ("", {"maxUnavailable": 1}),
        (",podDisruptionBudget.minAvailable=2", {"minAvailable": 2}),
        (",podDisruptionBudget.minAvailable=0", {"minAvailable": 0}),
        (",podDisruptionBudget.maxUnavailable=50%", {"maxUnavailable": "50%"}),
    ],
)
@pytest.mark.parametrize("option", ["--set", "--set-string"])
def test_disruption_budget_follows_its_values(settings: str, spec: dict[str, Any], option: str) -> None:
    found = get_object(render(option, f"podDisruptionBudget.enabled=true{settings}"), "PodDisruptionBudget")["spec"]
    assert {name: found[name] for name in found if name != "selector"} == spec


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("podDisruptionBudget.minAvailable=1,podDisruptionBudget.maxUnavailable=1", "are both given: give one"),
        ("podDisruptionBudget.minAvailable=half", r"podDisruptionBudget\.minAvailable: .*\(Pods that remain"),
        ("serviceMonitor.interval=often", r"serviceMonitor\.interval: .*\(Interval of Prometheus"),
        ("proxy.https=proxy:3128", r"proxy\.https: .*as http://host:port"),
        ("serviceMonitor.renderMode=never", r'serviceMonitor\.renderMode: .*"failIfMissing", "skipIfMissing"'),
        ("watchNamespaces={shop,Big}", r"watchNamespaces\.1: .*pattern"),
        ("namespaceOverride=Big", r"namespaceOverride: .*\(Namespace of the objects"),
        ("caBundle=no", r"caBundle: expected certificates, as PEM \(-----BEGIN CERTIFICATE-----\) or its base64"),
        ("Azure.proxySettings.proxyCert=bm8=", r"Azure\.proxySettings\.proxyCert: expected certificates"),
        (
            "Azure.Cluster.Cloud=USNat",
            r"Azure\.Cluster\.Cloud: USNat is not among .* name one of these in defaultCloud",
        ),
    ],
)
def test_error_of_a_wrong_value_says_what_is_allowed(args: str, message: str) -> None:
    with pytest.raises(helm.BadValues, match=message):
        render("--set", args)


# --- Connections ---------------------------------------------------------------------------------------------------


def test_proxy_is_in_a_secret_and_a_change_replaces_the_pod() -> None:
    proxy = {"http": "http://h:1", "https": "http://user:pass@h:1", "noProxy": ["a.example", ".b.example"]}
    manifests = render(given={"proxy": proxy})
    found = build_environment(manifests)
    assert (found["HTTP_PROXY"], found["HTTPS_PROXY"]) == (proxy["http"], proxy["https"])
    assert found["NO_PROXY"] == "a.example,.b.example"
    assert "user:pass" not in str(manifests)

    def render_pod_metadata(**change: str) -> Any:
        return get_object(render(given={"proxy": {**proxy, **change}}), "Deployment")["spec"]["template"]["metadata"]

    assert (
        render_pod_metadata()
        == get_object(manifests, "Deployment")["spec"]["template"]["metadata"]
        != render_pod_metadata(https="http://other")
    )
    assert "Secret" not in list_kinds(render("--set", "proxy.noProxy=a.example"))


@pytest.mark.parametrize("text", [PEM, base64.encodebytes(PEM.encode()).decode()], ids=["PEM", "base64"])
def test_ca_bundle_is_a_file_beside_the_clouds(text: str) -> None:
    clouds = {"Stack": {"authority": "https://a", "vaultUrl": "https://{vault}.b"}}
    manifests = render(given={"caBundle": text, "clouds": clouds})
    mount = get_container(manifests)["volumeMounts"][0]
    volume = get_pod_spec(manifests)["volumes"][0]
    files = get_object(manifests, "ConfigMap", volume["configMap"]["name"])["data"]
    settings = Settings.from_environment(build_environment(manifests))
    assert settings.ca_file == f"{mount['mountPath']}/ca.pem"
    assert settings.clouds_file == f"{mount['mountPath']}/clouds.json"
    assert files.keys() == {"ca.pem", "clouds.json"}
    assert files["ca.pem"] == PEM


def test_network_policy_opens_the_ports_of_proxy_and_clouds() -> None:
    given = {
        "networkPolicy": {"enabled": "true"},
        "proxy": {"https": "http://user:pass@proxy.example:3128"},
        "clouds": {
            "A": {"authority": "https://login.a", "vaultUrl": "https://{vault}.a:8443"},
            "B": {"authority": "https://login.b:9443/adfs", "vaultUrl": "https://b/{vault}"},
        },
    }
    spec = get_object(render(given=given), "NetworkPolicy", FULL_NAME)["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    open_ports = [(port["port"], port["protocol"]) for rule in spec["egress"] for port in rule["ports"]]
    assert open_ports == [(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP"), (443, "TCP"), (6443, "TCP")] + [
        (port, "TCP") for port in (3128, 8443, 9443, 8443)
    ]
    closing = 'networkPolicy={"enabled":true,"egress":[],"ingress":[]}'
    closed = get_object(render("--set-json", closing, "--set", "test.enabled=false"), "NetworkPolicy", FULL_NAME)
    assert closed["spec"].keys() == {"podSelector", "policyTypes"}


@pytest.mark.parametrize(
    "url",
    [
        "http://user:p%w@proxy:3128",
        "http://user:p@ss:w@proxy:3128/",
        "http://[fd00::1]:3128",
        "http://1.2.3.4:3128/x",
        "HTTP://proxy:3128",
        "Https://PROXY:3128",
    ],
)
@pytest.mark.parametrize("arc", [False, True])
def test_network_policy_opens_the_port_of_any_proxy(url: str, *, arc: bool) -> None:
    path = "Azure.proxySettings.httpsProxy" if arc else "proxy.https"
    given = {"networkPolicy.enabled": True, "Azure.proxySettings.isProxyEnabled": True, path: url}
    spec = get_object(render(given=nested(given)), "NetworkPolicy", FULL_NAME)["spec"]
    assert {"ports": [{"port": 3128, "protocol": "TCP"}]} in spec["egress"]


@pytest.mark.parametrize(("url", "port"), [("HTTP://proxy", 80), ("HTTPS://proxy", None)])
def test_network_policy_opens_the_usual_port_of_a_scheme_in_any_case(url: str, port: int | None) -> None:
    spec = get_object(
        render(given={"networkPolicy": {"enabled": True}, "proxy": {"https": url}}), "NetworkPolicy", FULL_NAME
    )["spec"]
    opened = [each["port"] for rule in spec["egress"] for each in rule["ports"]]
    assert (80 in opened) == (port == 80)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("value", ["proxy.{}", "Azure.proxySettings.{}Proxy"])
@pytest.mark.parametrize("url", ["proxy:3128", "http://user:se/same@proxy:3128", "http://p:port", "http://p:65536"])
def test_unusable_proxy_is_refused_without_its_password(url: str, value: str, scheme: str) -> None:
    path = value.format(scheme)
    given = {"networkPolicy.enabled": True, "Azure.proxySettings.isProxyEnabled": True, path: url}
    with pytest.raises(helm.BadValues) as refused:
        render(given=nested(given))
    assert str(refused.value).startswith(f"{path}: ")
    assert "same" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("clouds.S.authority", "https://login:port"),
        ("clouds.S.vaultUrl", "https://{vault}.s:65536"),
        ("clouds.S.vaultUrl", "https://s:port/{vault}"),
        ("logs.otlp.endpoint", "https://collector:4318:1"),
    ],
)
def test_address_with_an_unusable_port_is_refused(path: str, url: str) -> None:
    cloud = {"clouds.S.authority": "https://login", "clouds.S.vaultUrl": "https://{vault}.s"}
    with pytest.raises(helm.BadValues) as refused:
        render(given=nested({**cloud, "networkPolicy.enabled": True, path: url}))
    assert str(refused.value).startswith(f"{path}: ")


# --- Monitoring ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "kind"), [("serviceMonitor", OPERATOR[0]), ("prometheusRule", OPERATOR[1])])
def test_kind_that_the_cluster_does_not_serve_is_refused_or_skipped(group: str, kind: str) -> None:
    plain = list_kinds(render())
    added = {"serviceMonitor": {"Service", "ServiceMonitor"}, "prometheusRule": {"PrometheusRule"}}[group]
    on = ["--set-string", f"{group}.enabled=true"]
    with pytest.raises(helm.BadValues) as refused:
        render(*on)
    assert str(refused.value).startswith(f"{group}.enabled: the cluster does not serve {kind}, ")
    assert f"set {group}.renderMode to skipIfMissing, or to alwaysRender" in str(refused.value)
    assert list_kinds(render(*on, "--set", f"{group}.renderMode=skipIfMissing")) == plain
    assert list_kinds(render(*on, "--set", f"{group}.renderMode=alwaysRender")) == plain | added
    assert list_kinds(render(*on, "--api-versions", kind)) == plain | added


def test_service_monitor_selects_the_pods_through_its_service() -> None:
    manifests = render("--set", "serviceMonitor.enabled=true", "--api-versions", OPERATOR[0])
    monitor, service = get_object(manifests, "ServiceMonitor")["spec"], get_object(manifests, "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    labels = get_object(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    [endpoint] = monitor["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    # Otherwise labels of the pod would replace the labels that name the SecretSync.
    assert endpoint["honorLabels"] is True


@pytest.mark.parametrize("release", ["my.app", "1st", "1.2", "r" * 53])
def test_metrics_service_has_the_form_of_its_name(release: str) -> None:
    """A Service's name has no dot. Before Kubernetes 1.34 it begins with a letter."""
    given = {"serviceMonitor": {"enabled": True, "renderMode": "alwaysRender"}, "metrics": {"tls": {"secretName": "x"}}}
    manifests = render(release=release, given=given)
    name = get_object(manifests, "Service")["metadata"]["name"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name)
    [endpoint] = get_object(manifests, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["tlsConfig"]["serverName"] == f"{name}.{helm.RELEASE}.svc"


def render_scrape(interval: str, timeout: str, *, enabled: bool = True) -> list[Manifest]:
    group = {"enabled": enabled, "renderMode": "alwaysRender", "interval": interval, "scrapeTimeout": timeout}
    return render(given={"serviceMonitor": group})


@pytest.mark.parametrize(("interval", "timeout"), [("10s", "25s"), ("1m30s", "91s"), ("1d", "24h1ms")])
def test_scrape_timeout_longer_than_the_interval_is_refused(interval: str, timeout: str) -> None:
    """The operator leaves out such a ServiceMonitor, so there would be no metrics."""
    with pytest.raises(helm.BadValues, match=rf"^serviceMonitor\.scrapeTimeout: {timeout} is longer than .*{interval}"):
        render_scrape(interval, timeout)
    assert render_scrape(interval, timeout, enabled=False)


# A number with a zero before it is not octal.
@pytest.mark.parametrize(
    ("interval", "timeout"), [("25s", "25s"), ("1m30s", "90s"), ("1d", "24h"), ("1s", "999ms"), ("090s", "010s")]
)
def test_scrape_timeout_up_to_the_interval_is_accepted(interval: str, timeout: str) -> None:
    assert render_scrape(interval, timeout)


def test_alert_threshold_depends_on_poll_interval_and_jitter() -> None:
    def read_first_expression(*args: str) -> str:
        on = ["--set", "prometheusRule.enabled=true", "--api-versions", OPERATOR[1]]
        return str(get_object(render(*on, *args), "PrometheusRule")["spec"]["groups"][0]["rules"][0]["expr"])

    assert read_first_expression().endswith(" > 10800")
    assert read_first_expression("--set-string", "rotationPollIntervalInSeconds=86400,jitterSeconds=600").endswith(
        " > 94200"
    )


OWN_NAMESPACE, OWN_JOB = f'namespace="{helm.RELEASE}"', f'job="{FULL_NAME}-metrics"'


@pytest.mark.parametrize(
    ("relabelings", "selector"),
    [
        ([], f"{{{OWN_JOB},{OWN_NAMESPACE}}}"),
        ([{"targetLabel": "cluster", "replacement": "site-1"}], f"{{{OWN_JOB},{OWN_NAMESPACE}}}"),
        ([{"action": "keep", "sourceLabels": ["job"], "regex": "x"}], f"{{{OWN_JOB},{OWN_NAMESPACE}}}"),
        ([{"targetLabel": "job", "replacement": "secrets"}], f"{{{OWN_NAMESPACE}}}"),
        ([{"action": "LabelDrop", "regex": "pod|namespace"}], f"{{{OWN_JOB}}}"),
        ([{"action": "labelkeep", "regex": "job|__name__"}], f"{{{OWN_JOB}}}"),
        ([{"action": "labeldrop", "regex": "j.*"}, {"targetLabel": "namespace"}], ""),
    ],
)
@pytest.mark.parametrize("place", ["relabelings", "metricRelabelings"])
def test_alert_about_missing_pods_selects_those_of_the_release(
    place: str, relabelings: list[dict[str, Any]], selector: str
) -> None:
    """The pods of another release in the namespace have another job. A label that the user changes selects nothing."""
    on = {"enabled": True, "renderMode": "alwaysRender"}
    found = get_object(
        render(given={"prometheusRule": on, "serviceMonitor": {**on, place: relabelings}}), "PrometheusRule"
    )
    assert found["spec"]["groups"][0]["rules"][-1]["expr"].endswith(f" or absent(akv_secret_store_leader{selector})")
